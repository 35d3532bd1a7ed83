-- Give the database back to Procrastinate: its row triggers and foreign keys again, and nothing of ours. One transaction, which
-- holds ACCESS EXCLUSIVE on four tables; nothing is scanned but the waiting jobs. The foreign keys come unchecked (NOT VALID: they
-- bind what is written from now on); clearing the rows that break them, and the check, come after, beside the running queue.
DO $restore$
DECLARE
    home oid := (SELECT relnamespace FROM pg_class WHERE oid = 'procrastinate_jobs'::regclass);
    patience text := current_setting('lock_timeout');
    alive text;
    ours record;
BEGIN
    -- In short tries, as when the triggers were put there.
    PERFORM set_config('lock_timeout', '100ms', true);
    FOR attempt IN 1..100 LOOP
        BEGIN
            LOCK TABLE procrastinate_jobs, procrastinate_events, procrastinate_periodic_defers, procrastinate_workers
                IN ACCESS EXCLUSIVE MODE;
            EXIT;
        EXCEPTION WHEN lock_not_available THEN
            IF attempt = 100 THEN
                RAISE lock_not_available USING
                    MESSAGE = 'the tables of the queue were never free for 100 ms: a transaction holds one of them',
                    HINT = 'Look for it in pg_stat_activity (state "idle in transaction"), end it, and try again.';
            END IF;
            PERFORM pg_sleep(0.02 + random() * 0.1);
        END;
    END LOOP;
    PERFORM set_config('lock_timeout', patience, true);

    -- Behind the lock: nobody registers any more.
    IF to_regclass('trio_queue_workers') IS NOT NULL THEN
        SELECT string_agg(format('worker %s (%s, process %s)', o.worker_id, o.host, o.pid), ', ' ORDER BY o.worker_id) INTO alive
          FROM trio_queue_workers o JOIN procrastinate_workers w ON w.id = o.worker_id
         WHERE w.last_heartbeat > now() - interval '1 minute';
        IF alive IS NOT NULL THEN
            RAISE object_in_use USING
                MESSAGE = format('workers of trio_queue are alive, or were within the last minute: %s', alive),
                HINT = 'Stop them, and try again.';
        END IF;
    END IF;

    FOR ours IN SELECT tgname, tgrelid::regclass AS relation FROM pg_trigger
                 WHERE NOT tgisinternal AND tgname ^@ 'trio_queue_' AND tgrelid IN (
                    'procrastinate_jobs'::regclass, 'procrastinate_events'::regclass,
                    'procrastinate_periodic_defers'::regclass, 'procrastinate_workers'::regclass) LOOP
        EXECUTE format('DROP TRIGGER %I ON %s', ours.tgname, ours.relation);
    END LOOP;
    DROP TRIGGER IF EXISTS procrastinate_jobs_notify_queue_job_inserted_v1 ON procrastinate_jobs;
    DROP TRIGGER IF EXISTS procrastinate_trigger_status_events_insert_v1 ON procrastinate_jobs;
    DROP TRIGGER IF EXISTS procrastinate_trigger_status_events_update_v1 ON procrastinate_jobs;
    DROP TRIGGER IF EXISTS procrastinate_trigger_delete_jobs_v1 ON procrastinate_jobs;
    DROP TRIGGER IF EXISTS procrastinate_trigger_scheduled_events_v1 ON procrastinate_jobs;

    -- Now, while no trigger would write that they are scheduled once more. (Finished jobs keep the ids of workers that are gone
    -- until later: there may be millions, and no trigger minds them.)
    UPDATE procrastinate_jobs j SET worker_id = NULL
     WHERE j.status IN ('todo', 'doing') AND j.worker_id IS NOT NULL
       AND NOT EXISTS (SELECT FROM procrastinate_workers w WHERE w.id = j.worker_id);

    CREATE TRIGGER procrastinate_jobs_notify_queue_job_inserted_v1 AFTER INSERT ON procrastinate_jobs
        FOR EACH ROW WHEN (NEW.status = 'todo') EXECUTE FUNCTION procrastinate_notify_queue_job_inserted_v1();
    CREATE TRIGGER procrastinate_trigger_status_events_insert_v1 AFTER INSERT ON procrastinate_jobs
        FOR EACH ROW WHEN (NEW.status = 'todo') EXECUTE FUNCTION procrastinate_trigger_function_status_events_insert_v1();
    CREATE TRIGGER procrastinate_trigger_status_events_update_v1 AFTER UPDATE OF status ON procrastinate_jobs
        FOR EACH ROW EXECUTE FUNCTION procrastinate_trigger_function_status_events_update_v1();
    CREATE TRIGGER procrastinate_trigger_delete_jobs_v1 BEFORE DELETE ON procrastinate_jobs
        FOR EACH ROW EXECUTE FUNCTION procrastinate_unlink_periodic_defers_v1();
    CREATE TRIGGER procrastinate_trigger_scheduled_events_v1 AFTER INSERT OR UPDATE ON procrastinate_jobs
        FOR EACH ROW WHEN (NEW.scheduled_at IS NOT NULL AND NEW.status = 'todo')
        EXECUTE FUNCTION procrastinate_trigger_function_scheduled_events_v1();

    FOR ours IN SELECT conname, conrelid::regclass AS relation FROM pg_constraint
                 WHERE conname IN ('procrastinate_jobs_worker_id_fkey', 'procrastinate_events_job_id_fkey',
                                   'procrastinate_periodic_defers_job_id_fkey') AND connamespace = home LOOP
        EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', ours.relation, ours.conname);
    END LOOP;
    ALTER TABLE procrastinate_jobs ADD CONSTRAINT procrastinate_jobs_worker_id_fkey
        FOREIGN KEY (worker_id) REFERENCES procrastinate_workers (id) ON DELETE SET NULL NOT VALID;
    ALTER TABLE procrastinate_events ADD CONSTRAINT procrastinate_events_job_id_fkey
        FOREIGN KEY (job_id) REFERENCES procrastinate_jobs (id) ON DELETE CASCADE NOT VALID;
    ALTER TABLE procrastinate_periodic_defers ADD CONSTRAINT procrastinate_periodic_defers_job_id_fkey
        FOREIGN KEY (job_id) REFERENCES procrastinate_jobs (id) NOT VALID;

    FOR ours IN SELECT indexrelid::regclass AS relation FROM pg_index JOIN pg_class c ON c.oid = indexrelid
                 WHERE indrelid = 'procrastinate_jobs'::regclass AND c.relname ^@ 'trio_queue_' LOOP
        EXECUTE format('DROP INDEX %s', ours.relation);
    END LOOP;
    FOR ours IN SELECT oid::regprocedure AS signature FROM pg_proc WHERE proname ^@ 'trio_queue_' AND pronamespace = home LOOP
        EXECUTE format('DROP FUNCTION %s', ours.signature);
    END LOOP;
    FOR ours IN SELECT oid::regclass AS relation FROM pg_class
                 WHERE relname ^@ 'trio_queue_' AND relkind = 'r' AND relnamespace = home LOOP
        EXECUTE format('DROP TABLE %s', ours.relation);
    END LOOP;
END $restore$;
