-- What becomes of jobs that a worker held, many in one call.
--
-- Server's CPU a job, in batches of 100, 500 and 1,000 that have succeeded (PostgreSQL 18, events written): 7.6, 5.9 and 5.7 µs; 9.4, 7.6
-- and 7.3 before the update by `= ANY` where all ended alike (0.7 less at 500), the trigger's look at the whole statement (0.5), an
-- answer of nothing where all is as meant, and the column named in vain (0.3; see trio_queue_fetch_jobs_v1). The bare UPDATE of such
-- rows and a bare INSERT of the events, all indexes kept: 6.8, 5.7 and 5.5. With the claim, in batches of 500: 13.6 µs, of 19.2.

-- Write it, each job fenced by worker and attempt: the row must be `doing` under this worker, with as many attempts as when it
-- was fetched. Answers, in the order given, those jobs whose row is not what was meant, with the status that it has now; NULL: the
-- row is no longer this run's, and nothing was written. A row that already is what was meant (an earlier try arrived, its answer
-- was lost) counts as written.
--
-- statuses: succeeded, failed or aborted end the job; todo gives it back. Arrays from `retries` on may be NULL.
-- retries: of a job given back, whether the attempt counts, and the next try is at retry_ats, or retry_delays seconds from now
--   (neither: at once), with these priorities, queue_names and locks (NULL: as before). Otherwise it goes back as it was.
-- if_abort_requested: what a job to be given back ends as where a user asked for its abort (NULL: aborted).
-- deletes: delete the row instead. reasons: stand beside the event, in trio_queue_event_details; where a user's request for its abort
-- ends a job that was to be given back, `user_request` is added.
--
-- A job to be given back while another waits with its queueing lock ends `cancelled`, with an event and a reason. It never fails
-- the others. Waking workers for what may start now is the triggers' affair.
--
-- The fence is written so that no partial index WHERE status = 'doing' fits: analysed while nothing ran, those look one row
-- long, the planner loops over all running rows for each job, and a batch of 500 takes 62 ms instead of 4.
CREATE OR REPLACE FUNCTION trio_queue_finish_jobs_v1(
    worker_id bigint, job_ids bigint[], attempts int[], statuses text[],
    retries boolean[], retry_ats timestamptz[], retry_delays double precision[],
    priorities int[], queue_names text[], locks text[],
    if_abort_requested text[], deletes boolean[], reasons text[]
) RETURNS TABLE (job_id bigint, status text) LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off
SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
    holder constant bigint := worker_id;
    fences constant int[] := attempts;
    retry_to constant text[] := queue_names;
    total constant int := cardinality(job_ids);
    first_status constant text := statuses[1];
    first_fence constant int := fences[1];
    written int;
    written_ids bigint[];
    violated text;
    collided boolean := false;
