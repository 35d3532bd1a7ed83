-- Insert jobs, all or none, and answer their ids in the order given. args: a JSON array of their arguments. An array of length one
-- stands for every job, so that "one task, many arguments" sends its names once. NULL arrays (and priorities or args that are
-- NULL) mean the default. Raises unique_violation on procrastinate_jobs_queueing_lock_idx_v1 where a job waits with the queueing
-- lock of one of them.
--
-- Server's CPU a job, in batches of 100, 500 and 1,000 (PostgreSQL 18, events written): 8.6, 7.0 and 6.8 µs, where a bare INSERT of the rows
-- and of the events costs 8.1, 6.8 and 6.7. Measured and not worth it: no sort (alike: the ids would still come in order, but by the plan
-- alone); COPY of ids drawn before: alike at 1,000 rows, at 10,000 and 100,000 6.4 instead of 7.1 to 7.3.
CREATE OR REPLACE FUNCTION trio_queue_defer_jobs_v1(
    queue_names text[], task_names text[], priorities int[], locks text[], queueing_locks text[], args jsonb,
    scheduled_ats timestamptz[]
) RETURNS bigint[] LANGUAGE plpgsql
SET jit = off AS $$
#variable_conflict use_column
DECLARE
    arguments constant jsonb := args;
    lengths constant int[] := array_remove(ARRAY[
        cardinality(queue_names), cardinality(task_names), cardinality(priorities), cardinality(locks),
        cardinality(queueing_locks), jsonb_array_length(arguments), cardinality(scheduled_ats)], NULL);
    total constant int := (SELECT max(length) FROM unnest(lengths) length);
    -- What stands for every job.
    one_queue constant text := queue_names[1];
    one_task constant text := task_names[1];
    one_priority constant int := coalesce(priorities[1], 0);
    one_lock constant text := locks[1];
    one_queueing_lock constant text := queueing_locks[1];
    one_moment constant timestamptz := scheduled_ats[1];
    job_ids bigint[];
BEGIN
    IF EXISTS (SELECT FROM unnest(lengths) length WHERE length NOT IN (1, total)) THEN
        RAISE array_subscript_error USING
            MESSAGE = format('the arrays must have one element for all jobs, or one for each: their lengths are %s', lengths);
    ELSIF total = 1 THEN
        INSERT INTO procrastinate_jobs (queue_name, task_name, priority, lock, queueing_lock, args, scheduled_at)
        VALUES (one_queue, one_task, one_priority, one_lock, one_queueing_lock, coalesce(arguments -> 0, '{}'), one_moment)
        RETURNING ARRAY[id] INTO job_ids;
    ELSIF jsonb_array_length(arguments) = total
          AND greatest(cardinality(queue_names), cardinality(task_names), cardinality(priorities), cardinality(locks),
                       cardinality(queueing_locks), cardinality(scheduled_ats)) = 1 THEN
        -- Nearly every batch: one task, many arguments.
        WITH made AS (
            INSERT INTO procrastinate_jobs (queue_name, task_name, priority, lock, queueing_lock, args, scheduled_at)
            SELECT one_queue, one_task, one_priority, one_lock, one_queueing_lock, j.args, one_moment
              FROM jsonb_array_elements(arguments) WITH ORDINALITY AS j (args, place)
             -- The ids are drawn in this order, and the answer is sorted by them.
             ORDER BY j.place
            RETURNING id)
        SELECT array_agg(id ORDER BY id) INTO job_ids FROM made;
    ELSE
        WITH made AS (
            INSERT INTO procrastinate_jobs (queue_name, task_name, priority, lock, queueing_lock, args, scheduled_at)
            SELECT CASE WHEN cardinality(queue_names) = 1 THEN one_queue ELSE j.queue_name END,
                   CASE WHEN cardinality(task_names) = 1 THEN one_task ELSE j.task_name END,
                   CASE WHEN cardinality(priorities) = 1 THEN one_priority ELSE coalesce(j.priority, 0) END,
                   CASE WHEN cardinality(locks) = 1 THEN one_lock ELSE j.lock END,
                   CASE WHEN cardinality(queueing_locks) = 1 THEN one_queueing_lock ELSE j.queueing_lock END,
                   coalesce(CASE WHEN jsonb_array_length(arguments) = 1 THEN arguments -> 0 ELSE j.args END, '{}'),
                   CASE WHEN cardinality(scheduled_ats) = 1 THEN one_moment ELSE j.scheduled_at END
              FROM ROWS FROM (unnest(queue_names), unnest(task_names), unnest(priorities), unnest(locks), unnest(queueing_locks),
                              jsonb_array_elements(arguments), unnest(scheduled_ats)) WITH ORDINALITY
                AS j (queue_name, task_name, priority, lock, queueing_lock, args, scheduled_at, place)
             ORDER BY j.place
            RETURNING id)
        SELECT array_agg(id ORDER BY id) INTO job_ids FROM made;
    END IF;
    RETURN coalesce(job_ids, '{}');
END $$;
