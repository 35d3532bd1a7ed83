"""What a job is: the row in the database, as a value."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from enum import Enum
from functools import cached_property
from typing import Any, cast, overload

import attrs

from trio_queue.exceptions import InvalidArguments
from trio_queue.types import JSONDict, JSONValue

DEFAULT_QUEUE = "default"
DEFAULT_PRIORITY = 0
#: A queue's or a task's name is a `varchar(128)`: longer ones are refused when a job is deferred.
MAX_NAME_LENGTH = 128


class Status(Enum):
    """Where a job is in its life. The values are the labels in the database."""

    TODO = "todo"  #: It waits in its queue, for its time, its lock or a free worker.
    DOING = "doing"  #: A worker runs it.
    SUCCEEDED = "succeeded"  #: It returned.
    FAILED = "failed"  #: It raised, and will not be retried.
    CANCELLED = "cancelled"  #: It was cancelled before it ran.
    ABORTING = "aborting"  #: A label of old Procrastinate databases; nothing sets it any more.
    ABORTED = "aborted"  #: It ran and was made to stop.


class AbortReason(Enum):
    """Why a running job is asked to stop. The first reason of a job is never overwritten."""

    USER_REQUEST = "user_request"  #: Somebody asked for this job to be aborted.
    SHUTDOWN = "shutdown"  #: The worker is shutting down.
    LEASE_LOST = "lease_lost"  #: The worker was taken for dead: the job may already run elsewhere.


class DeleteJobCondition(Enum):
    """Which finished jobs a worker deletes."""

    NEVER = "never"  #: Every job stays in the table.
    SUCCESSFUL = "successful"  #: Jobs that succeeded are deleted.
    ALWAYS = "always"  #: Jobs are deleted however they ended.


@attrs.frozen
class UnreadableArguments:
    """Stands in the place of a job's arguments that the database has and Python cannot read."""

    #: Why not.
    error: str

    def __str__(self) -> str:
        return f"unreadable: {self.error}"


def _check_aware(
    _: Job, attribute: attrs.Attribute[datetime.datetime | None], value: datetime.datetime | None
) -> None:
    if value is not None and value.utcoffset() is None:
        raise ValueError(
            f"{attribute.name} needs a time zone: {value!r} has none "
            "(for example datetime.now(tz=datetime.timezone.utc))"
        )


@attrs.frozen(kw_only=True, slots=False)
class Job:
    """One call of a task, as it stands (or will stand) in the database."""

    #: The row's id; None before it is deferred.
    id: int | None = None
    #: The status when the row was read; None before it is deferred.
    status: str | None = None
    queue: str = DEFAULT_QUEUE
    #: Higher runs first; among equals the lower id.
    priority: int = DEFAULT_PRIORITY
    #: Of the jobs with one lock, one runs at a time, in order of priority and id.
    lock: str | None = None
    #: Of the jobs with one queueing lock, only one may wait.
    queueing_lock: str | None = None
    task_name: str
    #: The task's keyword arguments.
    task_kwargs: JSONDict = attrs.field(factory=dict[str, JSONValue])
    #: The job does not start before this moment; None: at once.
    scheduled_at: datetime.datetime | None = attrs.field(default=None, validator=_check_aware)
    #: How often it has been tried before.
    attempts: int = 0
    abort_requested: bool = False
    #: The worker that runs it, or ran it last.
    worker_id: int | None = None

    @classmethod
    def of_fields(cls, values: Mapping[str, Any]) -> Job:
        """A job from all of its fields, which are taken as they are: rows hold nothing that is to be checked.

        A claim makes hundreds at a time: 0.8 µs each, by the constructor 2.5.
        """
        job = object.__new__(cls)
        vars(job).update(values)
        return job

    def evolve(self, **changes: Any) -> Job:
        """A copy of this job with other values. Raises TypeError: there is no such field."""
        # What is neither unknown nor to be checked is copied as it is.
        if "scheduled_at" in changes or not changes.keys() <= _FIELDS:
            return attrs.evolve(self, **changes)
        values = self.asdict()
        values.update(changes)
        return self.of_fields(values)

    def asdict(self) -> dict[str, Any]:
        """Every field by its name."""
        # Not `attrs.asdict`: it walks the arguments, however deeply they are nested.
        values = dict(vars(self))
        values.pop("call_string", None)  # cached, and no field
        return values

    @property
    def keywords(self) -> JSONDict:
        """The task's keyword arguments, looked at: whoever writes rows by hand may write anything.

        Raises:
            InvalidArguments: The row has something else there.
        """
        stored = cast("object", self.task_kwargs)
        match stored:
            case dict():
                return self.task_kwargs
            case UnreadableArguments(error):
                told = f"cannot be read ({error}): correct or delete its row"
            case other:
                told = (
                    f"are no JSON object of keyword arguments but {_shown(other)}: correct its row"
                )
        raise InvalidArguments(f"the arguments of job {self.id} of task {self.task_name!r} {told}")

    def log_context(self) -> dict[str, Any]:
        """Every field, JSON-ready, and the call as text."""
        context = self.asdict()
        if self.scheduled_at is not None:
            context["scheduled_at"] = self.scheduled_at.isoformat()
        stored = cast("object", self.task_kwargs)
        if isinstance(stored, UnreadableArguments):
            context["task_kwargs"] = str(stored)
        context["call_string"] = self.call_string
        return context

    @cached_property
    def call_string(self) -> str:
        """The call as a reader of the log knows it: `module.task[12](a=1)`."""
        stored = cast("object", self.task_kwargs)
        match stored:
            case dict():
                arguments = ", ".join(
                    f"{key}={_shown(value)}" for key, value in self.task_kwargs.items()
                )
            case UnreadableArguments() as unreadable:
                arguments = str(unreadable)
            case other:
                arguments = _shown(other)
        return f"{self.task_name}[{self.id}]({arguments})"


