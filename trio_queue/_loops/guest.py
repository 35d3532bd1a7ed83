"""Trio as a guest of a running asyncio loop: one guest for each loop, for all who use it.

A thread runs Trio once. So the guest is shared, its users are counted, and it ends with the last. An
asyncio loop that is closed while the guest runs would leave it half-way, and no Trio could run in
this thread again: then the guest is ended by hand, at once.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import contextvars
import logging
import threading
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, TypeVar, cast

import trio

from trio_queue._loops.call import Call
from trio_queue._loops.crossing import Crossing
from trio_queue._loops.host_queue import HostQueue
from trio_queue._loops.hosted import HostedTask
from trio_queue._loops.interrupts import Interrupts
from trio_queue._loops.waking import woken_by_signals
from trio_queue.exceptions import TrioAlreadyRuns, TrioQueueException
from trio_queue.log import Action, fields
from trio_queue.owners import HostedWorker, asyncio_host

T = TypeVar("T")

logger: logging.Logger = logging.getLogger(__name__)

#: Seconds; the timer that notices a closed loop is not meant to go off.
_YEAR = 365 * 24 * 3600.0


class Guest:
    """Trio, as the guest of a loop. See `HostsTrio` for the ways across."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        #: How many `open_guest()` blocks there are.
        self.users = 0
        #: It ends: who comes now has to wait for its end.
        self.ending = False
        self.finished: asyncio.Future[None] = loop.create_future()
        self._error: BaseException | None = None
        self._has_ended = False
        self._thread = threading.get_ident()
        self._interrupts = Interrupts()
        self._queue = HostQueue(loop, self._interrupts)
        self._nursery: trio.Nursery | None = None
        self._waiting: list[Callable[[], None]] = []
        self._crossings: set[Crossing[Any]] = set()
        self._calls: set[Call[Any]] = set()
        self._hosted: set[HostedTask[Any]] = set()
        #: Who has to hear of Ctrl-C, and of the end of the loop.
        self.workers: dict[HostedWorker, Callable[[KeyboardInterrupt], None]] = {}
        self._waking = contextlib.ExitStack()
        self._until_shutdown = self._wait_shutdown()
        self._timer: weakref.ref[asyncio.TimerHandle] | None = None

    def start(self) -> None:
        """Begin the run. From the loop's thread."""
        # Stepped by hand to where it waits; before the run, so that asyncio's hooks take it up.
        with contextlib.suppress(StopIteration):
            self._until_shutdown.asend(None).send(None)
        with contextlib.ExitStack() as stack:
            stack.enter_context(woken_by_signals(self.loop))
            trio.lowlevel.start_guest_run(
                self._main,
                done_callback=self._done,
                run_sync_soon_threadsafe=self._queue.soon_threadsafe,
                run_sync_soon_not_threadsafe=self._queue.soon,
                host_uses_signal_set_wakeup_fd=True,
            )
            self._waking = stack.pop_all()
        self._queue.keep_hooks()
        # Only the loop knows this object: closing the loop forgets it, and it tells.
        self._timer = weakref.ref(self.loop.call_later(_YEAR, _Sentinel(self).touch))

    async def _main(self) -> None:
        asyncio_host.set(self)
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for begin in self._waiting:
                begin()
            while True:
                try:
                    await trio.sleep_forever()
                except KeyboardInterrupt as error:
                    # Where asyncio has no handler of its own (a loop without asyncio.Runner), Trio
                    # installed one, and delivers Ctrl-C to this task.
                    for interrupt in self.workers.values():
                        interrupt(error)

    def _done(self, ended: Any) -> None:
        error: BaseException | None = getattr(ended, "error", None)
        if error is not None and not _is_cancel(error):
            self._error = error
        self._has_ended = True
        _here.guest = None
        self._waking.close()
        timer = self._timer() if self._timer is not None else None
        if timer is not None:
            timer.cancel()
        with contextlib.suppress(StopIteration, RuntimeError):  # it may be what waits for this
            self._until_shutdown.aclose().send(None)
        if not self.loop.is_closed():
            self.finished.set_result(None)

    async def _wait_shutdown(self) -> AsyncGenerator[None]:
        """What `loop.shutdown_asyncgens()` closes: the last moment at which the loop still runs."""
        try:
            yield
        finally:
            if not self._has_ended:
                self._ask("the asyncio loop shuts down")
                await asyncio.wait([self.finished])

    def resume(self) -> None:
        """The loop runs on after an interruption, and somebody waits for what Trio does next."""
        self._queue.resume()

    def call_whole(self, function: Callable[[], object]) -> None:
        """Call it as one of Trio's turns: a Ctrl-C that comes meanwhile is raised when it has returned."""
        self._interrupts.call_whole(function)

    def _ask(self, who: str) -> None:
        self.resume()
        for worker in tuple(self.workers):
            worker.ask(who)

    @property
    def is_open(self) -> bool:
        """Whether the loop can run anything."""
        return not self.loop.is_closed()

    # -- the ways across --------------------------------------------------------------------------

    async def run(self, function: Callable[[], Awaitable[T]]) -> T:
        """Await asyncio code in a task of the loop. From Trio. See `RunsAsyncio`."""
        crossing = Crossing(function, self.loop)
        self._crossings.add(crossing)
        try:
            return await crossing.wait()
        finally:
            self._crossings.discard(crossing)

    def host(
        self,
        function: Callable[[], Awaitable[T]],
        ended: Callable[[HostedTask[T]], None],
        context: contextvars.Context,
    ) -> HostedTask[T]:
        """Begin a task of the loop, for which no Trio task waits. See `HostsTrio`."""
        task = HostedTask(function, ended, self._hosted.discard, self.loop, self._interrupts)
        self._hosted.add(task)
        task.start(context)
        return task

    def begin(self, function: Callable[[], Awaitable[T]], *, for_job: bool = False) -> Call[T]:
        """Begin a Trio task, in a copy of the caller's context. From asyncio.

        Args:
            function: What the task runs.
            for_job: Only a task of the loop waits for it, and not the worker.
        """
        call = Call(function, self.loop.create_future(), self._let_go, for_job=for_job)
        self._calls.add(call)
        if self._nursery is not None:
            self._nursery.start_soon(call.run)
            return call
        context = contextvars.copy_context()

        def begin() -> None:
            assert self._nursery is not None
            context.run(self._nursery.start_soon, call.run)

        self._waiting.append(begin)
        return call

    async def run_trio(self, function: Callable[[], Awaitable[T]]) -> T:
        """Await Trio code. From asyncio. See `HostsTrio`."""
        call = self.begin(function, for_job=True)
        while not call.ended.done():
            try:
                await asyncio.wait([call.ended])
            except asyncio.CancelledError:
                call.scope.cancel(reason="the asyncio task was cancelled")
        return call.result()

    # -- the end ----------------------------------------------------------------------------------

    async def end(self) -> None:
        """End the run, and wait for that. Cancelled, it does so too, and raises it then."""
        self.ending = True
        self._end_if_idle()
        cancelled: asyncio.CancelledError | None = None
        while not self._has_ended:
            try:
                await asyncio.wait([self.finished])
            except asyncio.CancelledError as error:
                cancelled = error
        if self._error is not None:
            raise self._error
        if cancelled is not None:
            raise cancelled

    def host_closed(self) -> None:
        """The loop is closed: end the run by hand. Blocks until the workers have stopped."""
        if self._has_ended:
            return
        if threading.get_ident() != self._thread:
            logger.error("An asyncio loop with a worker inside is forgotten, with its thread")
            return
        logger.error(
            "The asyncio loop was closed under a running worker: its jobs are aborted, and those "
            "on that loop are lost. Stop the worker, and await it, before you close the loop",
            extra=fields(Action.HOST_LOOP_CLOSED),
        )
        for worker in tuple(self.workers):
            worker.abort()
        for call in tuple(self._calls):
            if call.for_job:
                call.scope.cancel(reason="the asyncio loop is closed")
        for crossing in tuple(self._crossings):
            if crossing.is_cancelled:  # of the others the abort takes care
                crossing.lose()
        for hosted in tuple(self._hosted):
            if hosted.is_cancelled:
                hosted.lose()
        # Nobody in asyncio ends it any more.
        self.ending = True
        self._end_if_idle()
        self._queue.call_until(lambda: self._has_ended)

    def _let_go(self, call: Call[Any]) -> None:
        self._calls.discard(call)
        if self.ending:
            self._end_if_idle()

    def _end_if_idle(self) -> None:
        if not self._calls:
            assert self._nursery is not None, "a call has begun in it"
            self._nursery.cancel_scope.cancel(reason="nobody uses the guest any more")

    def stop_at_exit(self) -> None:
        """The process exits while a worker runs in this loop, which stands still."""
        if self.loop.is_closed():
            self.host_closed()
            return
        logger.error(
            "The process exits with a worker in an asyncio loop that was stopped: it drains now. "
            "Stop the worker, and await it, before you leave",
            extra=fields(Action.HOST_LOOP_CLOSED),
        )
        self._ask("the process exits")
        self.loop.run_until_complete(asyncio.wait([self.finished]))


