"""Hear of new jobs and of aborts: what is notified, and what a look at the table tells."""

from __future__ import annotations

from typing import assert_never

import trio

from trio_queue._worker.database import Database
from trio_queue._worker.fetch import Fetcher
from trio_queue._worker.lease import Lease
from trio_queue._worker.options import Options
from trio_queue._worker.running import RunningJobs
from trio_queue.exceptions import TrioQueueException
from trio_queue.store import AbortRequested, JobInserted, Missed, Notifications
from trio_queue.verbs import ListJobsToAbort


class Ear:
    """What one worker hears."""

    def __init__(
        self,
        *,
        database: Database,
        fetcher: Fetcher,
        lease: Lease,
        options: Options,
        running: RunningJobs,
    ) -> None:
        self._database = database
        self._fetcher = fetcher
        self._lease = lease
        self._options = options
        self._running = running
        self._look = trio.Event()

    async def listen(self, notifications: Notifications) -> None:
        """Pass on what is notified, without end; a service."""
        while True:
            for notification in await notifications.wait():
                match notification:
                    case JobInserted():
                        self._fetcher.ring()
                    case AbortRequested(job_id):
                        self._fetcher.hear_abort(job_id)
                    case Missed():
                        self._fetcher.ring()
                        self._look.set()
                    case _:
                        assert_never(notification)

    async def poll_aborts(self) -> None:
        """Look for requests to abort while jobs run, without end; a service."""
        while True:
            await self._running.wait_any()  # an idle worker asks nothing, and does not wake up
            with trio.move_on_after(self._options.abort_job_polling_interval):
                await self._look.wait()
            self._look = trio.Event()
            if not len(self._running):
                continue
            try:
                for job_id in await self._database.run(ListJobsToAbort(self._lease.worker_id)):
                    self._fetcher.hear_abort(job_id)
            except TrioQueueException as error:
                if not self._database.is_transient(error):
                    raise
