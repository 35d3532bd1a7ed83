-- Workers, as `trio-queue workers` lists them.

CREATE OR REPLACE FUNCTION trio_queue_register_worker_v1(
    name text, host text, pid int, version text, queues text[], concurrency int, stage text
) RETURNS bigint LANGUAGE sql AS $$
    WITH worker AS (INSERT INTO procrastinate_workers DEFAULT VALUES RETURNING id)
    INSERT INTO trio_queue_workers (worker_id, name, host, pid, version, queues, concurrency, stage)
    SELECT worker.id, $1, $2, $3, $4, $5, $6, $7 FROM worker
    RETURNING worker_id
$$;

CREATE OR REPLACE FUNCTION trio_queue_update_stage_v1(worker_id bigint, stage text) RETURNS void LANGUAGE sql AS $$
    UPDATE trio_queue_workers w SET stage = $2, since = now() WHERE w.worker_id = $1
$$;

-- Whether the row is still there. Whoever holds it for long is not waited for: the next beat may find it free. (The function says
-- so, and not the session: behind a pooler that one is not the worker's.)
CREATE OR REPLACE FUNCTION trio_queue_update_heartbeat_v1(worker_id bigint) RETURNS boolean LANGUAGE plpgsql
SET lock_timeout = '5s' AS $$
BEGIN
    UPDATE procrastinate_workers w SET last_heartbeat = now() WHERE w.id = worker_id;
    RETURN FOUND;
END $$;
