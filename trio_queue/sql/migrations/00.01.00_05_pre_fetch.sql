-- The claim of many jobs in one call: exactly the jobs that so many calls of procrastinate_fetch_job_v2 would take, in their
-- order (priority DESC, id; of each lock only its first job, and none while one of its jobs runs; a first job that is scheduled
-- for later, or waits in another queue, holds the rest). Exact for any number of waiting jobs. Jobs that are due rank by
-- priority like any other: exactly up to 10,000 due per queue asked, beyond that among the 10,000 longest due at least.
--
-- Four streams (ready or scheduled, with a lock or without) are each walked in rank order through an index that holds nothing
-- else, a little deeper than the number asked for. Behind the end of a stream that was cut off nothing is certain, so ranks
-- behind that horizon are not taken. Where too few remain, another pass goes deeper, or another way:
--   - it met mostly jobs of the future: list the longest due by time, and rank those;
--   - it met few locks many times: ask each lock for its first job (up to 1,024 locks), else leave out the deepest.
-- Jobs are looked at without locks, then locked in rank order with SKIP LOCKED until there are enough: only what is taken is
-- locked. There is no memory of the last rank taken: it would hide the successor of a finished lock, a released job, and a job
-- that was committed out of order.
--
-- For a hundred jobs a call costs 1.6 - 2.4 ms with 400 jobs, 1 M waiting, 1 M finished, 1 M in the future, 1,000 queues, 200 k
-- locks or 200 k due; one lock 20,000 deep 3 ms (beside 1,000 others 6, before 200 k 8); 300 k in the future ranked before 200 k
-- due 6 ms. (PostgreSQL 15, two busy cores; the stock call for one job: 276 ms at 1 M in the future.)
--
-- Measured and lost: a walk that cannot leave out the deepest locks (0.33 s for 20,000 deep before 200 k others); going deeper in
-- the very pass that changes its way (39 ms instead of 5). Lost on paper: due jobs by time only (ranking 10,000 costs each call
-- 4 ms); each lock's first job always (3 - 4 µs a lock); a hashed set of the running locks (a probe costs the same however many
-- run).
--
-- queues: NULL means all. take: lock the jobs, else only look. Answers the ids, in no promised order.
CREATE OR REPLACE FUNCTION trio_queue_pick_jobs_v1(queues varchar[], n int, take boolean, unlocked_only boolean)
RETURNS bigint[] LANGUAGE plpgsql AS $$
DECLARE
    -- A stream's number: 1 for "no lock" plus 2 for "not scheduled".
    scheduled_locked constant int := 0;
    scheduled_unlocked constant int := 1;
    ready_locked constant int := 2;
    ready_unlocked constant int := 3;
    walked int[];  -- streams walked in rank order, each `depth` rows deep
    listed int[];  -- streams of which the longest due are listed by time, `list_size` at most
    depth int := least(n, 2 * n / greatest(cardinality(queues), 1)) + 20;
    list_size int := depth;
    too_deep text[] := '{}';  -- locks left out of the walk
    first_ids bigint[];  -- the first jobs of locks that are not walked, with their ranks
    first_ranks int[];
    lock_limit int;
    locks_seen int;
    picked bigint[];
    was_cut boolean;
    met_future boolean;
    met_crowd boolean;
    crowd text[];
    list_was_cut boolean;
    deeper boolean;
