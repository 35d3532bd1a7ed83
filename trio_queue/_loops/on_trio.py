"""An asyncio loop on top of Trio, in the same thread, by trio-asyncio.

Importing trio-asyncio changes the process: it replaces asyncio's policy and `get_running_loop`. So
it is imported here only, in a Trio program that really has asyncio tasks.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import warnings
from collections.abc import AsyncGenerator, Awaitable, Callable
from functools import partial
from typing import Any, TypeVar, cast

import trio

from trio_queue._loops.crossing import Crossing
from trio_queue.log import Action, fields
from trio_queue.owners import RunsAsyncio

T = TypeVar("T")
Schedule = Callable[..., Any]

logger: logging.Logger = logging.getLogger(__name__)


class AsyncioOnTrio:
    """The loop. See `RunsAsyncio`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    async def run(self, function: Callable[[], Awaitable[T]]) -> T:
        """Await asyncio code in a task of the loop. See `RunsAsyncio`."""
        return await Crossing(function, self._loop).wait()


def import_trio_asyncio() -> Any:
    """The module trio_asyncio.

    Raises:
        ImportError: It is not installed, or does not fit this Python.
    """
    with warnings.catch_warnings():
        # On Python 3.12 and later it subclasses what asyncio deprecates.
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            import trio_asyncio  # type: ignore[import-untyped]  # pyright: ignore[reportMissingTypeStubs]  # it has no types
        # On Python 3.14 asyncio's policies, which it subclasses, are gone; nothing is changed by then.
        except AttributeError as error:
            raise ImportError(
                f"trio-asyncio does not fit this Python ({error}): "
                'asyncio_backend="thread" needs nothing of it'
            ) from error
    return cast("Any", trio_asyncio)


@contextlib.asynccontextmanager
async def open_asyncio_on_trio() -> AsyncGenerator[RunsAsyncio]:
    """An asyncio loop that trio-asyncio runs, while the block lasts.

    Raises:
        ImportError: trio-asyncio is not installed, or does not fit this Python.
    """
    open_loop = import_trio_asyncio().open_loop
    closing = trio.Event()

    async def keep_open(task_status: trio.TaskStatus[asyncio.AbstractEventLoop]) -> None:
        # In a task of its own: the block's must not see the context variable that makes asyncio
        # take it for asyncio's. Shielded: the block ends it, when nothing of it is used any more.
        with trio.CancelScope(shield=True):
            async with open_loop() as loop:
                loop.set_exception_handler(_log)
                _make_harmless(loop)
                task_status.started(loop)
                await closing.wait()

    async with trio.open_nursery() as nursery:
        runner: AsyncioOnTrio | None = None
        # Shielded: cancelled meanwhile, start() would wait for the end of what it starts.
        with trio.CancelScope(shield=True):
            runner = AsyncioOnTrio(await nursery.start(keep_open))
        assert runner is not None, "nobody cancels that scope"
        try:
            yield runner
        finally:
            closing.set()


def _log(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """The loop's own handler would end the loop, and the worker with it."""
    del loop
    logger.error(
        "%s",
        context.get("message") or "An error in asyncio that nobody waits for",
        exc_info=context.get("exception"),
        extra=fields(Action.ASYNCIO_ERROR),
    )


def _make_harmless(loop: asyncio.AbstractEventLoop) -> None:
    """Let no callback end the loop: SystemExit and KeyboardInterrupt would hang trio-asyncio's for ever.

    The steps of tasks are callbacks too: the task has the exception, and who awaits it gets it.
    """
    for name in ("call_soon", "call_soon_threadsafe"):
        setattr(loop, name, partial(_schedule, getattr(loop, name)))
    for name in ("call_later", "call_at", "add_reader", "add_writer"):
        setattr(loop, name, partial(_schedule_at, getattr(loop, name)))


def _schedule(
    original: Schedule, callback: Callable[..., object], *args: Any, **options: Any
) -> Any:
    return original(_call, callback, *args, **options)


def _schedule_at(
    original: Schedule, when: Any, callback: Callable[..., object], *args: Any, **options: Any
) -> Any:
    return original(when, _call, callback, *args, **options)


def _call(callback: Callable[..., object], *args: Any) -> None:
    try:
        callback(*args)
    except (SystemExit, KeyboardInterrupt):
        logger.exception(
            "A task or callback of a job raised what would end the process; it ends nothing",
            extra=fields(Action.ASYNCIO_ERROR),
        )
