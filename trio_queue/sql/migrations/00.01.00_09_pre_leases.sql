-- What becomes of the jobs of a worker whose row is gone. The trigger on the deletion of workers has noted them in
-- trio_queue_orphans and cleared their worker_id; whoever takes one over puts its own id there and deletes the note.
--
-- Each job is looked up by its id in a subquery of its own, which no planner can turn round: planned while the table is small, a plain
-- join that is asked for the order of ids walks the whole primary key, and goes on doing so when the table has grown. `status` is
-- compared as text for the reason that trio_queue_finish_jobs_v1 gives.

-- Take over jobs of a row that was lost, under the one that the worker got by registering anew. Answers the ids, in order, of those
-- that are its own now: `doing`, with as many attempts, under no worker, under the lost id, or under the new one already (an earlier
-- try arrived, its answer was lost). Waits for whoever holds such a job at the moment: skipped, the worker would abort a job that is
-- its own. Raises foreign_key_violation, from the trigger, where the new row is gone too.
CREATE OR REPLACE FUNCTION trio_queue_adopt_jobs_v1(worker_id bigint, lost_id bigint, job_ids bigint[], attempts int[])
RETURNS bigint[] LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off
SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
    adopter constant bigint := worker_id;
    fences constant int[] := attempts;
    lost constant bigint := lost_id;
    adopted bigint[];
BEGIN
    IF cardinality(fences) <> cardinality(job_ids) THEN
        RAISE array_subscript_error USING MESSAGE = 'job_ids and attempts must be equally long';
    END IF;
    WITH held AS MATERIALIZED (
        SELECT mine.id, mine.attempts, mine.worker_id
          FROM (SELECT u.id, u.attempts FROM unnest(job_ids, fences) AS u (id, attempts) ORDER BY u.id) run
         CROSS JOIN LATERAL (
            SELECT j.id, j.attempts, j.worker_id FROM procrastinate_jobs j
             WHERE j.id = run.id AND j.status::text = 'doing' AND j.attempts = run.attempts
               AND (j.worker_id IS NULL OR j.worker_id IN (lost, adopter))
               FOR NO KEY UPDATE) mine),
    taken AS (
        UPDATE procrastinate_jobs j SET worker_id = adopter FROM held
         WHERE j.id = ANY (job_ids) AND j.id = held.id AND held.worker_id IS DISTINCT FROM adopter),
    forgotten AS (
        DELETE FROM trio_queue_orphans o USING held
         WHERE o.job_id = ANY (job_ids) AND o.job_id = held.id AND o.attempts = held.attempts)
    SELECT array_agg(held.id ORDER BY held.id) INTO adopted FROM held;
    RETURN coalesce(adopted, '{}');
END $$;

-- Take over at most n jobs of dead workers of ours, each by one caller only, however many ask; deaths: how many workers have died
-- under it, this time included. One statement in autocommit, READ COMMITTED. Raises foreign_key_violation, from the trigger, where
-- there is something to take and the caller is not registered.
--
-- First deletes our workers that were not heard of for stalled_after seconds. A heartbeat (or a claim) under way wins: its row is
-- skipped, and one that was renewed meanwhile is no longer looked for. Procrastinate's workers stay: they have no row in
-- trio_queue_workers, so nothing of theirs is noted either.
--
-- Waits for nobody, but 100 ms for each dead worker whose job somebody else has locked; it stays for the next time, and
-- does not keep the others from being rescued. Where nobody died: one probe of each of two small tables, and nothing is written but
-- the turn (see trio_queue_take_turn_v1).
CREATE OR REPLACE FUNCTION trio_queue_adopt_orphans_v1(
    worker_id bigint, stalled_after double precision, n int, turn bigint DEFAULT NULL)
RETURNS TABLE (job procrastinate_jobs, deaths int) LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off
SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
    adopter constant bigint := worker_id;
    heard_until constant timestamptz := now() - make_interval(secs => stalled_after);
    patience constant text := current_setting('lock_timeout');
    stalled bigint;
    noted_ids bigint[];
    noted_attempts int[];
    adopted bigint[] := '{}';
    batch bigint[];
    last_id bigint := '-9223372036854775808';
    last_attempts int := '-2147483648';
