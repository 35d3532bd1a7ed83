"""A task of the asyncio loop that hosts Trio, for which no Trio task waits.

A Trio task that waits for an asyncio task costs as much as both of them, and a third for the way
back. Here the asyncio task is the only one, and tells its end itself.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

from trio_queue._loops.interrupts import Interrupts

T = TypeVar("T")


class HostedTask(Generic[T]):
    """The task. From the thread of the loop, which is Trio's."""

    def __init__(
        self,
        function: Callable[[], Awaitable[T]],
        ended: Callable[[HostedTask[T]], None],
        let_go: Callable[[HostedTask[Any]], None],
        loop: asyncio.AbstractEventLoop,
        interrupts: Interrupts,
    ) -> None:
        """Prepare it.

        Args:
            function: Makes what is awaited, in the task.
            ended: Called once, when the task has ended, from wherever that shows.
            let_go: Called before it.
            loop: Where it runs.
            interrupts: Those of the loop.
        """
        self._function = function
        self._ended = ended
        self._let_go = let_go
        self._loop = loop
        self._interrupts = interrupts
        self._task: asyncio.Task[None] | None = None
        self._has_ended = False
        #: Whether it was asked to stop: a CancelledError is then the answer, else it is a stray one.
        self.is_cancelled = False
        #: What the function raised; None: it returned.
        self.error: BaseException | None = None
        self._value: list[T] = []

    def start(self, context: contextvars.Context) -> None:
        """Begin, in a context that nobody else runs in."""
        if self._loop.get_task_factory() is None:
            self._make(context)
        else:
            # It may take the first step at once (asyncio.eager_task_factory), inside of whoever starts
            # it: jobs that end at once would start one another, ever deeper.
            self._loop.call_soon(self._make, context)

    def _make(self, context: contextvars.Context) -> None:
        if self.is_cancelled:  # before it was made
            self.error = asyncio.CancelledError()
            self._tell()
            return
        guarded = self._guarded()
        try:
            self._task = self._loop.create_task(guarded, context=context)
        except BaseException as error:  # noqa: BLE001 - a task factory of the user's may raise anything
            guarded.close()
            self.error = error
            # Not at once: whoever starts it does not expect its end before its beginning.
            self._loop.call_soon(self._tell)
            return
        # What asyncio.run() cancels at its end is every task that it knows of. A job is not its
        # business: the worker is cancelled too, and drains.
        asyncio._unregister_task(self._task)  # noqa: SLF001 - documented, for extensions  # pyright: ignore[reportPrivateUsage]  # the same
        self._cancel_if_asked()  # by its own first step, taken at once

    def _cancel_if_asked(self) -> None:
        if self.is_cancelled:
            self.cancel()

    @property
    def value(self) -> T:
        """What the function returned."""
        return self._value[0]

    def cancel(self) -> None:
        """Ask it to stop. Where its loop is closed, it has ended."""
        self.is_cancelled = True
        if self._loop.is_closed():
            self.lose()
        elif self._task is not None and not self._has_ended:
            # A task that is cancelled before its first step never takes it, and tells nothing.
            self._task.add_done_callback(self._done)
            self._task.cancel()

    def lose(self) -> None:
        """The loop is closed: its tasks never end."""
        self.error = asyncio.CancelledError()
        self._tell()

    async def _guarded(self) -> None:
        """What is raised is data: asyncio lets SystemExit and the like end the loop."""
        try:
            try:
                self._value.append(await self._function())
            except BaseException as error:  # noqa: BLE001 - whoever is told looks at it
                self.error = error
        finally:  # a Ctrl-C may be raised here, too
            try:
                self._interrupts.call_whole(self._tell)
            finally:  # before it was called
                self._tell()

    def _done(self, _: asyncio.Task[None]) -> None:
        if not self._has_ended:
            self.error = asyncio.CancelledError()
            self._tell()

    def _tell(self) -> None:
        if not self._has_ended:
            self._has_ended = True
            self._let_go(self)
            self._ended(self)
