"""Fetch: wait for a free place and for work, claim, hand over."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import trio

from trio_queue._worker import pace
from trio_queue._worker.database import CLAIM_BOUND, Backoff, Database, TooSlow
from trio_queue._worker.lease import Lease
from trio_queue._worker.options import Options
from trio_queue._worker.pace import MAX_AGE, Pace
from trio_queue._worker.running import RunningJob, RunningJobs
from trio_queue._worker.shutdown import Event, Shutdown
from trio_queue.completion import RELEASED
from trio_queue.exceptions import TrioQueueException, WorkerGone
from trio_queue.jobs import AbortReason, Job, Status
from trio_queue.verbs import FetchJobs, HasEligibleJob, Verb

R = TypeVar("R")

#: Seconds between two looks of a `wait=False` worker at a job that another's open claim holds.
MOMENT = 0.05


class Fetcher:
    """Claims jobs for one worker. Runs in the intake, whose cancel begins the drain."""

    def __init__(
        self,
        *,
        database: Database,
        lease: Lease,
        options: Options,
        running: RunningJobs,
        shutdown: Shutdown,
    ) -> None:
        self._database = database
        self._lease = lease
        self._options = options
        self._running = running
        self._shutdown = shutdown
        self._pace = Pace(options.prefetch)
        #: Held while rows become `doing` under our id, until they are in our hands: a release
        #: would give them back.
        self.claiming = trio.Lock()
        # Silenced before a claim: what rings while it is under way is heard after it.
        self._bell = trio.Event()
        # A claim was sent whose answer has not come: rows may be `doing` that nobody runs.
        self._unanswered = False
        # Seconds from the last claim until a future job is due, where it told.
        self._next_in: float | None = None
        # Aborts that were heard while a claim was under way: its jobs are not in our hands yet.
        self._early_aborts: set[int] = set()

    def ring(self) -> None:
        """There may be a job to claim."""
        self._bell.set()

    def written(self, batch: Sequence[RunningJob]) -> None:
        """Rows are written: a lock may be free, a job may wait again, nothing may be left to run."""
        nothing_runs = not self._options.wait and not len(self._running)
        if nothing_runs or any(
            running.job.lock is not None
            or (running.completion is not None and running.completion.status is Status.TODO)
            for running in batch
        ):
            self.ring()

    def hear_abort(self, job_id: int) -> None:
        """Somebody asked for the abort of a job, which may be ours."""
        if running := self._running.get(job_id):
            running.abort(AbortReason.USER_REQUEST)
        elif self._unanswered:
            self._early_aborts.add(job_id)

    async def fetch(self) -> None:
        """Claim jobs as there is room for them; returns when `wait=False` and none is left.

        Nothing waits between the claim's answer and the table of running jobs.
        Cancelled: a claim whose answer is lost is given back by `give_back`.
        """
        backoff = Backoff()
        while True:
            await self._running.wait_room(self._pace.ahead)
            if self._shutdown.draining.is_set():
                return  # by a job that made room as it ended: its intake is not cancelled yet
            self._bell = trio.Event()
            worker_id = self._lease.worker_id
            try:
                found_all = await self._claim(worker_id)
                backoff.reset()
                if found_all and await self._rest():
                    self._shutdown.post(Event.NO_JOB_LEFT, "wait=False, no job is left")
                    return
            except WorkerGone:
                await self._lease.renew(worker_id)
            except TrioQueueException as error:
                if not self._database.is_transient(error):
                    raise
                await trio.sleep(backoff.next())

    async def _claim(self, worker_id: int) -> bool:
        """Claim once. Answers whether there was no more to claim."""
        async with self.claiming:
            if self._unanswered:
                await self._release()
            self._pace.measure(self._running.begun)
            limit = int(min(self._running.room(self._pace.ahead()), self._pace.most))
            if not limit:
                return False  # while it waited for its turn, others came
            asked_at = trio.current_time()
            try:
                fetched = await self.claim(
                    FetchJobs(
                        worker_id,
                        self._options.queues,
                        limit,
                        self._lease.next_turn(),
                        pace.CLAIM_BYTES,
                    )
                )
            except TooSlow:
                self._pace.claim_was_cut(limit)
                raise
            if self._shutdown.draining.is_set():
                self._unanswered = True
                return False  # the answer came with the cancel: give_back() gives them back
            now = trio.current_time()
            self._pace.claim_took(now - asked_at, len(fetched.jobs))
            is_full = not fetched.found_all and len(fetched.jobs) < limit
            if is_full:
                self._pace.claim_was_full(len(fetched.jobs))
            self._running.enough = len(fetched.jobs) if is_full else math.inf
            for job in fetched.jobs:
                self._take(job, worker_id, now)
            self._early_aborts.clear()
            self._next_in = fetched.next_in
        return fetched.found_all

    async def claim(self, verb: Verb[R]) -> R:
        """Say what makes rows `doing` under our id; remember it where the answer does not come."""
        before, self._unanswered = self._unanswered, True
        try:
            answer = await self._database.run(verb, bound=CLAIM_BOUND)
        except TrioQueueException as error:
            # A statement that the server refused has claimed nothing; one that was cut may have.
            self._unanswered = before or self._database.is_transient(error)
            raise
        self._unanswered = before  # an earlier claim without an answer is not answered by this one
        return answer

    def _take(self, job: Job, worker_id: int, now: float) -> None:
        running = RunningJob(job, worker_id, claimed_at=now)
        self._running.add(running)
        if worker_id != self._lease.worker_id:
            # The row was lost while the claim was under way, and the job with it.
            running.lost = True
            running.abort(AbortReason.LEASE_LOST)
        elif job.abort_requested or job.id in self._early_aborts:
            running.abort(AbortReason.USER_REQUEST)

    async def keep_fresh(self) -> None:
        """Give back what was claimed ahead and waits too long for a place, without end; a service."""
        if self._pace.is_fixed:
            return  # so it was wanted
        while True:
            oldest = await self._running.wait_waiting()
            await trio.sleep_until(oldest.claimed_at + MAX_AGE)
            if oldest.out_of_turn is not None:  # it waits still
                self._pace.break_off()
                self._running.give_back_waiting(RELEASED)

    async def _rest(self) -> bool:
        """Wait for something to happen; answers True where no job is left and none is waited for."""
        queues = self._options.queues
        if not self._options.wait and not len(self._running):
            # An empty claim is not an empty queue: another's claim may hold a job, and end in vain.
            if not await self._database.run(HasEligibleJob(queues), bound=CLAIM_BOUND):
                return True
            await self._wait_bell(MOMENT)
            return False
        patience = self._options.fetch_job_polling_interval
        if self._next_in is not None:
            patience = min(patience, max(self._next_in, 0.0))
        await self._wait_bell(patience)
        return False

    async def _wait_bell(self, seconds: float) -> None:
        with trio.move_on_after(seconds):
            await self._bell.wait()

    async def give_back(self) -> None:
        """Release what a lost claim may hold, when `fetch` has ended; a service.

        What it cannot do in time is done when the worker unregisters.
        """
        backoff = Backoff()
        while self._unanswered:
            try:
                async with self.claiming:
                    # It may have been a rescue's claim, which was answered meanwhile.
                    if self._unanswered:
                        await self._release()
            except TrioQueueException as error:
                if not self._database.is_transient(error):
                    raise
                await trio.sleep(backoff.next())
            else:
                return

    async def _release(self) -> None:
        # What it kept it may have to give back yet: then it is said again before the next claim.
        again = self._running.may_hide_claims
        await self._lease.release()
        self._unanswered = again
