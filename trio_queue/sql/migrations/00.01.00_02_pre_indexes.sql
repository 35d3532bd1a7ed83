-- trio-queue: no-transaction
-- Scans procrastinate_jobs five times, but locks nobody out: each index is built beside the running queue. An index that was
-- interrupted half-way is dropped and built again.
--
-- What the fetch walks (see trio_queue_pick_jobs_v1). A stream is one of four kinds of waiting jobs: scheduled or not, with a
-- lock or without. Its key is spelt in two ways, with the queue and without, so that no statistics can make the planner take
-- one index for the other; the rank is spelt ~priority (it never overflows, as -priority would), so that it cannot take the
-- stock index on (priority DESC, id) either. Queries must use the same spelling.
--
-- What is left of a job's cost is mostly its entries in indexes. Measured, and not done as it changes indexes of Procrastinate's (server's CPU
-- a job, batches of 500): both unique indexes and the one on (id, lock) narrowed by `IS NOT NULL`, which none of its queries would notice: 1.1
-- µs less at a claim, 1.0 at a defer. fillfactor 50 for the primary key, (id, lock) and the events' job_id: 1.1 less at claim and
-- completion together where many jobs wait, 0.2 more at a defer, twice the size. None of the stock ones but the unique: 3 and 1.6 less.

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