class _Sentinel:
    """Notices that the loop was closed: nobody but the loop holds it."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest

    def touch(self) -> None:
        """What the timer calls, if the process lives for so long."""

    def __del__(self) -> None:
        if self._guest.loop.is_closed():
            self._guest.host_closed()


class _Here(threading.local):
    """The guest of this thread."""

    guest: Guest | None = None


_here = _Here()


class open_guest:  # noqa: N801 - it is used as a function
    """`async with open_guest() as guest:` has the Trio guest of the running asyncio loop.

    Not an async generator: `loop.shutdown_asyncgens()` would leave the block under the worker.

    Raises:
        TrioAlreadyRuns: Trio runs in this thread in another way.
        TrioQueueException: Another loop of this thread has a worker inside and stands still.
    """

    _guest: Guest

    async def __aenter__(self) -> Guest:
        """Use it, and start it if nobody has."""
        self._guest = await _guest_of(asyncio.get_running_loop())
        self._guest.users += 1
        return self._guest

    async def __aexit__(self, *_: object) -> None:
        """Leave it; the last one ends it."""
        self._guest.users -= 1
        if not self._guest.users:
            await self._guest.end()


async def _guest_of(loop: asyncio.AbstractEventLoop) -> Guest:
    while (guest := _here.guest) is not None:
        if guest.loop is not loop:
            raise TrioQueueException(
                "another asyncio loop of this thread was stopped with a worker inside: "
                "stop the worker, await it there, and close that loop first"
            )
        if not guest.ending:
            return guest
        await asyncio.wait([guest.finished])
    if trio.lowlevel.in_trio_run():
        raise TrioAlreadyRuns
    guest = Guest(loop)
    guest.start()
    _here.guest = guest
    return guest


def _is_cancel(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        return all(_is_cancel(inner) for inner in group.exceptions)
    return isinstance(error, trio.Cancelled)


@atexit.register
def _end_guest_at_exit() -> None:
    if (guest := _here.guest) is not None and not guest.loop.is_running():
        guest.stop_at_exit()
