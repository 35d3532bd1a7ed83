-- The ground: tables, types and functions under the names and signatures that the client of Procrastinate 3.10 uses.
--
-- Needed on an empty database only. A database that Procrastinate created has its own version of all this, and keeps it.
-- The files in migrations/ make either of them ours, so nothing stands in two places: what they would replace at once (the
-- foreign keys, the triggers on INSERT, UPDATE and DELETE) is not made here. `SchemaManager.get_schema()` is the whole.

CREATE TYPE procrastinate_job_status AS ENUM
    ('todo', 'doing', 'succeeded', 'failed', 'cancelled', 'aborting', 'aborted');

CREATE TYPE procrastinate_job_event_type AS ENUM
    ('deferred', 'started', 'deferred_for_retry', 'failed', 'succeeded', 'cancelled', 'abort_requested', 'aborted',
     'scheduled', 'retried');

CREATE TYPE procrastinate_job_to_defer_v1 AS (
    queue_name varchar,
    task_name varchar,
    priority int,
    lock text,
    queueing_lock text,
    args jsonb,
    scheduled_at timestamptz
);

CREATE TABLE procrastinate_workers (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    last_heartbeat timestamptz DEFAULT now() NOT NULL
);

CREATE TABLE procrastinate_jobs (
    id bigserial PRIMARY KEY,
    queue_name varchar(128) NOT NULL,
    task_name varchar(128) NOT NULL,
    priority int DEFAULT 0 NOT NULL,
    lock text,
    queueing_lock text,
    args jsonb DEFAULT '{}' NOT NULL,
    status procrastinate_job_status DEFAULT 'todo' NOT NULL,
    scheduled_at timestamptz,
    attempts int DEFAULT 0 NOT NULL,
    abort_requested boolean DEFAULT false NOT NULL,
    worker_id bigint,
    CONSTRAINT check_not_todo_abort_requested CHECK (NOT (status = 'todo' AND abort_requested = true))
);

CREATE TABLE procrastinate_periodic_defers (
    id bigserial PRIMARY KEY,
    task_name varchar(128) NOT NULL,
    defer_timestamp bigint,
    job_id bigint,
    periodic_id varchar(128) DEFAULT '' NOT NULL,
    CONSTRAINT procrastinate_periodic_defers_unique UNIQUE (task_name, periodic_id, defer_timestamp)
);

CREATE TABLE procrastinate_events (
    id bigserial PRIMARY KEY,
    job_id bigint NOT NULL,
    type procrastinate_job_event_type,
    at timestamptz DEFAULT now()
);

-- The client tells AlreadyEnqueued by the name of the first of these.
CREATE UNIQUE INDEX procrastinate_jobs_queueing_lock_idx_v1 ON procrastinate_jobs (queueing_lock) WHERE status = 'todo';
CREATE UNIQUE INDEX procrastinate_jobs_lock_idx_v1 ON procrastinate_jobs (lock) WHERE status = 'doing';
CREATE INDEX procrastinate_jobs_priority_idx_v1 ON procrastinate_jobs (priority DESC, id) WHERE status = 'todo';
CREATE INDEX procrastinate_jobs_id_lock_idx_v1 ON procrastinate_jobs (id, lock) WHERE status IN ('todo', 'doing');
CREATE INDEX procrastinate_jobs_queue_name_idx_v1 ON procrastinate_jobs (queue_name);
CREATE INDEX idx_procrastinate_jobs_worker_not_null ON procrastinate_jobs (worker_id)
    WHERE worker_id IS NOT NULL AND status = 'doing';
CREATE INDEX procrastinate_events_job_id_fkey_v1 ON procrastinate_events (job_id);
CREATE INDEX procrastinate_periodic_defers_job_id_fkey_v1 ON procrastinate_periodic_defers (job_id);
CREATE INDEX idx_procrastinate_workers_last_heartbeat ON procrastinate_workers (last_heartbeat);

