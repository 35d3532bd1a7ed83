"""The jobs in a worker's hands: who runs, why it must stop, and whether it has begun."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import trio

from trio_queue.completion import INTERRUPTED, NOT_BEGUN, Completion, Outcome
from trio_queue.jobs import AbortReason, Job

#: So many outcomes may wait to be written before no more jobs are claimed; four times as many as run at once, where that is more.
#: Whoever claims takes his steps in three turns of the loop, and in each as many short jobs end as run at once: with less room
#: every claim was made after the write, and not beside it: 23,000 no-op jobs/s at a thousand places, and 29,000 so (four pairs).
MAX_UNWRITTEN = 1_000
#: So many jobs are claimed at once for little more a job than twice as many. To wait for half of two thousand to begin
#: meant that the other half had often begun, too, before the claim was answered: 51,000/s, and 52,000 by this.
WORTH_A_CLAIM = 500


class RunningJob:
    """A job that this worker claimed and whose row is not written yet.

    Thousands wait claimed ahead. What most of them never say stands at the class, and takes neither time nor room.
    """

    #: The first reason to stop, never overwritten.
    reason: AbortReason | None = None
    #: Its body has begun: it is run to its end, or aborted, but not given back.
    started: bool = False
    #: Why it goes back to `todo`, where its body never begins.
    given_back: str | None = None
    #: Lets it go on out of turn, while it waits for a place; None: it does not wait.
    out_of_turn: Callable[[RunningJob], None] | None = None
    #: False while its body runs in a thread. An interrupt would not reach the thread,
    #: but raise inside the job's own calls back into Trio.
    interruptible: bool = True
    #: Its row is somebody else's, whatever it had been asked to stop for before.
    lost: bool = False
    #: Its body has ended, and so, or it never began; its row is still to be written.
    ended: bool = False
    outcome: Outcome = INTERRUPTED
    #: What is to be written; None: nothing, the row is somebody else's.
    completion: Completion | None = None
    #: When its body ended, by the wall's clock (seconds since the epoch).
    end_timestamp: float = 0.0
    #: When the body began, by Trio's clock.
    started_at: float = 0.0
    #: When it was asked to stop, by Trio's clock; infinity: it was not.
    asked_at: float = math.inf
    #: When it was given a place, by the wall's clock (seconds since the epoch).
    start_timestamp: float = 0.0
    #: Interrupts its body, given why; None: nothing is there to be interrupted yet.
    interrupt: Callable[[str], None] | None = None
    #: What the lines of the log tell of the job, where there are any.
    log_context: dict[str, Any] | None = None

    def __init__(self, job: Job, worker_id: int, claimed_at: float = 0.0) -> None:
        """Take a job that was claimed.

        Args:
            job: The job as its row was.
            worker_id: The worker's id that it was claimed under: half of the fence of its row.
            claimed_at: When, by Trio's clock.
        """
        assert job.id is not None, "a claimed job has a row"
        self.job = job
        self.id: int = job.id
        self.worker_id = worker_id
        self.claimed_at = claimed_at

    def abort(self, reason: AbortReason) -> bool:
        """Ask the job to stop, unless it was asked before. Answers whether this is the first time.

        The reason is set before its body is interrupted, which finds it when it wakes up.
        """
        if self.reason is not None:
            return False
        self.reason = reason
        self.asked_at = trio.current_time()
        if self.interruptible:
            self._interrupt(reason.value)
        self._go_on()
        return True

    def give_back(self, why: str = NOT_BEGUN) -> None:
        """Let the job go back to `todo` if its body has not begun."""
        if not self.started and self.reason is None:
            self.given_back = why
            self._interrupt(why)
            self._go_on()

    @property
    def was_stopped(self) -> bool:
        """Whether it was asked to stop, or is to go back: a body that has not begun does not begin."""
        return self.reason is not None or self.given_back is not None

    def _interrupt(self, why: str) -> None:
        if self.interrupt is not None:
            self.interrupt(why)

    def _go_on(self) -> None:
        if self.out_of_turn is not None:
            self.out_of_turn(self)

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
            self._interrupt(self.reason.value)


class RunningJobs:
    """The table of the jobs in a worker's hands.

    A body has a place, from its task's begin to its own end: there are `concurrency` of them. A job that was
    claimed ahead waits for one; a job that has ended waits for its row to be written.
    """

    def __init__(self, places: int) -> None:
        self._places = places
        self._jobs: dict[int, RunningJob] = {}
        self._waiting: deque[RunningJob] = deque()
        self._bodies = 0
        self._start: Callable[[RunningJob], None] | None = None
        # Made once: every job that waits has it.
        self._out_of_turn = self._start_out_of_turn
        #: So many may wait however many are claimed ahead: where they are large, as many as one claim may hold.
        self.enough = math.inf
        #: How many bodies were given a place, ever.
        self.begun = 0
        # Earlier runs of jobs that we claimed again before we had let go of them: the answer to a
        # write that gave a job back may come after that of the claim that took it again, and a job
        # whose lease was lost may come back while its lost run still cleans up.
        self._earlier: set[RunningJob] = set()
        self._let_go = trio.Event()
        self._has_room = trio.Event()
        # What whoever waits for room claims ahead; None: nobody waits.
        self._ahead: int | None = None
        self._taken = trio.Event()
        self._has_waiting = trio.Event()
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
    def bodies(self) -> int:
        """How many have a place: their bodies run, or are about to."""
        return self._bodies

    @property
    def unwritten(self) -> int:
        """How many have ended whose rows are not written."""
        return len(self) - self._bodies - len(self._waiting)

    def room(self, ahead: int) -> int:
        """How many may be claimed now, so many of them ahead; 0 as long as that is not worth a claim.

        That is as long as half of those, or of enough, still wait.
        """
        spare = min(max(ahead // 2, ahead - WORTH_A_CLAIM), self.enough // 2)
        if len(self._waiting) > spare or self.unwritten >= max(MAX_UNWRITTEN, 4 * self._places):
            return 0
        return max(0, self._places - self._bodies + ahead - len(self._waiting))

    def start_with(self, start: Callable[[RunningJob], None]) -> None:
        """From here on, a job that has a place is started by this, at once."""
        self._start = start

    def add(self, running: RunningJob) -> None:
        """Take a claimed job into our hands. It starts now, or when a place is free."""
        if earlier := self._jobs.get(running.id):
            self._earlier.add(earlier)
        self._jobs[running.id] = running
        self._taken.set()
        self._left.discard(running.id)
        if self._bodies < self._places and not self._waiting:
            self._give_place(running)
            return
        running.out_of_turn = self._out_of_turn
        self._waiting.append(running)
        self._has_waiting.set()

    def body_ended(self, running: RunningJob) -> None:
        """Its place is free; it stays in our hands until its row is written."""
        running.ended = True
        self._bodies -= 1
        # One at most: no job waits while a place is free.
        if self._waiting and self._bodies < self._places:
            self._give_place(self._waiting.popleft())
        self._tell_room()

    def _start_out_of_turn(self, running: RunningJob) -> None:
        # Its body never begins, so that one more than there are places does no harm.
        self._waiting.remove(running)
        self._give_place(running)

    def _give_place(self, running: RunningJob) -> None:
        assert self._start is not None, "jobs are claimed while there is somebody who starts them"
        running.out_of_turn = None
        self._bodies += 1
        self.begun += 1
        running.start_timestamp = time.time()
        self._start(running)

    def _tell_room(self) -> None:
        # Not at each job: whoever claims would wake up a hundred times to claim once.
        if self._ahead is not None and self.room(self._ahead):
            self._has_room.set()

    def let_go(self, jobs: Iterable[RunningJob]) -> None:
        """Their rows are written: their places are free."""
        for running in jobs:
            if self._jobs.get(running.id) is running:
                del self._jobs[running.id]
            else:
                self._earlier.discard(running)
        self._let_go.set()
        self._let_go = trio.Event()
        self._tell_room()

    def leave(self, jobs: Iterable[RunningJob]) -> None:
        """Their bodies ran and their rows cannot be written: they stay as they are, for the rescue."""
        left = list(jobs)
        self._left.update(running.id for running in left)
        self.let_go(left)

    def leave_row(self, job_id: int) -> None:
        """A row that was taken over cannot be written: it stays as it is, until this worker ends."""
        self._left.add(job_id)

    async def wait_room(self, ahead: Callable[[], int]) -> int:
        """Wait until more jobs may be claimed; how many. `ahead` tells how many of them ahead."""
        while not (room := self.room(ahead())):
            # Nobody claims meanwhile, so that it grows by no claim; it may fall, and then he looks in vain.
            self._ahead, self._has_room = ahead(), trio.Event()
            await self._has_room.wait()
            self._ahead = None
        return room

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
        """Let go back to `todo` what has not begun: a wait for a place or a thread, a task not yet stepped."""
        for running in self:
            running.give_back()

    def give_back_waiting(self, why: str) -> None:
        """Let go back to `todo` what waits for a place."""
        for running in tuple(self._waiting):
            running.give_back(why)

    async def wait_waiting(self) -> RunningJob:
        """Wait until a job waits for a place; the one that does for the longest time."""
        while not self._waiting:
            self._has_waiting = trio.Event()
            await self._has_waiting.wait()
        return self._waiting[0]
