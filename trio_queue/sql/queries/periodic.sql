-- Periodic jobs.

-- name: defer_periodic_job
SELECT trio_queue_defer_periodic_job_v1(
    %(queue)s::varchar, %(lock)s::varchar, %(queueing_lock)s::varchar, %(task_name)s::varchar, %(priority)s::int,
    %(periodic_id)s::varchar, %(defer_timestamp)s::bigint, %(args)s::jsonb) AS id;
