"""What the verbs of looking and managing do to the tables in memory."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Iterable
from typing import Any, Literal

from trio_queue import management
from trio_queue._storage.encoding import check_end_status, check_priority, check_queue, check_text
from trio_queue._storage.memory_answers import answer
from trio_queue._storage.memory_leases import LEASES
from trio_queue._storage.memory_tables import Tables, to_job
from trio_queue._storage.rows import JobRow
from trio_queue.exceptions import JobNotFound
from trio_queue.jobs import Event, GroupCount, Job, Status, WorkerInfo

#: With the verbs of working and of leases, which its import registers: every verb there is.
ANSWER = LEASES


@answer.register
def list_jobs(verb: management.ListJobs, tables: Tables) -> list[Job]:
    """See ListJobs."""
    rows = _filtered(
        tables,
        id=verb.id,
        queue_name=verb.queue,
        task_name=verb.task,
        status=verb.status and verb.status.value,
        lock=verb.lock,
        queueing_lock=verb.queueing_lock,
        worker_id=verb.worker_id,
    )
    if verb.after_id is not None:
        rows = [row for row in rows if row["id"] > verb.after_id]
    if verb.limit is not None:
        first = max(len(rows) - verb.limit, 0)
        rows = rows[first:] if verb.newest else rows[: verb.limit]
    return [to_job(row) for row in rows]


@answer.register
def list_queues(verb: management.ListQueues, tables: Tables) -> list[GroupCount]:
    """See ListQueues."""
    return _count(_filtered_groups(tables, verb), "queue_name")


@answer.register
def list_tasks(verb: management.ListTasks, tables: Tables) -> list[GroupCount]:
    """See ListTasks."""
    return _count(_filtered_groups(tables, verb), "task_name")


@answer.register
def list_locks(verb: management.ListLocks, tables: Tables) -> list[GroupCount]:
    """See ListLocks."""
    return _count(_filtered_groups(tables, verb), "lock")


@answer.register
def list_events(verb: management.ListEvents, tables: Tables) -> list[Event]:
    """See ListEvents."""
    return [
        Event(
            id=row.id,
            job_id=row.job_id,
            type=row.type,
            at=row.at,
            worker_id=row.worker_id,
            attempt=row.attempt,
            reason=row.reason,
        )
        for row in tables.events.get(verb.job_id, [])
    ]


@answer.register
def list_workers(verb: management.ListWorkers, tables: Tables) -> list[WorkerInfo]:  # noqa: ARG001  # what it asks is its type
    """See ListWorkers."""
    running = Counter(row["worker_id"] for row in tables.jobs.values() if row["status"] == "doing")
    return [
        WorkerInfo(
            id=row.id,
            last_heartbeat=row.last_heartbeat,
            name=row.name,
            host=row.host,
            pid=row.pid,
            version=row.version,
            queues=row.queues,
            concurrency=row.concurrency,
            stage=row.stage,
            since=row.since,
            running=running[row.id],
            seconds_since_heartbeat=(tables.now - row.last_heartbeat).total_seconds(),
        )
        for row in sorted(tables.workers.values(), key=lambda worker: worker.id)
    ]


@answer.register
def get_job_status(verb: management.GetJobStatus, tables: Tables) -> Status:
    """See GetJobStatus."""
    row = tables.jobs.get(verb.job_id)
    if row is None:
        raise JobNotFound
    return Status(row["status"])


@answer.register
def cancel_job(verb: management.CancelJob, tables: Tables) -> bool:
    """See CancelJob."""
    row = tables.jobs.get(verb.job_id)
    if row is None:
        return False
    if row["status"] == "todo":
        if verb.delete_job:
            tables.delete_job(row)
        elif verb.abort:
            tables.update_job(row, status="cancelled", abort_requested=True)
        else:
            tables.update_job(row, status="cancelled")
        return True
    if row["status"] == "doing" and verb.abort:
        tables.update_job(row, abort_requested=True)
        return True
    return False


@answer.register
def retry_job(verb: management.RetryJob, tables: Tables) -> None:
    """See RetryJob."""
    check_text("lock", verb.lock)
    if verb.queue is not None:
        check_queue(verb.queue)
    if verb.priority is not None:
        check_priority(verb.priority)
    row = tables.jobs.get(verb.job_id)
    if row is None or row["status"] not in {"doing", "failed"}:
        raise JobNotFound
    if row["status"] == "doing" and row["abort_requested"]:
        tables.update_job(row, status="failed")
        return
    tables.update_job(
        row,
        status="todo",
        attempts=row["attempts"] + 1,
        scheduled_at=verb.retry_at,
        priority=row["priority"] if verb.priority is None else verb.priority,
        queue_name=row["queue_name"] if verb.queue is None else verb.queue,
        lock=row["lock"] if verb.lock is None else verb.lock,
    )


@answer.register
def finish_job(verb: management.FinishJob, tables: Tables) -> None:
    """See FinishJob."""
    check_end_status(verb.status)
    row = tables.jobs.get(verb.job_id)
    if row is None or row["status"] not in {"todo", "doing"}:
        raise JobNotFound
    if verb.delete_job:
        tables.delete_job(row)
        return
    tables.update_job(
        row,
        status=verb.status.value,
        abort_requested=False,
        attempts=row["attempts"] + (row["status"] == "doing"),
    )


@answer.register
def list_stalled_jobs(verb: management.ListStalledJobs, tables: Tables) -> list[Job]:
    """See ListStalledJobs."""
    rows = _filtered(tables, status="doing", queue_name=verb.queue, task_name=verb.task_name)
    if verb.nb_seconds is not None:
        oldest = tables.now - datetime.timedelta(seconds=verb.nb_seconds)
        return [to_job(row) for row in rows if _started_before(tables, row, oldest)]
    oldest = tables.now - datetime.timedelta(seconds=verb.seconds_since_heartbeat)
    alive = {worker.id for worker in tables.workers.values() if worker.last_heartbeat >= oldest}
    return [to_job(row) for row in rows if row["worker_id"] not in alive]


@answer.register
def delete_old_jobs(verb: management.DeleteOldJobs, tables: Tables) -> management.Deleted:
    """See DeleteOldJobs."""
    oldest = tables.now - datetime.timedelta(hours=verb.nb_hours)
    old = [
        row
        for row in _filtered(tables, queue_name=verb.queue)
        if Status(row["status"]) in verb.statuses
        and any(True for _ in tables.events[row["id"]])
        and max(event.at for event in tables.events[row["id"]]) < oldest
        and (verb.after_id is None or row["id"] > verb.after_id)
    ]
    bite = old[: verb.limit]
    if not verb.only_count:
        for row in bite:
            tables.delete_job(row)
    walked_to = bite[-1]["id"] if bite and len(bite) == verb.limit else None
    return management.Deleted(len(bite), walked_to)


@answer.register
def check_connection(verb: management.CheckConnection, tables: Tables) -> bool:  # noqa: ARG001  # what it is asked is its type
    """See CheckConnection."""
    return True


def _filtered(tables: Tables, **columns: Any) -> list[JobRow]:
    """The jobs whose columns have these values (None: any), by id."""
    wanted = {column: value for column, value in columns.items() if value is not None}
    return [
        row
        for row in tables.sorted_jobs()
        if all(dict(row)[column] == value for column, value in wanted.items())
    ]


def _filtered_groups(
    tables: Tables, verb: management.ListQueues | management.ListTasks | management.ListLocks
) -> list[JobRow]:
    return _filtered(
        tables,
        queue_name=verb.queue,
        task_name=verb.task,
        status=verb.status and verb.status.value,
        lock=verb.lock,
    )


def _count(
    rows: Iterable[JobRow], column: Literal["queue_name", "task_name", "lock"]
) -> list[GroupCount]:
    stats: dict[str, Counter[str]] = {}
    for row in rows:
        name = row[column]
        if name is not None:
            stats.setdefault(name, Counter())[row["status"]] += 1
    return [
        GroupCount(name=name, jobs_count=counts.total(), stats=dict(counts))
        for name, counts in sorted(stats.items())
    ]


def _started_before(tables: Tables, row: JobRow, moment: datetime.datetime) -> bool:
    started = [event.at for event in tables.events[row["id"]] if event.type == "started"]
    return bool(started) and max(started) < moment
