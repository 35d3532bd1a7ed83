"""Who this worker is to the database: its id, renewed when somebody took it for dead."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import trio

from trio_queue._version import __version__
from trio_queue._worker.database import Backoff, Database
from trio_queue._worker.options import Options
from trio_queue._worker.running import RunningJobs
from trio_queue._worker.shutdown import Shutdown
from trio_queue.exceptions import TrioQueueException
from trio_queue.jobs import AbortReason
from trio_queue.log import Action, fields
from trio_queue.store import (
    Heartbeat,
    RegisterWorker,
    ReleaseJobs,
    UnregisterWorker,
    UpdateWorkerStage,
)

#: Seconds for releasing and unregistering at the end, together: an absent database does not hold
#: a stop. What is left then goes with the lease.
GOODBYE_BOUND = 30.0


class Lease:
    """The worker's row. Registering anew after a loss gives it another id."""

    def __init__(
        self,
        *,
        database: Database,
        options: Options,
        running: RunningJobs,
        shutdown: Shutdown,
        logger: logging.Logger,
    ) -> None:
        self._database = database
        self._options = options
        self._running = running
        self._shutdown = shutdown
        self._logger = logger
        self._id: int | None = None
        self._renewing = trio.Lock()
        self._heartbeat: Heartbeat | None = None

    @property
    def worker_id(self) -> int:
        """The id of the row, while there is one."""
        assert self._id is not None, "asked while the worker is registered"
        return self._id

    @asynccontextmanager
    async def held(self) -> AsyncGenerator[None]:
        """The worker has a row, which is renewed, while the block lasts. Gone with it."""
        await self._register()
        try:
            store, interval = self._database.store, self._options.update_heartbeat_interval
            async with store.keep_alive(self.worker_id, interval) as self._heartbeat:
                yield
        finally:
            with trio.move_on_after(GOODBYE_BOUND, shield=True):
                await self._say_goodbye()

    async def _register(self) -> None:
        options = self._options
        self._id = await self._database.run(
            RegisterWorker(
                worker_name=options.name,
                host=socket.gethostname(),
                pid=os.getpid(),
                version=__version__,
                queues=options.queues,
                concurrency=options.concurrency,
                stage=self._shutdown.stage.value,
            )
        )

    async def _say_goodbye(self) -> None:
        backoff = Backoff()
        while True:
            try:
                await self._database.run(ReleaseJobs(self.worker_id, []))
                await self._database.run(UnregisterWorker(self.worker_id))
            except TrioQueueException as error:
                if not self._database.is_transient(error):
                    self._logger.warning("The worker's row could not be deleted: %s", error)
                    return
                # A stop does not wait for the server's return to say goodbye: the row goes stale.
                if trio.current_time() - self._database.away_since >= GOODBYE_BOUND:
                    return
                await trio.sleep(backoff.next())
            else:
                return

    async def watch(self) -> None:
        """Register anew whenever the row is found gone, without end; a service."""
        assert self._heartbeat is not None, "runs inside held()"
        while True:
            await self._heartbeat.wait_lost()
            await self.renew(self.worker_id)

    async def renew(self, lost_id: int) -> None:
        """Register anew, unless that was done already. The jobs under the old id are lost."""
        async with self._renewing:
            if self._id != lost_id:
                return
            backoff = Backoff()
            while True:
                try:
                    await self._register()
                    break
                except TrioQueueException as error:
                    if not self._database.is_transient(error):
                        raise
                await trio.sleep(backoff.next())
            self._logger.warning(
                "This worker was taken for dead: its row %d was gone. It goes on as %d; the jobs "
                "that it ran may run elsewhere, and are aborted here",
                lost_id,
                self.worker_id,
                extra=fields(Action.LEASE_LOST, worker_id=self.worker_id, lost_id=lost_id),
            )
            if self._heartbeat is not None:
                self._heartbeat.renew(self.worker_id)
            for running in self._running:
                if running.worker_id == lost_id:
                    running.abort(AbortReason.LEASE_LOST)

    async def show_stage(self) -> None:
        """Show each change of stage in the worker's row, without end; a service.

        A change that cannot be shown is shown with the next one: nobody waits for it.
        """
        shown = None
        while True:
            if (stage := self._shutdown.stage) is not shown:
                try:
                    await self._database.run(UpdateWorkerStage(self.worker_id, stage.value))
                    shown = stage
                except TrioQueueException as error:
                    if not self._database.is_transient(error):
                        raise
                    await trio.sleep(Backoff().next())
            else:
                await self._shutdown.wait_change()