-- What Procrastinate's client calls. The arguments' names are part of the contract, hence the qualified ones below.

CREATE FUNCTION procrastinate_defer_jobs_v1(jobs procrastinate_job_to_defer_v1[]) RETURNS bigint[] LANGUAGE sql AS $$
    WITH made AS (
        INSERT INTO procrastinate_jobs (queue_name, task_name, priority, lock, queueing_lock, args, scheduled_at)
        SELECT j.queue_name, j.task_name, j.priority, j.lock, j.queueing_lock, j.args, j.scheduled_at
          FROM unnest(jobs) WITH ORDINALITY
            AS j(queue_name, task_name, priority, lock, queueing_lock, args, scheduled_at, place)
         ORDER BY j.place
        RETURNING id)
    SELECT array_agg(made.id ORDER BY made.id) FROM made
$$;

CREATE FUNCTION procrastinate_defer_periodic_job_v2(
    _queue_name varchar, _lock varchar, _queueing_lock varchar, _task_name varchar, _priority int,
    _periodic_id varchar, _defer_timestamp bigint, _args jsonb
) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    claim bigint;
    made bigint[];
BEGIN
    -- Whoever inserts the row for this moment first defers the job; the unique constraint decides.
    INSERT INTO procrastinate_periodic_defers AS d (task_name, periodic_id, defer_timestamp)
    VALUES (_task_name, _periodic_id, _defer_timestamp)
    ON CONFLICT DO NOTHING
    RETURNING d.id INTO claim;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;

    made := procrastinate_defer_jobs_v1(ARRAY[
        (_queue_name, _task_name, _priority, _lock, _queueing_lock, _args, NULL)::procrastinate_job_to_defer_v1]);
    UPDATE procrastinate_periodic_defers SET job_id = made[1] WHERE id = claim;

    -- Locked in one order, so that two of these do not wait for each other.
    PERFORM FROM procrastinate_periodic_defers
      WHERE task_name = _task_name AND periodic_id = _periodic_id AND defer_timestamp < _defer_timestamp
      ORDER BY id FOR UPDATE;
    DELETE FROM procrastinate_periodic_defers
     WHERE task_name = _task_name AND periodic_id = _periodic_id AND defer_timestamp < _defer_timestamp;
    RETURN made[1];
END $$;

-- One job. Workers of ours claim many at once, by trio_queue_fetch_jobs_v2; both obey the same rule.
CREATE FUNCTION procrastinate_fetch_job_v2(target_queue_names varchar[], p_worker_id bigint) RETURNS procrastinate_jobs
LANGUAGE plpgsql AS $$
DECLARE
    taken procrastinate_jobs;
BEGIN
    UPDATE procrastinate_jobs
       SET status = 'doing', worker_id = p_worker_id
     WHERE id = (
        SELECT waiting.id
          FROM procrastinate_jobs waiting
         WHERE waiting.status = 'todo'
           AND (waiting.scheduled_at IS NULL OR waiting.scheduled_at <= now())
           AND (target_queue_names IS NULL OR waiting.queue_name = ANY (target_queue_names))
           AND (waiting.lock IS NULL OR NOT EXISTS (
                SELECT FROM procrastinate_jobs rival
                 WHERE rival.lock = waiting.lock
                   AND (rival.status = 'doing'
                        OR rival.status = 'todo' AND rival.priority >= waiting.priority
                           AND (rival.priority > waiting.priority OR rival.id < waiting.id))))
         ORDER BY waiting.priority DESC, waiting.id
         LIMIT 1
           FOR UPDATE SKIP LOCKED)
    RETURNING * INTO taken;
    RETURN taken;
END $$;

