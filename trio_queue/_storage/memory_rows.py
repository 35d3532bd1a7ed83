"""The rows in memory, beside those of jobs (see `rows`)."""

from __future__ import annotations

import datetime

import attrs

from trio_queue.store import AbortRequested, JobInserted


@attrs.define(kw_only=True)
class EventRow:
    """A row of `procrastinate_events`, with its details."""

    id: int
    job_id: int
    type: str
    at: datetime.datetime
    worker_id: int | None = None
    attempt: int | None = None
    reason: str | None = None


@attrs.define(kw_only=True)
class WorkerRow:
    """A row of `procrastinate_workers`, with what `trio_queue_workers` adds."""

    id: int
    last_heartbeat: datetime.datetime
    name: str | None = None
    host: str | None = None
    pid: int | None = None
    version: str | None = None
    queues: tuple[str, ...] | None = None
    concurrency: int | None = None
    stage: str
    since: datetime.datetime
    last_turn: int = 0


@attrs.define(kw_only=True)
class PeriodicRow:
    """A row of `procrastinate_periodic_defers`."""

    task_name: str
    periodic_id: str
    defer_timestamp: int
    job_id: int | None = None


@attrs.frozen(kw_only=True)
class Orphan:
    """A row of `trio_queue_orphans`: a job that ran when its worker's row was deleted."""

    job_id: int
    attempts: int
    worker_id: int


@attrs.frozen
class News:
    """Something that goes out to the listeners of a queue when the transaction is committed."""

    queue: str
    notification: JobInserted | AbortRequested
