"""What is to happen to a worker and its jobs, as data: drawn by a search, or kept because it told.

Times are in seconds of fake time from the start of `run()`, durations from the beginning of a body.
"""

from __future__ import annotations

from enum import Enum
from typing import TypeAlias

import attrs

from trio_queue.completion import InterruptedJobs
from trio_queue.jobs import DeleteJobCondition


class Ending(Enum):
    """How a body ends by itself."""

    RETURN = "returns"
    RAISE = "raises an error"
    JOB_ABORTED = "raises JobAborted"
    JOB_ABORTED_GROUP = "raises a group of nothing but JobAborted"
    MIXED_GROUP = "raises a group of JobAborted and an error"
    STRAY = "raises a Cancelled that is not its scope's"
    KEYBOARD_INTERRUPT = "raises KeyboardInterrupt"
    SYSTEM_EXIT = "raises SystemExit"


class OnCancel(Enum):
    """What a body does when its scope is cancelled."""

    HEED = "ends by it"
    CLEAN_UP = "ends by it, after a second of shielded clean-up"
    RETURN = "swallows it and returns at once"
    RAISE = "raises an error of its clean-up"
    JOB_ABORTED = "raises JobAborted"
    GO_ON = "swallows it and goes on to its ending"
    DEAF = "is shielded and does not hear it"
    THREAD = "is a sync function: it waits in its thread and does not hear it"


@attrs.frozen
class JobSpec:
    """A job: what its body does, and its task's options."""

    seconds: float = 1.5
    ending: Ending = Ending.RETURN
    on_cancel: OnCancel = OnCancel.HEED
    #: So many retries at most, so many seconds apart.
    retries: int = 0
    retry_wait: int = 0
    interrupted_jobs: InterruptedJobs | None = None
    lock: str | None = None
    queueing_lock: str | None = None
    #: When it is deferred; 0: it waits when the worker starts.
    deferred_at: float = 0


class Ask(Enum):
    """A way to ask the worker to stop."""

    STOP = "stop()"
    ABORT = "abort()"
    ASK = "a signal"
    CANCEL = "the scope around run() is cancelled"


@attrs.frozen
class AskWorker:
    """Somebody asks the worker to stop."""

    at: float
    how: Ask


@attrs.frozen
class AbortJob:
    """A user cancels the job of this number (in the order of the script's jobs), `abort=True`."""

    at: float
    job: int


class Theft(Enum):
    """What becomes of the jobs of a worker whose row is deleted."""

    NONE = "nobody takes them"
    KEEP = "another worker takes them, and is not heard of again"
    SUCCEED = "another worker takes them, and they succeed"
    RETRY = "another worker takes them, and gives them back with their attempt counted"


@attrs.frozen
class Prune:
    """Somebody takes the worker for dead and deletes its row."""

    at: float
    theft: Theft


class Ill(Enum):
    """How a statement goes wrong."""

    FAIL = "fails, nothing done"
    LOSE = "is done, and its answer lost"
    HANG = "hangs, nothing done"
    HANG_AFTER = "is done, and its answer hangs"
    SLOW = "takes `SLOWNESS` seconds longer before it is done"
    SLOW_AFTER = "takes `SLOWNESS` seconds longer after it is done"


SLOWNESS = 0.7

#: The statements that trouble is ordered for, by name; ALL: every one of them.
VERBS = (
    "fetch_jobs",
    "finish_jobs",
    "release_jobs",
    "list_jobs_to_abort",
    "has_eligible_job",
    "register_worker",
    "update_heartbeat",
    "unregister_worker",
    "update_worker_stage",
    "adopt_jobs",
    "adopt_orphans",
)
ALL = "all"


@attrs.frozen
class Trouble:
    """From `at` on, for so many seconds, a statement (or all) goes wrong whenever it is said."""

    at: float
    verb: str
    ill: Ill
    seconds: float

    @property
    def until(self) -> float:
        """When it goes well again."""
        return self.at + self.seconds

    def meets(self, *verbs: str) -> bool:
        """Whether it concerns one of these statements."""
        return self.verb == ALL or self.verb in verbs


@attrs.frozen
class Refusal:
    """From `at` on, a statement of a service is refused for good: the service cannot recover."""

    at: float
    verb: str


#: What only services say that cannot go on without it.
REFUSABLE = ("fetch_jobs", "list_jobs_to_abort", "update_worker_stage", "adopt_orphans")


@attrs.frozen
class Missed:
    """The connection that listens was lost, and is back."""

    at: float


Step: TypeAlias = AskWorker | AbortJob | Prune | Trouble | Refusal | Missed

#: The worker's intervals.
POLL = 5.0
BEAT = 3.0
STALLED = 9.0
#: When a script that has not ended the worker does so: it asks, and then insists.
LAST_STOP = 45.0
LAST_ABORT = 90.0


@attrs.frozen
class Script:
    """A worker's options, its jobs, and what happens, in order of time."""

    jobs: tuple[JobSpec, ...] = (JobSpec(),)
    steps: tuple[Step, ...] = ()
    concurrency: int = 2
    #: How many jobs are claimed ahead; None: by pace, which in a clock that jumps is none.
    prefetch: int | None = None
    thread_limit: int | None = None
    wait: bool = True
    listen: bool = True
    graceful_timeout: float | None = None
    interrupted_jobs: InterruptedJobs = InterruptedJobs.RETRY
    delete_jobs: DeleteJobCondition = DeleteJobCondition.NEVER
    #: Seconds that registering takes at the start.
    slow_start: float = 0
    #: Which of the orders Trio may run its tasks in.
    order: int = 0

    @property
    def troubles(self) -> tuple[Trouble, ...]:
        """The steps that are trouble."""
        return tuple(step for step in self.steps if isinstance(step, Trouble))
