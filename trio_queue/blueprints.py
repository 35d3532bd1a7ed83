"""Blueprints: tasks that are declared before there is an App, or apart from it."""

from __future__ import annotations

import datetime
import logging
from collections.abc import Callable, Sequence
from typing import Any, Concatenate, Literal, NoReturn, overload

from typing_extensions import ParamSpec, TypeVar, Unpack

from trio_queue import utils
from trio_queue.completion import InterruptedJobs
from trio_queue.deferring import ConfigureTaskOptions
from trio_queue.exceptions import TaskAlreadyRegistered, UnboundTaskError
from trio_queue.job_context import JobContext
from trio_queue.jobs import DEFAULT_PRIORITY, DEFAULT_QUEUE
from trio_queue.log import Action, fields
from trio_queue.middleware import TaskMiddleware
from trio_queue.owners import DefersJobs
from trio_queue.periodic import PeriodicRegistry
from trio_queue.retry import RetryValue
from trio_queue.tasks import AnyTask, Task
from trio_queue.types import Flavor
from trio_queue.validation import check_name

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T", bound=AnyTask)

InterruptedJobsValue = Literal["retry", "requeue", "abort"] | InterruptedJobs

logger: logging.Logger = logging.getLogger(__name__)


class Blueprint:
    """A bag of tasks without a database. `App.add_tasks_from` takes them into an App.

    Until then the tasks can be called, but not deferred (UnboundTaskError).
    """

    def __init__(self) -> None:
        #: Every task by its name, and by its aliases too. Read it; the decorators write it.
        self.tasks: dict[str, AnyTask] = {}
        self.periodic_registry: PeriodicRegistry = PeriodicRegistry()

    @property
    def job_manager(self) -> DefersJobs:
        """None here: raises UnboundTaskError."""
        return self._refuse()

    def will_configure_task(self) -> None:
        """Be told that a task is about to be deferred: raises UnboundTaskError."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise UnboundTaskError

    def _register_task(self, task: AnyTask) -> None:
        self._add_tasks(dict.fromkeys([task.name, *task.aliases], task))

    def _add_tasks(self, new_tasks: dict[str, AnyTask]) -> None:
        """Add all or none."""
        for name, task in new_tasks.items():
            check_name("name of a task", name, of=f"task {name!r}")
            if name in self.tasks:
                raise TaskAlreadyRegistered(
                    f"a task {name!r} is registered already: {self.tasks[name].func!r}. "
                    f"Give {task.func!r} another name=, or add its Blueprint once, "
                    "under a namespace of its own"
                )
        self.tasks.update(new_tasks)

    def add_task_alias(self, task: AnyTask, alias: str) -> None:
        """Let a task be found by one more name, for jobs deferred under an old one.

        Args:
            task: The task.
            alias: The name, with its namespace (`namespace:name`) if it had one.

        Raises:
            TaskAlreadyRegistered: A task of this name is registered.
            InvalidOption: It cannot be a task's name.
        """
        self._add_tasks({alias: task})

    def add_tasks_from(self, blueprint: Blueprint, *, namespace: str) -> None:
        """Take over the tasks of a Blueprint, periodic ones too.

        The tasks are the same objects: deferred, they now go through this App (through the one
        that took them last, where several did), under their new names. Tasks that the Blueprint
        gets later are not taken.

        Args:
            blueprint: Where the tasks are.
            namespace: What their names and aliases begin with: `namespace:name`.

        Raises:
            TaskAlreadyRegistered: A task of one of the names is registered; nothing is taken.
            InvalidOption: A name would be too long; nothing is taken.
        """
        new_tasks = {
            utils.add_namespace(name, namespace): task for name, task in blueprint.tasks.items()
        }
        self._add_tasks(new_tasks)
        names: dict[AnyTask, list[str]] = {}
        for name, task in new_tasks.items():
            names.setdefault(task, []).append(name)
        for task, (name, *aliases) in names.items():
            # A task's name stands before its aliases in every Blueprint.
            task.name = name
            task.aliases = aliases
            task.blueprint = self
        logger.debug(
            "Adding %d tasks from a blueprint under the namespace %r",
            len(names),
            namespace,
            extra=fields(Action.LOADING_BLUEPRINT, namespace=namespace, tasks=list(new_tasks)),
        )
        for periodic_task in blueprint.periodic_registry.periodic_tasks.values():
            self.periodic_registry.register_task(
                periodic_task.task,
                cron=periodic_task.cron,
                periodic_id=periodic_task.periodic_id,
                configure_kwargs=periodic_task.configure_kwargs,
                timezone=periodic_task.timezone,
            )

    @overload
    def task(
        self,
        /,
        *,
        name: str | None = None,
        aliases: Sequence[str] | None = None,
        retry: RetryValue = False,
        pass_context: Literal[False] = False,
        queue: str = DEFAULT_QUEUE,
        priority: int = DEFAULT_PRIORITY,
        lock: str | None = None,
        queueing_lock: str | None = None,
        task_middleware: Sequence[TaskMiddleware] | None = None,
        flavor: Flavor | None = None,
        interrupted_jobs: InterruptedJobsValue | None = None,
    ) -> Callable[[Callable[P, R]], Task[P, R, P]]: ...

    @overload
    def task(
        self,
        /,
        *,
        name: str | None = None,
        aliases: Sequence[str] | None = None,
        retry: RetryValue = False,
        pass_context: Literal[True],
        queue: str = DEFAULT_QUEUE,
        priority: int = DEFAULT_PRIORITY,
        lock: str | None = None,
        queueing_lock: str | None = None,
        task_middleware: Sequence[TaskMiddleware] | None = None,
        flavor: Flavor | None = None,
        interrupted_jobs: InterruptedJobsValue | None = None,
    ) -> Callable[
        [Callable[Concatenate[JobContext, P], R]], Task[Concatenate[JobContext, P], R, P]
    ]: ...

    @overload
    def task(self, func: Callable[P, R], /) -> Task[P, R, P]: ...

    def task(
        self,
        _func: Callable[..., Any] | None = None,
        *,
        name: str | None = None,
        aliases: Sequence[str] | None = None,
        retry: RetryValue = False,
        pass_context: bool = False,
        queue: str = DEFAULT_QUEUE,
        priority: int = DEFAULT_PRIORITY,
        lock: str | None = None,
        queueing_lock: str | None = None,
        task_middleware: Sequence[TaskMiddleware] | None = None,
        flavor: Flavor | None = None,
        interrupted_jobs: InterruptedJobsValue | None = None,
    ) -> Any:
        """Make a task of a function: `@app.task`, or `@app.task(queue="mail", retry=3)`.

        Args:
            _func: The function, where the decorator stands without parentheses: async or sync,
                also a partial, a bound method, an object with `__call__` (these need a name).
            name: What the task is called in the database; None: the function's module and name.
            aliases: More names to find it by, such as those it once had.
            retry: Whether a job that failed is tried again: False never, True without end, a
                number so often, or a strategy (`RetryStrategy`).
            pass_context: Give the function a JobContext first.
            queue: The queue of its jobs, unless `configure` says another.
            priority: Higher runs first, among jobs that may start.
            lock: Of the jobs with one lock, one runs at a time.
            queueing_lock: Of the jobs with one queueing lock, only one may wait.
            task_middleware: Functions around this one, the first outermost; see `middleware`.
            flavor: The event loop that an async function is written for, "trio" or "asyncio";
                None: the App's, else the worker's own.
            interrupted_jobs: What becomes of a job that a shutdown interrupts: "retry" (the retry
                strategy decides), "requeue" or "abort"; None: what the worker says.

        Returns:
            The task, or what makes the function one.

        Raises:
            FunctionPathError: No name can be made for the function, and none is given.
            TaskAlreadyRegistered: There is a task of this name or one of these aliases.
            InvalidOption: An option has a value that it cannot have.
            MiddlewareKindMismatch: A middleware is sync and the function async, or vice versa.
        """

        def decorate(function: Callable[..., Any]) -> AnyTask:
            task: AnyTask = Task(
                function,
                blueprint=self,
                name=name,
                aliases=aliases,
                retry=retry,
                pass_context=pass_context,
                queue=queue,
                priority=priority,
                lock=lock,
                queueing_lock=queueing_lock,
                task_middleware=task_middleware,
                flavor=flavor,
                interrupted_jobs=interrupted_jobs,
            )
            self._register_task(task)
            return task

        return decorate if _func is None else decorate(_func)

    def periodic(
        self,
        *,
        cron: str,
        periodic_id: str = "",
        timezone: datetime.tzinfo | str | None = None,
        **configure_kwargs: Unpack[ConfigureTaskOptions],
    ) -> Callable[[T], T]:
        """Have a job of the task below deferred at every moment of a cron expression.

        The function gets the moment as its argument `timestamp` (seconds since the epoch). The
        workers defer the jobs, each moment once, however many workers there are.

        Args:
            cron: Five fields (minute, hour, day of the month, month, day of the week), or six
                with the second last, or an alias such as `@daily`.
            periodic_id: Tells several schedules of one task apart.
            timezone: Where the clock hangs that the expression speaks of: a name such as
                "Europe/Berlin", or a tzinfo; None: UTC.
            **configure_kwargs: As of `Task.configure`.

        Raises:
            InvalidOption: The expression, the time zone or an option is not one, or the moment
                never comes.
            InvalidArguments: The function takes no `timestamp`, or not the `task_kwargs`.
            TaskAlreadyRegistered: The task is registered under this periodic id.
        """
        return self.periodic_registry.periodic_decorator(
            cron, periodic_id, timezone, **configure_kwargs
        )
