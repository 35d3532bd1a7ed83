"""A job store that fails, hangs, is slow or loses answers on purpose, around any other.

store = FaultyStore(InMemoryJobStore(database))
fault = store.fail(FetchJobs, times=2)              # raises before it is run
store.lose_answer(FinishJobs)                       # is run, then raises
hung = store.hang(FetchJobs)                        # until cancelled or hung.release()
store.delay("update_heartbeat", seconds=5)
await fault.wait_hit()
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from enum import Enum
from typing import Any, TypeAlias, TypeVar

import attrs
import trio

from trio_queue.exceptions import ConnectorException
from trio_queue.store import Heartbeat, JobStore, Missed, Notification, Notifications, Outages
from trio_queue.verbs import Verb

R = TypeVar("R")
#: A verb's type or name; "listen" and "keep_alive" mean entering those blocks.
What: TypeAlias = type[Verb[Any]] | str


class Moment(Enum):
    """When a fault strikes."""

    BEFORE = "before"  #: Nothing has been done.
    AFTER = "after"  #: It was done, and its answer never comes.


class FaultError(ConnectorException):
    """A fault was injected here, by a FaultyStore, for a test."""


@attrs.define(eq=False)
class Fault:
    """One fault, from the moment it was ordered until it has struck so often as was said."""

    names: frozenset[str]
    moment: Moment
    error: BaseException | type[BaseException] | None
    seconds: float
    skip: int
    times: float
    transient: bool
    hits: int = 0
    _hit: trio.Event = attrs.field(factory=trio.Event)
    _released: trio.Event = attrs.field(factory=trio.Event)

    async def wait_hit(self) -> None:
        """Wait until it has struck once."""
        await self._hit.wait()

    def release(self) -> None:
        """Let go of what hangs, and do not strike again."""
        self.times = self.hits
        self._released.set()

    def strikes(self, name: str, moment: Moment) -> bool:
        """Whether it strikes now; counts it."""
        if moment is not self.moment or (self.names and name not in self.names):
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        if self.hits >= self.times:
            return False
        self.hits += 1
        self._hit.set()
        return True

    async def strike(self) -> None:
        """Wait as long as was said, then raise if that was said."""
        if math.isinf(self.seconds):
            await self._released.wait()
        else:
            await trio.sleep(self.seconds)
        if self.error is not None:
            raise self.error


class FaultyStore:
    """A JobStore that passes everything on to another one, but for the faults that are ordered.

    Verbs are named by type or name; none named: every verb and both blocks. `skip` calls are let
    pass first, then `times` are struck (None: all). What a fault raises counts as transient unless
    it was ordered with `transient=False`.
    """

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._faults: list[Fault] = []
        self._injected: list[BaseException] = []
        self._heartbeats: list[_Heartbeat] = []
        self._listeners: list[_Notifications] = []
        #: The name of every verb that came by, in order.
        self.calls: list[str] = []

    # -- ordering faults ------------------------------------------------------------------------

    def fail(
        self,
        *what: What,
        error: BaseException | type[BaseException] = FaultError,
        times: int | None = 1,
        skip: int = 0,
        transient: bool = True,
    ) -> Fault:
        """Raise this instead of running the verb."""
        return self._order(what, Moment.BEFORE, error, 0, times, skip, transient)

    def lose_answer(
        self,
        *what: What,
        error: BaseException | type[BaseException] = FaultError,
        times: int | None = 1,
        skip: int = 0,
        transient: bool = True,
    ) -> Fault:
        """Run the verb, then raise this instead of answering."""
        return self._order(what, Moment.AFTER, error, 0, times, skip, transient)

    def hang(self, *what: What, after: bool = False, times: int | None = 1, skip: int = 0) -> Fault:
        """Hang until cancelled or released, before running the verb (`after`: with its answer in hand)."""
        moment = Moment.AFTER if after else Moment.BEFORE
        return self._order(what, moment, None, math.inf, times, skip, True)

    def delay(
        self,
        *what: What,
        seconds: float,
        after: bool = False,
        times: int | None = None,
        skip: int = 0,
    ) -> Fault:
        """Take so many seconds longer, by Trio's clock."""
        moment = Moment.AFTER if after else Moment.BEFORE
        return self._order(what, moment, None, seconds, times, skip, True)

    def clear(self) -> None:
        """Order nothing any more; what hangs goes on."""
        for fault in self._faults:
            fault.release()
        self._faults.clear()

    def lose_lease(self) -> None:
        """Say on every heartbeat that the worker's row is gone, until it is renewed."""
        for heartbeat in self._heartbeats:
            heartbeat.lose()

    def say_missed(self) -> None:
        """Say `Missed` to everyone who listens, as after a connection was lost."""
        for listener in self._listeners:
            listener.miss()

    def _order(
        self,
        what: Sequence[What],
        moment: Moment,
        error: BaseException | type[BaseException] | None,
        seconds: float,
        times: int | None,
        skip: int,
        transient: bool,
    ) -> Fault:
        names = frozenset(item if isinstance(item, str) else item.name for item in what)
        fault = Fault(
            names=names,
            moment=moment,
            error=error,
            seconds=seconds,
            skip=skip,
            times=math.inf if times is None else times,
            transient=transient,
        )
        self._faults.append(fault)
        return fault

    # -- the port -------------------------------------------------------------------------------

    async def run(self, verb: Verb[R]) -> R:
        """Run the verb on the other store, but for what was ordered."""
        self.calls.append(verb.name)
        await self._meet(verb.name, Moment.BEFORE)
        answer = await self._store.run(verb)
        await self._meet(verb.name, Moment.AFTER)
        return answer

    def is_transient(self, error: BaseException) -> bool:
        """Whether trying again may help: as ordered for what was injected, else the other store's word."""
        return any(error is injected for injected in self._injected) or self._store.is_transient(
            error
        )

    @contextlib.asynccontextmanager
    async def _listen(self, queues: Sequence[str] | None) -> AsyncGenerator[Notifications]:
        await self._meet("listen", Moment.BEFORE)
        async with self._store.listen(queues) as inner:
            await self._meet("listen", Moment.AFTER)
            outer = _Notifications(inner)
            self._listeners.append(outer)
            try:
                yield outer
            finally:
                self._listeners.remove(outer)

    def tell_outages(self, outages: Outages) -> None:
        """See JobStore. Faults that are ordered here are told by nobody."""
        self._store.tell_outages(outages)

    def listen(self, queues: Sequence[str] | None) -> AbstractAsyncContextManager[Notifications]:
        """Listen on the other store, but for what was ordered."""
        return self._listen(queues)

    @contextlib.asynccontextmanager
    async def _keep_alive(self, worker_id: int, interval: float) -> AsyncGenerator[Heartbeat]:
        await self._meet("keep_alive", Moment.BEFORE)
        async with self._store.keep_alive(worker_id, interval) as inner:
            await self._meet("keep_alive", Moment.AFTER)
            outer = _Heartbeat(inner)
            self._heartbeats.append(outer)
            try:
                yield outer
            finally:
                self._heartbeats.remove(outer)

    def keep_alive(self, worker_id: int, interval: float) -> AbstractAsyncContextManager[Heartbeat]:
        """Keep the lease on the other store, but for what was ordered."""
        return self._keep_alive(worker_id, interval)

    async def _meet(self, name: str, moment: Moment) -> None:
        for fault in tuple(self._faults):
            if not fault.strikes(name, moment):
                continue
            try:
                await fault.strike()
            except Exception as error:
                if fault.transient:
                    self._injected.append(error)
                raise


