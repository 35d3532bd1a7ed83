"""A Trio task awaits an asyncio task: of the host's loop, of trio-asyncio's, or of another thread's."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

import trio

from trio_queue.exceptions import HostLoopClosed

T = TypeVar("T")

#: Calls a function without arguments, in the other loop.
Send = Callable[[Callable[[], None]], None]


def at_once(callback: Callable[[], None]) -> None:
    """Send where both loops share the thread."""
    callback()


class Crossing(Generic[T]):
    """One asyncio task that a Trio task waits for."""

    def __init__(
        self,
        function: Callable[[], Awaitable[T]],
        loop: asyncio.AbstractEventLoop,
        *,
        to_loop: Send = at_once,
        to_trio: Send = at_once,
    ) -> None:
        """Prepare the crossing.

        Args:
            function: Makes what is awaited, in the asyncio task.
            loop: Where the task runs.
            to_loop: Sends a callback from Trio to the loop.
            to_trio: Sends a callback from the loop to Trio.
        """
        self._function = function
        self._loop = loop
        self._to_loop, self._to_trio = to_loop, to_trio
        self._context = contextvars.copy_context()
        self._task: asyncio.Task[None] | None = None
        self._waiter: trio.lowlevel.Task | None = None
        #: Raises Trio's Cancelled; set when the Trio task is cancelled.
        self._raise_cancelled: Callable[[], Any] | None = None
        self._is_cancelled = False
        self._value: list[T] = []
        self._error: BaseException | None = None

    async def wait(self) -> T:
        """Run the task to its end. See `RunsAsyncio.run`."""
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._loop.is_closed():
            raise HostLoopClosed
        self._waiter = trio.lowlevel.current_task()
        self._to_loop(self._start)
        await trio.lowlevel.wait_task_rescheduled(self._abort)
        if self._error is not None:
            if self._raise_cancelled and isinstance(self._error, asyncio.CancelledError):
                self._raise_cancelled()
            raise self._error
        return self._value[0]

    @property
    def is_cancelled(self) -> bool:
        """Whether the task was asked to stop."""
        return self._raise_cancelled is not None

    def lose(self) -> None:
        """The loop was closed: its tasks never end. From the thread of Trio."""
        if self._raise_cancelled is not None:
            self._error = asyncio.CancelledError()
        else:
            self._error = HostLoopClosed()
        self._hand_over()

    # -- in the loop ------------------------------------------------------------------------------

    def _start(self) -> None:
        if self._is_cancelled:  # while the start was on its way to another thread
            self._error = asyncio.CancelledError()
            self._to_trio(self._hand_over)
            return
        guarded = self._guarded()
        try:
            self._task = self._loop.create_task(guarded, context=self._context)
        except BaseException as error:  # noqa: BLE001 - a task factory of the user's may raise anything
            guarded.close()
            self._error = error
            self._to_trio(self._hand_over)
            return
        # What asyncio.run() cancels at its end is every task that it knows of. A job is not its
        # business: the worker is cancelled too, and drains.
        asyncio._unregister_task(self._task)  # noqa: SLF001 - documented, for extensions  # pyright: ignore[reportPrivateUsage]  # the same
        self._task.add_done_callback(self._ended)

    async def _guarded(self) -> None:
        """What is raised is data, but for CancelledError: asyncio lets SystemExit and the like end the loop."""
        try:
            self._value.append(await self._function())
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - it is raised in Trio
            self._error = error

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            self._error = asyncio.CancelledError()
        self._to_trio(self._hand_over)

    def _cancel(self) -> None:
        self._is_cancelled = True
        if self._task is not None:
            self._task.cancel()

    # -- in Trio ----------------------------------------------------------------------------------

    def _hand_over(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            trio.lowlevel.reschedule(waiter)

    def _abort(self, raise_cancelled: Callable[[], Any]) -> trio.lowlevel.Abort:
        if self._loop.is_closed():
            self._waiter = None
            return trio.lowlevel.Abort.SUCCEEDED
        self._raise_cancelled = raise_cancelled
        self._to_loop(self._cancel)
        return trio.lowlevel.Abort.FAILED
