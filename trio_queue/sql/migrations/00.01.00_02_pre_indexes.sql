-- trio-queue: no-transaction
-- Scans procrastinate_jobs five times, but locks nobody out: each index is built beside the running queue. An index that was
-- interrupted half-way is dropped and built again.
--
-- What the fetch walks (see trio_queue_pick_jobs_v1). A stream is one of four kinds of waiting jobs: scheduled or not, with a
-- lock or without. Its key is spelt in two ways, with the queue and without, so that no statistics can make the planner take
-- one index for the other; the rank is spelt ~priority (it never overflows, as -priority would), so that it cannot take the
-- stock index on (priority DESC, id) either. Queries must use the same spelling.

CREATE INDEX CONCURRENTLY IF NOT EXISTS trio_queue_rank_idx ON procrastinate_jobs
    (((lock IS NULL)::int + 2 * (scheduled_at IS NULL)::int), (~priority), id)
    WHERE status = 'todo';

CREATE INDEX CONCURRENTLY IF NOT EXISTS trio_queue_queue_rank_idx ON procrastinate_jobs
    (queue_name, (2 * (scheduled_at IS NULL)::int + (lock IS NULL)::int), (~priority), id)
    WHERE status = 'todo';

CREATE INDEX CONCURRENTLY IF NOT EXISTS trio_queue_due_idx ON procrastinate_jobs
    (((lock IS NULL)::int + 2 * (scheduled_at IS NULL)::int), scheduled_at)
    WHERE status = 'todo' AND scheduled_at IS NOT NULL;

CREATE INDEX CONCURRENTLY IF NOT EXISTS trio_queue_queue_due_idx ON procrastinate_jobs
    (queue_name, (2 * (scheduled_at IS NULL)::int + (lock IS NULL)::int), scheduled_at)
    WHERE status = 'todo' AND scheduled_at IS NOT NULL;

CREATE INDEX CONCURRENTLY IF NOT EXISTS trio_queue_lock_idx ON procrastinate_jobs (lock, (~priority), id)
    WHERE status = 'todo' AND lock IS NOT NULL;