CREATE FUNCTION procrastinate_finish_job_v1(job_id bigint, end_status procrastinate_job_status, delete_job boolean)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF end_status NOT IN ('succeeded', 'failed', 'aborted') THEN
        RAISE 'Job % cannot end as %: give succeeded, failed or aborted', job_id, end_status;
    END IF;
    IF delete_job THEN
        DELETE FROM procrastinate_jobs j WHERE j.id = job_id AND j.status IN ('todo', 'doing');
    ELSE
        UPDATE procrastinate_jobs j
           SET status = end_status, abort_requested = false, attempts = j.attempts + (j.status = 'doing')::int
         WHERE j.id = job_id AND j.status IN ('todo', 'doing');
    END IF;
    IF NOT FOUND THEN
        RAISE 'Job % neither waits nor runs, so it cannot be finished', job_id;
    END IF;
END $$;

CREATE FUNCTION procrastinate_cancel_job_v1(job_id bigint, abort boolean, delete_job boolean) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    touched bigint;
BEGIN
    IF delete_job THEN
        DELETE FROM procrastinate_jobs j WHERE j.id = job_id AND j.status = 'todo' RETURNING j.id INTO touched;
        IF FOUND THEN
            RETURN touched;
        END IF;
    END IF;
    IF abort THEN
        -- One that waits is cancelled at once, one that runs is asked to stop: its worker is told by the trigger.
        UPDATE procrastinate_jobs j
           SET abort_requested = true, status = CASE WHEN j.status = 'todo' THEN 'cancelled' ELSE j.status END
         WHERE j.id = job_id AND j.status IN ('todo', 'doing')
        RETURNING j.id INTO touched;
    ELSE
        UPDATE procrastinate_jobs j SET status = 'cancelled' WHERE j.id = job_id AND j.status = 'todo'
        RETURNING j.id INTO touched;
    END IF;
    RETURN touched;
END $$;

