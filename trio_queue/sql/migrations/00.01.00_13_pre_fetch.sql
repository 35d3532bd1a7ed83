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
    -- Of those listed that have no lock, so many in rank order are looked at: 10,000 due cost 4.6 ms, where ordering all took 5.7.
    best_of_list int := greatest(depth, 500);
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
                SELECT x.*, row_number() OVER () AS place FROM (
                    SELECT due.* FROM (
                        SELECT j.id, ~j.priority AS rank FROM procrastinate_jobs j
                         WHERE queues IS NULL AND j.status = 'todo'
                           AND (j.lock IS NULL)::int + 2 * (j.scheduled_at IS NULL)::int = stream
                           AND j.scheduled_at <= now() AND (j.lock = ANY (too_deep)) IS NOT TRUE
                         ORDER BY j.scheduled_at LIMIT list_size) due
                     ORDER BY due.rank, due.id LIMIT CASE stream WHEN scheduled_unlocked THEN best_of_list END) x) w
            UNION ALL
            SELECT stream, w.*
              FROM unnest(queues) queue CROSS JOIN unnest(listed) stream CROSS JOIN LATERAL (
                SELECT x.*, row_number() OVER () AS place FROM (
                    SELECT due.* FROM (
                        SELECT j.id, ~j.priority AS rank FROM procrastinate_jobs j
                         WHERE j.queue_name = queue AND j.status = 'todo'
                           AND 2 * (j.scheduled_at IS NULL)::int + (j.lock IS NULL)::int = stream
                           AND j.scheduled_at <= now() AND (j.lock = ANY (too_deep)) IS NOT TRUE
                         ORDER BY j.scheduled_at LIMIT list_size) due
                     ORDER BY due.rank, due.id LIMIT CASE stream WHEN scheduled_unlocked THEN best_of_list END) x) w),
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
                 WHERE ((found.rank, found.id) <= (
                    SELECT rank, id FROM (
                        SELECT rank, id FROM walk WHERE place = depth
                        UNION ALL SELECT rank, id FROM list WHERE place = best_of_list AND stream = scheduled_unlocked) ends
                     ORDER BY rank, id LIMIT 1)) IS NOT FALSE
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
               too_few AND (EXISTS (SELECT FROM walk WHERE place = depth)
                            OR EXISTS (SELECT FROM list WHERE place = best_of_list AND stream = scheduled_unlocked)),
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
            best_of_list := greatest(depth, best_of_list);
        END IF;
    END LOOP;
    RETURN coalesce(picked, '{}');
END $$;

-- Whether a job could start now. Takes no locks, and tells what is committed: true while another worker's claim is not.
CREATE OR REPLACE FUNCTION trio_queue_has_eligible_job_v1(queues varchar[]) RETURNS boolean LANGUAGE plpgsql
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off SET enable_hashjoin = off
SET enable_mergejoin = off SET enable_memoize = off SET jit = off SET plan_cache_mode = force_generic_plan AS $$
BEGIN
    -- One that is due and has no lock will do, whatever its rank: behind many of the future, picking would rank 10,000. (ORDER BY,
    -- so that no statistics can make the planner walk those of the future; EXISTS would drop it.)
    RETURN (
        SELECT j.id FROM procrastinate_jobs j
         WHERE queues IS NULL AND j.status = 'todo' AND (j.lock IS NULL)::int + 2 * (j.scheduled_at IS NULL)::int = 1
           AND j.scheduled_at <= now()
         ORDER BY j.scheduled_at LIMIT 1
    ) IS NOT NULL OR EXISTS (
        SELECT FROM unnest(queues) queue CROSS JOIN LATERAL (
            SELECT FROM procrastinate_jobs j
             WHERE j.queue_name = queue AND j.status = 'todo' AND 2 * (j.scheduled_at IS NULL)::int + (j.lock IS NULL)::int = 1
               AND j.scheduled_at <= now()
             ORDER BY j.scheduled_at LIMIT 1) due
    ) OR cardinality(trio_queue_pick_jobs_v1(queues, 1, false, false)) > 0;
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
