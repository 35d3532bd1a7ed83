"""Deferring: a job that is configured, and the inserts of it with one set of arguments or many."""

from __future__ import annotations

import datetime
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NotRequired, TypedDict, cast

from trio_queue import utils
from trio_queue.exceptions import InvalidArguments, InvalidOption
from trio_queue.jobs import DEFAULT_PRIORITY, DEFAULT_QUEUE, Batch, Job, with_ids
from trio_queue.log import Action, fields
from trio_queue.owners import DefersJobs
from trio_queue.types import JSONDict, JSONValue, TimeDeltaParams
from trio_queue.validation import check_name, check_options

logger: logging.Logger = logging.getLogger(__name__)

# A process warns once of each task: a loop that defers would flood the log.
warned_of_main: set[str] = set()


class ConfigureTaskOptions(TypedDict):
    """What `configure()` takes. None stands for the task's default everywhere."""

    #: Of the jobs with one lock, one runs at a time.
    lock: NotRequired[str | None]
    #: Of the jobs with one queueing lock, only one may wait.
    queueing_lock: NotRequired[str | None]
    #: Arguments for every job deferred; those given to `defer()` come on top.
    task_kwargs: NotRequired[JSONDict | None]
    #: The job does not start before this moment (with a time zone).
    schedule_at: NotRequired[datetime.datetime | None]
    #: The job does not start before so much time from now: `{"minutes": 5}`.
    schedule_in: NotRequired[TimeDeltaParams | None]
    queue: NotRequired[str | None]
    #: Higher runs first.
    priority: NotRequired[int | None]
    #: A psycopg connection of the caller's: the job commits or rolls back with the caller's work.
    connection: NotRequired[Any | None]


def make_job(
    name: str,
    *,
    now: Callable[[], datetime.datetime],
    lock: str | None = None,
    queueing_lock: str | None = None,
    task_kwargs: Mapping[str, JSONValue] | None = None,
    schedule_at: datetime.datetime | None = None,
    schedule_in: TimeDeltaParams | None = None,
    queue: str | None = None,
    priority: int | None = None,
) -> Job:
    """Make the job that these options mean, not deferred yet.

    Args:
        name: The task's name.
        now: The clock that `schedule_in` counts from.
        lock: See ConfigureTaskOptions.
        queueing_lock: See ConfigureTaskOptions.
        task_kwargs: See ConfigureTaskOptions.
        schedule_at: See ConfigureTaskOptions.
        schedule_in: See ConfigureTaskOptions.
        queue: See ConfigureTaskOptions; None: the default queue.
        priority: See ConfigureTaskOptions; None: the default priority.

    Raises:
        InvalidOption: An option has a value that it cannot have.
    """
    of = f"task {name!r}"
    check_name("name of a task", name, of=of)
    queue = DEFAULT_QUEUE if queue is None else queue
    priority = DEFAULT_PRIORITY if priority is None else priority
    check_options(of=of, queue=queue, priority=priority, lock=lock, queueing_lock=queueing_lock)
    if schedule_at is not None:
        if schedule_in is not None:
            raise InvalidOption(f"{of}: give schedule_at or schedule_in, not both")
        if schedule_at.utcoffset() is None:
            raise InvalidOption(
                f"{of}: schedule_at needs a time zone, {schedule_at!r} has none "
                "(for example datetime.now(tz=datetime.timezone.utc))"
            )
    if schedule_in is not None:
        try:
            schedule_at = utils.after(utils.timedelta_from_params(schedule_in), now())
        except (TypeError, ValueError) as error:
            raise InvalidOption(
                f"{of}: schedule_in takes what datetime.timedelta takes, "
                f"not {schedule_in!r}: {error}"
            ) from error
    return Job(
        task_name=name,
        queue=queue,
        priority=priority,
        lock=lock,
        queueing_lock=queueing_lock,
        task_kwargs=dict(task_kwargs or {}),
        scheduled_at=schedule_at,
    )


