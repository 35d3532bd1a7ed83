"""What is said to the database while jobs are deferred and run, as data.

A verb is a value: its name, its parameters and the type of its answer. A store runs it
(`await store.run(FetchJobs(...))`); who sends it, over which connection and in which colour
(Trio, asyncio, sync, inside a caller's transaction), is not the verb's concern. A verb has the
same name here, in `sql/queries/` and in the log. Those of whoever looks after jobs stand in
`management.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar, Generic, TypeVar

import attrs

from trio_queue.completion import Completion
from trio_queue.jobs import Job, Status

R_co = TypeVar("R_co", covariant=True)


class Verb(Generic[R_co]):
    """Something that can be said to the database; R_co is the type of its answer."""

    name: ClassVar[str]


# -- deferring ----------------------------------------------------------------------------------


@attrs.frozen
class DeferJobs(Verb[list[int]]):
    """Insert jobs, all or none. Answers their ids, in the order of the jobs.

    Raises AlreadyEnqueued where a job waits with the queueing lock of one of them.
    """

    name: ClassVar[str] = "defer_jobs"
    jobs: Sequence[Job]


@attrs.frozen
class DeferPeriodicJob(Verb[int | None]):
    """Insert a periodic job once for its moment, whoever asks. Answers its id; None: already done.

    Raises AlreadyEnqueued like DeferJobs; the moment then counts as not deferred.
    """

    name: ClassVar[str] = "defer_periodic_job"
    job: Job
    periodic_id: str
    #: The moment it is for: seconds since the epoch.
    defer_timestamp: int


# -- working ------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class RegisterWorker(Verb[int]):
    """Make a row for a worker. Answers its id."""

    name: ClassVar[str] = "register_worker"
    worker_name: str | None
    host: str
    pid: int
    version: str
    #: None: every queue.
    queues: Sequence[str] | None
    concurrency: int
    stage: str


@attrs.frozen
class UpdateWorkerStage(Verb[None]):
    """Show a worker's stage to whoever lists the workers."""

    name: ClassVar[str] = "update_worker_stage"
    worker_id: int
    stage: str


@attrs.frozen
class UpdateHeartbeat(Verb[bool]):
    """Renew a worker's lease. Answers whether its row is still there."""

    name: ClassVar[str] = "update_heartbeat"
    worker_id: int


@attrs.frozen
class UnregisterWorker(Verb[None]):
    """Delete a worker's row; nothing happens where it is gone already."""

    name: ClassVar[str] = "unregister_worker"
    worker_id: int


@attrs.frozen
class PruneStalledWorkers(Verb[list[int]]):
    """Delete the rows of workers not heard of for so long. Answers their ids."""

    name: ClassVar[str] = "prune_stalled_workers"
    #: Seconds.
    seconds_since_heartbeat: float


@attrs.frozen
class Fetched:
    """What a claim found."""

    jobs: list[Job]
    #: Where it found all: seconds, by the database's clock, until the next future job is due; None: there
    #: is none, or it was not looked for.
    next_in: float | None = None
    #: There was no more to claim. False: it claimed as many as it was to, or as were allowed by their size.
    found_all: bool = True


@attrs.frozen
class FetchJobs(Verb[Fetched]):
    """Claim the jobs that may start, at most `limit`, by priority and id: they are now `doing`.

    A worker numbers its claims, rescues and releases by `turn`. Once a later one has begun, one that
    arrives late, its answer long given up, does nothing. None: no number.

    It ends before the job with whose arguments it would hold more than `max_bytes`, as the database counts
    them: about as long as they are as JSON. One job it takes in any case. None: it may hold any number.

    An empty answer is not an empty queue: ask HasEligibleJob. Raises WorkerGone where the
    worker's row is gone.
    """

    name: ClassVar[str] = "fetch_jobs"
    worker_id: int
    #: None: every queue.
    queues: Sequence[str] | None
    limit: int
    turn: int | None = None
    max_bytes: int | None = None


