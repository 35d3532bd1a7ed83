-- Where claims begin for a while to walk over the ready jobs without a lock, where the way to the first of them is long: over rows that
-- came and went, and that vacuum could not take away because somebody's snapshot would see them (a dump, a forgotten transaction, a
-- replica's). Their entries in the index may not even be marked as dead, so each costs each claim 46 ns: 92 ms behind two million.
--
-- So the whole way is walked once in ten times as long as that takes, by one worker, and all others begin where it found the first job.
-- What they miss is a job of the same priority with a lower id than that one, which waits again without a moment (given back by a stop,
-- rescued) or was deferred by a transaction that was open for long: the next walk of the whole way finds it, a minute later at most.
-- Jobs of a higher priority are looked for by each.
CREATE TABLE IF NOT EXISTS trio_queue_walks (
    queues varchar[] PRIMARY KEY,  -- those asked for; '{}': all of them
    rank int NOT NULL,  -- ~priority
    id bigint NOT NULL,
    again_at timestamptz NOT NULL  -- when the whole way is walked again
);

-- Take note of what it took to walk the whole way. A claim of many jobs takes long, too: so the way to the first job that still waits is
-- walked once more. Where it is not what took so long, no claim has to begin behind it.
CREATE OR REPLACE FUNCTION trio_queue_note_walk_v1(asked varchar[], last_claimed bigint, took interval) RETURNS void LANGUAGE plpgsql
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off SET jit = off SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
    began constant timestamptz := clock_timestamp();
    only_queue constant text := asked[1];
    way interval;
    next_walk timestamptz;
    first_rank int;
    first_id bigint;
BEGIN
    IF asked = '{}' THEN
        SELECT ~j.priority, j.id INTO first_rank, first_id FROM procrastinate_jobs j
         WHERE j.status = 'todo' AND (j.lock IS NULL)::int + 2 * (j.scheduled_at IS NULL)::int = 3
         ORDER BY ~j.priority, j.id LIMIT 1;
    ELSE
        SELECT ~j.priority, j.id INTO first_rank, first_id FROM procrastinate_jobs j
         WHERE j.queue_name = only_queue AND j.status = 'todo' AND 2 * (j.scheduled_at IS NULL)::int + (j.lock IS NULL)::int = 3
         ORDER BY ~j.priority, j.id LIMIT 1;
    END IF;
    way := clock_timestamp() - began;
    next_walk := clock_timestamp() + least(10 * (took + way), interval '1 minute');
    -- Nobody waits for this: another that walked at the same time tells the same.
    IF NOT pg_try_advisory_xact_lock(hashtextextended('trio_queue_walks' || asked::text, 0)) THEN
        RETURN;
    END IF;
    IF way < took / 4 THEN
        DELETE FROM trio_queue_walks w WHERE w.queues = asked;
        RETURN;
    END IF;
    IF first_id IS NULL THEN
        -- None waits; those to come will come behind the last one.
        SELECT ~j.priority, j.id INTO first_rank, first_id FROM procrastinate_jobs j WHERE j.id = last_claimed;
    END IF;
    IF first_id IS NULL THEN
        UPDATE trio_queue_walks w SET again_at = next_walk WHERE w.queues = asked;
    ELSE
        INSERT INTO trio_queue_walks AS w (queues, rank, id, again_at) VALUES (asked, first_rank, first_id, next_walk)
            ON CONFLICT (queues) DO UPDATE SET rank = excluded.rank, id = excluded.id, again_at = excluded.again_at;
    END IF;
END $$;

