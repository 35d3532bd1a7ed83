-- Workers, ours and Procrastinate's. Those of ours have a row in trio_queue_workers too.

-- name: register_worker
SELECT trio_queue_register_worker_v1(
    %(worker_name)s::text, %(host)s::text, %(pid)s::int, %(version)s::text, %(queues)s::text[], %(concurrency)s::int,
    %(stage)s::text) AS worker_id;

-- name: update_worker_stage
SELECT trio_queue_update_stage_v1(%(worker_id)s::bigint, %(stage)s::text)::text AS nothing;

-- name: update_heartbeat
SELECT trio_queue_update_heartbeat_v1(%(worker_id)s::bigint) AS alive;

-- name: unregister_worker
SELECT procrastinate_unregister_worker_v1(%(worker_id)s::bigint)::text AS nothing;

-- name: prune_stalled_workers
SELECT worker_id FROM procrastinate_prune_stalled_workers_v1(%(seconds_since_heartbeat)s::double precision)
 ORDER BY worker_id;

-- name: adopt_jobs
SELECT unnest(trio_queue_adopt_jobs_v1(
    %(worker_id)s::bigint, %(lost_id)s::bigint, %(job_ids)s::bigint[], %(attempts)s::int[])) AS id;

-- name: adopt_orphans
SELECT (job).id, (job).queue_name, (job).task_name, (job).priority, (job).lock, (job).queueing_lock, (job).args, (job).status::text AS status, (job).scheduled_at, (job).attempts, (job).abort_requested, (job).worker_id,
       deaths
  FROM trio_queue_adopt_orphans_v1(%(worker_id)s::bigint, %(stalled_after)s::double precision, %(limit)s::int, %(turn)s::bigint);

-- name: list_workers
SELECT p.id, p.last_heartbeat, w.name, w.host, w.pid, w.version, w.queues, w.concurrency, w.stage, w.since,
       (SELECT count(*) FROM procrastinate_jobs j WHERE j.worker_id = p.id AND j.status = 'doing') AS running,
       extract(epoch FROM clock_timestamp() - p.last_heartbeat)::double precision AS seconds_since_heartbeat
  FROM procrastinate_workers p LEFT JOIN trio_queue_workers w ON w.worker_id = p.id
 ORDER BY p.id;