@attrs.frozen
class HasEligibleJob(Verb[bool]):
    """Whether a job could start now. Takes no locks; true while another's claim is not committed."""

    name: ClassVar[str] = "has_eligible_job"
    queues: Sequence[str] | None


@attrs.frozen
class Finished:
    """What a completion made of its row."""

    job_id: int
    #: The status that the row has now (the one it had, where it was deleted as was meant).
    #: None: the row is no longer this worker's, and nothing was written.
    status: Status | None


@attrs.frozen
class FinishJobs(Verb[list[Finished]]):
    """Write what became of jobs, each fenced by worker and attempt.

    The answer tells of those only whose row is not what was meant: of a thousand jobs that is none,
    as a rule. A row that already is what was meant (an earlier try arrived, its answer was lost)
    counts as written.
    """

    name: ClassVar[str] = "finish_jobs"
    worker_id: int
    completions: Sequence[Completion]

    def statuses(self, answer: Iterable[Finished]) -> dict[int, Status | None]:
        """What each of the rows is, as `Finished.status` tells it."""
        meant: dict[int, Status | None] = {each.job_id: each.status for each in self.completions}
        return meant | {each.job_id: each.status for each in answer}


@attrs.frozen
class ReleaseJobs(Verb[list[Finished]]):
    """Give back every `doing` job of this worker but those it really runs; attempts not counted.

    For what was claimed and never started, and after a claim whose answer did not come. A job
    whose abort was asked for ends `aborted`; one whose queueing lock is taken ends `cancelled`.
    """

    name: ClassVar[str] = "release_jobs"
    worker_id: int
    keep: Sequence[int]
    #: See FetchJobs.
    turn: int | None = None


@attrs.frozen
class ListJobsToAbort(Verb[list[int]]):
    """The ids of this worker's running jobs whose abort is asked for."""

    name: ClassVar[str] = "list_jobs_to_abort"
    worker_id: int


# -- leases: what becomes of the jobs of a worker whose row is gone ---------------------------------


@attrs.frozen
class AdoptJobs(Verb[list[int]]):
    """Take over jobs of a row that was lost, under the row that the worker got by registering anew.

    Answers the ids, in order, of those that are still `doing`, with no worker (or under the lost
    id, or under the new one: an earlier try arrived) and with the same `attempts`: nobody else has
    them. The others are somebody else's by now. Waits for whoever is about to take or end one.
    Raises WorkerGone where there is something to take and the new row is gone, too.
    """

    name: ClassVar[str] = "adopt_jobs"
    worker_id: int
    lost_id: int
    #: The id and the `attempts` of each.
    jobs: Sequence[tuple[int, int]]


@attrs.frozen
class Orphan:
    """A job that was taken over from a dead worker. It is `doing` under the worker that took it."""

    job: Job
    #: How many workers have died under it, this time included: one more than it has events with
    #: the reason WORKER_DIED.
    deaths: int


@attrs.frozen
class AdoptOrphans(Verb[list[Orphan]]):
    """Take over jobs of dead workers of ours, each by one worker only, however many ask.

    First deletes the rows of our workers (those with a row in `trio_queue_workers`) that were not
    heard of for so long, but not the asker's own; then takes what was noted of them, the lowest ids
    first. Procrastinate's workers and their jobs are left alone. Waits for nobody: what somebody
    else holds at the moment is left for the next time. Cheap where nobody died.

    Raises WorkerGone where there is something to take and the asker's row is gone. After a lost
    answer (a cancel, a cut wire) the asker may hold jobs that it does not know of: ReleaseJobs, as
    after a claim.
    """

    name: ClassVar[str] = "adopt_orphans"
    worker_id: int
    #: Seconds without a heartbeat after which a worker is taken for dead.
    stalled_after: float
    limit: int
    #: See FetchJobs.
    turn: int | None = None