BEGIN
    IF n <= 0 OR NOT trio_queue_take_turn_v1(adopter, turn) THEN
        RETURN;
    END IF;
    -- A heartbeat from the future: the server's clock was set back, and the row of a dead worker would outlive it by as much.
    -- From now on it has the time of a lease. (A beat under way may be later than our now() by a little: less than a lease.)
    UPDATE procrastinate_workers SET last_heartbeat = now() WHERE id IN (
        SELECT w.id FROM procrastinate_workers w
         WHERE w.last_heartbeat > now() + make_interval(secs => greatest(stalled_after, 0))
           AND EXISTS (SELECT FROM trio_queue_workers o WHERE o.worker_id = w.id) FOR UPDATE SKIP LOCKED);
    FOR stalled IN
        SELECT w.id FROM procrastinate_workers w
         WHERE w.last_heartbeat < heard_until AND w.id <> adopter
           AND EXISTS (SELECT FROM trio_queue_workers o WHERE o.worker_id = w.id)
         ORDER BY w.last_heartbeat
    LOOP
        BEGIN
            PERFORM set_config('lock_timeout', '100ms', true);
            DELETE FROM procrastinate_workers WHERE id IN (
                SELECT w.id FROM procrastinate_workers w
                 WHERE w.id = stalled AND w.last_heartbeat < heard_until FOR UPDATE SKIP LOCKED);
            PERFORM set_config('lock_timeout', patience, true);
        EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
            NULL;
        END;
    END LOOP;

    WHILE cardinality(adopted) < n LOOP
        -- The note first: who holds it decides about the job. (Whoever takes them in the other order is skipped below.)
        SELECT array_agg(note.job_id ORDER BY note.job_id, note.attempts),
               array_agg(note.attempts ORDER BY note.job_id, note.attempts)
          INTO noted_ids, noted_attempts
          FROM (SELECT o.job_id, o.attempts FROM trio_queue_orphans o
                 WHERE (o.job_id, o.attempts) > (last_id, last_attempts)
                 ORDER BY o.job_id, o.attempts LIMIT n - cardinality(adopted) FOR UPDATE SKIP LOCKED) note;
        EXIT WHEN noted_ids IS NULL;
        last_id := noted_ids[cardinality(noted_ids)];
        last_attempts := noted_attempts[cardinality(noted_ids)];

        WITH held AS MATERIALIZED (
            SELECT free.id FROM unnest(noted_ids, noted_attempts) AS note (id, attempts) CROSS JOIN LATERAL (
                SELECT j.id FROM procrastinate_jobs j
                 WHERE j.id = note.id AND j.status::text = 'doing' AND j.worker_id IS NULL AND j.attempts = note.attempts
                   FOR NO KEY UPDATE SKIP LOCKED) free),
        taken AS (
            UPDATE procrastinate_jobs j SET worker_id = adopter FROM held WHERE j.id = ANY (noted_ids) AND j.id = held.id)
        SELECT array_agg(held.id) INTO batch FROM held;
        adopted := adopted || batch;

        -- Of those taken now, of those that have ended or moved on; a job that was skipped looks like an orphan still.
        DELETE FROM trio_queue_orphans o
         USING unnest(noted_ids, noted_attempts) AS note (id, attempts)
         WHERE o.job_id = ANY (noted_ids) AND o.job_id = note.id AND o.attempts = note.attempts AND (
               SELECT j.id FROM procrastinate_jobs j
                WHERE j.id = note.id AND j.status::text = 'doing' AND j.worker_id IS NULL AND j.attempts = note.attempts) IS NULL;
    END LOOP;

    IF adopted <> '{}' THEN
        RETURN QUERY
        SELECT j, 1 + (SELECT count(*)::int
                         FROM procrastinate_events e JOIN trio_queue_event_details d ON d.event_id = e.id
                        WHERE e.job_id = j.id AND d.reason = 'worker_died')
          FROM procrastinate_jobs j WHERE j.id = ANY (adopted) ORDER BY j.id;
    END IF;
END $$;
