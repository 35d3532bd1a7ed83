"""The table of outcomes, every cell of it."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
import trio

from trio_queue.completion import (
    Completion,
    Interrupted,
    InterruptedJobs,
    Outcome,
    Raised,
    Returned,
    decide,
    is_job_aborted,
    leaves,
)
from trio_queue.exceptions import JobAborted
from trio_queue.jobs import AbortReason, DeleteJobCondition, Job, Status
from trio_queue.retry import BaseRetryStrategy, RetryDecision, RetryStrategy

RETRY, REQUEUE, ABORT = InterruptedJobs.RETRY, InterruptedJobs.REQUEUE, InterruptedJobs.ABORT
NOT_ABORTED, SHUTDOWN, USER, LOST = (
    None,
    *(AbortReason[name] for name in ("SHUTDOWN", "USER_REQUEST", "LEASE_LOST")),
)
JOB = Job(id=7, task_name="task", attempts=2)


def stray_cancelled() -> BaseException:
    """A Cancelled that no scope of ours has sent."""

    async def catch_one() -> BaseException:
        with trio.CancelScope() as scope:
            scope.cancel()
            try:
                await trio.lowlevel.checkpoint()
            except trio.Cancelled as cancelled:
                return cancelled
        raise AssertionError("not reached")

    return trio.run(catch_one)


def group(*errors: BaseException) -> BaseException:
    return BaseExceptionGroup("in a group", errors)


ERRORS: dict[str, BaseException] = {
    "ValueError": ValueError(),
    "group with JobAborted and more": group(JobAborted(), ValueError()),
    "Cancelled": stray_cancelled(),
    "KeyboardInterrupt": KeyboardInterrupt(),
    "SystemExit": SystemExit(),
    "exit in a group": group(ValueError(), SystemExit()),
}
ABORTED: dict[str, BaseException] = {
    "JobAborted": JobAborted(),
    "group": group(JobAborted(), JobAborted()),
    "nested": group(group(JobAborted())),
}
#: What may be retried, of what is raised and not JobAborted.
RETRIABLE = {"ValueError", "group with JobAborted and more"}


def written(
    outcome: Outcome,
    reason: AbortReason | None,
    *,
    strategy: BaseRetryStrategy | None = None,
    interrupted_jobs: InterruptedJobs = RETRY,
    delete_jobs: DeleteJobCondition = DeleteJobCondition.NEVER,
) -> Completion | None:
    return decide(
        outcome,
        job=JOB,
        reason=reason,
        strategy=strategy,
        interrupted_jobs=interrupted_jobs,
        delete_jobs=delete_jobs,
    )


def summary(completion: Completion | None) -> str | None:
    """`succeeded`, `failed`, `aborted`, `retried`, `requeued`, or None for nothing written."""
    if completion is None:
        return None
    assert (completion.job_id, completion.attempts) == (7, 2), "the fence"
    if completion.status is not Status.TODO:
        assert completion.retry is None
        return str(completion.status.value)
    return "requeued" if completion.retry is None else "retried"


@pytest.mark.promise("What becomes of a job / returns")
@pytest.mark.parametrize("interrupted_jobs", InterruptedJobs)
@pytest.mark.parametrize("strategy", [None, RetryStrategy()])
@pytest.mark.parametrize("reason", [NOT_ABORTED, SHUTDOWN, USER])
def test_what_returns_has_succeeded_whatever_it_was_asked(
    reason: AbortReason | None,
    strategy: BaseRetryStrategy | None,
    interrupted_jobs: InterruptedJobs,
) -> None:
    completion = written(Returned(1), reason, strategy=strategy, interrupted_jobs=interrupted_jobs)
    assert summary(completion) == "succeeded"


#: reason, interrupted_jobs, whether there is a strategy -> what becomes of the row
INTERRUPTED: list[tuple[AbortReason | None, InterruptedJobs, bool, str]] = [
    (SHUTDOWN, RETRY, False, "aborted"),
    (SHUTDOWN, RETRY, True, "retried"),
    (SHUTDOWN, REQUEUE, False, "requeued"),
    (SHUTDOWN, REQUEUE, True, "requeued"),
    (SHUTDOWN, ABORT, False, "aborted"),
    (SHUTDOWN, ABORT, True, "aborted"),
    *(
        (USER, policy, retries, "aborted")
        for policy in InterruptedJobs
        for retries in (False, True)
    ),
    *(
        (NOT_ABORTED, policy, retries, "aborted")
        for policy in InterruptedJobs
        for retries in (False, True)
    ),
]


@pytest.mark.promise(
    "What becomes of a job / is cancelled by the worker, or had not begun",
    "What becomes of a job / raises JobAborted",
)
@pytest.mark.parametrize(("reason", "interrupted_jobs", "retries", "expected"), INTERRUPTED)
@pytest.mark.parametrize("how", ["cancelled", *ABORTED])
def test_what_gives_up_ends_as_the_reason_and_the_policy_say(
    how: str,
    reason: AbortReason | None,
    interrupted_jobs: InterruptedJobs,
    retries: bool,
    expected: str,
) -> None:
    outcome = Interrupted() if how == "cancelled" else Raised(ABORTED[how])
    completion = written(
        outcome,
        reason,
        strategy=RetryStrategy() if retries else None,
        interrupted_jobs=interrupted_jobs,
    )
    assert summary(completion) == expected
    assert completion is not None
    assert completion.reason == (reason.value if reason else None)
    assert completion.if_abort_requested is Status.ABORTED


@pytest.mark.promise(
    "What becomes of a job / raises another exception",
    "What becomes of a job / ends by a cancellation of its own making",
    "What becomes of a job / raises KeyboardInterrupt or SystemExit",
)
@pytest.mark.parametrize("interrupted_jobs", InterruptedJobs)
@pytest.mark.parametrize("retries", [False, True])
@pytest.mark.parametrize("reason", [NOT_ABORTED, SHUTDOWN, USER])
@pytest.mark.parametrize("error", ERRORS)
def test_what_raises_is_retried_or_has_failed(
    error: str, reason: AbortReason | None, retries: bool, interrupted_jobs: InterruptedJobs
) -> None:
    completion = written(
        Raised(ERRORS[error]),
        reason,
        strategy=RetryStrategy() if retries else None,
        interrupted_jobs=interrupted_jobs,
    )
    retried = retries and error in RETRIABLE and reason is not USER
    assert summary(completion) == ("retried" if retried else "failed")
    if retried:
        assert completion is not None
        assert completion.if_abort_requested is Status.FAILED


@pytest.mark.parametrize(
    "outcome", [Returned(), Interrupted(), *map(Raised, [*ERRORS.values(), *ABORTED.values()])]
)
def test_after_a_lost_lease_nothing_is_written(outcome: Outcome) -> None:
    completion = written(
        outcome, LOST, strategy=RetryStrategy(), delete_jobs=DeleteJobCondition.ALWAYS
    )
    assert completion is None


@pytest.mark.parametrize(
    ("condition", "deleted"),
    [
        (DeleteJobCondition.NEVER, set[str]()),
        (DeleteJobCondition.SUCCESSFUL, {"succeeded"}),
        (DeleteJobCondition.ALWAYS, {"succeeded", "failed", "aborted"}),
    ],
)
def test_jobs_that_ended_are_deleted_as_the_worker_says(
    condition: DeleteJobCondition, deleted: set[str]
) -> None:
    for outcome, reason, expected in (
        (Returned(), None, "succeeded"),
        (Raised(ValueError()), None, "failed"),
        (Interrupted(), USER, "aborted"),
    ):
        completion = written(outcome, reason, delete_jobs=condition)
        assert completion is not None
        assert summary(completion) == expected
        assert completion.delete == (expected in deleted)


@pytest.mark.parametrize("policy", [RETRY, REQUEUE])
def test_a_job_that_waits_again_is_not_deleted(policy: InterruptedJobs) -> None:
    completion = written(
        Interrupted(),
        SHUTDOWN,
        strategy=RetryStrategy(),
        interrupted_jobs=policy,
        delete_jobs=DeleteJobCondition.ALWAYS,
    )
    assert completion is not None
    assert not completion.delete


class Noted(BaseRetryStrategy):
    """A strategy that keeps what it was asked."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.asked: list[tuple[BaseException, Job]] = []

    def get_retry_decision(self, *, exception: BaseException, job: Job) -> RetryDecision | None:
        self.asked.append((exception, job))
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer  # type: ignore[no-any-return]  # a user's strategy may return anything


