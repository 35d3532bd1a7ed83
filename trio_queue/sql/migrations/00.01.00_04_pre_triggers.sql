-- Four row triggers become statement triggers under the same names, and the three foreign keys become triggers with the same
-- effects. Nothing is scanned or rewritten: ACCESS EXCLUSIVE on four tables for about 5 ms, whatever their size.
--
-- The two triggers about abort requests stay as they are. That of `scheduled` stays a row trigger, now on UPDATE only: its WHEN
-- keeps it out of every claim and completion (transition tables forbid two events, so its INSERT half moved).
DO $install$
DECLARE
    reference record;
    patience text := current_setting('lock_timeout');
BEGIN
    -- All four tables or none, in tries shorter than deadlock_timeout with a pause after each: a claim locks jobs and then
    -- workers, an unregister workers and then jobs, so waiting with one of them in hand would stop the clients or get one of
    -- them killed. Under load this took 1.4 s; tries of 800 ms failed three times.
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
                    HINT = 'Look for it in pg_stat_activity (state "idle in transaction"), end it, and apply the schema again.';
            END IF;
            PERFORM pg_sleep(0.02 + random() * 0.1);
        END;
    END LOOP;
    PERFORM set_config('lock_timeout', patience, true);

    FOR reference IN
        SELECT conrelid::regclass AS referrer, conname FROM pg_constraint
         WHERE contype = 'f' AND (conrelid, confrelid) IN (
            ('procrastinate_jobs'::regclass, 'procrastinate_workers'::regclass),
            ('procrastinate_events'::regclass, 'procrastinate_jobs'::regclass),
            ('procrastinate_periodic_defers'::regclass, 'procrastinate_jobs'::regclass))
    LOOP
        EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', reference.referrer, reference.conname);
    END LOOP;

    -- Of jobs, under the names of the row triggers. (CREATE OR REPLACE TRIGGER cannot turn one into the other.)
    DROP TRIGGER IF EXISTS procrastinate_jobs_notify_queue_job_inserted_v1 ON procrastinate_jobs;
    CREATE TRIGGER procrastinate_jobs_notify_queue_job_inserted_v1 AFTER INSERT ON procrastinate_jobs
        REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION trio_queue_notify_inserted_v1();
    DROP TRIGGER IF EXISTS procrastinate_trigger_status_events_insert_v1 ON procrastinate_jobs;
    CREATE TRIGGER procrastinate_trigger_status_events_insert_v1 AFTER INSERT ON procrastinate_jobs
        REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION trio_queue_events_inserted_v1();
    DROP TRIGGER IF EXISTS procrastinate_trigger_status_events_update_v1 ON procrastinate_jobs;
    CREATE TRIGGER procrastinate_trigger_status_events_update_v1 AFTER UPDATE ON procrastinate_jobs
        REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
        FOR EACH STATEMENT EXECUTE FUNCTION trio_queue_events_updated_v1();
    DROP TRIGGER IF EXISTS procrastinate_trigger_delete_jobs_v1 ON procrastinate_jobs;
    CREATE TRIGGER procrastinate_trigger_delete_jobs_v1 AFTER DELETE ON procrastinate_jobs
        REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION trio_queue_jobs_deleted_v1();
    DROP TRIGGER IF EXISTS procrastinate_trigger_scheduled_events_v1 ON procrastinate_jobs;
    CREATE TRIGGER procrastinate_trigger_scheduled_events_v1 AFTER UPDATE ON procrastinate_jobs
        FOR EACH ROW WHEN (NEW.scheduled_at IS NOT NULL AND NEW.status = 'todo')
        EXECUTE FUNCTION procrastinate_trigger_function_scheduled_events_v1();

    -- In place of the foreign keys; those for each row never fire in normal work.
    CREATE OR REPLACE TRIGGER trio_queue_jobs_worker_inserted_v1 AFTER INSERT ON procrastinate_jobs
        FOR EACH ROW WHEN (NEW.worker_id IS NOT NULL) EXECUTE FUNCTION trio_queue_worker_exists_v1();
    CREATE OR REPLACE TRIGGER trio_queue_jobs_id_changed_v1 AFTER UPDATE OF id ON procrastinate_jobs
        FOR EACH ROW WHEN (OLD.id IS DISTINCT FROM NEW.id) EXECUTE FUNCTION trio_queue_job_id_changed_v1();
    CREATE OR REPLACE TRIGGER trio_queue_jobs_truncated_v1 AFTER TRUNCATE ON procrastinate_jobs
        FOR EACH STATEMENT EXECUTE FUNCTION trio_queue_jobs_truncated_v1();

    -- Events written by a trigger need no check: their writer holds the job's row.
    CREATE OR REPLACE TRIGGER trio_queue_events_job_exists_v1 AFTER INSERT OR UPDATE OF job_id ON procrastinate_events
        FOR EACH ROW WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION trio_queue_job_exists_v1();
    DROP TRIGGER IF EXISTS trio_queue_events_deleted_v1 ON procrastinate_events;
    CREATE TRIGGER trio_queue_events_deleted_v1 AFTER DELETE ON procrastinate_events
        REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION trio_queue_events_deleted_v1();
    CREATE OR REPLACE TRIGGER trio_queue_events_truncated_v1 AFTER TRUNCATE ON procrastinate_events
        FOR EACH STATEMENT EXECUTE FUNCTION trio_queue_events_truncated_v1();
    CREATE OR REPLACE TRIGGER trio_queue_periodic_defers_job_exists_v1
        AFTER INSERT OR UPDATE OF job_id ON procrastinate_periodic_defers
        FOR EACH ROW WHEN (NEW.job_id IS NOT NULL) EXECUTE FUNCTION trio_queue_job_exists_v1();

    DROP TRIGGER IF EXISTS trio_queue_workers_deleted_v1 ON procrastinate_workers;
    CREATE TRIGGER trio_queue_workers_deleted_v1 AFTER DELETE ON procrastinate_workers
        REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION trio_queue_workers_deleted_v1();
    CREATE OR REPLACE TRIGGER trio_queue_workers_id_changed_v1 AFTER UPDATE OF id ON procrastinate_workers
        FOR EACH ROW WHEN (OLD.id IS DISTINCT FROM NEW.id) EXECUTE FUNCTION trio_queue_worker_referenced_v1();
    CREATE OR REPLACE TRIGGER trio_queue_workers_truncated_v1 AFTER TRUNCATE ON procrastinate_workers
        FOR EACH STATEMENT EXECUTE FUNCTION trio_queue_worker_referenced_v1();
END $install$;
