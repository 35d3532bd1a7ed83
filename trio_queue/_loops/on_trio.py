"""An asyncio loop on top of Trio, in the same thread, by trio-asyncio.

Importing trio-asyncio changes the process: it replaces asyncio's policy and `get_running_loop`. So
it is imported here only, in a Trio program that really has asyncio tasks.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import warnings
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from typing import Any, TypeVar, cast

import trio

from trio_queue._loops.crossing import Crossing
from trio_queue.log import Action, fields
from trio_queue.owners import RunsAsyncio

T = TypeVar("T")

logger: logging.Logger = logging.getLogger(__name__)


class AsyncioOnTrio:
    """The loop. See `RunsAsyncio`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    async def run(self, function: Callable[[], Awaitable[T]]) -> T:
        """Await asyncio code in a task of the loop. See `RunsAsyncio`."""
        return await Crossing(function, self._loop).wait()


@contextlib.asynccontextmanager
async def open_asyncio_on_trio() -> AsyncGenerator[RunsAsyncio]:
    """An asyncio loop that trio-asyncio runs, while the block lasts.

    Raises:
        ImportError: trio-asyncio cannot be imported, as on Python 3.14.
    """
    with warnings.catch_warnings():
        # On Python 3.12 and later it subclasses what asyncio deprecates.
        warnings.simplefilter("ignore", DeprecationWarning)
        # It has no types.
        import trio_asyncio  # type: ignore[import-untyped]  # pyright: ignore[reportMissingTypeStubs]

    open_loop = cast("Any", trio_asyncio).open_loop
    closing = trio.Event()

    async def keep_open(task_status: trio.TaskStatus[asyncio.AbstractEventLoop]) -> None:
        # In a task of its own: the block's must not see the context variable that makes asyncio
        # take it for asyncio's. Shielded: the block ends it, when nothing of it is used any more.
        with trio.CancelScope(shield=True):
            async with open_loop() as loop:
                loop.set_exception_handler(_log)
                loop.set_task_factory(_make_task)
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


def _make_task(
    loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], **options: Any
) -> asyncio.Task[Any]:
    """Tasks that jobs leave behind: SystemExit and the like would hang trio-asyncio's loop for ever."""
    return asyncio.Task(_guarded(coroutine), loop=loop, **options)


async def _guarded(coroutine: Coroutine[Any, Any, T]) -> T:
    try:
        return await coroutine
    except (SystemExit, KeyboardInterrupt) as error:
        raise RuntimeError(
            f"a task of asyncio's raised {type(error).__name__}, which ends no loop here"
        ) from error
