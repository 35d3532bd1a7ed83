-- Workers, as `trio-queue workers` lists them, and the removal of old jobs.

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

-- Delete at most `max` jobs that have one of these statuses and whose last event is older than so many hours; answer how many.
-- Skips those that somebody works on. Walks the jobs from the oldest on, a thousand at a time, and stops at the first thousand
-- that ends with a job deferred since: what is younger cannot have ended before. Jobs without any event stay, as with
-- Procrastinate. So a call costs what is older than that age and kept, and not the table.
CREATE OR REPLACE FUNCTION trio_queue_delete_old_jobs_v1(statuses text[], nb_hours double precision, queue text, max int)
RETURNS int LANGUAGE plpgsql
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
    asked constant varchar := queue;
    most constant int := max;
    wanted constant procrastinate_job_status[] := statuses::procrastinate_job_status[];
    -- Beyond all that is old (a thousand years are enough) interval arithmetic would overflow.
    limit_at constant timestamptz := now() - make_interval(secs => least(nb_hours, 8766000) * 3600);
    bite constant int := 1000;
    walked_to bigint := '-9223372036854775808';
    bite_end bigint;
    deleted int := 0;
    count int;
BEGIN
    WHILE deleted < most LOOP
        SELECT last.id INTO bite_end FROM (
            SELECT j.id FROM procrastinate_jobs j WHERE j.id > walked_to ORDER BY j.id LIMIT bite) last
         ORDER BY last.id DESC LIMIT 1;
        EXIT WHEN bite_end IS NULL;
        DELETE FROM procrastinate_jobs WHERE id = ANY (ARRAY(
            SELECT j.id FROM procrastinate_jobs j
             WHERE j.id > walked_to AND j.id <= bite_end AND j.status = ANY (wanted)
               AND (asked IS NULL OR j.queue_name = asked)
               AND (SELECT max(e.at) FROM procrastinate_events e WHERE e.job_id = j.id) < limit_at
             ORDER BY j.id LIMIT most - deleted
               FOR UPDATE OF j SKIP LOCKED));
        GET DIAGNOSTICS count = ROW_COUNT;
        deleted := deleted + count;
        EXIT WHEN EXISTS (SELECT FROM procrastinate_events e WHERE e.job_id = bite_end AND e.type = 'deferred' AND e.at >= limit_at);
        walked_to := bite_end;
    END LOOP;
    RETURN deleted;
END $$;
