"""Rows and what they mean: a row of a table becomes a Job, an Event, a worker, in one place."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any, TypedDict

from trio_queue.jobs import Event, GroupCount, Job, Status, WorkerInfo
from trio_queue.management import Deleted
from trio_queue.types import JSONDict
from trio_queue.verbs import Fetched, Finished, Orphan


class JobRow(TypedDict):
    """A row of `procrastinate_jobs`, by its columns."""

    id: int
    queue_name: str
    task_name: str
    priority: int
    lock: str | None
    queueing_lock: str | None
    args: JSONDict
    status: str
    scheduled_at: datetime.datetime | None
    attempts: int
    abort_requested: bool
    worker_id: int | None


#: The columns of a job, in the order in which every statement that answers with jobs names them.
JOB_COLUMNS: tuple[str, ...] = tuple(JobRow.__annotations__)


def job_from_row(row: Sequence[Any]) -> Job:
    """A job from its columns, in the order of JOB_COLUMNS."""
    # Written out: a claim makes hundreds, and pairing names with values takes half of the time again.
    fields: dict[str, Any] = {}
    (
        fields["id"],
        fields["queue"],
        fields["task_name"],
        fields["priority"],
        fields["lock"],
        fields["queueing_lock"],
        fields["task_kwargs"],
        fields["status"],
        fields["scheduled_at"],
        fields["attempts"],
        fields["abort_requested"],
        fields["worker_id"],
    ) = row[:12]
    return Job.of_fields(fields)


def fetched_from_rows(found: Sequence[Sequence[Any]]) -> Fetched:
    """A claim from its jobs, in the order of JOB_COLUMNS, and where it found all a last row without a job: next_in."""
    jobs = [job_from_row(row) for row in found if row[0] is not None]
    if len(jobs) < len(found):
        return Fetched(jobs, found[-1][12])
    return Fetched(jobs, found_all=not jobs)


def orphan_from_row(row: Sequence[Any]) -> Orphan:
    """An orphan from the columns of its job, in the order of JOB_COLUMNS, and: deaths."""
    return Orphan(job_from_row(row), row[12])


def event_from_row(row: Sequence[Any]) -> Event:
    """An event from: id, job_id, type, at, worker_id, attempt, reason."""
    return Event(
        id=row[0],
        job_id=row[1],
        type=row[2],
        at=row[3],
        worker_id=row[4],
        attempt=row[5],
        reason=row[6],
    )


def worker_from_row(row: Sequence[Any]) -> WorkerInfo:
    """A worker from: id, last_heartbeat, name, host, pid, version, queues, concurrency, stage, since, running, seconds_since_heartbeat."""
    return WorkerInfo(
        id=row[0],
        last_heartbeat=row[1],
        name=row[2],
        host=row[3],
        pid=row[4],
        version=row[5],
        queues=None if row[6] is None else tuple(row[6]),
        concurrency=row[7],
        stage=row[8],
        since=row[9],
        running=row[10],
        seconds_since_heartbeat=row[11],
    )


def group_count_from_row(row: Sequence[Any]) -> GroupCount:
    """A count from: name, jobs_count, stats (an object of counts by status)."""
    return GroupCount(name=row[0], jobs_count=int(row[1]), stats=dict(row[2]))


def deleted_from_rows(found: Sequence[Sequence[Any]]) -> Deleted:
    """A bite of old jobs, from one row: deleted, walked_to."""
    ((count, walked_to),) = found
    return Deleted(count, walked_to)


def finished_from_row(row: Sequence[Any]) -> Finished:
    """What was written for a job, from: job_id, status."""
    return Finished(row[0], None if row[1] is None else Status(row[1]))
