-- What the statement triggers call: the effects of Procrastinate's row triggers and foreign keys, once per statement instead
-- of once per row. Replacing foreign keys is what makes jobs cheap: 31,400 jobs/s drained in hundreds instead of 25,000, and
-- 22.5 µs of server a job instead of 31 (each event used to lock its job's row). Named as ours, so that no later
-- CREATE OR REPLACE of Procrastinate's can break them.
--
-- The planner settings on these functions matter. A trigger runs under the settings of whoever fired it, and its plans are made
-- once per session, perhaps when the transition table holds one row.

-- Tell the workers that listen to this queue, and those that listen to all, that there may be a job for them. One message per
-- queue, with its highest id, where Procrastinate sends one per job: its client only wakes up.
CREATE OR REPLACE FUNCTION trio_queue_notify_queues_v1(queue_names text[], job_ids bigint[]) RETURNS void LANGUAGE plpgsql
SET jit = off AS $$
BEGIN
    PERFORM pg_notify(told.channel, json_build_object('type', 'job_inserted', 'job_id', told.id)::text)
       FROM (SELECT coalesce('procrastinate_queue_v1#' || j.queue_name, 'procrastinate_any_queue_v1') AS channel,
                    max(j.id) AS id
               FROM unnest(queue_names, job_ids) j (queue_name, id)
              GROUP BY GROUPING SETS ((j.queue_name), ())) told
      WHERE told.id IS NOT NULL;
END $$;

-- Wake the workers for jobs that may start now although nobody has inserted them: those that were given back to their queue,
-- and the first of each lock that has become free, in whatever queue it is. One probe of trio_queue_lock_idx per lock.
CREATE OR REPLACE FUNCTION trio_queue_notify_ready_v1(free_locks text[], ready_queues text[], ready_ids bigint[]) RETURNS void
LANGUAGE plpgsql
SET jit = off SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off AS $$
DECLARE
    first_queues text[];
    first_ids bigint[];
BEGIN
    SELECT array_agg(successor.queue_name), array_agg(successor.id) INTO first_queues, first_ids
      FROM unnest(free_locks) AS free (lock)
     CROSS JOIN LATERAL (
        SELECT j.id, j.queue_name, j.scheduled_at FROM procrastinate_jobs j
         WHERE j.lock = free.lock AND j.status = 'todo' ORDER BY ~j.priority, j.id LIMIT 1) successor
     WHERE successor.scheduled_at IS NULL OR successor.scheduled_at <= now();
    PERFORM trio_queue_notify_queues_v1(ready_queues || first_queues, ready_ids || first_ids)
      WHERE first_ids IS NOT NULL OR ready_ids IS NOT NULL;
END $$;

CREATE OR REPLACE FUNCTION trio_queue_notify_inserted_v1() RETURNS trigger LANGUAGE plpgsql
SET jit = off AS $$
BEGIN
    PERFORM trio_queue_notify_queues_v1(array_agg(queue_name), array_agg(id))
       FROM (SELECT queue_name::text, max(id) AS id FROM new_rows WHERE status = 'todo' GROUP BY queue_name) waiting;
    RETURN NULL;
END $$;

-- Per job, 'scheduled' comes before 'deferred', as Procrastinate's triggers fired in the order of their names.
CREATE OR REPLACE FUNCTION trio_queue_events_inserted_v1() RETURNS trigger LANGUAGE plpgsql
SET jit = off AS $$
BEGIN
    INSERT INTO procrastinate_events (job_id, type, at)
    SELECT id, 'scheduled'::procrastinate_job_event_type, scheduled_at
      FROM new_rows WHERE status = 'todo' AND scheduled_at IS NOT NULL
    UNION ALL
    SELECT id, 'deferred', now() FROM new_rows WHERE status = 'todo';
    RETURN NULL;
END $$;

-- Nearly always the same happened to all rows: one worker claimed them, or those that it ran have ended. One look at each
-- transition table tells so, and then no row of the one need be found in the other: 0.5 µs a row less, at a claim and at a completion
-- (batches of 500; the whole trigger costs 1.9, nearly all of it the INSERT).
--
-- Else a hash join, whatever the statistics: planned for one row, a nested loop over two transition tables is quadratic for ever.
CREATE OR REPLACE FUNCTION trio_queue_events_updated_v1() RETURNS trigger LANGUAGE plpgsql
SET jit = off SET enable_nestloop = off SET enable_mergejoin = off SET enable_hashjoin = on AS $$
DECLARE
    all_claimed boolean;
    all_ended boolean;
    claimers bigint[];
    claimer bigint;
    free_locks text[];
    ready_queues text[];
    ready_ids bigint[];
BEGIN
    SELECT o.waited AND n.run AND n.worker IS NOT NULL,
           o.ran AND n.ended AND n.worker = o.worker,
           n.worker, o.locks
      INTO all_claimed, all_ended, claimer, free_locks
      -- worker: the one that all rows name that name any, NULL where there is none such.
      FROM (SELECT bool_and(status = 'todo') AS waited, bool_and(status = 'doing') AS ran,
                   CASE WHEN min(worker_id) = max(worker_id) THEN min(worker_id) END AS worker,
                   array_agg(DISTINCT lock) FILTER (WHERE lock IS NOT NULL) AS locks
              FROM old_rows) o,
           (SELECT bool_and(status = 'doing') AS run, bool_and(status IN ('succeeded', 'failed', 'aborted')) AS ended,
                   CASE WHEN min(worker_id) = max(worker_id) THEN min(worker_id) END AS worker
              FROM new_rows) n;

    IF all_claimed IS NULL AND all_ended IS NULL AND NOT EXISTS (SELECT FROM new_rows) THEN
        RETURN NULL;
    ELSIF all_claimed THEN
        INSERT INTO procrastinate_events (job_id, type) SELECT id, 'started' FROM new_rows;
        claimers := ARRAY[claimer];
        free_locks := NULL;
    ELSIF all_ended THEN
        INSERT INTO procrastinate_events (job_id, type)
        SELECT id, CASE status WHEN 'succeeded' THEN procrastinate_job_event_type 'succeeded' WHEN 'failed' THEN 'failed' ELSE 'aborted' END
          FROM new_rows;
    ELSE
        WITH changed AS MATERIALIZED (
            SELECT n.id, n.queue_name,
                   -- Also where the job ran under it before and was given back: such a row keeps the worker's id.
                   CASE WHEN n.worker_id IS DISTINCT FROM o.worker_id OR n.status = 'doing' AND o.status <> 'doing'
                        THEN n.worker_id END AS claimer,
                   CASE o.status
                       WHEN 'todo' THEN CASE WHEN n.status = 'doing' THEN 'started'
                                             WHEN n.status IN ('cancelled', 'failed', 'succeeded') THEN 'cancelled' END
                       WHEN 'doing' THEN CASE WHEN n.status = 'todo' THEN 'deferred_for_retry'
                                              WHEN n.status IN ('failed', 'succeeded', 'aborted') THEN n.status::text END
                       WHEN 'failed' THEN CASE WHEN n.status = 'todo' THEN 'retried' END
                   END::procrastinate_job_event_type AS happened,
                   -- It held this lock, or stood first for it, and does so no more.
                   CASE WHEN n.status <> 'doing' AND o.status IN ('todo', 'doing') AND n.status <> o.status
                        THEN o.lock END AS free_lock,
                   -- For later, too: a worker that has nothing to do sleeps until the next moment that it knows of.
                   n.status = 'todo' AND o.status <> 'todo' AS ready
              FROM old_rows o JOIN new_rows n ON n.id = o.id),
        written AS (
            INSERT INTO procrastinate_events (job_id, type) SELECT id, happened FROM changed WHERE happened IS NOT NULL)
        SELECT array_agg(DISTINCT changed.claimer) FILTER (WHERE changed.claimer IS NOT NULL),
               array_agg(DISTINCT changed.free_lock) FILTER (WHERE changed.free_lock IS NOT NULL),
               array_agg(queue_name::text) FILTER (WHERE ready), array_agg(id) FILTER (WHERE ready)
          INTO claimers, free_locks, ready_queues, ready_ids
          FROM changed;
    END IF;

    -- The row lock makes a claim and the deletion of its worker wait for each other. Only at a claim: a completion
    -- that took it would deadlock with the deletion.
    FOREACH claimer IN ARRAY coalesce(claimers, '{}') LOOP
        PERFORM FROM procrastinate_workers WHERE id = claimer FOR KEY SHARE;
        IF NOT FOUND THEN
            RAISE foreign_key_violation USING
                MESSAGE = format('worker %s is not registered (any more), so it cannot hold a job', claimer),
                DETAIL = format('Key (worker_id)=(%s) is not present in table "procrastinate_workers".', claimer),
                CONSTRAINT = 'procrastinate_jobs_worker_id_fkey', TABLE = 'procrastinate_jobs', SCHEMA = TG_TABLE_SCHEMA;
        END IF;
    END LOOP;

    IF free_locks IS NOT NULL OR ready_ids IS NOT NULL THEN
        PERFORM trio_queue_notify_ready_v1(free_locks, ready_queues, ready_ids);
    END IF;
    RETURN NULL;
END $$;

-- The tables that depend on this one are found by the search path, as everywhere in Procrastinate's functions. Where it leads
-- elsewhere, a foreign key would still have found them: refuse rather than leave rows behind.
CREATE OR REPLACE FUNCTION trio_queue_check_search_path_v1(relation oid) RETURNS void LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF NOT pg_table_is_visible(relation) THEN
        RAISE invalid_schema_name USING
            MESSAGE = format('search_path does not lead to %s: the rows that depend on it would not be found', relation::regclass),
            HINT = 'SET search_path to the schema of this table first.';
    END IF;
END $$;

-- Nested loops here: one index probe per deleted job, however large the tables. DELETE of 10,000 jobs takes 28 ms, with
-- foreign keys and row triggers 118.
CREATE OR REPLACE FUNCTION trio_queue_jobs_deleted_v1() RETURNS trigger LANGUAGE plpgsql
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
    free_locks text[];
BEGIN
    PERFORM trio_queue_check_search_path_v1(TG_RELID);
    UPDATE procrastinate_periodic_defers d SET job_id = NULL FROM old_rows o WHERE d.job_id = o.id;
    DELETE FROM procrastinate_events e USING old_rows o WHERE e.job_id = o.id;
    DELETE FROM trio_queue_orphans p USING old_rows o WHERE p.job_id = o.id;
    SELECT array_agg(DISTINCT lock) INTO free_locks FROM old_rows WHERE lock IS NOT NULL AND status IN ('todo', 'doing');
    IF free_locks IS NOT NULL THEN
        PERFORM trio_queue_notify_ready_v1(free_locks, NULL, NULL);
    END IF;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION trio_queue_events_deleted_v1() RETURNS trigger LANGUAGE plpgsql
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
BEGIN
    PERFORM trio_queue_check_search_path_v1(TG_RELID);
    IF EXISTS (SELECT FROM trio_queue_event_details) THEN
        DELETE FROM trio_queue_event_details d USING old_rows o WHERE d.event_id = o.id;
    END IF;
    RETURN NULL;
END $$;

-- A worker's jobs are let go. Only those that run: a foreign key cleared the finished ones too, which took 1.2 s at 300,000 rows
-- and would break the bound of a stop. Those of our own workers are noted, so that a rescue knows them.
CREATE OR REPLACE FUNCTION trio_queue_workers_deleted_v1() RETURNS trigger LANGUAGE plpgsql
SET jit = off SET enable_seqscan = off AS $$
DECLARE
    gone bigint[] := ARRAY(SELECT id FROM old_rows);
BEGIN
    IF gone = '{}' THEN
        RETURN NULL;
    END IF;
    PERFORM trio_queue_check_search_path_v1(TG_RELID);
    WITH held AS MATERIALIZED (
        -- by id: two that delete one worker's jobs do not deadlock
        SELECT j.id, j.worker_id FROM procrastinate_jobs j
         WHERE j.status = 'doing' AND j.worker_id IS NOT NULL AND j.worker_id = ANY (gone) ORDER BY j.id FOR NO KEY UPDATE),
    let_go AS (
        UPDATE procrastinate_jobs j SET worker_id = NULL FROM held WHERE j.id = held.id
        RETURNING j.id, j.attempts, held.worker_id)
    INSERT INTO trio_queue_orphans AS known (job_id, attempts, worker_id)
    SELECT l.id, l.attempts, l.worker_id FROM let_go l JOIN trio_queue_workers w ON w.worker_id = l.worker_id
    ON CONFLICT (job_id, attempts) DO UPDATE SET worker_id = EXCLUDED.worker_id, at = EXCLUDED.at;
    DELETE FROM trio_queue_workers w WHERE w.worker_id = ANY (gone);
    RETURN NULL;
END $$;

-- A trigger cannot see CASCADE. TRUNCATE of jobs always cascades, so that it never empties a table behind the back of its
-- events; a table named in the same TRUNCATE is empty by now, and may not be truncated again.
CREATE OR REPLACE FUNCTION trio_queue_jobs_truncated_v1() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM trio_queue_check_search_path_v1(TG_RELID);
    IF EXISTS (SELECT FROM procrastinate_events) THEN TRUNCATE procrastinate_events; END IF;
    IF EXISTS (SELECT FROM procrastinate_periodic_defers) THEN TRUNCATE procrastinate_periodic_defers; END IF;
    IF EXISTS (SELECT FROM trio_queue_orphans) THEN TRUNCATE trio_queue_orphans; END IF;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION trio_queue_events_truncated_v1() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM trio_queue_check_search_path_v1(TG_RELID);
    IF EXISTS (SELECT FROM trio_queue_event_details) THEN TRUNCATE trio_queue_event_details; END IF;
    RETURN NULL;
END $$;

-- TRUNCATE of workers, and renumbering one by hand, is refused while a job that runs names it.
CREATE OR REPLACE FUNCTION trio_queue_worker_referenced_v1() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM trio_queue_check_search_path_v1(TG_RELID);
    IF TG_OP = 'TRUNCATE' THEN
        IF EXISTS (SELECT FROM procrastinate_jobs WHERE worker_id IS NOT NULL AND status = 'doing') THEN
            RAISE feature_not_supported USING
                MESSAGE = 'cannot truncate "procrastinate_workers" while a running job names one of them',
                HINT = 'Delete the rows instead, or truncate "procrastinate_jobs" at the same time.';
        END IF;
        IF EXISTS (SELECT FROM trio_queue_workers) THEN TRUNCATE trio_queue_workers; END IF;
    ELSIF EXISTS (SELECT FROM procrastinate_jobs WHERE worker_id = OLD.id)
          AND NOT EXISTS (SELECT FROM procrastinate_workers WHERE id = OLD.id) THEN
        RAISE foreign_key_violation USING
            MESSAGE = format('worker %s cannot be renumbered: a job names it', OLD.id),
            CONSTRAINT = 'procrastinate_jobs_worker_id_fkey', TABLE = 'procrastinate_jobs', SCHEMA = TG_TABLE_SCHEMA;
    END IF;
    RETURN NULL;
END $$;

-- Who renumbers a job by hand: refused while an event or a periodic defer names it.
CREATE OR REPLACE FUNCTION trio_queue_job_id_changed_v1() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    dependent text;
BEGIN
    PERFORM trio_queue_check_search_path_v1(TG_RELID);
    IF EXISTS (SELECT FROM procrastinate_jobs WHERE id = OLD.id) THEN
        RETURN NULL;  -- another row has this id by now
    END IF;
    dependent := CASE WHEN EXISTS (SELECT FROM procrastinate_periodic_defers WHERE job_id = OLD.id) THEN 'procrastinate_periodic_defers'
                      WHEN EXISTS (SELECT FROM procrastinate_events WHERE job_id = OLD.id) THEN 'procrastinate_events' END;
    IF dependent IS NOT NULL THEN
        RAISE foreign_key_violation USING
            MESSAGE = format('job %s cannot be renumbered: a row of "%s" names it', OLD.id, dependent),
            CONSTRAINT = dependent || '_job_id_fkey', TABLE = dependent, SCHEMA = TG_TABLE_SCHEMA;
    END IF;
    RETURN NULL;
END $$;

-- An event or a periodic defer written by hand, or a job inserted with a worker: the row named must exist.
CREATE OR REPLACE FUNCTION trio_queue_job_exists_v1() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM trio_queue_check_search_path_v1(TG_RELID);
    PERFORM FROM procrastinate_jobs WHERE id = NEW.job_id FOR KEY SHARE;
    IF NOT FOUND THEN
        RAISE foreign_key_violation USING
            MESSAGE = format('there is no job %s for this row of "%s"', NEW.job_id, TG_TABLE_NAME),
            DETAIL = format('Key (job_id)=(%s) is not present in table "procrastinate_jobs".', NEW.job_id),
            CONSTRAINT = TG_TABLE_NAME || '_job_id_fkey', TABLE = TG_TABLE_NAME, SCHEMA = TG_TABLE_SCHEMA;
    END IF;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION trio_queue_worker_exists_v1() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM trio_queue_check_search_path_v1(TG_RELID);
    PERFORM FROM procrastinate_workers WHERE id = NEW.worker_id FOR KEY SHARE;
    IF NOT FOUND THEN
        RAISE foreign_key_violation USING
            MESSAGE = format('worker %s is not registered (any more), so it cannot hold a job', NEW.worker_id),
            DETAIL = format('Key (worker_id)=(%s) is not present in table "procrastinate_workers".', NEW.worker_id),
            CONSTRAINT = 'procrastinate_jobs_worker_id_fkey', TABLE = TG_TABLE_NAME, SCHEMA = TG_TABLE_SCHEMA;
    END IF;
    RETURN NULL;
END $$;
