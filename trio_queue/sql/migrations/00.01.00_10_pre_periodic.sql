-- Insert a periodic job, unless one was inserted for this moment; answers its id, or NULL. Raises unique_violation on
-- procrastinate_jobs_queueing_lock_idx_v1, as inserting jobs does; the moment then counts as not deferred.
--
-- procrastinate_defer_periodic_job_v2 forgets a moment as soon as a later one is deferred, and a worker that comes late with it
-- (suspended, cut off, or one of several that catch up after an outage) would defer it again. Here moments are remembered for an
-- hour before the latest; what is older is refused, since nobody knows any more whether it was deferred. (A worker gives up what
-- was missed for longer than `max_delay`, ten minutes unless the App says otherwise.)
CREATE OR REPLACE FUNCTION trio_queue_defer_periodic_job_v1(
    queue_name varchar, lock varchar, queueing_lock varchar, task_name varchar, priority int,
    periodic_id varchar, defer_timestamp bigint, args jsonb
) RETURNS bigint LANGUAGE plpgsql
SET jit = off SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
    task constant varchar := task_name;
    schedule constant varchar := periodic_id;
    moment constant bigint := defer_timestamp;
    remembered constant bigint := 3600;
    made bigint;
BEGIN
    IF EXISTS (SELECT FROM procrastinate_periodic_defers d
                WHERE d.task_name = task AND d.periodic_id = schedule AND d.defer_timestamp > moment + remembered) THEN
        RETURN NULL;
    END IF;
    -- Whoever inserts the row first defers the job.
    INSERT INTO procrastinate_periodic_defers (task_name, periodic_id, defer_timestamp)
    VALUES (task, schedule, moment) ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    made := (trio_queue_defer_jobs_v1(
        ARRAY[queue_name]::text[], ARRAY[task]::text[], ARRAY[priority], ARRAY[lock]::text[], ARRAY[queueing_lock]::text[],
        jsonb_build_array(args), NULL))[1];
    UPDATE procrastinate_periodic_defers d SET job_id = made
     WHERE d.task_name = task AND d.periodic_id = schedule AND d.defer_timestamp = moment;
    -- Two that forget the same rows do not wait for each other.
    DELETE FROM procrastinate_periodic_defers WHERE id = ANY (ARRAY(
        SELECT d.id FROM procrastinate_periodic_defers d
         WHERE d.task_name = task AND d.periodic_id = schedule AND d.defer_timestamp < moment - remembered
           FOR UPDATE SKIP LOCKED));
    RETURN made;
END $$;
