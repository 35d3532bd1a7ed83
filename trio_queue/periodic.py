"""Periodic tasks: which there are, and which of their moments are due. Pure: the worker has the clock."""

from __future__ import annotations

import datetime
import logging
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

import attrs
from typing_extensions import TypeVar, Unpack

from trio_queue.cron import Cron
from trio_queue.deferring import ConfigureTaskOptions, make_job
from trio_queue.exceptions import (
    InvalidArguments,
    InvalidOption,
    TaskAlreadyRegistered,
)
from trio_queue.jobs import Job
from trio_queue.log import Action, fields
from trio_queue.tasks import AnyTask, Task
from trio_queue.validation import check_name

T = TypeVar("T", bound=AnyTask)

#: Seconds. A moment that was missed for longer, by an outage or a restart, is given up: a nightly
#: job does not run at noon.
MAX_DELAY: Final = 600.0

#: The task's name and the periodic id: what tells periodic tasks apart, also in the database.
PeriodicKey: TypeAlias = tuple[str, str]

logger: logging.Logger = logging.getLogger(__name__)


@attrs.frozen(kw_only=True)
class PeriodicTask:
    """A task and the moments at which a job of it is deferred."""

    task: AnyTask
    cron: str
    periodic_id: str
    #: How its jobs are configured; when they run is not among it.
    configure_kwargs: ConfigureTaskOptions
    timezone: datetime.tzinfo | str | None = None
    schedule: Cron

    def make_job(self, timestamp: int) -> Job:
        """The job for one moment, not deferred yet; the task gets the moment as `timestamp`."""
        options = self.task.with_defaults(self.configure_kwargs)
        return make_job(
            self.task.name,
            now=_no_clock,
            lock=options.get("lock"),
            queueing_lock=options.get("queueing_lock"),
            task_kwargs={**(options.get("task_kwargs") or {}), "timestamp": timestamp},
            queue=options.get("queue"),
            priority=options.get("priority"),
        )


#: A periodic task, and a moment that a job is to be deferred for.
TaskAtTime: TypeAlias = tuple[PeriodicTask, int]