BEGIN
    IF cardinality(fences) <> total OR cardinality(statuses) <> total THEN
        RAISE array_subscript_error USING MESSAGE = 'job_ids, attempts and statuses must be equally long';
    ELSIF NOT statuses <@ ARRAY['succeeded', 'failed', 'aborted', 'todo'] THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('a job ends as succeeded, failed or aborted, or is given back as todo: %s', statuses);
    END IF;

    -- Nearly every call: all jobs have ended and there is nothing more to say.
    IF 'todo' <> ALL (statuses) AND (true = ANY (deletes)) IS NOT TRUE
       AND coalesce(cardinality(array_remove(reasons, NULL)), 0) = 0 THEN
        IF statuses[1] = ALL (statuses) AND fences[1] = ALL (fences) THEN
            UPDATE procrastinate_jobs j
               SET status = first_status::procrastinate_job_status, abort_requested = false, attempts = j.attempts + 1,
                   queue_name = j.queue_name  -- see trio_queue_fetch_jobs_v1
             WHERE j.id = ANY (job_ids) AND j.status::text = 'doing' AND j.worker_id IS NOT DISTINCT FROM holder
               AND j.attempts = first_fence;
        ELSE
            UPDATE procrastinate_jobs j
               SET status = meant.status::procrastinate_job_status, abort_requested = false, attempts = j.attempts + 1,
                   queue_name = j.queue_name
              FROM unnest(job_ids, fences, statuses) AS meant (id, attempts, status)
             WHERE j.id = meant.id AND j.status::text = 'doing' AND j.worker_id IS NOT DISTINCT FROM holder
               AND j.attempts = meant.attempts;
        END IF;
        GET DIAGNOSTICS written = ROW_COUNT;
        IF written = total THEN
            RETURN;
        END IF;
    ELSE
        IF true = ANY (deletes) THEN
            DELETE FROM procrastinate_jobs j
             USING unnest(job_ids, fences, statuses, deletes) AS meant (id, attempts, status, deletion)
             WHERE j.id = meant.id AND j.status::text = 'doing' AND j.worker_id IS NOT DISTINCT FROM holder
               AND j.attempts = meant.attempts AND meant.deletion AND meant.status <> 'todo';
        END IF;

        BEGIN
            WITH written AS (
                UPDATE procrastinate_jobs j
                   SET status = CASE WHEN meant.status <> 'todo' THEN meant.status
                                     WHEN j.abort_requested THEN coalesce(meant.if_abort_requested, 'aborted')
                                     ELSE 'todo' END::procrastinate_job_status,
                       abort_requested = false,
                       attempts = j.attempts + meant.counted,
                       scheduled_at = CASE WHEN meant.is_retry AND NOT j.abort_requested THEN meant.next_at ELSE j.scheduled_at END,
                       priority = CASE WHEN meant.is_retry AND NOT j.abort_requested
                                       THEN coalesce(meant.priority, j.priority) ELSE j.priority END,
                       queue_name = CASE WHEN meant.is_retry AND NOT j.abort_requested
                                         THEN coalesce(meant.queue_name, j.queue_name) ELSE j.queue_name END,
                       lock = CASE WHEN meant.is_retry AND NOT j.abort_requested
                                   THEN coalesce(meant.lock, j.lock) ELSE j.lock END
                  FROM (SELECT u.id, u.attempts, u.status, u.if_abort_requested, u.priority, u.queue_name, u.lock,
                               u.status = 'todo' AND u.retry IS TRUE AS is_retry,
                               (u.status <> 'todo' OR u.retry IS TRUE)::int AS counted,
                               -- Delays that no calendar holds end with the last moment that a client can read.
                               CASE WHEN u.retry_at IS NOT NULL OR u.delay IS NOT NULL THEN least(
                                   coalesce(u.retry_at, now() + make_interval(secs => least(greatest(u.delay, 0), 3e11))),
                                   timestamptz '9999-12-31 23:59:59+00') END AS next_at,
                               (u.deletion AND u.status <> 'todo') IS TRUE AS deletion
                          FROM unnest(job_ids, fences, statuses, retries, retry_ats, retry_delays, priorities, retry_to, locks,
                                      if_abort_requested, deletes)
                            AS u (id, attempts, status, retry, retry_at, delay, priority, queue_name, lock,
                                  if_abort_requested, deletion)) meant
                 WHERE j.id = meant.id AND j.status::text = 'doing' AND j.worker_id IS NOT DISTINCT FROM holder
                   AND j.attempts = meant.attempts AND NOT meant.deletion
                RETURNING j.id)
            SELECT array_agg(id) INTO written_ids FROM written;
        EXCEPTION WHEN unique_violation THEN
            GET STACKED DIAGNOSTICS violated = CONSTRAINT_NAME;
            IF violated <> 'procrastinate_jobs_queueing_lock_idx_v1' THEN
                RAISE;
            END IF;
            collided := true;
        END;

        IF collided AND total = 1 THEN
            -- The violation is the proof that another job waits with this queueing lock.
            WITH written AS (
                UPDATE procrastinate_jobs j
                   SET status = 'cancelled', attempts = j.attempts + (retries[1] IS TRUE)::int
                 WHERE j.id = job_ids[1] AND j.status::text = 'doing' AND j.worker_id IS NOT DISTINCT FROM holder
                   AND j.attempts = fences[1]
                RETURNING j.id, j.queueing_lock),
            event AS (
                INSERT INTO procrastinate_events (job_id, type) SELECT id, 'cancelled' FROM written
                RETURNING id)
            INSERT INTO trio_queue_event_details (event_id, worker_id, attempt, reason)
            SELECT event.id, holder, fences[1],
                   concat_ws('; ', reasons[1], format('another job waits with the queueing lock "%s"', written.queueing_lock))
              FROM event, written;
        ELSIF collided THEN
            -- One by one, in the order given: of two jobs with one queueing lock the first goes back, the second is cancelled.
            RETURN QUERY
            SELECT one.job_id, one.status
              FROM generate_series(1, total) place CROSS JOIN LATERAL trio_queue_finish_jobs_v1(
                       holder, job_ids[place:place], fences[place:place], statuses[place:place], retries[place:place],
                       retry_ats[place:place], retry_delays[place:place], priorities[place:place], retry_to[place:place],
                       locks[place:place], if_abort_requested[place:place], deletes[place:place], reasons[place:place]) one;
            RETURN;
        ELSE
            -- The newest event of each job is the one just written. (id + 0: else the planner may walk the table's newest events
            -- until it meets one of this job.)
            INSERT INTO trio_queue_event_details (event_id, worker_id, attempt, reason)
            SELECT (SELECT max(e.id + 0) FROM procrastinate_events e WHERE e.job_id = told.id), holder, told.attempts, told.reason
              FROM (SELECT u.id, u.attempts,
                           -- Meant to wait again and ended: nothing but a request for its abort does that.
                           CASE WHEN u.status = 'todo' AND j.status::text <> 'todo'
                                THEN concat_ws('; ', u.reason, 'user_request') ELSE u.reason END AS reason
                      FROM unnest(job_ids, fences, statuses, reasons) AS u (id, attempts, status, reason)
                      JOIN procrastinate_jobs j ON j.id = u.id
                     WHERE u.reason IS NOT NULL OR u.status = 'todo' AND j.status::text <> 'todo') told
             WHERE told.id = ANY (written_ids)
            ON CONFLICT DO NOTHING;
        END IF;
    END IF;

    -- What has been written is what was meant, as far as the row may tell.
    RETURN QUERY
    SELECT found.id, found.status
      FROM (SELECT meant.id, meant.status AS meant, meant.place,
                   CASE WHEN meant.status <> 'todo' AND meant.deletion THEN CASE WHEN j.id IS NULL THEN meant.status END
                        WHEN meant.status <> 'todo' THEN
                            CASE WHEN j.status::text = meant.status AND j.attempts = meant.attempts + 1 THEN meant.status END
                        WHEN j.worker_id IS NOT DISTINCT FROM holder AND j.attempts = meant.attempts + (meant.retry IS TRUE)::int
                             AND j.status::text IN ('todo', 'cancelled', coalesce(meant.if_abort_requested, 'aborted'))
                            THEN j.status::text END AS status
              FROM unnest(job_ids, fences, statuses, retries, if_abort_requested, deletes)
                   WITH ORDINALITY AS meant (id, attempts, status, retry, if_abort_requested, deletion, place)
              LEFT JOIN procrastinate_jobs j ON j.id = meant.id) found
     WHERE found.status IS DISTINCT FROM found.meant
     ORDER BY found.place;
