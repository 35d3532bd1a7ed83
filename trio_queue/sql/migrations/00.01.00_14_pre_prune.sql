-- A bite of the old jobs, in one short transaction: delete at most `max` that have one of these statuses and whose last event is
-- older than so many hours, with ids above after_id (NULL: from the first on). Answers how many, and how far it walked: the
-- after_id of the next bite, NULL where no old job is left. Skips those that somebody works on. only_count: delete nothing.
--
-- Walks the jobs from the oldest on, a thousand at a time, and stops at the first thousand that ends with a job deferred since:
-- what is younger cannot have ended before. Jobs without any event stay, as with Procrastinate. So there is no index to keep for it,
-- and all bites together cost what is older than that age, deleted or kept (0.2 s for a million kept), and not the table.
--
-- A bite ends with the thousand during which 50 ms went by. The next goes on where it ended: from the first on, each bite would step
-- again over the rows that those before it deleted, which stay in the index until a vacuum.
CREATE OR REPLACE FUNCTION trio_queue_delete_old_jobs_v2(
    statuses text[], nb_hours double precision, queue text, max int, after_id bigint, only_count boolean)
RETURNS TABLE (deleted int, walked_to bigint) LANGUAGE plpgsql
SET jit = off SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
    asked constant varchar := queue;
    most constant int := max;
    wanted constant procrastinate_job_status[] := statuses::procrastinate_job_status[];
    -- Beyond all that is old (a thousand years are enough) interval arithmetic would overflow.
    limit_at constant timestamptz := now() - make_interval(secs => least(nb_hours, 8766000) * 3600);
    step constant int := 1000;
    ends_at constant timestamptz := clock_timestamp() + interval '50 ms';
    reached bigint := coalesce(after_id, '-9223372036854775808');
    step_end bigint;
    old_ids bigint[];
    count int;
BEGIN
    deleted := 0;
    WHILE deleted < most AND clock_timestamp() < ends_at LOOP
        SELECT last.id INTO step_end FROM (
            SELECT j.id FROM procrastinate_jobs j WHERE j.id > reached ORDER BY j.id LIMIT step) last
         ORDER BY last.id DESC LIMIT 1;
        IF step_end IS NULL THEN
            RETURN NEXT;
            RETURN;
        END IF;
        old_ids := ARRAY(
            SELECT j.id FROM procrastinate_jobs j
             WHERE j.id > reached AND j.id <= step_end AND j.status = ANY (wanted)
               AND (asked IS NULL OR j.queue_name = asked)
               AND (SELECT max(e.at) FROM procrastinate_events e WHERE e.job_id = j.id) < limit_at
             ORDER BY j.id LIMIT most - deleted);
        count := cardinality(old_ids);
        IF deleted + count >= most THEN
            step_end := old_ids[count];
        END IF;
        IF NOT only_count AND count > 0 THEN
            DELETE FROM procrastinate_jobs WHERE id = ANY (ARRAY(
                -- One that was retried meanwhile has another status by now.
                SELECT j.id FROM procrastinate_jobs j
                 WHERE j.id = ANY (old_ids) AND j.status = ANY (wanted) ORDER BY j.id FOR UPDATE OF j SKIP LOCKED));
            GET DIAGNOSTICS count = ROW_COUNT;
        END IF;
        deleted := deleted + count;
        IF EXISTS (SELECT FROM procrastinate_events e WHERE e.job_id = step_end AND e.type = 'deferred' AND e.at >= limit_at) THEN
            RETURN NEXT;
            RETURN;
        END IF;
        reached := step_end;
    END LOOP;
    walked_to := reached;
    RETURN NEXT;
END $$;
