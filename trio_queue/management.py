"""What is said to the database by whoever looks after jobs: verbs, as in `verbs.py`."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import ClassVar

import attrs

from trio_queue.jobs import Event, GroupCount, Job, Status, WorkerInfo
from trio_queue.verbs import Verb


@attrs.frozen(kw_only=True)
class ListJobs(Verb[list[Job]]):
    """The jobs that fit every filter given, by id."""

    name: ClassVar[str] = "list_jobs"
    id: int | None = None
    queue: str | None = None
    task: str | None = None
    status: Status | None = None
    lock: str | None = None
    queueing_lock: str | None = None
    worker_id: int | None = None
    #: At most so many, the lowest ids after `after_id` first (or the highest, where `newest`).
    limit: int | None = None
    after_id: int | None = None
    newest: bool = False


@attrs.frozen(kw_only=True)
class ListQueues(Verb[list[GroupCount]]):
    """How many jobs of each status each queue has."""

    name: ClassVar[str] = "list_queues"
    queue: str | None = None
    task: str | None = None
    status: Status | None = None
    lock: str | None = None


@attrs.frozen(kw_only=True)
class ListTasks(Verb[list[GroupCount]]):
    """How many jobs of each status each task has."""

    name: ClassVar[str] = "list_tasks"
    queue: str | None = None
    task: str | None = None
    status: Status | None = None
    lock: str | None = None


@attrs.frozen(kw_only=True)
class ListLocks(Verb[list[GroupCount]]):
    """How many jobs of each status each lock has."""

    name: ClassVar[str] = "list_locks"
    queue: str | None = None
    task: str | None = None
    status: Status | None = None
    lock: str | None = None


@attrs.frozen
class ListEvents(Verb[list[Event]]):
    """What happened to a job, in order."""

    name: ClassVar[str] = "list_events"
    job_id: int


@attrs.frozen
class ListWorkers(Verb[list[WorkerInfo]]):
    """Every worker that has a row, Procrastinate's too."""

    name: ClassVar[str] = "list_workers"


@attrs.frozen
class GetJobStatus(Verb[Status]):
    """A job's status. Raises JobNotFound."""

    name: ClassVar[str] = "get_job_status"
    job_id: int


@attrs.frozen
class CancelJob(Verb[bool]):
    """Cancel a waiting job, or ask for the abort of a running one. Answers whether either was done."""

    name: ClassVar[str] = "cancel_job"
    job_id: int
    abort: bool = False
    delete_job: bool = False


@attrs.frozen(kw_only=True)
class RetryJob(Verb[None]):
    """Make a job wait again that failed, or that is `doing` under a dead worker. Raises JobNotFound."""

    name: ClassVar[str] = "retry_job"
    job_id: int
    retry_at: datetime.datetime | None = None
    priority: int | None = None
    queue: str | None = None
    lock: str | None = None


@attrs.frozen
class FinishJob(Verb[None]):
    """End a job by hand, whoever holds it. Raises JobNotFound."""

    name: ClassVar[str] = "finish_job"
    job_id: int
    status: Status
    delete_job: bool = False


@attrs.frozen(kw_only=True)
class ListStalledJobs(Verb[list[Job]]):
    """The running jobs of workers not heard of for so long, or, with `nb_seconds`, started so long ago."""

    name: ClassVar[str] = "list_stalled_jobs"
    seconds_since_heartbeat: float = 30.0
    nb_seconds: float | None = None
    queue: str | None = None
    task_name: str | None = None


@attrs.frozen
class Deleted:
    """What a bite of old jobs was."""

    count: int
    #: The `after_id` of the next bite; None: no old job is left above it.
    walked_to: int | None = None


@attrs.frozen(kw_only=True)
class DeleteOldJobs(Verb[Deleted]):
    """Delete jobs that ended in one of these statuses so long ago: a bite, in one short transaction.

    By id, at most `limit` of them, and fewer where it takes long. Jobs that somebody works on are
    skipped.
    """

    name: ClassVar[str] = "delete_old_jobs"
    nb_hours: float
    statuses: Sequence[Status]
    queue: str | None = None
    limit: int = 1_000
    #: Only jobs with greater ids; None: all.
    after_id: int | None = None
    #: Delete nothing, answer the same.
    only_count: bool = False


@attrs.frozen
class CheckConnection(Verb[bool]):
    """Whether the database answers and has the table of jobs."""

    name: ClassVar[str] = "check_connection"