END $$;

-- Give back what a worker holds and does not run: claimed and never started, or claimed in a call whose answer was lost.
-- keep: the jobs that it does run. By the rules for giving back above, with the reason `released`; attempts are not counted. turn: see trio_queue_take_turn_v1.
CREATE OR REPLACE FUNCTION trio_queue_release_jobs_v1(worker_id bigint, keep bigint[], turn bigint DEFAULT NULL)
RETURNS TABLE (job_id bigint, status text) LANGUAGE plpgsql
SET enable_seqscan = off SET jit = off AS $$
#variable_conflict use_column
DECLARE
    holder constant bigint := worker_id;
    held_ids bigint[];
    fences int[];
BEGIN
    IF NOT trio_queue_take_turn_v1(holder, turn) THEN
        RETURN;
    END IF;
    SELECT array_agg(j.id ORDER BY j.id), array_agg(j.attempts ORDER BY j.id) INTO held_ids, fences
      FROM procrastinate_jobs j
     WHERE j.status = 'doing' AND j.worker_id = holder AND j.id <> ALL (coalesce(keep, '{}'));
    IF held_ids IS NOT NULL THEN
        RETURN QUERY
        SELECT held.id, CASE WHEN other.job_id IS NULL THEN 'todo' ELSE other.status END
          FROM unnest(held_ids) WITH ORDINALITY AS held (id, place)
          LEFT JOIN trio_queue_finish_jobs_v1(
                holder, held_ids, fences, array_fill(text 'todo', ARRAY[cardinality(held_ids)]),
                NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, array_fill(text 'released', ARRAY[cardinality(held_ids)])) other
            ON other.job_id = held.id
         ORDER BY held.place;
    END IF;
END $$;