BEGIN
    IF n <= 0 OR cardinality(queues) = 0 THEN
        RETURN '{}';
    END IF;

    -- Few jobs are due: list them all by time, so that jobs of the future cost nothing. Many: walk them by rank.
    IF EXISTS (
        SELECT FROM unnest(ARRAY[scheduled_locked, scheduled_unlocked]) stream CROSS JOIN LATERAL (
            SELECT FROM procrastinate_jobs j
             WHERE queues IS NULL AND j.status = 'todo' AND (j.lock IS NULL)::int + 2 * (j.scheduled_at IS NULL)::int = stream
               AND j.scheduled_at <= now()
             ORDER BY j.scheduled_at OFFSET list_size LIMIT 1) beyond
    ) OR EXISTS (
        SELECT FROM unnest(queues) queue CROSS JOIN unnest(ARRAY[scheduled_locked, scheduled_unlocked]) stream CROSS JOIN LATERAL (
            SELECT FROM procrastinate_jobs j
             WHERE j.queue_name = queue AND j.status = 'todo' AND 2 * (j.scheduled_at IS NULL)::int + (j.lock IS NULL)::int = stream
               AND j.scheduled_at <= now()
             ORDER BY j.scheduled_at OFFSET list_size LIMIT 1) beyond
    ) THEN
        walked := ARRAY[ready_unlocked, ready_locked, scheduled_unlocked, scheduled_locked];
        listed := '{}';
    ELSE
        walked := ARRAY[ready_unlocked, ready_locked];
        listed := ARRAY[scheduled_unlocked, scheduled_locked];
    END IF;
    IF unlocked_only THEN
        walked := array_remove(array_remove(walked, ready_locked), scheduled_locked);
        listed := array_remove(listed, scheduled_locked);
    END IF;

    LOOP
        WITH walk AS MATERIALIZED (
            SELECT stream, w.*
              FROM unnest(walked) stream CROSS JOIN LATERAL (
                SELECT x.*, row_number() OVER () AS place FROM (
                    SELECT j.id, ~j.priority AS rank, j.lock, j.scheduled_at FROM procrastinate_jobs j
                     WHERE queues IS NULL AND j.status = 'todo'
                       AND (j.lock IS NULL)::int + 2 * (j.scheduled_at IS NULL)::int = stream
                       AND (j.lock = ANY (too_deep)) IS NOT TRUE
                     ORDER BY ~j.priority, j.id LIMIT depth) x) w
            UNION ALL
            SELECT stream, w.*
              FROM unnest(queues) queue CROSS JOIN unnest(walked) stream CROSS JOIN LATERAL (
                SELECT x.*, row_number() OVER () AS place FROM (
                    SELECT j.id, ~j.priority AS rank, j.lock, j.scheduled_at FROM procrastinate_jobs j
                     WHERE j.queue_name = queue AND j.status = 'todo'
                       AND 2 * (j.scheduled_at IS NULL)::int + (j.lock IS NULL)::int = stream
                       AND (j.lock = ANY (too_deep)) IS NOT TRUE
                     ORDER BY ~j.priority, j.id LIMIT depth) x) w),
        list AS MATERIALIZED (
            SELECT stream, w.*
              FROM unnest(listed) stream CROSS JOIN LATERAL (
                SELECT j.id, ~j.priority AS rank FROM procrastinate_jobs j
                 WHERE queues IS NULL AND j.status = 'todo'
                   AND (j.lock IS NULL)::int + 2 * (j.scheduled_at IS NULL)::int = stream
                   AND j.scheduled_at <= now() AND (j.lock = ANY (too_deep)) IS NOT TRUE
                 ORDER BY j.scheduled_at LIMIT list_size) w
            UNION ALL
            SELECT stream, w.*
              FROM unnest(queues) queue CROSS JOIN unnest(listed) stream CROSS JOIN LATERAL (
                SELECT j.id, ~j.priority AS rank FROM procrastinate_jobs j
                 WHERE j.queue_name = queue AND j.status = 'todo'
                   AND 2 * (j.scheduled_at IS NULL)::int + (j.lock IS NULL)::int = stream
                   AND j.scheduled_at <= now() AND (j.lock = ANY (too_deep)) IS NOT TRUE
                 ORDER BY j.scheduled_at LIMIT list_size) w),
        -- The same conditions twice, with a row lock and without one; LATERAL, so that a job is looked at, and locked, only
        -- when its turn comes. The first scan reads the row again once it has the lock. The candidates are a subquery and no
        -- CTE: before PostgreSQL 17 the planner forgets the order of a CTE, and would sort, and lock, them all. status::text, so
        -- that no partial index fits: planned while nothing waited, one that merely ends with the id looks as good as the
        -- primary key, and is read from end to end for each job ever after. For the same reason a lock's running job is asked for
        -- by a range and in order: only the index on running locks has that order.
        taken AS MATERIALIZED (
            SELECT chosen.id
              FROM (
                SELECT found.rank, found.id
                  FROM (SELECT rank, id FROM walk WHERE scheduled_at IS NULL OR scheduled_at <= now()
                        UNION ALL SELECT rank, id FROM list
                        UNION ALL SELECT rank, id FROM unnest(first_ranks, first_ids) first (rank, id)) found
                 -- The horizon: the earliest end of a stream that was cut off.
                 WHERE ((found.rank, found.id) <= (SELECT rank, id FROM walk WHERE place = depth ORDER BY rank, id LIMIT 1))
                       IS NOT FALSE
                 ORDER BY found.rank, found.id OFFSET 0) candidates
             CROSS JOIN LATERAL (
                SELECT locked.id FROM (
                    SELECT j.id FROM procrastinate_jobs j
                     WHERE take AND j.id = candidates.id AND j.status::text = 'todo'
                       AND (j.scheduled_at IS NULL OR j.scheduled_at <= now())
                       AND (queues IS NULL OR j.queue_name = ANY (queues))
                       AND (j.lock IS NULL OR (
                            (SELECT r.id FROM procrastinate_jobs r WHERE r.lock >= j.lock AND r.lock <= j.lock AND r.status = 'doing'
                              ORDER BY r.lock LIMIT 1) IS NULL
                            AND j.id = (SELECT f.id FROM procrastinate_jobs f WHERE f.lock = j.lock AND f.status = 'todo'
                                         ORDER BY ~f.priority, f.id LIMIT 1)))
                       FOR NO KEY UPDATE OF j SKIP LOCKED) locked
                UNION ALL
                SELECT j.id FROM procrastinate_jobs j
                 WHERE NOT take AND j.id = candidates.id AND j.status::text = 'todo'
                   AND (j.scheduled_at IS NULL OR j.scheduled_at <= now())
                   AND (queues IS NULL OR j.queue_name = ANY (queues))
                   AND (j.lock IS NULL OR (
                        (SELECT r.id FROM procrastinate_jobs r WHERE r.lock >= j.lock AND r.lock <= j.lock AND r.status = 'doing'
                          ORDER BY r.lock LIMIT 1) IS NULL
                        AND j.id = (SELECT f.id FROM procrastinate_jobs f WHERE f.lock = j.lock AND f.status = 'todo'
                                     ORDER BY ~f.priority, f.id LIMIT 1)))) chosen
             ORDER BY candidates.rank, candidates.id
             LIMIT n),
        result AS MATERIALIZED (SELECT array_agg(id) AS ids, count(*) < n AS too_few FROM taken)
        SELECT result.ids,
               too_few AND EXISTS (SELECT FROM walk WHERE place = depth),
               too_few AND EXISTS (
                   SELECT FROM walk WHERE stream < ready_locked
                    GROUP BY stream HAVING 2 * count(*) FILTER (WHERE scheduled_at > now()) > count(*)),
               too_few AND EXISTS (
                   SELECT FROM walk WHERE lock IS NOT NULL GROUP BY stream HAVING 2 * count(DISTINCT lock) < count(*)),
               CASE WHEN too_few THEN ARRAY(
                   SELECT lock FROM walk WHERE lock IS NOT NULL
                    GROUP BY lock HAVING count(*) > 4 ORDER BY count(*) DESC LIMIT 20) END,
               too_few AND list_size >= 10000
                   AND (SELECT count(*) >= list_size FROM list WHERE stream = scheduled_locked)
          INTO picked, was_cut, met_future, met_crowd, crowd, list_was_cut
          FROM result;
        EXIT WHEN NOT was_cut AND NOT list_was_cut;

        deeper := NOT met_future;
        IF met_future THEN
            listed := listed || ARRAY(SELECT stream FROM unnest(walked) stream WHERE stream < ready_locked);
            walked := array_remove(array_remove(walked, scheduled_unlocked), scheduled_locked);
            list_size := 10000;
        END IF;
        IF met_crowd OR list_was_cut THEN
            -- From lock to lock through the index. A list that was cut has no other way on: then all locks, however many.
            lock_limit := greatest(depth, 1024);
            WITH RECURSIVE firsts AS (
                (SELECT j.lock, j.id, ~j.priority AS rank, 1 AS place FROM procrastinate_jobs j
                  WHERE j.status = 'todo' AND j.lock IS NOT NULL ORDER BY j.lock, ~j.priority, j.id LIMIT 1)
                UNION ALL
                SELECT following.lock, following.id, following.rank, firsts.place + 1
                  FROM firsts CROSS JOIN LATERAL (
                    SELECT j.lock, j.id, ~j.priority AS rank FROM procrastinate_jobs j
                     WHERE j.status = 'todo' AND j.lock > firsts.lock ORDER BY j.lock, ~j.priority, j.id LIMIT 1) following
                 WHERE list_was_cut OR firsts.place <= lock_limit)
            SELECT count(*), array_agg(id), array_agg(rank) INTO locks_seen, first_ids, first_ranks FROM firsts;
            IF list_was_cut OR locks_seen <= lock_limit THEN
                walked := array_remove(array_remove(walked, ready_locked), scheduled_locked);
                listed := array_remove(listed, scheduled_locked);
                deeper := false;
            ELSE
                too_deep := too_deep || crowd;
                deeper := true;
                SELECT array_agg(first.id), array_agg(first.rank) INTO first_ids, first_ranks
                  FROM unnest(too_deep) AS deep (lock) CROSS JOIN LATERAL (
                    SELECT j.id, ~j.priority AS rank FROM procrastinate_jobs j
                     WHERE j.lock = deep.lock AND j.status = 'todo' ORDER BY ~j.priority, j.id LIMIT 1) first;
            END IF;
        END IF;
        IF deeper THEN
            depth := least(depth::bigint * 4, 1000000000);
        END IF;
    END LOOP;
    RETURN coalesce(picked, '{}');
