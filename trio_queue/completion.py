"""What becomes of a row: how a job's body ended, why it was asked to stop, and what is written.

`decide` is the table of outcomes of the documentation, as a pure function.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from enum import Enum
from typing import Any, Final, TypeAlias, assert_never, cast

import attrs

from trio_queue.exceptions import JobAborted
from trio_queue.jobs import AbortReason, DeleteJobCondition, Job, Status
from trio_queue.retry import BaseRetryStrategy, RetryDecision


@attrs.frozen
class Returned:
    """The body returned, whatever it was asked."""

    result: Any = None


@attrs.frozen
class Raised:
    """The body raised, also where it raised something of its own while it was being aborted."""

    error: BaseException


@attrs.frozen
class Interrupted:
    """The body ended by the cancel of its own scope, or had not begun when it came."""


#: Most jobs return nothing: they share what says so.
_RETURNED_NOTHING: Final = Returned()
INTERRUPTED: Final = Interrupted()


def returned(result: Any) -> Returned:
    """The outcome of a body that returned this."""
    return _RETURNED_NOTHING if result is None else Returned(result)


class StalledJobs(Enum):
    """What becomes of the jobs of a worker that died."""

    REQUEUE = "requeue"  #: Back to `todo`, available at once, the attempt counted.
    RETRY = "retry"  #: The retry strategy decides (it is given JobAborted); without one: failed.
    FAIL = "fail"  #: Failed.
    LEAVE = "leave"  #: They stay `doing` until somebody retries them by hand.


# Reasons that stand beside a job's event, other than those of AbortReason. Where one thing leads to
# another they are joined by "; ".

#: Its worker died: how its deaths are counted.
WORKER_DIED = "worker_died"
#: It was claimed, and given back by a drain before its body began.
NOT_BEGUN = "shutdown; not begun"
#: Its worker held it and did not run it: the answer to the claim was lost.
RELEASED = "released"
#: The worker that claimed it knows no task of its name.
TASK_NOT_FOUND = "task_not_found"
#: Its retry strategy raised.
STRATEGY_RAISED = "retry_strategy_error"
#: The database refused what its retry strategy decided.
RETRY_REFUSED = "retry_refused"

Outcome: TypeAlias = Returned | Raised | Interrupted


class InterruptedJobs(Enum):
    """What becomes of a job that a shutdown interrupted."""

    RETRY = "retry"  #: The retry strategy decides (it is given JobAborted); without one: aborted.
    REQUEUE = "requeue"  #: Back to `todo`, available at once, the attempt not counted.
    ABORT = "abort"  #: Aborted, whatever the strategy says.


@attrs.frozen(kw_only=True)
class Completion:
    """What is to be written for one job that a worker held.

    The write is fenced: it takes effect only while the row is `doing` under this worker, with
    `attempts` as it was when the job was fetched.
    """

    job_id: int
    #: The fence: the row's `attempts` when the job was fetched.
    attempts: int
    #: SUCCEEDED, FAILED or ABORTED ends the job; TODO gives it back, by `retry` or as it was.
    status: Status
    #: Given with TODO only: the attempt is counted, and this says when it is tried again.
    retry: RetryDecision | None = None
    #: What it ends as where TODO is not possible because a user asked for its abort meanwhile.
    #: (Where another job waits with the same queueing lock it ends `cancelled`.)
    if_abort_requested: Status = Status.ABORTED
    #: Delete the row instead of finishing it. Never with TODO.
    delete: bool = False
    #: Stands beside the job's event; None where there is nothing to tell.
    reason: str | None = None

    @property
    def retry_delay(self) -> datetime.timedelta | None:
        """How long after the write it is tried again, where a duration was given."""
        return self.retry.delay if self.retry else None


def decide(
    outcome: Outcome,
    *,
    job: Job,
    reason: AbortReason | None,
    strategy: BaseRetryStrategy | None,
    interrupted_jobs: InterruptedJobs,
    delete_jobs: DeleteJobCondition,
) -> Completion | None:
    """Decide what is written for a job.

    Args:
        outcome: How its body ended.
        job: The job as it was fetched.
        reason: Why it was asked to stop, if it was.
        strategy: Its task's retry strategy, if it has one.
        interrupted_jobs: What becomes of it if a shutdown interrupted it.
        delete_jobs: Which finished jobs are deleted.

    Returns:
        What is to be written; None: nothing, the row is somebody else's.

    Raises:
        Exception: What the retry strategy raises.
    """
    if reason is AbortReason.LEASE_LOST:
        return None
    match outcome:
        case Returned():
            return succeeded(job, reason, delete_jobs)
        case Interrupted():
            return _aborted(job, JobAborted(), reason, strategy, interrupted_jobs, delete_jobs)
        case Raised(error):
            if is_job_aborted(error):
                return _aborted(job, error, reason, strategy, interrupted_jobs, delete_jobs)
            return _failed(job, error, reason, strategy, delete_jobs)
        case _:
            assert_never(outcome)


def succeeded(
    job: Job, reason: AbortReason | None, delete_jobs: DeleteJobCondition
) -> Completion | None:
    """What is written for a job whose body returned: `decide`, where there is nothing to decide."""
    if reason is AbortReason.LEASE_LOST:
        return None
    return _finish(job, Status.SUCCEEDED, delete_jobs, reason)


def without_retry(completion: Completion) -> Completion:
    """What is written for a job that was to be retried, and cannot: it ends."""
    ended = attrs.evolve(completion, status=completion.if_abort_requested, retry=None)
    return because(ended, RETRY_REFUSED)


def because(completion: Completion, reason: str) -> Completion:
    """The same with one more reason beside the event."""
    reasons = [completion.reason, reason] if completion.reason else [reason]
    return attrs.evolve(completion, reason="; ".join(reasons))


def decide_orphan(
    job: Job, deaths: int, *, policy: StalledJobs, limit: int, strategy: BaseRetryStrategy | None
) -> Completion:
    """Decide what becomes of a job whose worker died.

    Args:
        job: The job, as it was taken over.
        deaths: How many workers have died under it.
        policy: What is to become of it; not LEAVE, under which nobody takes it over.
        limit: From so many deaths on it fails whatever the policy: it may be what kills them.
        strategy: Its task's retry strategy, if it has one.

    Raises:
        Exception: What the retry strategy raises.
    """
    retry: RetryDecision | None = None
    if deaths < limit and policy is StalledJobs.REQUEUE:
        retry = RetryDecision()
    elif deaths < limit and policy is StalledJobs.RETRY:
        retry = _retry_decision(strategy, JobAborted("its worker died"), job)
    # The reason is how deaths are counted: it is the same for each of them.
    reason = WORKER_DIED if deaths < limit else f"{WORKER_DIED} {deaths} times under it"
    return Completion(
        job_id=_id(job),
        attempts=job.attempts,
        status=Status.FAILED if retry is None else Status.TODO,
        retry=retry,
        reason=reason,
    )


def is_job_aborted(error: BaseException) -> bool:
    """Whether this says that the job gave up because it was asked to, and nothing else."""
    return all(isinstance(leaf, JobAborted) for leaf in leaves(error))


def leaves(error: BaseException) -> Iterator[BaseException]:
    """The exceptions of a group, in order and however deep; or the one that it is."""
    rest = [error]
    while rest:
        each = rest.pop()
        if isinstance(each, BaseExceptionGroup):
            rest.extend(reversed(cast("BaseExceptionGroup[BaseException]", each).exceptions))
        else:
            yield each


def _aborted(
    job: Job,
    error: BaseException,
    reason: AbortReason | None,
    strategy: BaseRetryStrategy | None,
    interrupted_jobs: InterruptedJobs,
    delete_jobs: DeleteJobCondition,
) -> Completion:
    if reason is not AbortReason.SHUTDOWN:
        return _finish(job, Status.ABORTED, delete_jobs, reason)
    match interrupted_jobs:
        case InterruptedJobs.ABORT:
            return _finish(job, Status.ABORTED, delete_jobs, reason)
        case InterruptedJobs.REQUEUE:
            return _give_back(job, None, Status.ABORTED, reason)
        case InterruptedJobs.RETRY:
            decision = _retry_decision(strategy, error, job)
            if decision is None:
                return _finish(job, Status.ABORTED, delete_jobs, reason)
            return _give_back(job, decision, Status.ABORTED, reason)
        case _:
            assert_never(interrupted_jobs)


def _failed(
    job: Job,
    error: BaseException,
    reason: AbortReason | None,
    strategy: BaseRetryStrategy | None,
    delete_jobs: DeleteJobCondition,
) -> Completion:
    # KeyboardInterrupt and SystemExit are for the worker: the job failed by them, for good.
    if reason is not AbortReason.USER_REQUEST and all(
        isinstance(leaf, Exception) for leaf in leaves(error)
    ):
        decision = _retry_decision(strategy, error, job)
        if decision is not None:
            return _give_back(job, decision, Status.FAILED, reason)
    return _finish(job, Status.FAILED, delete_jobs, reason)


def _retry_decision(
    strategy: BaseRetryStrategy | None, error: BaseException, job: Job
) -> RetryDecision | None:
    if strategy is None:
        return None
    decision = strategy.get_retry_decision(exception=error, job=job)
    if decision is None or isinstance(decision, RetryDecision):  # pyright: ignore[reportUnnecessaryIsInstance]  a user's strategy may return anything
        return decision
    raise TypeError(
        f"{type(strategy).__name__}.get_retry_decision() returned {decision!r}: "
        "return a RetryDecision, or None to give up"
    )


def _give_back(
    job: Job, retry: RetryDecision | None, if_abort_requested: Status, reason: AbortReason | None
) -> Completion:
    return Completion(
        job_id=_id(job),
        attempts=job.attempts,
        status=Status.TODO,
        retry=retry,
        if_abort_requested=if_abort_requested,
        reason=reason and reason.value,
    )


def _finish(
    job: Job, status: Status, delete_jobs: DeleteJobCondition, reason: AbortReason | None = None
) -> Completion:
    return Completion(
        job_id=_id(job),
        attempts=job.attempts,
        status=status,
        delete=delete_jobs is DeleteJobCondition.ALWAYS
        or (delete_jobs is DeleteJobCondition.SUCCESSFUL and status is Status.SUCCEEDED),
        reason=reason and reason.value,
    )


def _id(job: Job) -> int:
    assert job.id is not None, "a job that a worker holds has a row"
    return job.id