class JobDeferrer:
    """A job that is configured and waits for its arguments. What `configure()` returns."""

    def __init__(
        self,
        job_manager: DefersJobs,
        job: Job,
        connection: Any | None = None,
        *,
        check_arguments: Callable[[JSONDict], None] | None = None,
    ) -> None:
        """Keep what is needed to defer.

        Args:
            job_manager: What inserts the jobs.
            job: The job without its id and with the arguments that all have in common.
            connection: The caller's own psycopg connection, or None for one of the connector's.
            check_arguments: Raises InvalidArguments where the task cannot take them; None where
                the task is known by its name only.
        """
        self.job = job
        self.job_manager = job_manager
        self.connection = connection
        self._check_arguments = check_arguments

    def make_new_job(self, /, **task_kwargs: JSONValue) -> Job:
        """The job with these arguments on top of its own.

        Raises:
            InvalidArguments: The task cannot take them.
        """
        return self._make_batch((task_kwargs,))[0]

    def _make_batch(self, given: Sequence[Mapping[str, JSONValue]]) -> Batch:
        common = self.job.task_kwargs
        # Each of these steps is seen in a batch of a thousand, so they loop in C; and what need not be copied is not.
        if common or set(map(type, given)) != {dict}:
            arguments: Sequence[JSONDict] = [self._merge(common, one) for one in given]
        else:
            arguments = cast("Sequence[JSONDict]", given)
        if self._check_arguments is not None:
            # Only their names matter, and in a batch they are mostly the same.
            for one in dict(zip(map(tuple, arguments), arguments, strict=True)).values():
                self._check_arguments(one)
        return Batch(self.job, arguments)

    def _merge(self, common: JSONDict, task_kwargs: Mapping[str, JSONValue]) -> JSONDict:
        # One list of dictionaries instead of the dictionaries is the likely slip.
        if not isinstance(task_kwargs, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]  callers need not be typed
            raise InvalidArguments(
                f"task {self.job.task_name!r}: a batch is deferred by one dictionary of "
                f"arguments for each job, batch_defer(*dictionaries), not {task_kwargs!r}"
            )
        return {**common, **task_kwargs}

    def defer(self, /, **task_kwargs: JSONValue) -> int:
        """Insert the job from sync code.

        Args:
            **task_kwargs: The task's arguments, on top of those given to `configure()`.

        Returns:
            The job's id.

        Raises:
            InvalidArguments: The task cannot take the arguments, or JSON cannot hold them.
            AlreadyEnqueued: A job with the same queueing lock is waiting.
            AppNotOpen: The App is not open, and no connection was given.
            ConnectorException: The database refused or is away.
        """
        return self.batch_defer(task_kwargs)[0]

    async def defer_async(self, /, **task_kwargs: JSONValue) -> int:
        """Insert the job from Trio or asyncio.

        Args, returns and raises are those of `defer`. Cancelled, the job may have been inserted
        or not.
        """
        return (await self.batch_defer_async(task_kwargs))[0]

    def batch_defer(self, *task_kwargs: Mapping[str, JSONValue]) -> list[int]:
        """Insert one job for each dictionary of arguments, all or none, from sync code.

        Returns:
            Their ids, in order.

        Raises:
            Exception: As `defer`.
        """
        jobs = self._make_batch(task_kwargs)
        if not jobs:
            return []
        _log_before(jobs)
        ids = self.job_manager.insert_jobs(jobs, connection=self.connection)
        _log_after(jobs, ids)
        return ids

    async def batch_defer_async(self, *task_kwargs: Mapping[str, JSONValue]) -> list[int]:
        """Insert one job for each dictionary of arguments, all or none, from Trio or asyncio.

        Returns and raises are those of `batch_defer`. Cancelled, all may have been inserted or
        none. Leave the arguments as they are until it has returned: those of a large batch are
        encoded in parts.
        """
        jobs = self._make_batch(task_kwargs)
        if not jobs:
            return []
        _log_before(jobs)
        ids = await self.job_manager.insert_jobs_async(jobs, connection=self.connection)
        _log_after(jobs, ids)
        return ids


def _log_before(jobs: Batch) -> None:
    name = jobs.job.task_name
    if name.startswith("__main__.") and name not in warned_of_main:
        warned_of_main.add(name)
        logger.warning(
            "Task %s is defined in the program's main module: a worker that imports that module "
            "knows it by another name. Move the task into a module that both import, or give it "
            "a name=",
            name,
            extra=fields(Action.APP_DEFINED_IN_MAIN, task=name),
        )
    if logger.isEnabledFor(logging.DEBUG):
        _log(logging.DEBUG, "About to defer", Action.ABOUT_TO_DEFER_JOBS, jobs)


def _log_after(jobs: Batch, ids: list[int]) -> None:
    # The jobs themselves, and the fields of each, cost more than the check, and a batch may be large.
    if logger.isEnabledFor(logging.INFO):
        _log(logging.INFO, "Deferred", Action.JOBS_DEFERRED, with_ids(jobs, ids))


def _log(level: int, verb: str, action: Action, jobs: Sequence[Job]) -> None:
    what = jobs[0].call_string if len(jobs) == 1 else f"{len(jobs)} jobs"
    logger.log(
        level, "%s %s", verb, what, extra=fields(action, jobs=[job.log_context() for job in jobs])
    )