END $$;

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
    plain boolean := false;
    found int;
    picked bigint[];
    patience text := current_setting('lock_timeout');
    last_try constant int := 3;
    try int := 1;
BEGIN
    IF NOT trio_queue_take_turn_v1(worker, turn) THEN
        RETURN;
    END IF;

    -- Nearly always nothing waits but jobs that are ready and have no lock (stream 3): then the first of them are what is wanted, one
    -- walk finds and locks them, and no two claims can want the same lock.
    IF queues IS NULL THEN
        plain := (SELECT j.id FROM procrastinate_jobs j
              WHERE j.status = 'todo' AND (j.lock IS NULL)::int + 2 * (j.scheduled_at IS NULL)::int = 2
              ORDER BY ~j.priority, j.id LIMIT 1) IS NULL
            AND (SELECT j.id FROM procrastinate_jobs j
              WHERE j.status = 'todo' AND (j.lock IS NULL)::int + 2 * (j.scheduled_at IS NULL)::int = 1
              AND j.scheduled_at <= now() ORDER BY j.scheduled_at LIMIT 1) IS NULL
            AND (SELECT j.id FROM procrastinate_jobs j
              WHERE j.status = 'todo' AND (j.lock IS NULL)::int + 2 * (j.scheduled_at IS NULL)::int = 0
              AND j.scheduled_at <= now() ORDER BY j.scheduled_at LIMIT 1) IS NULL;
    ELSIF cardinality(queues) = 1 THEN
        plain := (SELECT j.id FROM procrastinate_jobs j
              WHERE j.queue_name = only_queue AND j.status = 'todo' AND 2 * (j.scheduled_at IS NULL)::int + (j.lock IS NULL)::int = 2
              ORDER BY ~j.priority, j.id LIMIT 1) IS NULL
            AND (SELECT j.id FROM procrastinate_jobs j
              WHERE j.queue_name = only_queue AND j.status = 'todo' AND 2 * (j.scheduled_at IS NULL)::int + (j.lock IS NULL)::int = 1
              AND j.scheduled_at <= now() ORDER BY j.scheduled_at LIMIT 1) IS NULL
            AND (SELECT j.id FROM procrastinate_jobs j
              WHERE j.queue_name = only_queue AND j.status = 'todo' AND 2 * (j.scheduled_at IS NULL)::int + (j.lock IS NULL)::int = 0
              AND j.scheduled_at <= now() ORDER BY j.scheduled_at LIMIT 1) IS NULL;
    END IF;
    IF plain AND queues IS NULL THEN
        RETURN QUERY
        WITH first AS MATERIALIZED (
            SELECT j.id FROM procrastinate_jobs j
             WHERE j.status = 'todo' AND (j.lock IS NULL)::int + 2 * (j.scheduled_at IS NULL)::int = 3
             ORDER BY ~j.priority, j.id LIMIT greatest(n, 0) FOR NO KEY UPDATE SKIP LOCKED)
        UPDATE procrastinate_jobs j SET status = 'doing', worker_id = worker FROM first WHERE j.id = first.id
        RETURNING j.id, j.queue_name, j.task_name, j.priority, j.lock, j.queueing_lock, j.args, text 'doing',
                  j.scheduled_at, j.attempts, j.abort_requested, j.worker_id, NULL::double precision;
    ELSIF plain THEN
        RETURN QUERY
        WITH first AS MATERIALIZED (
            SELECT j.id FROM procrastinate_jobs j
             WHERE j.queue_name = only_queue AND j.status = 'todo' AND 2 * (j.scheduled_at IS NULL)::int + (j.lock IS NULL)::int = 3
             ORDER BY ~j.priority, j.id LIMIT greatest(n, 0) FOR NO KEY UPDATE SKIP LOCKED)
        UPDATE procrastinate_jobs j SET status = 'doing', worker_id = worker FROM first WHERE j.id = first.id
        RETURNING j.id, j.queue_name, j.task_name, j.priority, j.lock, j.queueing_lock, j.args, text 'doing',
                  j.scheduled_at, j.attempts, j.abort_requested, j.worker_id, NULL::double precision;
    ELSE
        -- Wait for DDL here, not under the short timeout below, where it would be taken for the race.
        LOCK TABLE procrastinate_jobs IN ROW EXCLUSIVE MODE;
        IF cardinality(asked) > 1 THEN
            asked := ARRAY(SELECT DISTINCT queue FROM unnest(asked) queue);
        END IF;
        LOOP
            BEGIN
                picked := trio_queue_pick_jobs_v1(asked, n, true, try = last_try);
                PERFORM set_config('lock_timeout', '50ms', true);
                UPDATE procrastinate_jobs j SET status = 'doing', worker_id = worker WHERE j.id = ANY (picked);
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
    END IF;

    GET DIAGNOSTICS found = ROW_COUNT;
    IF found < n THEN
        next_in := trio_queue_next_scheduled_in_v1(asked);
        RETURN NEXT;
    END IF;