class PeriodicRegistry:
    """The periodic tasks of an App or a Blueprint."""

    def __init__(self) -> None:
        self.periodic_tasks: dict[PeriodicKey, PeriodicTask] = {}

    def periodic_decorator(
        self,
        cron: str,
        periodic_id: str = "",
        timezone: datetime.tzinfo | str | None = None,
        **configure_kwargs: Unpack[ConfigureTaskOptions],
    ) -> Callable[[T], T]:
        """What `App.periodic` returns."""

        def decorate(task: T) -> T:
            self.register_task(
                task,
                cron=cron,
                periodic_id=periodic_id,
                configure_kwargs=configure_kwargs,
                timezone=timezone,
            )
            return task

        return decorate

    def register_task(
        self,
        task: AnyTask,
        cron: str,
        periodic_id: str,
        configure_kwargs: ConfigureTaskOptions,
        timezone: datetime.tzinfo | str | None = None,
    ) -> PeriodicTask:
        """Have a job of a task deferred at every moment of a cron expression.

        Args:
            task: The task; its function takes a `timestamp`.
            cron: See `Blueprint.periodic`.
            periodic_id: See `Blueprint.periodic`.
            configure_kwargs: As of `Task.configure`. What says when the job runs, or by which
                connection it is deferred, has no meaning here and is left out, with a warning.
            timezone: See `Blueprint.periodic`.

        Raises:
            InvalidOption: The expression, the time zone or an option is not one, or the moment
                never comes.
            InvalidArguments: The function takes no `timestamp`, or not the arguments given.
            TaskAlreadyRegistered: The task is registered under this periodic id.
        """
        if not isinstance(task, Task):  # pyright: ignore[reportUnnecessaryIsInstance]  the decorators may stand in the wrong order
            raise InvalidOption(
                f"{task!r} is not a task: write @app.periodic(...) above @app.task, not below it"
            )
        of = f"periodic task {task.name!r}"
        check_name("periodic_id", periodic_id, of=of, may_be_empty=True)
        key = (task.name, periodic_id)
        if key in self.periodic_tasks:
            raise TaskAlreadyRegistered(
                f"{of} is registered with the periodic_id {periodic_id!r} already: "
                "give each schedule of a task a periodic_id of its own"
            )
        try:
            schedule = Cron.parse(cron, timezone)
        except InvalidOption as error:
            raise InvalidOption(f"{of}: {error}") from None
        periodic_task = PeriodicTask(
            task=task,
            cron=cron,
            periodic_id=periodic_id,
            configure_kwargs=_without_schedule(configure_kwargs, of),
            timezone=timezone,
            schedule=schedule,
        )
        self._check_job(periodic_task, of)
        self.periodic_tasks[key] = periodic_task
        logger.info(
            "Registering periodic task %s with periodic id %r and cron %r",
            task.name,
            periodic_id,
            cron,
            extra=fields(
                Action.REGISTERING_PERIODIC_TASK,
                task=task.name,
                cron=cron,
                periodic_id=periodic_id,
                kwargs=str(configure_kwargs),
            ),
        )
        return periodic_task

    @staticmethod
    def _check_job(periodic_task: PeriodicTask, of: str) -> None:
        try:
            periodic_task.task.check_arguments(periodic_task.make_job(0).task_kwargs)
        except InvalidArguments as error:
            raise InvalidArguments(
                f"{of} is given `timestamp`, the moment it is deferred for, beside its "
                f"task_kwargs: {error}"
            ) from error

    def due(
        self,
        now: float,
        last_defers: Mapping[PeriodicKey, int],
        max_delay: float = MAX_DELAY,
    ) -> list[TaskAtTime]:
        """The moments that have come and that no job was deferred for yet, the oldest first.

        Args:
            now: Seconds since the epoch.
            last_defers: For each periodic task, the last moment that was dealt with. Whoever
                defers the jobs keeps it, and writes a moment into it when its job is deferred,
                so that a moment whose insert failed is due again.
            max_delay: Moments longer ago than so many seconds are not due any more.

        Returns:
            Of a task that `last_defers` does not know, the last moment only; of the others, every
            moment since.
        """
        found: list[TaskAtTime] = []
        for key, periodic_task in self.periodic_tasks.items():
            schedule = periodic_task.schedule
            last = last_defers.get(key)
            if last is None:
                moment = schedule.last(now)
                if now - moment <= max_delay:
                    found.append((periodic_task, moment))
                else:
                    _log_ignored(periodic_task, now - moment, max_delay)
            else:
                # A moment exactly max_delay ago is still due.
                since = max(last, now - max_delay - 1e-6)
                found += ((periodic_task, moment) for moment in schedule.between(since, now))
        return sorted(found, key=lambda task_at_time: task_at_time[1])

    def next_tick(self, now: float) -> float | None:
        """The next moment of any of them, in seconds since the epoch; None: there are none."""
        return min(
            (float(each.schedule.next(now)) for each in self.periodic_tasks.values()), default=None
        )


def _no_clock() -> datetime.datetime:
    raise AssertionError("a periodic job has no schedule_in")


def _without_schedule(options: ConfigureTaskOptions, of: str) -> ConfigureTaskOptions:
    options = options.copy()
    without_meaning = [
        option
        for option, value in (
            ("schedule_at", options.pop("schedule_at", None)),
            ("schedule_in", options.pop("schedule_in", None)),
            ("connection", options.pop("connection", None)),
        )
        if value is not None
    ]
    if without_meaning:
        logger.warning(
            "%s: %s has no meaning and is left out, the cron expression says when its jobs run",
            of,
            " and ".join(without_meaning),
        )
    return options


def _log_ignored(periodic_task: PeriodicTask, delay: float, max_delay: float) -> None:
    logger.debug(
        "Leaving out periodic task %s, whose last moment was %.0f s ago (max_delay is %.0f s)",
        periodic_task.task.name,
        delay,
        max_delay,
        extra=fields(
            Action.IGNORE_PERIODIC_TASK,
            task=periodic_task.task.name,
            periodic_id=periodic_task.periodic_id,
            max_delay=max_delay,
            delay=delay,
        ),
    )
