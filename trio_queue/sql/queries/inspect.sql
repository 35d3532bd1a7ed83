-- What there is: for lists, dashboards and the command line. Filters that are NULL do not filter.

-- name: list_jobs
SELECT id, queue_name, task_name, priority, lock, queueing_lock, args, status::text AS status, scheduled_at, attempts, abort_requested, worker_id
  FROM (
    (SELECT * FROM procrastinate_jobs j
         WHERE NOT %(newest)s::boolean AND (%(id)s::bigint IS NULL OR j.id = %(id)s::bigint)
           AND (%(queue)s::varchar IS NULL OR j.queue_name = %(queue)s::varchar)
           AND (%(task)s::varchar IS NULL OR j.task_name = %(task)s::varchar)
           AND (%(status)s::procrastinate_job_status IS NULL OR j.status = %(status)s::procrastinate_job_status)
           AND (%(lock)s::text IS NULL OR j.lock = %(lock)s::text)
           AND (%(queueing_lock)s::text IS NULL OR j.queueing_lock = %(queueing_lock)s::text)
           AND (%(worker_id)s::bigint IS NULL OR j.worker_id = %(worker_id)s::bigint)
           AND (%(after_id)s::bigint IS NULL OR j.id > %(after_id)s::bigint)
         ORDER BY j.id LIMIT %(limit)s::bigint)
    UNION ALL
    (SELECT * FROM procrastinate_jobs j
         WHERE %(newest)s::boolean AND (%(id)s::bigint IS NULL OR j.id = %(id)s::bigint)
           AND (%(queue)s::varchar IS NULL OR j.queue_name = %(queue)s::varchar)
           AND (%(task)s::varchar IS NULL OR j.task_name = %(task)s::varchar)
           AND (%(status)s::procrastinate_job_status IS NULL OR j.status = %(status)s::procrastinate_job_status)
           AND (%(lock)s::text IS NULL OR j.lock = %(lock)s::text)
           AND (%(queueing_lock)s::text IS NULL OR j.queueing_lock = %(queueing_lock)s::text)
           AND (%(worker_id)s::bigint IS NULL OR j.worker_id = %(worker_id)s::bigint)
           AND (%(after_id)s::bigint IS NULL OR j.id > %(after_id)s::bigint)
         ORDER BY j.id DESC LIMIT %(limit)s::bigint)) found
 ORDER BY id;

-- name: list_queues
SELECT name, sum(jobs)::bigint AS jobs_count, json_object_agg(status, jobs) AS stats
  FROM (SELECT j.queue_name::text AS name, j.status::text AS status, count(*) AS jobs
          FROM procrastinate_jobs j
         WHERE (%(queue)s::varchar IS NULL OR j.queue_name = %(queue)s::varchar)
           AND (%(task)s::varchar IS NULL OR j.task_name = %(task)s::varchar)
           AND (%(status)s::procrastinate_job_status IS NULL OR j.status = %(status)s::procrastinate_job_status)
           AND (%(lock)s::text IS NULL OR j.lock = %(lock)s::text)
         GROUP BY j.queue_name, j.status) counted
 GROUP BY name
 ORDER BY name COLLATE "C";

-- name: list_tasks
SELECT name, sum(jobs)::bigint AS jobs_count, json_object_agg(status, jobs) AS stats
  FROM (SELECT j.task_name::text AS name, j.status::text AS status, count(*) AS jobs
          FROM procrastinate_jobs j
         WHERE (%(queue)s::varchar IS NULL OR j.queue_name = %(queue)s::varchar)
           AND (%(task)s::varchar IS NULL OR j.task_name = %(task)s::varchar)
           AND (%(status)s::procrastinate_job_status IS NULL OR j.status = %(status)s::procrastinate_job_status)
           AND (%(lock)s::text IS NULL OR j.lock = %(lock)s::text)
         GROUP BY j.task_name, j.status) counted
 GROUP BY name
 ORDER BY name COLLATE "C";

-- name: list_locks
SELECT name, sum(jobs)::bigint AS jobs_count, json_object_agg(status, jobs) AS stats
  FROM (SELECT j.lock::text AS name, j.status::text AS status, count(*) AS jobs
          FROM procrastinate_jobs j
         WHERE j.lock IS NOT NULL AND (%(queue)s::varchar IS NULL OR j.queue_name = %(queue)s::varchar)
           AND (%(task)s::varchar IS NULL OR j.task_name = %(task)s::varchar)
           AND (%(status)s::procrastinate_job_status IS NULL OR j.status = %(status)s::procrastinate_job_status)
           AND (%(lock)s::text IS NULL OR j.lock = %(lock)s::text)
         GROUP BY j.lock, j.status) counted
 GROUP BY name
 ORDER BY name COLLATE "C";

-- name: list_events
SELECT e.id, e.job_id, e.type::text AS type, e.at, d.worker_id, d.attempt, d.reason
  FROM procrastinate_events e LEFT JOIN trio_queue_event_details d ON d.event_id = e.id
 WHERE e.job_id = %(job_id)s::bigint
 ORDER BY e.id;

-- name: check_connection
SELECT to_regclass('procrastinate_jobs') IS NOT NULL AS ready;