_FIELDS = frozenset(field.name for field in attrs.fields(Job))


class Batch(Sequence[Job]):
    """Jobs that differ by their arguments only: each is made when somebody looks at it.

    Nobody does while they are deferred, unless they are logged: a thousand would cost a millisecond.
    """

    def __init__(self, job: Job, arguments: Sequence[JSONDict]) -> None:
        """Keep what the jobs have.

        Args:
            job: What is the same for all.
            arguments: The `task_kwargs` of each.
        """
        self.job = job
        self.arguments = arguments

    def __len__(self) -> int:
        return len(self.arguments)

    @overload
    def __getitem__(self, index: int) -> Job: ...
    @overload
    def __getitem__(self, index: slice) -> Batch: ...
    def __getitem__(self, index: int | slice) -> Job | Batch:
        if isinstance(index, slice):
            return Batch(self.job, self.arguments[index])
        return self.job.evolve(task_kwargs=self.arguments[index])


def with_ids(jobs: Sequence[Job], ids: Sequence[int]) -> list[Job]:
    """The jobs as they stand in the database, once they have been deferred under these ids."""
    return [
        job.evolve(id=job_id, status=Status.TODO.value)
        for job, job_id in zip(jobs, ids, strict=True)
    ]


def _shown(value: object) -> str:
    try:
        return repr(value)
    except Exception:  # noqa: BLE001 - nested too deeply, or whatever a user's decoder made of it
        return f"<{type(value).__name__} that cannot be shown>"


@attrs.frozen(kw_only=True)
class Event:
    """Something that happened to a job. The order of their ids is the order of events.

    `at` is when the transaction began that wrote it (for `scheduled`: the moment it is scheduled for).
    """

    id: int
    job_id: int
    type: str
    at: datetime.datetime | None
    #: The worker, attempt and reason, where there is one to tell.
    worker_id: int | None = None
    attempt: int | None = None
    reason: str | None = None


@attrs.frozen(kw_only=True)
class WorkerInfo:
    """A worker as the database knows it. Workers of Procrastinate have a heartbeat only."""

    id: int
    last_heartbeat: datetime.datetime
    name: str | None = None
    host: str | None = None
    pid: int | None = None
    version: str | None = None
    queues: tuple[str, ...] | None = None
    concurrency: int | None = None
    stage: str | None = None
    #: When this stage began.
    since: datetime.datetime | None = None
    #: How many jobs it holds.
    running: int = 0
    #: How long nothing was heard of it, by the database's clock.
    seconds_since_heartbeat: float = 0.0

    @property
    def is_foreign(self) -> bool:
        """Whether it is a worker of Procrastinate: nothing but its heartbeat is known."""
        return self.stage is None


@attrs.frozen(kw_only=True)
class GroupCount:
    """How many jobs of each status there are under one name: of a queue, a task or a lock."""

    name: str
    jobs_count: int
    stats: dict[str, int]
