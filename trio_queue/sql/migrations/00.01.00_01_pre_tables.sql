-- Facts of ours, in tables of ours: Procrastinate's get no column.

CREATE TABLE IF NOT EXISTS trio_queue_migrations (
    name text PRIMARY KEY,
    applied_at timestamptz DEFAULT now() NOT NULL
);

-- Beside a row of procrastinate_workers; goes with it.
CREATE TABLE IF NOT EXISTS trio_queue_workers (
    worker_id bigint PRIMARY KEY,
    name text,
    host text NOT NULL,
    pid int NOT NULL,
    version text NOT NULL,
    queues text[],  -- NULL: every queue
    concurrency int NOT NULL,
    stage text NOT NULL,
    since timestamptz DEFAULT now() NOT NULL,  -- when this stage began
    last_turn bigint DEFAULT 0 NOT NULL  -- see trio_queue_take_turn_v1
);

-- Beside a row of procrastinate_events, where there is something to tell; goes with it.
CREATE TABLE IF NOT EXISTS trio_queue_event_details (
    event_id bigint PRIMARY KEY,
    worker_id bigint,
    attempt int,  -- the job's `attempts` when this run began: 0 is the first
    reason text
);

-- The jobs that one of our workers was running when its row was deleted, by whomever: what a rescue, or the worker itself
-- when it comes back, may take up again. One that has moved on since (another status, more attempts) is nobody's orphan.
CREATE TABLE IF NOT EXISTS trio_queue_orphans (
    job_id bigint,
    attempts int,
    worker_id bigint NOT NULL,
    at timestamptz DEFAULT now() NOT NULL,
    PRIMARY KEY (job_id, attempts)
);
