"""Small helpers that several floors and Procrastinate's users need."""

from __future__ import annotations

import datetime
import functools
import importlib
import inspect
import logging
import sys
from collections.abc import Awaitable, Callable, Generator, Iterable
from types import TracebackType
from typing import Any, Generic, TypeVar

from trio_queue.exceptions import FunctionPathError, LoadFromPathError
from trio_queue.types import TimeDeltaParams

T = TypeVar("T")

logger: logging.Logger = logging.getLogger(__name__)


def utcnow() -> datetime.datetime:
    """This moment, with its time zone."""
    return datetime.datetime.now(tz=datetime.UTC)


def utcmax() -> datetime.datetime:
    """The last moment that can be told: what is scheduled for it never comes."""
    return datetime.datetime.max.replace(tzinfo=datetime.UTC)


def timedelta_from_params(params: TimeDeltaParams) -> datetime.timedelta:
    """The duration; the longest there is where it would be longer."""
    try:
        return datetime.timedelta(**params)
    except OverflowError:
        return datetime.timedelta.max


def after(delay: datetime.timedelta, moment: datetime.datetime | None = None) -> datetime.datetime:
    """The moment so long after another (after now); the last one where there is none such."""
    try:
        return (moment or utcnow()) + delay
    except OverflowError:
        return utcmax()


def datetime_from_timedelta_params(params: TimeDeltaParams) -> datetime.datetime:
    """The moment so long from now."""
    return after(timedelta_from_params(params))


def add_namespace(name: str, namespace: str) -> str:
    """`namespace:name`, or the name where there is no namespace."""
    return f"{namespace}:{name}" if namespace else name


def queues_display(queues: Iterable[str] | None) -> str:
    """The queues as a log line names them."""
    return f"queues {', '.join(queues)}" if queues is not None else "all queues"


def duration(seconds: float) -> str:
    """A duration as a person reads it: `12.3 s`, `4 min 05 s`, `3 h 07 min`, `2 d 03 h`."""
    if seconds < 120:
        return f"{max(seconds, 0.0):.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 120:
        return f"{minutes} min {rest:02} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02} min"
    return f"{hours // 24} d {hours % 24:02} h"


def get_full_path(obj: Any) -> str:
    """The dotted path that a function is known by: its module and its name.

    Raises:
        FunctionPathError: It has no name, as partials and callable objects have none.
    """
    try:
        return f"{obj.__module__}.{obj.__name__}"
    except AttributeError as error:
        raise FunctionPathError(
            f"no task name can be made for {obj!r}, which has no __name__: "
            "pass name= to the task decorator"
        ) from error


def unwrap_callable(function: Callable[..., Any]) -> Callable[..., Any]:
    """What runs in the end behind partials, static methods and objects with `__call__`."""
    while True:
        if isinstance(function, functools.partial):
            function = function.func
        elif isinstance(function, staticmethod):
            function = function.__func__
        elif inspect.isroutine(function) or inspect.isclass(function):
            return function
        else:
            return getattr(function, "__call__", function)  # noqa: B004  the bound method is wanted, not whether there is one


def is_async_callable(function: Callable[..., Any]) -> bool:
    """Whether calling it makes a coroutine; also of a partial, a method, an object with `__call__`.

    A sync function that returns an awaitable cannot be told before it is called: False.
    """
    return inspect.iscoroutinefunction(unwrap_callable(function))


def load_from_path(path: str, allowed_type: type[T]) -> T:
    """Import what a path names.

    Args:
        path: `package.module.name` or `package.module:name`.
        allowed_type: What it must be an instance of.

    Raises:
        LoadFromPathError: The path is not one, its module cannot be imported (the cause says
            why), has nothing of this name, or something else under it.
    """
    separator = ":" if ":" in path else "."
    module_name, _, name = path.rpartition(separator)
    if not module_name or not name:
        raise LoadFromPathError(
            f"{path!r} is not a path to an {allowed_type.__name__}: "
            "write module.name or module:name, for example myproject.tasks:app"
        )
    loaded: Any = import_module(module_name, f"{path!r} was to be loaded")
    for attribute in name.split("."):
        try:
            loaded = getattr(loaded, attribute)
        except AttributeError as error:
            raise LoadFromPathError(
                f"{path!r} cannot be loaded: there is no {attribute!r} in {module_name!r}"
            ) from error
    if not isinstance(loaded, allowed_type):
        other: object = loaded
        found = type(other)
        raise LoadFromPathError(
            f"{path!r} is not a {allowed_type.__module__}.{allowed_type.__qualname__} "
            f"but a {found.__module__}.{found.__qualname__}"
        )
    return loaded


def import_module(name: str, purpose: str) -> Any:
    """Import a module for a purpose that the error names.

    Raises:
        LoadFromPathError: The import raised, or would have ended the process; that is the cause.
    """
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise LoadFromPathError(
            f"{purpose}, but importing {name!r} raised {type(error).__name__}: {error}"
        ) from error


def import_all(import_paths: Iterable[str]) -> None:
    """Import modules for the tasks that they define. Raises LoadFromPathError."""
    for name in import_paths:
        logger.debug("Importing module %s", name)
        import_module(name, "the App's import_paths are to be imported")


class AwaitableContext(Generic[T]):
    """Something to open either way: `value = await context` or `async with context as value:`.

    Only the second closes it.
    """

    def __init__(
        self,
        open_coro: Callable[[], Awaitable[Any]],
        close_coro: Callable[[], Awaitable[Any]],
        return_value: T,
    ) -> None:
        self._open = open_coro
        self._close = close_coro
        self._value = return_value

    async def _opened(self) -> T:
        await self._open()
        return self._value

    def __await__(self) -> Generator[Any, Any, T]:
        return self._opened().__await__()

    async def __aenter__(self) -> T:
        return await self._opened()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._close()


def in_asyncio_task() -> bool:
    """Whether an asyncio task runs this; in Trio code: that Trio has started its loop, and waits for it."""
    asyncio = sys.modules.get("asyncio")
    try:
        # A guest runs in callbacks of its host's loop, and not in a task.
        return asyncio is not None and asyncio.current_task() is not None
    except RuntimeError:
        return False  # no asyncio loop runs