END $$;

-- Whether a job could start now. Takes no locks, and tells what is committed: true while another worker's claim is not.
CREATE OR REPLACE FUNCTION trio_queue_has_eligible_job_v1(queues varchar[]) RETURNS boolean LANGUAGE plpgsql
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off SET enable_hashjoin = off
SET enable_mergejoin = off SET enable_memoize = off SET jit = off SET plan_cache_mode = force_generic_plan AS $$
BEGIN
    RETURN cardinality(trio_queue_pick_jobs_v1(queues, 1, false, false)) > 0;
END $$;

-- Seconds until the next job of the future is due, NULL where there is none. One probe per queue and kind.
CREATE OR REPLACE FUNCTION trio_queue_next_scheduled_in_v1(queues varchar[]) RETURNS double precision LANGUAGE plpgsql
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off SET jit = off
SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    next_at timestamptz;
BEGIN
    SELECT min(soonest.scheduled_at) INTO next_at
      FROM (SELECT s.scheduled_at
              FROM unnest(ARRAY[0, 1]) stream CROSS JOIN LATERAL (
                SELECT j.scheduled_at FROM procrastinate_jobs j
                 WHERE queues IS NULL AND j.status = 'todo'
                   AND (j.lock IS NULL)::int + 2 * (j.scheduled_at IS NULL)::int = stream AND j.scheduled_at > now()
                 ORDER BY j.scheduled_at LIMIT 1) s
            UNION ALL
            SELECT s.scheduled_at
              FROM unnest(queues) queue CROSS JOIN unnest(ARRAY[0, 1]) stream CROSS JOIN LATERAL (
                SELECT j.scheduled_at FROM procrastinate_jobs j
                 WHERE j.queue_name = queue AND j.status = 'todo'
                   AND 2 * (j.scheduled_at IS NULL)::int + (j.lock IS NULL)::int = stream AND j.scheduled_at > now()
                 ORDER BY j.scheduled_at LIMIT 1) s) soonest;
    IF NOT isfinite(next_at) THEN
        RETURN NULL;  -- it never comes, and before PostgreSQL 17 a difference cannot say so
    END IF;
    RETURN extract(epoch FROM next_at - now());
END $$;