class _Notifications:
    """Notifications that may have been missed."""

    def __init__(self, inner: Notifications) -> None:
        self._inner = inner
        self._missed = trio.Event()
        # Kept here until it is returned: a cancel may come between hearing and returning.
        self._heard: list[Notification] = []

    def miss(self) -> None:
        self._missed.set()

    async def wait(self) -> Sequence[Notification]:
        await trio.lowlevel.checkpoint()
        while not self._heard:
            await _first(self._listen, self._missed.wait)
            if self._missed.is_set():
                self._missed = trio.Event()
                self._heard.append(Missed())
        heard, self._heard = self._heard, []
        return heard

    async def _listen(self) -> None:
        self._heard.extend(await self._inner.wait())


class _Heartbeat:
    """A lease that may be lost on order."""

    def __init__(self, inner: Heartbeat) -> None:
        self._inner = inner
        self._lost = trio.Event()

    def lose(self) -> None:
        self._lost.set()

    async def wait_lost(self) -> None:
        await _first(self._inner.wait_lost, self._lost.wait)

    def renew(self, worker_id: int) -> None:
        if self._lost.is_set():
            self._lost = trio.Event()
        self._inner.renew(worker_id)

    def exit_process(self, status: int) -> None:
        self._inner.exit_process(status)


async def _first(*waits: Callable[[], Awaitable[object]]) -> None:
    """Wait until one of these has ended, cancel the others; raise what it raised, in no group."""
    errors: list[Exception] = []

    async def run(wait: Callable[[], Awaitable[object]]) -> None:
        try:
            await wait()
        except Exception as error:  # noqa: BLE001  # raised again below
            errors.append(error)
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for wait in waits:
            nursery.start_soon(run, wait)
    if errors:
        raise errors[0]
