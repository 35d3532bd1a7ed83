"""The table of outcomes: which row a job may have, by how its body ended and why it was to stop."""

from __future__ import annotations

from typing import assert_never

import attrs

from tests.model.record import End, Row
from tests.model.script import JobSpec, Script
from trio_queue.completion import InterruptedJobs
from trio_queue.jobs import AbortReason, DeleteJobCondition


@attrs.frozen
class Written:
    """What a job's row may become; `status` None: it is deleted."""

    status: str | None
    attempts: int
    #: Beside the event; None: nothing stands there; ANYTHING: words for a human.
    reason: str | None = None


ANYTHING = "*"


@attrs.frozen
class Case:
    """A job whose body has ended."""

    script: Script
    spec: JobSpec
    #: Its row, `doing`.
    row: Row
    #: Why it was told to stop.
    reason: AbortReason | None
    #: Another job waits with its queueing lock.
    lock_is_taken: bool

    @property
    def told(self) -> str | None:
        """The reason, as it stands beside an event."""
        return self.reason and self.reason.value

    @property
    def is_retried(self) -> bool:
        """Whether its retry strategy would try it again."""
        return self.row.attempts < self.spec.retries


def written(case: Case, end: End) -> Written | None:
    """What is written for a body that ended so; None: nothing."""
    if case.reason is AbortReason.LEASE_LOST:
        return None  # the row is somebody else's
    match end:
        case End.RETURNED:
            return _ends(case, "succeeded")
        case End.STRAY | End.EXITED:
            return _ends(case, "failed")
        case End.RAISED:
            return _failed(case)
        case End.CANCELLED | End.JOB_ABORTED:
            return _gave_up(case)
        case _:
            assert_never(end)


def _failed(case: Case) -> Written:
    if case.is_retried and case.reason is not AbortReason.USER_REQUEST:
        return _waits_again(case, counted=True, else_ends="failed")
    return _ends(case, "failed")


def _gave_up(case: Case) -> Written:
    if case.reason is not AbortReason.SHUTDOWN:
        return _ends(case, "aborted")
    policy = case.spec.interrupted_jobs or case.script.interrupted_jobs
    if policy is InterruptedJobs.REQUEUE:
        return _waits_again(case, counted=False, else_ends="aborted")
    if policy is InterruptedJobs.RETRY and case.is_retried:
        return _waits_again(case, counted=True, else_ends="aborted")
    return _ends(case, "aborted")


def _ends(case: Case, status: str) -> Written:
    deletes = case.script.delete_jobs is DeleteJobCondition.ALWAYS or (
        case.script.delete_jobs is DeleteJobCondition.SUCCESSFUL and status == "succeeded"
    )
    return Written(None if deletes else status, case.row.attempts + 1, case.told)


def _waits_again(case: Case, *, counted: bool, else_ends: str) -> Written:
    return given_back(
        case.row,
        counted=counted,
        else_ends=else_ends,
        reason=case.told,
        lock_is_taken=case.lock_is_taken,
    )


def given_back(
    row: Row,
    *,
    counted: bool,
    lock_is_taken: bool,
    else_ends: str = "aborted",
    reason: str | None = None,
) -> Written:
    """What becomes of a row that is to wait again: it does, if nobody minds."""
    attempts = row.attempts + counted
    if row.abort_requested:
        told = "user_request" if reason is None else f"{reason}; user_request"
        return Written(else_ends, attempts, told)
    if lock_is_taken:
        return Written("cancelled", attempts, ANYTHING)
    return Written("todo", attempts, reason)
