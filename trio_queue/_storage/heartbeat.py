"""A worker's lease, renewed by a thread of its own: a job that blocks the event loop keeps it."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
from collections.abc import AsyncGenerator, Callable
from typing import Any

import psycopg
import trio

from trio_queue.log import Action, fields
from trio_queue.store import Heartbeat

logger = logging.getLogger("trio_queue.worker")

#: Seconds until the next attempt where a beat failed, at most one interval.
RETRY_DELAY = 1.0
#: Seconds that the end of the block waits for the thread, twice at most.
STOP_TIMEOUT = 5.0


class HeartbeatThread:
    """Renews a lease until stopped. Made on Trio; the thread itself knows psycopg only.

    Args:
        connect: Opens a sync connection whose statements cannot last for ever.
        beat: Renews the lease of this worker over it; tells whether its row is there.
        worker_id: The worker.
        interval: Seconds between two beats.
    """

    def __init__(
        self,
        connect: Callable[[], psycopg.Connection[Any]],
        beat: Callable[[psycopg.Connection[Any], int], bool],
        worker_id: int,
        interval: float,
    ) -> None:
        self._connect, self._beat = connect, beat
        self._worker_id = worker_id
        self._interval = interval
        self._token = trio.lowlevel.current_trio_token()
        self._lost = trio.Event()
        self._stopping = threading.Event()
        self._connection: psycopg.Connection[Any] | None = None
        self._is_away = False
        self._thread = threading.Thread(
            target=self._run, name=f"trio_queue heartbeat of worker {worker_id}", daemon=True
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

    def start(self) -> None:
        """Begin: the first beat is due at once."""
        self._thread.start()

    async def stop(self) -> None:
        """Stop, and wait for the thread, shielded, for twice STOP_TIMEOUT seconds at most.

        A thread that waits for a server that does not answer gets its connection cut. If even
        that does not end it, it is left behind with a warning: a daemon, which beats no more.
        """
        self._stopping.set()
        with trio.CancelScope(shield=True):
            for _ in range(2):
                await trio.to_thread.run_sync(
                    self._thread.join, STOP_TIMEOUT, limiter=trio.CapacityLimiter(1)
                )
                if not self._thread.is_alive():
                    return
                self._cut()
        logger.warning(
            "the heartbeat's thread does not end: it is left behind, the database does not answer it",
            extra=fields(Action.SERVICE_FAILED, worker_id=self._worker_id),
        )

    def _cut(self) -> None:
        """Make the thread's wait for an answer fail."""
        connection = self._connection
        if connection is None:
            return
        with contextlib.suppress(OSError, psycopg.Error), _duplicate(connection) as wire:
            wire.shutdown(socket.SHUT_RDWR)

    def _mark_lost(self, worker_id: int) -> None:
        # It may have registered anew since.
        if worker_id == self._worker_id:
            self._lost.set()

    # -- in the thread --------------------------------------------------------------------------

    def _run(self) -> None:
        delay = 0.0
        while not self._stopping.wait(delay):
            delay = self._interval if self._try() else min(RETRY_DELAY, self._interval)
        self._disconnect()

    def _try(self) -> bool:
        """One beat; whether it reached the database."""
        worker_id = self._worker_id
        try:
            if self._connection is None:
                self._connection = self._connect()
            is_there = self._beat(self._connection, worker_id)
        except Exception as error:  # noqa: BLE001  # whatever it is, the next beat may succeed, and nobody else renews the lease
            self._disconnect()
            self._tell_away(error)
            return False
        if self._is_away:
            self._is_away = False
            logger.info(
                "heartbeat of worker %s: the database is back",
                worker_id,
                extra=fields(Action.DATABASE_BACK, worker_id=worker_id),
            )
        if not is_there:
            with contextlib.suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._mark_lost, worker_id)
        return True

    def _tell_away(self, error: Exception) -> None:
        # Once per outage; and a stop may have cut the connection.
        if self._is_away or self._stopping.is_set():
            return
        self._is_away = True
        logger.warning(
            "heartbeat of worker %s failed, it will be tried again: %s",
            self._worker_id,
            error,
            extra=fields(Action.DATABASE_AWAY, worker_id=self._worker_id),
        )

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(psycopg.Error):
                connection.close()


def _duplicate(connection: psycopg.Connection[Any]) -> socket.socket:
    return socket.socket(fileno=os.dup(connection.fileno()))


@contextlib.asynccontextmanager
async def beating(
    connect: Callable[[], psycopg.Connection[Any]],
    beat: Callable[[psycopg.Connection[Any], int], bool],
    worker_id: int,
    interval: float,
) -> AsyncGenerator[Heartbeat]:
    """Renew a worker's lease while the block lasts. See JobStore.keep_alive."""
    thread = HeartbeatThread(connect, beat, worker_id, interval)
    thread.start()
    try:
        yield thread
    finally:
        await thread.stop()
