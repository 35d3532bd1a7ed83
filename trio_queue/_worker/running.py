"""The jobs in a worker's hands: who runs, why it must stop, and whether it has begun."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator

import attrs
import trio

from trio_queue.jobs import AbortReason, Job


@attrs.define(eq=False)
class RunningJob:
    """A job that this worker claimed and whose row is not written yet."""

    job: Job
    #: The worker's id that the job was claimed under: half of the fence of its row.
    worker_id: int
    #: The first reason to stop, never overwritten.
    reason: AbortReason | None = None
    #: Its body has begun: it is run to its end, or aborted, but not given back.
    started: bool = False
    #: It had not begun when the drain did: it goes back to `todo`.
    given_back: bool = False
    #: False while its body runs in a thread. The cancel of the scope would not reach the thread,
    #: but raise inside the job's own calls back into Trio.
    interruptible: bool = True
    #: Its row is somebody else's, whatever it had been asked to stop for before.
    lost: bool = False
    #: Its body has ended; its row is still to be written.
    ended: bool = False
    #: When the body began, by Trio's clock.
    started_at: float = 0.0
    #: When it was asked to stop, by Trio's clock; infinity: it was not.
    asked_at: float = math.inf
    #: When the job was taken up, by the wall's clock (seconds since the epoch).
    start_timestamp: float = attrs.field(factory=time.time)
    # Shielded: the cancel of the worker never reaches a job by accident.
    scope: trio.CancelScope = attrs.field(factory=lambda: trio.CancelScope(shield=True))

    @property
    def id(self) -> int:
        """The job's id."""
        assert self.job.id is not None, "a claimed job has a row"
        return self.job.id

    def abort(self, reason: AbortReason) -> bool:
        """Ask the job to stop, unless it was asked before. Answers whether this is the first time.

        The reason is set before the scope is cancelled: a body that wakes up finds it.
        """
        if self.reason is not None:
            return False
        self.reason = reason
        self.asked_at = trio.current_time()
        if self.interruptible:
            self.scope.cancel(reason=reason.value)
        return True

    def give_back(self) -> None:
        """Let the job go back to `todo` if its body has not begun."""
        if not self.started and self.reason is None:
            self.given_back = True
            self.scope.cancel(reason="the worker drains")

    def body_begins(self, *, in_thread: bool) -> None:
        """From here on it is run to its end."""
        if not self.started:
            self.started = True
            self.started_at = trio.current_time()
        self.interruptible = not in_thread

    def thread_ended(self) -> None:
        """The rest of the body runs on Trio: it may be interrupted, by what was asked meanwhile too."""
        self.interruptible = True
        if self.reason is not None:
            self.scope.cancel(reason=self.reason.value)


class RunningJobs:
    """The table of the jobs in a worker's hands: at most as many as there are places."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._jobs: dict[int, RunningJob] = {}
        # Earlier runs of jobs that we claimed again before we had let go of them: the answer to a
        # write that gave a job back may come after that of the claim that took it again, and a job
        # whose lease was lost may come back while its lost run still cleans up.
        self._earlier: set[RunningJob] = set()
        self._let_go = trio.Event()
        self._taken = trio.Event()
        self._left: set[int] = set()
        #: The ids of jobs of dead workers that this worker took over, in order to end them.
        self.taken_over: set[int] = set()

    def __len__(self) -> int:
        return len(self._jobs) + len(self._earlier)

    def __iter__(self) -> Iterator[RunningJob]:
        return iter((*self._jobs.values(), *self._earlier))

    def get(self, job_id: int) -> RunningJob | None:
        """The latest run of this job, if it is in our hands."""
        return self._jobs.get(job_id)

    @property
    def held_ids(self) -> list[int]:
        """The rows that must not be released: of jobs in our hands, left to the rescue, or being rescued."""
        return [*self._jobs, *self._left, *self.taken_over]

    @property
    def may_hide_claims(self) -> bool:
        """Whether a row that counts as held may have been given back, and claimed anew.

        By a write whose answer has not come, or by whoever took a job of a lost lease.
        """
        return any(each.ended or each.reason is AbortReason.LEASE_LOST for each in self)

    @property
    def free_places(self) -> int:
        """How many more may be claimed."""
        return self._places - len(self)

    def add(self, running: RunningJob) -> None:
        """Take a claimed job into our hands."""
        if earlier := self._jobs.get(running.id):
            self._earlier.add(earlier)
        self._jobs[running.id] = running
        self._taken.set()
        self._left.discard(running.id)

    def let_go(self, jobs: Iterable[RunningJob]) -> None:
        """Their rows are written: their places are free."""
        for running in jobs:
            if self._jobs.get(running.id) is running:
                del self._jobs[running.id]
            else:
                self._earlier.discard(running)
        self._let_go.set()
        self._let_go = trio.Event()

    def leave(self, jobs: Iterable[RunningJob]) -> None:
        """Their bodies ran and their rows cannot be written: they stay as they are, for the rescue."""
        left = list(jobs)
        self._left.update(running.id for running in left)
        self.let_go(left)

    def leave_row(self, job_id: int) -> None:
        """A row that was taken over cannot be written: it stays as it is, until this worker ends."""
        self._left.add(job_id)

    async def wait_free_place(self) -> None:
        """Wait until another job may be claimed."""
        while self.free_places <= 0:
            await self._let_go.wait()

    async def wait_any(self) -> None:
        """Wait until a job is in our hands."""
        while not len(self):
            self._taken = trio.Event()
            await self._taken.wait()

    async def wait_none(self) -> None:
        """Wait until every row is written."""
        while len(self):
            await self._let_go.wait()

    def abort_all(self, reason: AbortReason) -> None:
        """Ask every job to stop that was not asked yet."""
        for running in self:
            running.abort(reason)

    def give_back_unstarted(self) -> None:
        """Let go back to `todo` what has not begun: a queue for a thread, a task not yet stepped."""
        for running in self:
            running.give_back()
