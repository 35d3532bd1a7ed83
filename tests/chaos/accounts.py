"""Why a job ran again: the evidence from processes, logs and journals."""

from __future__ import annotations

from collections import defaultdict
from enum import Enum

from tests.chaos.claims import Claim
from tests.chaos.history import History, How, NotWritten, Process, Run

#: Seconds in which a worker that lives must hear of the loss of its lease. It hears at its first
#: beat that is answered: after a suspension and a half-open connection, each bounded by the plan
#: (8 s), and a beat that waits for its answer (5 s). One that dies within it need not have heard.
HEARING = 20.0


class Account(Enum):
    """Why a job ran again, or was ended by a rescue. The value is how the table names it."""

    RETRY = "a retry"
    REQUEUE = "interrupted by a shutdown"
    DEATH = "its worker died under it"
    DEATH_AFTER = "its worker died between the end of the body and the write"
    LEASE = "its worker lost the lease, and heard of it"
    LEASE_UNHEARD = "its worker lost the lease, and died before it heard"
    AGREED = "its worker lost the lease, and found the outcome written that it meant"
    NOT_WRITTEN = "its worker said that it could not write the outcome"


class Until(Enum):
    """How the worker that had lost a lease learnt of it. The value is how the table names it."""

    HEARD = "until its worker heard that the lease was lost"
    DIED = "until its worker died, before it heard"
    AGREED = "until its worker found the outcome written that it meant"
    LEFT = "until its worker stopped, and said that it could not write the outcome"


class Evidence:
    """What the processes' ends and the logs tell."""

    def __init__(self, history: History) -> None:
        self._processes = {process.name: process for process in history.processes}
        self._hearings: defaultdict[tuple[str, int], list[float]] = defaultdict(list)
        for hearing in history.hearings:
            for job_id in hearing.job_ids:
                self._hearings[hearing.process, job_id].append(hearing.at)
        self._up = sorted(
            (process.started, process.doomed or process.ended)
            for process in history.processes
            if process.is_worker and process.started is not None
        )
        self._not_written = {(each.process, each.job_id) for each in history.not_written}
        self._written = {(each.process, each.job_id, each.status) for each in history.written}
        self._requested = {
            event.job_id for event in history.events if event.type == "abort_requested"
        }

    def abort_was_requested(self, job_id: int) -> bool:
        """A user asked for the abort of this job."""
        return job_id in self._requested

    def end_of(self, run: Run) -> float:
        """When the body ended, at the latest with its process."""
        return run.ended if run.ended is not None else self._processes[run.process].ended

    def was_not_asked(self, told: NotWritten) -> bool:
        """The worker gave up a write although nobody had asked it to stop."""
        asked = self._processes[told.process].asked
        return asked is None or told.at + 0.001 < asked

    def left_behind(self, run: Run) -> bool:
        """The body never ended, and its process did not die: the worker left without it."""
        return run.ended is None and not _died(self._processes[run.process])

    def hearing(self, claim: Claim) -> float | None:
        """When the worker of the claim's run heard that the job is no longer its own."""
        assert claim.run is not None
        heard = self._hearings.get((claim.run.process, claim.job_id), [])
        return min((at for at in heard if at >= claim.at), default=None)

    def was_not_told(self, claim: Claim) -> bool:
        """The claim's run went on, unaware, when its worker had heard of the loss."""
        run, heard = claim.run, self.hearing(claim) if claim.is_rescued else None
        if run is None or heard is None or run.ended is None or run.reason is not None:
            return False
        # The jobs are told first, then the line is written, its moment cut to milliseconds.
        return run.ended > heard + 0.001

    def until(self, claim: Claim) -> Until | None:
        """How the worker of the claim's run learnt that it had lost the job; None: it should have."""
        assert claim.run is not None
        if self.hearing(claim) is not None:
            return Until.HEARD
        if (claim.run.process, claim.job_id) in self._not_written:
            return Until.LEFT
        # A write that finds its very outcome in the row counts as written: an earlier try may have
        # been. Who wrote it here is the rescue: `aborted`, where a user asked, or `failed`.
        if (claim.run.process, claim.job_id, claim.closed_as) in self._written:
            return Until.AGREED
        process = self._processes[claim.run.process]
        died = _died(process) and process.ended <= claim.closed_at + HEARING
        return Until.DIED if died else None

    def death_under(self, claim: Claim) -> float | None:
        """When the process died whose job this claim's rescue took, if it died before that."""
        if claim.run is None or not claim.is_rescued:
            return None
        process = self._processes[claim.run.process]
        died_at = process.doomed or process.ended
        return died_at if _died(process) and died_at <= claim.closed_at else None

    def seconds_attended(self, claim: Claim, death: float) -> float:
        """Of the time from the death to the rescue: how long another worker was up."""
        assert claim.run is not None
        attended, reached = 0.0, death
        for began, ended in self._up:
            begin, end = max(began, reached), min(ended, claim.closed_at)
            if end > begin:
                attended, reached = attended + end - begin, end
        return attended

    def account(self, claim: Claim) -> Account | None:
        """Why the claim was given back, or ended by a rescue, after a run; None: there is no reason."""
        run = claim.run
        assert run is not None
        if claim.is_rescued:
            return self._account_of_rescue(claim, run)
        if claim.reason in {"released", "shutdown; not begun"}:
            return None  # said of what was claimed and never ran
        if claim.reason.startswith("shutdown"):
            return Account.REQUEUE if run.how in {How.INTERRUPTED, How.RAISED} else None
        return Account.RETRY if run.how is How.RAISED else None

    def _account_of_rescue(self, claim: Claim, run: Run) -> Account | None:
        if self.death_under(claim) is not None:
            return Account.DEATH if run.ended is None else Account.DEATH_AFTER
        match self.until(claim):
            case Until.HEARD:
                return Account.LEASE
            case Until.AGREED:
                return Account.AGREED
            case Until.LEFT:
                return Account.NOT_WRITTEN
            case Until.DIED:
                return Account.LEASE_UNHEARD
            case None:
                return None


def _died(process: Process) -> bool:
    """It ended without a goodbye."""
    return process.status not in {0, 1} and not process.had_stopped
