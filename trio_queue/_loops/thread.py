"""An asyncio loop in a helper thread of a Trio program: nothing of Trio or asyncio is replaced."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TypeVar

import trio

from trio_queue._loops.crossing import Crossing
from trio_queue.log import Action, fields
from trio_queue.owners import RunsAsyncio

T = TypeVar("T")

logger: logging.Logger = logging.getLogger(__name__)


class AsyncioThread:
    """The loop and its thread. See `RunsAsyncio`."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._error: BaseException | None = None
        self._ready = threading.Event()
        self._closing: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._work, name="asyncio jobs", daemon=True)

    async def run(self, function: Callable[[], Awaitable[T]]) -> T:
        """Await asyncio code in a task of the thread's loop. See `RunsAsyncio`."""
        assert self._loop is not None, "it is open"
        loop, token = self._loop, trio.lowlevel.current_trio_token()

        def to_loop(callback: Callable[[], None]) -> None:
            loop.call_soon_threadsafe(callback)

        def to_trio(callback: Callable[[], None]) -> None:
            # Trio has ended where a job outlived it: nobody waits.
            with contextlib.suppress(trio.RunFinishedError):
                token.run_sync_soon(callback)

        return await Crossing(function, loop, to_loop=to_loop, to_trio=to_trio).wait()

    async def open(self) -> None:
        """Start the thread. Raises what keeps the loop from running."""
        self._thread.start()
        with trio.CancelScope(shield=True):  # it takes no time, and must be known to have begun
            await trio.to_thread.run_sync(self._ready.wait)
        if self._error is not None:
            raise self._error

    async def close(self) -> None:
        """End the loop, as `asyncio.run` does, and the thread. In a cancelled scope too."""
        if self._loop is not None and self._closing is not None:
            self._loop.call_soon_threadsafe(self._closing.set)
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self._thread.join)

    def _work(self) -> None:
        try:
            # Named: trio-asyncio, where the process has imported it, makes others.
            with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
                self._loop = runner.get_loop()
                self._run_until_closing(runner)
        except BaseException as error:
            self._error = error
            logger.exception(
                "The asyncio loop for jobs ended by an error", extra=fields(Action.ASYNCIO_ERROR)
            )
        finally:
            self._ready.set()

    def _run_until_closing(self, runner: asyncio.Runner) -> None:
        self._closing = closing = asyncio.Event()

        async def wait_closing() -> None:
            self._ready.set()
            await closing.wait()

        while not closing.is_set():
            try:
                runner.run(wait_closing())
            except (SystemExit, KeyboardInterrupt):
                # Of a task that a job left behind: asyncio lets it end the loop. The others go on.
                logger.exception(
                    "A task or callback that a job left behind raised what would end the process; "
                    "nobody waits for it, and it ends nothing",
                    extra=fields(Action.ASYNCIO_ERROR),
                )


@contextlib.asynccontextmanager
async def open_asyncio_thread() -> AsyncGenerator[RunsAsyncio]:
    """An asyncio loop in a thread of its own, while the block lasts."""
    thread = AsyncioThread()
    await thread.open()
    try:
        yield thread
    finally:
        await thread.close()
