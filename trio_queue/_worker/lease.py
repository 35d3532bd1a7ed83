"""Who this worker is to the database: its id, renewed when somebody took it for dead."""

from __future__ import annotations

import itertools
import logging
import os
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeVar

import trio

from trio_queue._version import __version__
from trio_queue._worker.database import CLAIM_BOUND, Backoff, Database
from trio_queue._worker.options import Options
from trio_queue._worker.running import RunningJob, RunningJobs
from trio_queue._worker.shutdown import Shutdown
from trio_queue.exceptions import TrioQueueException, WorkerGone
from trio_queue.jobs import AbortReason
from trio_queue.log import Action, fields
from trio_queue.store import Heartbeat
from trio_queue.verbs import (
    AdoptJobs,
    RegisterWorker,
    ReleaseJobs,
    UnregisterWorker,
    UpdateHeartbeat,
    UpdateWorkerStage,
)

R = TypeVar("R")

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
        self._turns = itertools.count(1)
        self._renewing = trio.Lock()
        self._heartbeat: Heartbeat | None = None

    @property
    def worker_id(self) -> int:
        """The id of the row, while there is one."""
        assert self._id is not None, "asked while the worker is registered"
        return self._id

    def next_turn(self) -> int:
        """A number for the next claim or release: what arrives after a later one does nothing."""
        return next(self._turns)

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
                await self.release()
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

    async def release(self) -> None:
        """Give back what is `doing` under this row and not in our hands: claims that were not answered."""
        released = await self._database.run(
            ReleaseJobs(self.worker_id, self._running.held_ids, self.next_turn()),
            bound=CLAIM_BOUND,
        )
        if released:
            self._logger.info(
                "Gave back the jobs of claims that were not answered: %s",
                ", ".join(str(each.job_id) for each in released),
                extra=fields(Action.RELEASED_JOBS, jobs=[each.job_id for each in released]),
            )

    async def watch(self) -> None:
        """Register anew whenever the row is found gone, without end; a service."""
        assert self._heartbeat is not None, "runs inside held()"
        while True:
            # Asked for before the wait: a claim may notice the loss too, and have renewed by then.
            worker_id = self.worker_id
            await self._heartbeat.wait_lost()
            await self.renew(worker_id)

    async def renew(self, lost_id: int) -> None:
        """Register anew, unless that was done already.

        Jobs under the old id that nobody else has by now are ours again; the others are lost, and
        aborted.
        """
        async with self._renewing:
            if self._id != lost_id:
                return
            kept, lost = await self._register_anew()
            self._report_loss(lost_id, kept=kept, lost=lost)

    async def _register_anew(self) -> tuple[int, list[RunningJob]]:
        """Answers how many running jobs were kept, and which were lost."""
        while True:
            await self._insist(self._register)
            if self._heartbeat is not None:
                self._heartbeat.renew(self.worker_id)
            try:
                return await self._sort_out()
            except WorkerGone:
                # The new row was taken too, before the jobs were under it: once more. (One that
                # was claimed under it meanwhile is sorted out with them.)
                continue

    async def _sort_out(self) -> tuple[int, list[RunningJob]]:
        """Keep the jobs under lost rows that nobody has taken, and abort the others."""
        kept, lost = 0, list[RunningJob]()
        for lost_id in sorted({running.worker_id for running in self._strays()}):
            adopted = set(await self._insist(partial(self._adopt, lost_id)))
            for running in [each for each in self._strays() if each.worker_id == lost_id]:
                if running.id in adopted:
                    running.worker_id = self.worker_id
                    kept += 1
                else:
                    running.lost = True
                    running.abort(AbortReason.LEASE_LOST)
                    lost.append(running)
        return kept, lost

    def _strays(self) -> list[RunningJob]:
        """The running jobs that are under a lost row, and not lost themselves."""
        return [
            running
            for running in self._running
            if running.worker_id != self.worker_id and not running.lost
        ]

    @property
    def is_renewing(self) -> bool:
        """Whether it registers anew, and has yet to adopt its jobs."""
        return self._renewing.locked()

    async def settled_id(self) -> int:
        """The id of the row, once no registration anew is under way that has yet to adopt our jobs."""
        async with self._renewing:
            return self.worker_id

    async def check(self) -> None:
        """Find out whether the row is gone, and register anew if it is."""
        worker_id = await self.settled_id()
        if not await self._insist(partial(self._database.run, UpdateHeartbeat(worker_id))):
            await self.renew(worker_id)

    async def _adopt(self, lost_id: int) -> list[int]:
        held = [
            (each.id, each.job.attempts) for each in self._strays() if each.worker_id == lost_id
        ]
        if not held:
            return []
        return await self._database.run(AdoptJobs(self.worker_id, lost_id, held))

    async def _insist(self, say: Callable[[], Awaitable[R]]) -> R:
        """Try until the database answers."""
        backoff = Backoff()
        while True:
            try:
                return await say()
            except TrioQueueException as error:
                if not self._database.is_transient(error):
                    raise
            await trio.sleep(backoff.next())

    def _report_loss(self, lost_id: int, *, kept: int, lost: Sequence[RunningJob]) -> None:
        told = f"{kept} running jobs are its own still"
        if lost:
            calls = ", ".join(running.job.call_string for running in lost)
            told += f", {len(lost)} may run elsewhere by now and are aborted here: {calls}"
        self._logger.warning(
            "This worker was taken for dead, its row %d was gone. It goes on as %d: %s",
            lost_id,
            self.worker_id,
            told,
            extra=fields(
                Action.LEASE_LOST,
                worker_id=self.worker_id,
                lost_id=lost_id,
                lost_jobs=[running.id for running in lost],
            ),
        )

    def exit_process(self, status: int) -> None:
        """End the process at once, from a signal handler; the rows of what runs are for the rescue."""
        if self._heartbeat is None:
            os._exit(status)
        self._heartbeat.exit_process(status)

    async def show_stage(self) -> None:
        """Show each change of stage in the worker's row, without end; a service.

        A change that cannot be shown is shown with the next one: nobody waits for it.
        """
        shown = None
        backoff = Backoff()
        while True:
            if (stage := self._shutdown.stage) is not shown:
                try:
                    await self._database.run(UpdateWorkerStage(self.worker_id, stage.value))
                    shown = stage
                    backoff.reset()
                except TrioQueueException as error:
                    if not self._database.is_transient(error):
                        raise
                    await trio.sleep(backoff.next())
            else:
                await self._shutdown.wait_change()
