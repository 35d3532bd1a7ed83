"""A worker's lease, renewed by a thread of its own: a job that blocks the event loop keeps it.

A second thread waits for the order to end the process. It does nothing else, so that nothing can
be in its way: neither the event loop, nor a beat that hangs, nor a lock that the main thread held
when the signal came.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import select
import threading
import time
from collections.abc import AsyncGenerator, Callable
from functools import partial
from typing import Protocol

import psycopg
import trio

from trio_queue._pg.bounded import BoundedConnection
from trio_queue.log import Action, fields
from trio_queue.store import Heartbeat, Outages

logger = logging.getLogger("trio_queue.worker")

#: Seconds for a beat, from the sending to the answer.
BEAT_TIMEOUT = 5.0
#: Seconds until the next attempt where a beat failed, at most one interval.
RETRY_DELAY = 1.0
#: Seconds that the end of the block waits for the threads: longer than one takes to connect.
STOP_TIMEOUT = 10.0
#: Seconds from the order to end the process to its end, at most.
EXIT_TIMEOUT = 2.0
#: Seconds of these for the connection that is there; then a new one is tried.
EXIT_FIRST_TRY = 1.0


class Line(Protocol):
    """How a heartbeat talks to the database."""

    def connect(self) -> BoundedConnection:
        """Open a connection, in bounded time."""
        ...

    def beat(self, connection: BoundedConnection, worker_id: int) -> bool:
        """Renew the lease of this worker; tells whether its row is there."""
        ...

    def unregister(self, connection: BoundedConnection, worker_id: int) -> None:
        """Delete the worker's row."""
        ...


class HeartbeatThread:
    """Renews a lease until stopped. Made on Trio; the threads themselves know psycopg only.

    Args:
        line: How to talk to the database.
        worker_id: The worker.
        interval: Seconds between two beats.
        end_process: Ends the process with this status, and does not return; a test's may.
        outages: Told when no beat reaches the database, and when one does again.
    """

    def __init__(
        self,
        line: Line,
        worker_id: int,
        interval: float,
        end_process: Callable[[int], object] = os._exit,
        outages: Outages | None = None,
    ) -> None:
        self._line = line
        self._worker_id = worker_id
        self._interval = interval
        self._end_process = end_process
        self._outages = outages
        self._token = trio.lowlevel.current_trio_token()
        self._lost = trio.Event()
        self._connection: BoundedConnection | None = None
        self._is_away = False
        # Once there is something to read, the beats are over: whatever the thread waits for ends.
        self._hears_end, self._says_end = os.pipe()
        self._is_ending = self._is_exiting = self._is_over = False
        # Its `put` may interrupt another `put` of the same thread: a signal handler may call it.
        self._exits: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._beats = threading.Thread(
            target=self._run, name=f"trio_queue heartbeat of worker {worker_id}", daemon=True
        )
        self._guard = threading.Thread(
            target=self._wait_exit, name=f"trio_queue exit of worker {worker_id}", daemon=True
        )

    # -- on Trio --------------------------------------------------------------------------------

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
        if self._is_over:
            # The threads are gone, and so are the jobs.
            self._end_process(status)
        self._exits.put(status)

    def start(self) -> None:
        """Begin: the first beat is due at once."""
        self._beats.start()
        self._guard.start()

    async def stop(self) -> None:
        """Stop, and wait for the threads, shielded, for STOP_TIMEOUT seconds at most.

        A beat under way is called off. Only a thread that is just connecting to a server that does
        not answer holds on; one that does not come back is left behind with a warning: a daemon,
        which beats no more.
        """
        self._is_over = True
        self._exits.put(None)
        self._end_beats()
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self._join, limiter=trio.CapacityLimiter(1))
        if self._beats.is_alive() or self._guard.is_alive():
            logger.warning(
                "the heartbeat's thread does not end: it is left behind, the database does not answer it",
                extra=fields(Action.SERVICE_FAILED, worker_id=self._worker_id),
            )
            return
        os.close(self._hears_end)
        os.close(self._says_end)

    def _join(self) -> None:
        # The other one ends with it, or ends the process.
        self._beats.join(STOP_TIMEOUT)
        if not self._beats.is_alive():
            self._guard.join(STOP_TIMEOUT)

    def _mark_lost(self, worker_id: int) -> None:
        # It may have registered anew since.
        if worker_id == self._worker_id:
            self._lost.set()

    # -- in the thread that ends the process ----------------------------------------------------

    def _wait_exit(self) -> None:
        status = self._exits.get()
        if status is None:
            return
        try:
            self._is_exiting = True
            self._end_beats()
            self._beats.join(EXIT_TIMEOUT)
        finally:
            self._end_process(status)

    # -- in the thread that beats ---------------------------------------------------------------

    def _run(self) -> None:
        delay = 0.0
        while not self._wait_end(delay):
            delay = self._interval if self._try() else min(RETRY_DELAY, self._interval)
        if self._is_exiting:
            self._unregister()
        self._disconnect()

    def _end_beats(self) -> None:
        self._is_ending = True
        os.write(self._says_end, b".")

    def _wait_end(self, seconds: float) -> bool:
        """Wait so long for the end of the beats; whether it has come."""
        poller = select.poll()
        poller.register(self._hears_end, select.POLLIN)
        return bool(poller.poll(seconds * 1000))

    def _try(self) -> bool:
        """One beat; whether it reached the database."""
        worker_id = self._worker_id
        # The connection may have been lost since the last beat, and the database be back long ago.
        was_connected = self._connection is not None
        try:
            try:
                is_there = self._beat(worker_id)
            except Exception:  # over a connection that was there: once more over another
                self._disconnect()
                if not was_connected or self._is_ending:
                    raise
                is_there = self._beat(worker_id)
        except Exception as error:  # noqa: BLE001  # whatever it is, the next beat may succeed, and nobody else renews the lease
            self._disconnect()
            # A stop may have called the beat off.
            if self._outages is not None and not self._is_ending:
                self._is_away = True
                self._on_trio(partial(self._outages.began, "heartbeat", error))
            return False
        if self._is_away and self._outages is not None:
            self._is_away = False
            self._on_trio(partial(self._outages.ended, "heartbeat"))
        if not is_there:
            self._on_trio(partial(self._mark_lost, worker_id))
        return True

    def _beat(self, worker_id: int) -> bool:
        connection = self._connected()
        connection.interrupt = self._hears_end
        connection.deadline = time.monotonic() + BEAT_TIMEOUT
        return self._line.beat(connection, worker_id)

    def _on_trio(self, tell: Callable[[], None]) -> None:
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(tell)

    def _unregister(self) -> None:
        """Delete the worker's row: over the connection that is there, else over a new one.

        The process ends when this returns, or when its time is over.
        """
        for _ in range(2):
            # No word in the log: the main thread may hold its lock, and blocks.
            with contextlib.suppress(Exception):
                connection = self._connected()
                connection.interrupt = None
                connection.deadline = time.monotonic() + EXIT_FIRST_TRY
                self._line.unregister(connection, self._worker_id)
                return
            self._disconnect()

    def _connected(self) -> BoundedConnection:
        if self._connection is None:
            self._connection = self._line.connect()
        return self._connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(psycopg.Error):
                connection.close()


@contextlib.asynccontextmanager
async def beating(
    line: Line, worker_id: int, interval: float, outages: Outages | None = None
) -> AsyncGenerator[Heartbeat]:
    """Renew a worker's lease while the block lasts. See JobStore.keep_alive."""
    thread = HeartbeatThread(line, worker_id, interval, outages=outages)
    thread.start()
    try:
        yield thread
    finally:
        await thread.stop()