-- Which of these jobs, in the order in which they would be claimed, are the first that hold no more than so many bytes of arguments
-- together; one at least. In bytes as they are when nothing compresses them: what is stored compressed has to be decompressed to tell
-- (`#> '{}'` answers the same arguments, without). So they are looked at one by one, up to the one that is too much; a FOR loop would
-- look at up to fifty beyond it.
CREATE OR REPLACE FUNCTION trio_queue_first_within_v1(ids bigint[], max_bytes bigint) RETURNS bigint[] LANGUAGE plpgsql AS $$
DECLARE
    ranked CURSOR FOR
        SELECT r.id, sized.size
          FROM (SELECT j.id FROM procrastinate_jobs j WHERE j.id = ANY (ids) ORDER BY ~j.priority, j.id OFFSET 0) r
         CROSS JOIN LATERAL (
            SELECT pg_column_size(CASE WHEN pg_column_compression(j.args) IS NULL THEN j.args ELSE j.args #> '{}' END) AS size
              FROM procrastinate_jobs j WHERE j.id = r.id) sized;
    job_id bigint;
    size bigint;
    bytes bigint := 0;
    within bigint[] := '{}';
BEGIN
    OPEN ranked;
    LOOP
        FETCH ranked INTO job_id, size;
        bytes := bytes + size;
        EXIT WHEN NOT FOUND OR (bytes > max_bytes AND within <> '{}');
        within := within || job_id;
    END LOOP;
    CLOSE ranked;
    RETURN within;
END $$;

-- Claim at most n jobs for a worker, as many as hold at most max_bytes of arguments together; NULL: however many they hold. One at
-- least, where there is one. One statement in autocommit, READ COMMITTED. Waits for nobody's rows but in one race: a better job
-- joined a lock whose first job an open transaction holds. The unique index on running locks then makes the claim wait, 50 ms at
-- most; after that it takes jobs without locks only. Raises foreign_key_violation where the worker is not registered.
--
-- Answers the jobs in their order. Where there was less to claim than asked for, a last row without a job tells in how many seconds
-- one is due: a worker that has nothing to do asks one question, not two. Where max_bytes ended it there is no such row: there is
-- more. An empty answer is not an empty queue: ask trio_queue_has_eligible_job_v1. turn: see trio_queue_take_turn_v1.
--
-- Of max_bytes: a thousand jobs of 1 MB in one answer are several GB in the worker. What a column takes is cheap to ask for, but it is
-- the size as it is stored: a megabyte of zeros takes 12 KB. So what is stored compressed counts 255-fold at first, more than either
-- method saves; only where that is too much it is looked at closely. The jobs are locked by then: what is not wanted of them is let
-- go by undoing the block, and the walk is made again for so many as fit. Another worker that looked meanwhile found nothing: it is
-- told. (A worker then asks for few until they are small again.)
--
-- The UPDATE names columns that it leaves as they are. Else PostgreSQL, told that an index's key does not change, searches each full
-- page of that index for old versions to remove, and in vain: they are those of this very statement. (perf: a sixth of all.) What is
-- not removed then, a vacuum removes.
--
-- Server's CPU a job, in batches of 1, 100, 500 and 1,000 plain jobs (PostgreSQL 18, events written): 254, 10.7, 8.3 and 7.5 µs, where
-- the function before this one took 248, 10.7, 8.3 and 7.4 in the same run; jobs with locks and due ones 15.0 at 100 (15.0). In batches
-- of 500, with arguments that are stored compressed, so that each is looked at: of 4 KB 20.6 µs (18.8), of 16 KB 47 (38), of 1 MB, 16 a
-- claim, 2.9 ms (2.0). Measured and lost: looking at sizes without locks before the walk (0.3 more at 100, and behind another's open
-- claim it looks at other jobs than the walk takes). Of the one walk, at 500: 7.8 µs, and 11.6 before it (1.6 less), the named columns
-- (1.7) and the trigger's look at the whole statement (0.5); the bare UPDATE of such rows and a bare INSERT of the events, all indexes
-- kept: 8.1. Lost there: walk and UPDATE in one statement, by id or by ctid (+0.5); two statements by ctid (alike); the functions without
-- their SET (-0.3 at 100, nothing at 500, and plans that can flip); no turn (-0.3 at 100); fillfactor 50 or 70 of the table (+0.3).
-- Lost on paper: claim and completion in one statement (one commit less for each batch, 20 µs, and a claim whose answer is lost would
-- be one with a write that must be repeated).
CREATE OR REPLACE FUNCTION trio_queue_fetch_jobs_v2(
    queues varchar[], worker bigint, n int, turn bigint DEFAULT NULL, max_bytes bigint DEFAULT NULL)
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
    is_whole boolean;
    most int := greatest(n, 0);
    within bigint[] := '{}';
    let_go bigint[];
    found int;
    picked bigint[];
    bytes bigint;
    -- What is walked, in parts; here, the whole way.
    from_ranks int[] := '{-2147483648}';
    from_ids bigint[] := '{-9223372036854775808}';
    to_ranks bigint[] := '{2147483647}';
    known_rank int;
    known_id bigint;
    again_at timestamptz;
    began timestamptz;
    took interval;
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
    IF queues IS NULL THEN
        is_plain :=
            (SELECT j.id FROM procrastinate_jobs j
              WHERE j.status = 'todo' AND (j.lock IS NULL)::int + 2 * (j.scheduled_at IS NULL)::int = 2
              ORDER BY ~j.priority, j.id LIMIT 1) IS NULL AND
            (SELECT j.id FROM procrastinate_jobs j
              WHERE j.status = 'todo' AND (j.lock IS NULL)::int + 2 * (j.scheduled_at IS NULL)::int = 1 AND j.scheduled_at <= now()
              ORDER BY j.scheduled_at LIMIT 1) IS NULL AND
            (SELECT j.id FROM procrastinate_jobs j
              WHERE j.status = 'todo' AND (j.lock IS NULL)::int + 2 * (j.scheduled_at IS NULL)::int = 0 AND j.scheduled_at <= now()
              ORDER BY j.scheduled_at LIMIT 1) IS NULL;
    ELSIF cardinality(queues) = 1 THEN
        is_plain :=
            (SELECT j.id FROM procrastinate_jobs j
              WHERE j.queue_name = only_queue AND j.status = 'todo' AND 2 * (j.scheduled_at IS NULL)::int + (j.lock IS NULL)::int = 2
              ORDER BY ~j.priority, j.id LIMIT 1) IS NULL AND
            (SELECT j.id FROM procrastinate_jobs j
              WHERE j.queue_name = only_queue AND j.status = 'todo' AND 2 * (j.scheduled_at IS NULL)::int + (j.lock IS NULL)::int = 1 AND j.scheduled_at <= now()
              ORDER BY j.scheduled_at LIMIT 1) IS NULL AND
            (SELECT j.id FROM procrastinate_jobs j
              WHERE j.queue_name = only_queue AND j.status = 'todo' AND 2 * (j.scheduled_at IS NULL)::int + (j.lock IS NULL)::int = 0 AND j.scheduled_at <= now()
              ORDER BY j.scheduled_at LIMIT 1) IS NULL;
    ELSIF cardinality(queues) > 1 THEN
        asked := ARRAY(SELECT DISTINCT queue FROM unnest(queues) queue);
    END IF;

    IF is_plain THEN
        SELECT w.rank, w.id, w.again_at INTO known_rank, known_id, again_at FROM trio_queue_walks w
         WHERE w.queues = coalesce(asked, '{}')
           -- Not believed: one that nobody came to renew, or of before the clock was set back.
           AND w.again_at BETWEEN clock_timestamp() - interval '1 minute' AND clock_timestamp() + interval '1 minute';
        is_whole := again_at IS NULL OR again_at <= clock_timestamp()
            AND pg_try_advisory_xact_lock(hashtextextended('trio_queue_walks' || coalesce(asked, '{}')::text, 0));
        IF NOT is_whole THEN
            from_ranks := from_ranks || known_rank;
            from_ids := from_ids || known_id;
            to_ranks := known_rank::bigint - 1 || to_ranks;
        END IF;
    END IF;

    WHILE is_plain LOOP
        -- What locks the rows changes them as well: locked outside the block, each would get a second locker, and that a record.
        BEGIN
            began := clock_timestamp();
            IF queues IS NULL THEN
                SELECT coalesce(array_agg(w.id), '{}'), sum(w.size) INTO picked, bytes FROM (
                    SELECT walked.id, walked.size FROM unnest(from_ranks, from_ids, to_ranks) part (from_rank, from_id, to_rank) CROSS JOIN LATERAL (
                        SELECT j.id, CASE WHEN pg_column_compression(j.args) IS NULL THEN 1 ELSE 255 END * pg_column_size(j.args)::bigint AS size
                          FROM procrastinate_jobs j
                         WHERE j.status = 'todo' AND (j.lock IS NULL)::int + 2 * (j.scheduled_at IS NULL)::int = 3
                           AND (~j.priority, j.id) >= (part.from_rank, part.from_id) AND ~j.priority <= part.to_rank
                         ORDER BY ~j.priority, j.id LIMIT most FOR NO KEY UPDATE SKIP LOCKED) walked
                     LIMIT most) w;
            ELSE
                SELECT coalesce(array_agg(w.id), '{}'), sum(w.size) INTO picked, bytes FROM (
                    SELECT walked.id, walked.size FROM unnest(from_ranks, from_ids, to_ranks) part (from_rank, from_id, to_rank) CROSS JOIN LATERAL (
                        SELECT j.id, CASE WHEN pg_column_compression(j.args) IS NULL THEN 1 ELSE 255 END * pg_column_size(j.args)::bigint AS size
                          FROM procrastinate_jobs j
                         WHERE j.queue_name = only_queue AND j.status = 'todo' AND 2 * (j.scheduled_at IS NULL)::int + (j.lock IS NULL)::int = 3
                           AND (~j.priority, j.id) >= (part.from_rank, part.from_id) AND ~j.priority <= part.to_rank
                         ORDER BY ~j.priority, j.id LIMIT most FOR NO KEY UPDATE SKIP LOCKED) walked
                     LIMIT most) w;
            END IF;
            took := clock_timestamp() - began;
            IF bytes > max_bytes AND cardinality(picked) > 1 AND picked <> within THEN
                within := trio_queue_first_within_v1(picked, max_bytes);
                IF cardinality(within) < cardinality(picked) THEN
                    let_go := coalesce(let_go, picked);
                    RAISE SQLSTATE 'TQ001';
                END IF;
            END IF;
            IF picked = '{}' THEN
                found := 0;
                EXIT;
            END IF;
            RETURN QUERY
            WITH claimed AS (
                UPDATE procrastinate_jobs j SET status = 'doing', worker_id = worker, lock = j.lock, queue_name = j.queue_name
                 WHERE j.id = ANY (picked) RETURNING j.*)
            SELECT c.id, c.queue_name, c.task_name, c.priority, c.lock, c.queueing_lock, c.args, text 'doing',
                   c.scheduled_at, c.attempts, c.abort_requested, c.worker_id, NULL::double precision
              FROM claimed c ORDER BY c.priority DESC, c.id;
            GET DIAGNOSTICS found = ROW_COUNT;
            EXIT;
        EXCEPTION WHEN SQLSTATE 'TQ001' THEN
            most := cardinality(within);  -- fewer each time, and one always fits
        END;
    END LOOP;
    IF NOT is_plain THEN
        LOOP
            BEGIN
                picked := trio_queue_pick_jobs_v1(asked, most, true, try = last_try);
                SELECT sum(CASE WHEN pg_column_compression(j.args) IS NULL THEN 1 ELSE 255 END * pg_column_size(j.args)::bigint)
                  INTO bytes FROM procrastinate_jobs j WHERE j.id = ANY (picked);
                IF bytes > max_bytes AND cardinality(picked) > 1 AND picked <> within THEN
                    within := trio_queue_first_within_v1(picked, max_bytes);
                    IF cardinality(within) < cardinality(picked) THEN
                        let_go := coalesce(let_go, picked);
                        RAISE SQLSTATE 'TQ001';
                    END IF;
                END IF;
                PERFORM set_config('lock_timeout', '50ms', true);
                UPDATE procrastinate_jobs j SET status = 'doing', worker_id = worker, lock = j.lock, queue_name = j.queue_name
                 WHERE j.id = ANY (picked);
                PERFORM set_config('lock_timeout', patience, true);
                EXIT;
            EXCEPTION
                WHEN SQLSTATE 'TQ001' THEN
                    most := cardinality(within);
                WHEN unique_violation OR lock_not_available OR deadlock_detected THEN
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
    IF let_go IS NOT NULL THEN
        -- Whoever looked while they were locked found nothing, and rests: for as long as it takes until something rings.
        PERFORM trio_queue_notify_queues_v1(array_agg(waiting.queue_name), array_agg(waiting.id))
           FROM (SELECT j.queue_name::text, max(j.id) AS id FROM procrastinate_jobs j
                  WHERE j.id = ANY (let_go) AND j.status::text = 'todo' GROUP BY j.queue_name) waiting;
    END IF;
    IF is_whole AND (took > interval '10 ms' OR again_at IS NOT NULL) THEN
        PERFORM trio_queue_note_walk_v1(coalesce(asked, '{}'), picked[cardinality(picked)], took);
    END IF;
    IF found < most THEN
        next_in := trio_queue_next_scheduled_in_v1(asked);
        IF NOT is_whole THEN  -- and there it may be more than this found
            next_in := least(next_in, greatest(0.05, extract(epoch FROM again_at - clock_timestamp())));
        END IF;
        RETURN NEXT;
    END IF;
END $$;

-- For workers of a version before this one, which a deploy may leave running for a while. They take fewer than they asked for as
-- the end of the queue: so they get what they ask for.
CREATE OR REPLACE FUNCTION trio_queue_fetch_jobs_v1(queues varchar[], worker bigint, n int, turn bigint DEFAULT NULL)
RETURNS TABLE (
    id bigint, queue_name varchar, task_name varchar, priority int, lock text, queueing_lock text, args jsonb, status text,
    scheduled_at timestamptz, attempts int, abort_requested boolean, worker_id bigint, next_in double precision
) LANGUAGE sql AS $$
    SELECT * FROM trio_queue_fetch_jobs_v2(queues, worker, n, turn, NULL);
$$;