def test_the_strategy_is_given_the_error_and_the_job() -> None:
    strategy, error = Noted(RetryDecision(retry_in={"seconds": 3})), ValueError()
    completion = written(Raised(error), None, strategy=strategy)
    assert strategy.asked == [(error, JOB)]
    assert completion is not None
    assert completion.retry_delay == datetime.timedelta(seconds=3)


def test_the_strategy_is_given_job_aborted_for_what_a_shutdown_interrupted() -> None:
    strategy = Noted(None)
    assert summary(written(Interrupted(), SHUTDOWN, strategy=strategy)) == "aborted"
    [(error, _)] = strategy.asked
    assert type(error) is JobAborted


def test_a_strategy_that_gives_up_lets_it_fail() -> None:
    assert summary(written(Raised(ValueError()), None, strategy=Noted(None))) == "failed"


def test_what_a_strategy_raises_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        written(Raised(ValueError()), None, strategy=Noted(ZeroDivisionError()))


def test_a_strategy_that_answers_with_something_else_is_told_so() -> None:
    with pytest.raises(TypeError, match=r"Noted.get_retry_decision\(\) returned True"):
        written(Raised(ValueError()), None, strategy=Noted(True))


def test_the_leaves_of_a_group_are_what_it_holds_however_deep() -> None:
    first, second = ValueError(), KeyError()
    assert list(leaves(group(first, group(second)))) == [first, second]
    assert list(leaves(first)) == [first]


def test_only_job_aborted_alone_is_giving_up() -> None:
    assert all(is_job_aborted(error) for error in ABORTED.values())
    assert not any(is_job_aborted(error) for error in ERRORS.values())


def test_a_group_may_be_as_deep_as_one_likes() -> None:
    """A recursion would be as deep, and raise into the worker."""
    error: BaseException = SystemExit(3)
    for _ in range(10_000):
        both: list[BaseException] = [error, ValueError()]
        error = BaseExceptionGroup("one of them", both)
    first, *others = leaves(error)
    assert isinstance(first, SystemExit)
    assert len(others) == 10_000
