"""What a task is: a function that is run later, elsewhere, and how jobs of it are deferred."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Generic, TypeAlias, final, overload

from typing_extensions import ParamSpec, TypeVar, Unpack

from trio_queue import utils
from trio_queue.completion import InterruptedJobs
from trio_queue.deferring import ConfigureTaskOptions, JobDeferrer, make_job
from trio_queue.exceptions import InvalidArguments, InvalidOption
from trio_queue.jobs import DEFAULT_PRIORITY, DEFAULT_QUEUE
from trio_queue.owners import DefersJobs, TaskOwner
from trio_queue.retry import BaseRetryStrategy, RetryValue, get_retry_strategy
from trio_queue.types import Flavor, JSONDict, JSONValue
from trio_queue.validation import (
    check_flavor,
    check_interrupted_jobs,
    check_middleware,
    check_name,
    check_options,
    job_signature,
    takes_names,
)

__all__ = ["AnyTask", "ConfigureTaskOptions", "Task", "configure_task"]

P = ParamSpec("P")
R = TypeVar("R")
Args = ParamSpec("Args")


@final
class KeywordArgumentsOnly:
    """What type checkers see where a task is deferred with positional arguments: nothing usable.

    A ParamSpec cannot say "by keyword only", so the overloads of `Task.defer` take positional
    arguments and return something that a checker reports whatever is done with it: unused, a
    coroutine was not awaited; used, it is not an int.
    """


class Task(Generic[P, R, Args]):
    """A function that is run later, by a worker, with keyword arguments.

    `P` and `R` are the function's parameters and result, `Args` the parameters that a job brings
    (without the context, where the function takes one). Called, it runs the function here and now.
    """

    def __init__(
        self,
        func: Callable[P, R],
        *,
        blueprint: TaskOwner,
        name: str | None = None,
        aliases: Sequence[str] | None = None,
        retry: RetryValue = False,
        pass_context: bool = False,
        queue: str = DEFAULT_QUEUE,
        priority: int = DEFAULT_PRIORITY,
        lock: str | None = None,
        queueing_lock: str | None = None,
        task_middleware: Sequence[Callable[..., Any]] | None = None,
        flavor: Flavor | None = None,
        interrupted_jobs: str | InterruptedJobs | None = None,
    ) -> None:
        """Make a task of a function; users decorate it with `App.task` or `Blueprint.task` instead.

        Args:
            func: The function: async or sync, also a partial, a bound method, an object with
                `__call__`, or a sync function that returns an awaitable.
            blueprint: Where it belongs; `App.add_tasks_from` changes it.
            name: See `Blueprint.task`.
            aliases: See `Blueprint.task`.
            retry: See `Blueprint.task`.
            pass_context: See `Blueprint.task`.
            queue: See `Blueprint.task`.
            priority: See `Blueprint.task`.
            lock: See `Blueprint.task`.
            queueing_lock: See `Blueprint.task`.
            task_middleware: See `Blueprint.task`.
            flavor: See `Blueprint.task`.
            interrupted_jobs: See `Blueprint.task`.

        Raises:
            FunctionPathError: No name can be made for the function, and none is given.
            InvalidOption: An option has a value that it cannot have.
            MiddlewareKindMismatch: A middleware is sync and the function async, or vice versa.
        """
        self.func = func
        self.name: str = utils.get_full_path(func) if name is None else name
        of = f"task {self.name!r}"
        check_name("name of a task", self.name, of=of)
        if isinstance(aliases, str):
            raise InvalidOption(f"{of}: aliases is a list of names, not the name {aliases!r}")
        self.aliases: list[str] = list(aliases or ())
        for alias in self.aliases:
            check_name("alias", alias, of=of)
        check_options(of=of, queue=queue, priority=priority, lock=lock, queueing_lock=queueing_lock)
        self.blueprint = blueprint
        self.queue = queue
        self.priority = priority
        self.lock = lock
        self.queueing_lock = queueing_lock
        self.pass_context = pass_context
        #: What decides about another try when a job of it fails; None: nothing does.
        self.retry_strategy: BaseRetryStrategy | None = get_retry_strategy(retry)
        #: The loop that an async function needs; None: the App's, else the worker's own.
        self.flavor: Flavor | None = check_flavor(flavor, of)
        #: What becomes of its jobs that a shutdown interrupts; None: what the worker says.
        self.interrupted_jobs: InterruptedJobs | None = check_interrupted_jobs(interrupted_jobs, of)
        #: Whether calling the function makes a coroutine. False of a sync function that returns
        #: an awaitable: that shows when it is called.
        self.is_async: bool = utils.is_async_callable(func)
        #: Around the function, innermost, the first one outermost.
        self.task_middleware: list[Callable[..., Any]] = list(task_middleware or ())
        self._check_function(of)
        # The task looks like its function to help(), Sphinx and inspect; not its __dict__, which
        # would overwrite what stands above.
        functools.update_wrapper(self, func, updated=())

    def __repr__(self) -> str:
        return f"<Task {self.name}>"

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function here and now, without any job."""
        return self.func(*args, **kwargs)

    @property
    def full_path(self) -> str:
        """The function's module and name. Raises FunctionPathError."""
        return utils.get_full_path(self.func)

    # -- what fits ------------------------------------------------------------------------------

    def _check_function(self, of: str) -> None:
        function = utils.unwrap_callable(self.func)
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise InvalidOption(f"{of}: the function yields, and nothing would run it: return")
        try:
            job_signature(self.func, pass_context=self.pass_context)
        except InvalidOption as error:
            raise InvalidOption(f"{of}: {error}") from None
        for middleware in self.task_middleware:
            check_middleware(middleware, is_async=self.is_async, of=of)

    @functools.cached_property
    def _signature(self) -> inspect.Signature | None:
        return job_signature(self.func, pass_context=self.pass_context)

    @functools.cached_property
    def _takes(self) -> Callable[[AbstractSet[str]], bool]:
        return takes_names(self._signature)

    def check_arguments(self, task_kwargs: JSONDict) -> None:
        """Refuse arguments that the function cannot be called with.

        Raises:
            InvalidArguments: It names the task and the argument.
        """
        signature = self._signature
        # Binding costs 8 µs, and every job is looked at.
        if signature is None or self._takes(task_kwargs.keys()):
            return
        try:
            signature.bind(**task_kwargs)
        except TypeError as error:
            shown = signature.replace(return_annotation=inspect.Signature.empty)
            raise InvalidArguments(
                f"task {self.name!r} is deferred with arguments that do not fit it: {error}. "
                f"Give by keyword what it takes: {shown}"
            ) from error

    # -- deferring ------------------------------------------------------------------------------

    @overload
    def defer(
        self, positional: object, /, *more: object, **task_kwargs: object
    ) -> Coroutine[Any, Any, KeywordArgumentsOnly]: ...

    @overload
    def defer(self, /, *_: Args.args, **task_kwargs: Args.kwargs) -> int: ...

    def defer(self, /, *positional: Any, **task_kwargs: Any) -> Any:
        """Insert a job of this task, with its defaults, from sync code.

        Args:
            *positional: Refused: a job's arguments have names.
            **task_kwargs: The function's arguments. JSON must be able to hold them.

        Returns:
            The job's id.

        Raises:
            InvalidArguments: The function cannot take the arguments, or JSON cannot hold them.
            AlreadyEnqueued: A job with the same queueing lock is waiting.
            UnboundTaskError: No App has taken the Blueprint's tasks yet.
            AppNotOpen: The App is not open.
            ConnectorException: The database refused or is away.
        """
        self._refuse_positional(positional)
        return self.configure().defer(**task_kwargs)

    @overload
    def defer_async(
        self, positional: object, /, *more: object, **task_kwargs: object
    ) -> KeywordArgumentsOnly: ...

    @overload
    def defer_async(
        self, /, *_: Args.args, **task_kwargs: Args.kwargs
    ) -> Coroutine[Any, Any, int]: ...

    def defer_async(self, /, *positional: Any, **task_kwargs: Any) -> Any:
        """Insert a job of this task, with its defaults, from Trio or asyncio.

        Args, returns and raises are those of `defer`. Cancelled, the job may have been inserted
        or not.
        """
        return self._defer_async(positional, task_kwargs)

    async def _defer_async(
        self, positional: tuple[Any, ...], task_kwargs: dict[str, JSONValue]
    ) -> int:
        self._refuse_positional(positional)
        return await self.configure().defer_async(**task_kwargs)

    def _refuse_positional(self, positional: tuple[Any, ...]) -> None:
        if positional:
            raise InvalidArguments(
                f"task {self.name!r} is deferred with positional arguments {positional!r}: "
                "a job's arguments have names, give them by keyword"
            )

    def batch_defer(self, *task_kwargs: Mapping[str, JSONValue]) -> list[int]:
        """Insert one job for each dictionary of arguments, all or none, from sync code.

        Returns:
            Their ids, in order.

        Raises:
            Exception: As `defer`.
        """
        return self.configure().batch_defer(*task_kwargs)

    async def batch_defer_async(self, *task_kwargs: Mapping[str, JSONValue]) -> list[int]:
        """Insert one job for each dictionary of arguments, all or none, from Trio or asyncio.

        Returns and raises are those of `batch_defer`. Cancelled, all may have been inserted or
        none.
        """
        return await self.configure().batch_defer_async(*task_kwargs)

    def configure(self, **options: Unpack[ConfigureTaskOptions]) -> JobDeferrer:
        """Say how a job of this task is to be run; then `defer()` what this returns.

        Args:
            **options: See ConfigureTaskOptions. What is not given, or None, is as the task says.

        Raises:
            InvalidOption: An option has a value that it cannot have.
            UnboundTaskError: No App has taken the Blueprint's tasks yet.
        """
        self.blueprint.will_configure_task()
        return self.configure_for(self.blueprint.job_manager, **options)

    def configure_for(
        self,
        job_manager: DefersJobs,
        name: str | None = None,
        **options: Unpack[ConfigureTaskOptions],
    ) -> JobDeferrer:
        """Configure a job for the App of this job manager, whichever App took the task last.

        Args:
            job_manager: What inserts the jobs.
            name: What that App calls the task; None: as the task says.
            **options: As of `configure`.
        """
        return configure_task(
            name=name or self.name,
            job_manager=job_manager,
            check_arguments=self.check_arguments,
            **self.with_defaults(options),
        )

    def with_defaults(self, options: ConfigureTaskOptions) -> ConfigureTaskOptions:
        """These options, and the task's own where they say nothing."""
        merged: ConfigureTaskOptions = {
            "lock": self.lock,
            "queueing_lock": self.queueing_lock,
            "queue": self.queue,
            "priority": self.priority,
        }
        given: Any = {key: value for key, value in options.items() if value is not None}
        merged.update(given)
        return merged


#: A task whatever its function takes and returns.
AnyTask: TypeAlias = Task[..., Any, ...]


def configure_task(
    *,
    name: str,
    job_manager: DefersJobs,
    check_arguments: Callable[[JSONDict], None] | None = None,
    **options: Unpack[ConfigureTaskOptions],
) -> JobDeferrer:
    """Say how a job is to be run of a task that may be known by its name only.

    Args:
        name: The task's name.
        job_manager: What inserts the jobs.
        check_arguments: Raises InvalidArguments where the task cannot take them; None: unknown.
        **options: See ConfigureTaskOptions. What is not given is as for any task.

    Raises:
        InvalidOption: An option has a value that it cannot have.
    """
    job = make_job(
        name,
        now=job_manager.now,
        lock=options.get("lock"),
        queueing_lock=options.get("queueing_lock"),
        task_kwargs=options.get("task_kwargs"),
        schedule_at=options.get("schedule_at"),
        schedule_in=options.get("schedule_in"),
        queue=options.get("queue"),
        priority=options.get("priority"),
    )
    return JobDeferrer(job_manager, job, options.get("connection"), check_arguments=check_arguments)
