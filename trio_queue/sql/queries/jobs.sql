-- Jobs: deferring, claiming, completing, managing. Every query that answers jobs names the same columns in the same order; a
-- column that Procrastinate adds one day changes nothing here.

-- name: defer_jobs
SELECT trio_queue_defer_jobs_v1(
    %(queues)s::text[], %(task_names)s::text[], %(priorities)s::int[], %(locks)s::text[],
    %(queueing_locks)s::text[], %(args)s::jsonb, %(scheduled_at)s::timestamptz[]) AS ids;

-- name: fetch_jobs
SELECT id, queue_name, task_name, priority, lock, queueing_lock, args, status, scheduled_at, attempts, abort_requested, worker_id, next_in
  FROM trio_queue_fetch_jobs_v2(%(queues)s::varchar[], %(worker_id)s::bigint, %(limit)s::int, %(turn)s::bigint, %(max_bytes)s::bigint);

-- name: has_eligible_job
SELECT trio_queue_has_eligible_job_v1(%(queues)s::varchar[]) AS eligible;

-- name: finish_jobs
-- Answers those jobs whose row is not what was meant: a thousand rows that say "as you said" cost more than the rest.
SELECT job_id, status FROM trio_queue_finish_jobs_v1(
    %(worker_id)s::bigint, %(job_ids)s::bigint[], %(attempts)s::int[], %(statuses)s::text[],
    %(retries)s::boolean[], %(retry_at)s::timestamptz[], %(retry_in)s::double precision[],
    %(priorities)s::int[], %(queues)s::text[], %(locks)s::text[],
    %(if_abort_requested)s::text[], %(deletes)s::boolean[], %(reasons)s::text[]);

-- name: release_jobs
SELECT job_id, status FROM trio_queue_release_jobs_v1(%(worker_id)s::bigint, %(keep)s::bigint[], %(turn)s::bigint);

-- name: list_jobs_to_abort
SELECT id FROM procrastinate_jobs
 WHERE status = 'doing' AND worker_id = %(worker_id)s::bigint AND abort_requested
 ORDER BY id;

-- name: get_job_status
SELECT status::text AS status FROM procrastinate_jobs WHERE id = %(job_id)s::bigint;

-- name: cancel_job
SELECT procrastinate_cancel_job_v1(%(job_id)s::bigint, %(abort)s::boolean, %(delete_job)s::boolean) IS NOT NULL AS done;

-- name: retry_job
SELECT procrastinate_retry_job_v2(
    %(job_id)s::bigint, %(retry_at)s::timestamptz, %(priority)s::int, %(queue)s::varchar, %(lock)s::varchar)::text AS nothing;

-- name: finish_job
SELECT procrastinate_finish_job_v1(
    %(job_id)s::bigint, %(status)s::procrastinate_job_status, %(delete_job)s::boolean)::text AS nothing;

-- name: list_stalled_jobs
-- With nb_seconds: those that began so long ago. Without: those whose worker has no row, or was not heard of for so long.
SELECT j.id, j.queue_name, j.task_name, j.priority, j.lock, j.queueing_lock, j.args, j.status::text AS status, j.scheduled_at, j.attempts, j.abort_requested, j.worker_id
  FROM procrastinate_jobs j
 WHERE j.status = 'doing'
   AND (%(queue)s::varchar IS NULL OR j.queue_name = %(queue)s::varchar)
   AND (%(task_name)s::varchar IS NULL OR j.task_name = %(task_name)s::varchar)
   AND CASE WHEN %(nb_seconds)s::double precision IS NOT NULL
            THEN (SELECT max(e.at) FROM procrastinate_events e WHERE e.job_id = j.id AND e.type = 'started')
                 < now() - make_interval(secs => %(nb_seconds)s::double precision)
            ELSE NOT EXISTS (
                SELECT FROM procrastinate_workers w
                 WHERE w.id = j.worker_id
                   AND w.last_heartbeat >= now() - make_interval(secs => %(seconds_since_heartbeat)s::double precision))
            END
 ORDER BY j.id;

-- name: delete_old_jobs
SELECT deleted, walked_to FROM trio_queue_delete_old_jobs_v2(
    %(statuses)s::text[], %(nb_hours)s::double precision, %(queue)s::text, %(limit)s::int, %(after_id)s::bigint,
    %(only_count)s::boolean);