CREATE FUNCTION procrastinate_retry_job_v2(
    job_id bigint, retry_at timestamptz, new_priority int, new_queue_name varchar, new_lock varchar
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    running boolean;
    unwanted boolean;
BEGIN
    SELECT j.status = 'doing', j.abort_requested INTO running, unwanted
      FROM procrastinate_jobs j WHERE j.id = job_id AND j.status IN ('doing', 'failed') FOR UPDATE;
    IF NOT FOUND THEN
        RAISE 'Job % neither runs nor has failed, so it cannot be retried', job_id;
    END IF;
    IF running AND unwanted THEN
        UPDATE procrastinate_jobs j SET status = 'failed' WHERE j.id = job_id;
    ELSE
        UPDATE procrastinate_jobs j
           SET status = 'todo', attempts = j.attempts + 1, scheduled_at = retry_at,
               priority = coalesce(new_priority, j.priority), queue_name = coalesce(new_queue_name, j.queue_name),
               lock = coalesce(new_lock, j.lock)
         WHERE j.id = job_id;
    END IF;
END $$;

-- Of older clients: for running jobs only.
CREATE FUNCTION procrastinate_retry_job_v1(
    job_id bigint, retry_at timestamptz, new_priority int, new_queue_name varchar, new_lock varchar
) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM procrastinate_jobs j WHERE j.id = job_id AND j.status = 'doing' FOR UPDATE;
    IF NOT FOUND THEN
        RAISE 'Job % does not run, so it cannot be retried', job_id;
    END IF;
    PERFORM procrastinate_retry_job_v2(job_id, retry_at, new_priority, new_queue_name, new_lock);
END $$;

CREATE FUNCTION procrastinate_register_worker_v1() RETURNS TABLE (worker_id bigint) LANGUAGE sql AS $$
    INSERT INTO procrastinate_workers DEFAULT VALUES RETURNING id
$$;

CREATE FUNCTION procrastinate_unregister_worker_v1(worker_id bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM procrastinate_workers w WHERE w.id = worker_id;
END $$;

CREATE FUNCTION procrastinate_update_heartbeat_v1(worker_id bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE procrastinate_workers w SET last_heartbeat = now() WHERE w.id = worker_id;
END $$;

CREATE FUNCTION procrastinate_prune_stalled_workers_v1(seconds_since_heartbeat double precision)
RETURNS TABLE (worker_id bigint) LANGUAGE sql AS $$
    DELETE FROM procrastinate_workers w
     WHERE w.last_heartbeat < now() - make_interval(secs => seconds_since_heartbeat)
    RETURNING w.id
$$;

-- What Procrastinate's triggers call. Three of them serve here too (abort requests, and the schedule of a changed job); the
-- others stand for a downgrade, and for migrations of Procrastinate's that replace them.

CREATE FUNCTION procrastinate_notify_queue_job_inserted_v1() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    message text := json_build_object('type', 'job_inserted', 'job_id', NEW.id);
BEGIN
    PERFORM pg_notify(channel, message)
       FROM unnest(ARRAY['procrastinate_queue_v1#' || NEW.queue_name, 'procrastinate_any_queue_v1']) channel;
    RETURN NEW;
END $$;

CREATE FUNCTION procrastinate_notify_queue_abort_job_v1() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    message text := json_build_object('type', 'abort_job_requested', 'job_id', NEW.id);
BEGIN
    PERFORM pg_notify(channel, message)
       FROM unnest(ARRAY['procrastinate_queue_v1#' || NEW.queue_name, 'procrastinate_any_queue_v1']) channel;
    RETURN NEW;
END $$;

CREATE FUNCTION procrastinate_trigger_function_status_events_insert_v1() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO procrastinate_events (job_id, type) VALUES (NEW.id, 'deferred');
    RETURN NEW;
END $$;

CREATE FUNCTION procrastinate_trigger_function_status_events_update_v1() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    happened text := CASE
        WHEN OLD.status = 'todo' AND NEW.status = 'doing' THEN 'started'
        WHEN OLD.status = 'todo' AND NEW.status IN ('cancelled', 'failed', 'succeeded') THEN 'cancelled'
        WHEN OLD.status = 'doing' AND NEW.status = 'todo' THEN 'deferred_for_retry'
        WHEN OLD.status = 'doing' AND NEW.status IN ('failed', 'succeeded', 'aborted') THEN NEW.status::text
        WHEN OLD.status = 'failed' AND NEW.status = 'todo' THEN 'retried'
    END;
BEGIN
    IF happened IS NOT NULL THEN
        INSERT INTO procrastinate_events (job_id, type) VALUES (NEW.id, happened::procrastinate_job_event_type);
    END IF;
    RETURN NEW;
END $$;

CREATE FUNCTION procrastinate_trigger_function_scheduled_events_v1() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO procrastinate_events (job_id, type, at) VALUES (NEW.id, 'scheduled', NEW.scheduled_at);
    RETURN NEW;
END $$;

CREATE FUNCTION procrastinate_trigger_abort_requested_events_procedure_v1() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO procrastinate_events (job_id, type) VALUES (NEW.id, 'abort_requested');
    RETURN NEW;
END $$;

CREATE FUNCTION procrastinate_unlink_periodic_defers_v1() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE procrastinate_periodic_defers d SET job_id = NULL WHERE d.job_id = OLD.id;
    RETURN OLD;
END $$;

-- Row triggers, here as there: a second request for the abort of one job writes a second event, and only a row trigger with
-- UPDATE OF sees that.
CREATE TRIGGER procrastinate_jobs_notify_queue_job_aborted_v1 AFTER UPDATE OF abort_requested ON procrastinate_jobs
    FOR EACH ROW WHEN (NEW.abort_requested AND NOT OLD.abort_requested AND NEW.status = 'doing')
    EXECUTE FUNCTION procrastinate_notify_queue_abort_job_v1();
CREATE TRIGGER procrastinate_trigger_abort_requested_events_v1 AFTER UPDATE OF abort_requested ON procrastinate_jobs
    FOR EACH ROW WHEN (NEW.abort_requested)
    EXECUTE FUNCTION procrastinate_trigger_abort_requested_events_procedure_v1();
