"""The in-memory database and its job store: no server, the same answers, fake time.

The database is synchronous and may be used from any thread; the store is its face for a worker,
on Trio. What a verb does to the tables stands in `memory_work` and `memory_manage`, what triggers
and constraints do in `memory_tables`.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TypeVar

import trio

from trio_queue._storage.encoding import Dumps, Loads
from trio_queue._storage.memory_clock import MemoryClock
from trio_queue._storage.memory_manage import ANSWER
from trio_queue._storage.memory_rows import News
from trio_queue._storage.memory_tables import Tables
from trio_queue.store import Heartbeat, JobInserted, Notification, Notifications, Outages
from trio_queue.verbs import UnregisterWorker, UpdateHeartbeat, Verb

R = TypeVar("R")


class InMemoryDatabase:
    """Tables that live as long as this object. Thread-safe: one verb at a time.

    Args:
        clock: Tells the moment, with a time zone; by default a `MemoryClock`.
        dumps: Encodes arguments as JSON; by default `json.dumps`.
        loads: Decodes them; by default `json.loads`.
    """

    def __init__(
        self,
        clock: Callable[[], datetime.datetime] | None = None,
        *,
        dumps: Dumps | None = None,
        loads: Loads | None = None,
    ) -> None:
        self.clock: Callable[[], datetime.datetime] = clock or MemoryClock()
        #: What ends the process for a heartbeat; a test puts something milder here.
        self.end_process: Callable[[int], object] = os._exit
        self._dumps, self._loads = dumps, loads
        self._lock = threading.RLock()
        self._listeners: list[_Listener] = []
        self.tables: Tables = self._new_tables()

    def _new_tables(self) -> Tables:
        return Tables(self.clock, dumps=self._dumps, loads=self._loads)

    def run(self, verb: Verb[R]) -> R:
        """Do what a verb says, in a transaction, and tell the listeners. Raises what it says."""
        with self._lock:
            with self.tables.transaction() as news:
                result: R = ANSWER(verb, self.tables)
            for listener in self._listeners:
                listener.hear(news)
        return result

    def reset(self) -> None:
        """Forget everything; ids begin at 1 again. Listeners stay."""
        with self._lock:
            self.tables = self._new_tables()

    @contextlib.contextmanager
    def listening(self, listener: _Listener) -> Generator[None]:
        """Tell this listener of news while the block lasts."""
        with self._lock:
            self._listeners.append(listener)
        try:
            yield
        finally:
            with self._lock:
                self._listeners.remove(listener)


class _Listener:
    """What one Trio task hears; told by any thread."""

    def __init__(self, queues: Sequence[str] | None) -> None:
        self._queues = None if queues is None else frozenset(queues)
        self._token = trio.lowlevel.current_trio_token()
        self._heard: list[Notification] = []
        self._lock = threading.Lock()
        self._something = trio.Event()

    def hear(self, news: Sequence[News]) -> None:
        heard = [
            item.notification for item in news if self._queues is None or item.queue in self._queues
        ]
        if not heard:
            return
        with self._lock:
            for notification in heard:
                # However many jobs came, there is one thing to do: fetch.
                if not isinstance(notification, JobInserted) or notification not in self._heard:
                    self._heard.append(notification)
        self._wake()

    def _wake(self) -> None:
        try:
            here = trio.lowlevel.current_trio_token() is self._token
        except RuntimeError:
            here = False
        if here:
            self._something.set()
        else:
            with contextlib.suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._set)

    def _set(self) -> None:
        self._something.set()

    async def wait(self) -> Sequence[Notification]:
        """See Notifications."""
        # First, so that what is cancelled here has taken nothing yet.
        await trio.lowlevel.checkpoint()
        while True:
            self._something = trio.Event()
            with self._lock:
                heard, self._heard = self._heard, []
            if heard:
                return heard
            await self._something.wait()


class _Lease:
    """A heartbeat in memory."""

    def __init__(self, database: InMemoryDatabase, worker_id: int, interval: float) -> None:
        self._database = database
        self._worker_id = worker_id
        self._interval = interval
        self._lost = trio.Event()

    # Ctrl-C is for the program's main task, and no reason for a heartbeat to end.
    @trio.lowlevel.enable_ki_protection
    async def beat(self) -> None:
        """Renew the lease without end."""
        while True:
            await trio.sleep(self._interval)
            if not self._database.run(UpdateHeartbeat(self._worker_id)):
                self._lost.set()

    async def wait_lost(self) -> None:
        """See Heartbeat."""
        await self._lost.wait()

    def renew(self, worker_id: int) -> None:
        """See Heartbeat."""
        self._worker_id = worker_id
        if self._lost.is_set():  # else who waits already goes on waiting for this one
            self._lost = trio.Event()

    def exit_process(self, status: int) -> None:
        """See Heartbeat."""
        # The lock is reentrant, and its holder never waits for anything. A verb that the signal
        # interrupted half-way may make this one fail; then there is nothing left to rescue from.
        with contextlib.suppress(Exception):
            self._database.run(UnregisterWorker(self._worker_id))
        self._database.end_process(status)


class InMemoryJobStore:
    """The in-memory database as a worker sees it. See JobStore for what its methods promise."""

    def __init__(self, database: InMemoryDatabase) -> None:
        self.database = database

    async def run(self, verb: Verb[R]) -> R:
        """Do what a verb says. Cancelled, it did nothing."""
        await trio.lowlevel.checkpoint()
        return self.database.run(verb)

    def is_transient(self, error: BaseException) -> bool:  # noqa: ARG002  # memory is never away
        """Whether trying again may help: never, for memory is never away."""
        return False

    def tell_outages(self, outages: Outages) -> None:
        """See JobStore: memory has no connection to lose."""

    def listen(self, queues: Sequence[str] | None) -> AbstractAsyncContextManager[Notifications]:
        """Hear about new jobs of these queues (None: all) and about aborts."""
        return self._listen(queues)

    @contextlib.asynccontextmanager
    async def _listen(self, queues: Sequence[str] | None) -> AsyncGenerator[Notifications]:
        await trio.lowlevel.checkpoint()
        listener = _Listener(queues)
        with self.database.listening(listener):
            yield listener

    def keep_alive(self, worker_id: int, interval: float) -> AbstractAsyncContextManager[Heartbeat]:
        """Renew the worker's lease every `interval` seconds by a Trio task, so that fake time works."""
        return self._keep_alive(worker_id, interval)

    @contextlib.asynccontextmanager
    async def _keep_alive(self, worker_id: int, interval: float) -> AsyncGenerator[Heartbeat]:
        lease = _Lease(self.database, worker_id, interval)
        error: BaseException | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lease.beat)
            try:
                yield lease
            except BaseException as raised:  # noqa: BLE001  # raised again below, outside of the nursery: bare, in no group
                error = raised
            # Shielded, so that a cancel from outside cannot take the place of the block's error.
            nursery.cancel_scope.shield = True
            nursery.cancel_scope.cancel()
        if error is not None:
            raise error
