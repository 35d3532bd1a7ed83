-- Whether it is this call's turn. A worker numbers its claims and releases, one after the other; once a later one has begun, an
-- earlier one is void. One whose answer was lost may still arrive: TCP sends again, for half a minute and longer, what a process
-- has sent and then closed the connection. A claim that came after the release of what it might have claimed would leave jobs that
-- nobody runs under a living worker; a release that came after a later claim would give back jobs that run.
--
-- The row stays locked until the end of the transaction: whoever takes the next turn sees what this one did. The worker's own row
-- first, in the order of whoever deletes it. turn: NULL is always right, and so is any for a worker that has no row with us (whether
-- it may claim is the triggers' affair).
CREATE OR REPLACE FUNCTION trio_queue_take_turn_v1(worker_id bigint, turn bigint) RETURNS boolean LANGUAGE plpgsql
SET enable_seqscan = off SET jit = off AS $$
BEGIN
    IF turn IS NULL THEN
        RETURN true;
    END IF;
    PERFORM FROM procrastinate_workers p WHERE p.id = trio_queue_take_turn_v1.worker_id FOR KEY SHARE;
    UPDATE trio_queue_workers w SET last_turn = turn WHERE w.worker_id = trio_queue_take_turn_v1.worker_id AND w.last_turn < turn;
    RETURN FOUND OR NOT EXISTS (SELECT FROM trio_queue_workers w WHERE w.worker_id = trio_queue_take_turn_v1.worker_id);
END $$;

-- Claim at most n jobs for a worker. One statement in autocommit, READ COMMITTED. Waits for nobody's rows but in one race: a
-- better job joined a lock whose first job an open transaction holds. The unique index on running locks then makes the claim
-- wait, 50 ms at most; after that it takes jobs without locks only. Raises foreign_key_violation where the worker is not
-- registered.
--
-- Answers the jobs in their order. Where there was less to claim than asked for, a last row without a job tells in how many seconds
-- one is due: a worker that has nothing to do asks one question, not two.
--
-- The UPDATE names columns that it leaves as they are. Else PostgreSQL, told that an index's key does not change, searches each full
-- page of that index for old versions to remove, and in vain: they are those of this very statement. (perf: a sixth of all.) What is
-- not removed then, a vacuum removes.
--
-- Server's CPU a job, in batches of 100, 500 and 1,000 plain jobs (PostgreSQL 18, events written): 11.0, 7.8 and 7.5 µs; 15.8, 11.6
-- and 11.1 before the one walk (1.6 less at 500), the named columns (1.7) and the trigger's look at the whole statement (0.5); the bare
-- UPDATE of such rows and a bare INSERT of the events, all indexes kept: 9.7, 8.1 and 7.6.
-- Measured and lost: walk and UPDATE in one statement, by id or by ctid (+0.5); two statements by ctid (alike); the functions without
-- their SET (-0.3 at 100, nothing at 500, and plans that can flip); no turn (-0.3 at 100); fillfactor 50 or 70 of the table (+0.3).
-- Lost on paper: claim and completion in one statement (one commit less for each batch, 20 µs, and a claim whose answer is lost would
-- be one with a write that must be repeated).
--
-- An empty answer is not an empty queue: ask trio_queue_has_eligible_job_v1. turn: see trio_queue_take_turn_v1.
CREATE OR REPLACE FUNCTION trio_queue_fetch_jobs_v1(queues varchar[], worker bigint, n int, turn bigint DEFAULT NULL)
RETURNS TABLE (
    id bigint, queue_name varchar, task_name varchar, priority int, lock text, queueing_lock text, args jsonb, status text,
    scheduled_at timestamptz, attempts int, abort_requested boolean, worker_id bigint, next_in double precision
) LANGUAGE plpgsql
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off SET enable_hashjoin = off
SET enable_mergejoin = off SET enable_memoize = off SET jit = off SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
    asked varchar[] := queues;
    only_queue constant text := queues[1];
    is_plain boolean := false;
    found int;
    picked bigint[];
    patience text := current_setting('lock_timeout');
    last_try constant int := 3;
    try int := 1;
BEGIN
    -- Wait for DDL here: before the worker's row is locked, and not under the short timeout below, where it would be taken for the race.
    LOCK TABLE procrastinate_jobs IN ROW EXCLUSIVE MODE;
    IF NOT trio_queue_take_turn_v1(worker, turn) THEN
        RETURN;
    END IF;

    -- Nearly always nothing that may start has a lock or was scheduled: then the first of the others are what is wanted, one walk
    -- finds and locks them, and no two claims can want the same lock. The streams are those of trio_queue_pick_jobs_v1: ready ones
    -- with a lock (2), scheduled ones without (1) and with one (0), and ready ones without (3). (No EXISTS: it drops the ORDER BY
    -- that ties each question to its index.)
    IF queues IS NULL AND
        (SELECT j.id FROM procrastinate_jobs j
          WHERE j.status = 'todo' AND (j.lock IS NULL)::int + 2 * (j.scheduled_at IS NULL)::int = 2
          ORDER BY ~j.priority, j.id LIMIT 1) IS NULL AND
        (SELECT j.id FROM procrastinate_jobs j
          WHERE j.status = 'todo' AND (j.lock IS NULL)::int + 2 * (j.scheduled_at IS NULL)::int = 1 AND j.scheduled_at <= now()
          ORDER BY j.scheduled_at LIMIT 1) IS NULL AND
        (SELECT j.id FROM procrastinate_jobs j
          WHERE j.status = 'todo' AND (j.lock IS NULL)::int + 2 * (j.scheduled_at IS NULL)::int = 0 AND j.scheduled_at <= now()
          ORDER BY j.scheduled_at LIMIT 1) IS NULL
    THEN
        is_plain := true;
        picked := ARRAY(
            SELECT j.id FROM procrastinate_jobs j
             WHERE j.status = 'todo' AND (j.lock IS NULL)::int + 2 * (j.scheduled_at IS NULL)::int = 3
             ORDER BY ~j.priority, j.id LIMIT greatest(n, 0) FOR NO KEY UPDATE SKIP LOCKED);
    ELSIF coalesce(cardinality(queues), 0) = 1 AND
        (SELECT j.id FROM procrastinate_jobs j
          WHERE j.queue_name = only_queue AND j.status = 'todo' AND 2 * (j.scheduled_at IS NULL)::int + (j.lock IS NULL)::int = 2
          ORDER BY ~j.priority, j.id LIMIT 1) IS NULL AND
        (SELECT j.id FROM procrastinate_jobs j
          WHERE j.queue_name = only_queue AND j.status = 'todo' AND 2 * (j.scheduled_at IS NULL)::int + (j.lock IS NULL)::int = 1 AND j.scheduled_at <= now()
          ORDER BY j.scheduled_at LIMIT 1) IS NULL AND
        (SELECT j.id FROM procrastinate_jobs j
          WHERE j.queue_name = only_queue AND j.status = 'todo' AND 2 * (j.scheduled_at IS NULL)::int + (j.lock IS NULL)::int = 0 AND j.scheduled_at <= now()
          ORDER BY j.scheduled_at LIMIT 1) IS NULL
    THEN
        is_plain := true;
        picked := ARRAY(
            SELECT j.id FROM procrastinate_jobs j
             WHERE j.queue_name = only_queue AND j.status = 'todo' AND 2 * (j.scheduled_at IS NULL)::int + (j.lock IS NULL)::int = 3
             ORDER BY ~j.priority, j.id LIMIT greatest(n, 0) FOR NO KEY UPDATE SKIP LOCKED);
    END IF;

    IF is_plain AND picked = '{}' THEN
        found := 0;
    ELSIF is_plain THEN
        RETURN QUERY
        WITH claimed AS (
            UPDATE procrastinate_jobs j SET status = 'doing', worker_id = worker, lock = j.lock, queue_name = j.queue_name
             WHERE j.id = ANY (picked) RETURNING j.*)
        SELECT c.id, c.queue_name, c.task_name, c.priority, c.lock, c.queueing_lock, c.args, text 'doing',
               c.scheduled_at, c.attempts, c.abort_requested, c.worker_id, NULL::double precision
          FROM claimed c ORDER BY c.priority DESC, c.id;
        GET DIAGNOSTICS found = ROW_COUNT;
    ELSE
        IF cardinality(asked) > 1 THEN
            asked := ARRAY(SELECT DISTINCT queue FROM unnest(asked) queue);
        END IF;
        LOOP
            BEGIN
                picked := trio_queue_pick_jobs_v1(asked, n, true, try = last_try);
                PERFORM set_config('lock_timeout', '50ms', true);
                UPDATE procrastinate_jobs j SET status = 'doing', worker_id = worker, lock = j.lock, queue_name = j.queue_name
                 WHERE j.id = ANY (picked);
                PERFORM set_config('lock_timeout', patience, true);
                EXIT;
            EXCEPTION WHEN unique_violation OR lock_not_available OR deadlock_detected THEN
                -- The lock of one of them was taken meanwhile: once more with what is visible now, then without locked jobs.
                IF try = last_try THEN
                    RAISE;
                END IF;
                try := CASE WHEN SQLSTATE = '23505' THEN try + 1 ELSE last_try END;
            END;
        END LOOP;
        -- Not RETURN QUERY UPDATE: rows of a try that failed may stay in the answer.
        RETURN QUERY
        SELECT j.id, j.queue_name, j.task_name, j.priority, j.lock, j.queueing_lock, j.args, text 'doing',
               j.scheduled_at, j.attempts, j.abort_requested, j.worker_id, NULL::double precision
          FROM procrastinate_jobs j WHERE j.id = ANY (picked) ORDER BY j.priority DESC, j.id;
        GET DIAGNOSTICS found = ROW_COUNT;
    END IF;
    IF found < n THEN
        next_in := trio_queue_next_scheduled_in_v1(asked);
        RETURN NEXT;
    END IF;
END $$;
