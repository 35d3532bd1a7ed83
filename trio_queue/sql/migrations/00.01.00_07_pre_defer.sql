-- Insert jobs, all or none, and answer their ids in the order given. An array of length one stands for every job, so that
-- "one task, many arguments" sends its names once. NULL arrays (and priorities or args that are NULL) mean the default.
-- Raises unique_violation on procrastinate_jobs_queueing_lock_idx_v1 where a job waits with the queueing lock of one of them.
CREATE OR REPLACE FUNCTION trio_queue_defer_jobs_v1(
    queue_names text[], task_names text[], priorities int[], locks text[], queueing_locks text[], args jsonb[],
    scheduled_ats timestamptz[]
) RETURNS bigint[] LANGUAGE plpgsql
SET jit = off AS $$
#variable_conflict use_column
DECLARE
    arguments constant jsonb[] := args;
    lengths constant int[] := array_remove(ARRAY[
        cardinality(queue_names), cardinality(task_names), cardinality(priorities), cardinality(locks),
        cardinality(queueing_locks), cardinality(arguments), cardinality(scheduled_ats)], NULL);
    total constant int := (SELECT max(length) FROM unnest(lengths) length);
    job_ids bigint[];
BEGIN
    IF EXISTS (SELECT FROM unnest(lengths) length WHERE length NOT IN (1, total)) THEN
        RAISE array_subscript_error USING
            MESSAGE = format('the arrays must have one element for all jobs, or one for each: their lengths are %s', lengths);
    ELSIF total = 1 THEN
        INSERT INTO procrastinate_jobs (queue_name, task_name, priority, lock, queueing_lock, args, scheduled_at)
        VALUES (queue_names[1], task_names[1], coalesce(priorities[1], 0), locks[1], queueing_locks[1],
                coalesce(arguments[1], '{}'), scheduled_ats[1])
        RETURNING ARRAY[id] INTO job_ids;
    ELSE
        WITH made AS (
            INSERT INTO procrastinate_jobs (queue_name, task_name, priority, lock, queueing_lock, args, scheduled_at)
            SELECT CASE WHEN cardinality(queue_names) = 1 THEN queue_names[1] ELSE j.queue_name END,
                   CASE WHEN cardinality(task_names) = 1 THEN task_names[1] ELSE j.task_name END,
                   coalesce(CASE WHEN cardinality(priorities) = 1 THEN priorities[1] ELSE j.priority END, 0),
                   CASE WHEN cardinality(locks) = 1 THEN locks[1] ELSE j.lock END,
                   CASE WHEN cardinality(queueing_locks) = 1 THEN queueing_locks[1] ELSE j.queueing_lock END,
                   coalesce(CASE WHEN cardinality(arguments) = 1 THEN arguments[1] ELSE j.args END, '{}'),
                   CASE WHEN cardinality(scheduled_ats) = 1 THEN scheduled_ats[1] ELSE j.scheduled_at END
              FROM unnest(queue_names, task_names, priorities, locks, queueing_locks, arguments, scheduled_ats)
                   WITH ORDINALITY
                AS j (queue_name, task_name, priority, lock, queueing_lock, args, scheduled_at, place)
             -- The ids are drawn in this order, and the answer is sorted by them.
             ORDER BY j.place
            RETURNING id)
        SELECT array_agg(id ORDER BY id) INTO job_ids FROM made;
    END IF;
    RETURN coalesce(job_ids, '{}');
END $$;
