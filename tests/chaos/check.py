"""Compares what the jobs wrote down with what the database says: a pure function.

The promises:

lost      every job that was deferred is there, and ended as its kind may end
doubled   no job has two outcomes, no deferral made two jobs
events    the events tell of each change of a row, in order
claims    a body runs only under a claim, once for each
outcome   what the row says is what the body did
again     a job runs again only for a retry, a requeue, a death or a lost lease, and not after a user
          has asked for its abort
overlap   two runs of one lock (or of one job) at once: only while the first's lease is lost and its
          worker has not heard of it; a body that does not heed its cancel may outlast the hearing
processes workers end as they were asked to, and not before their jobs
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

import attrs

from tests.chaos.accounts import Account, Evidence, Until
from tests.chaos.claims import Claim, match_runs, read_claims
from tests.chaos.history import History, How, Process, Row, Run
from tests.chaos.kinds import ALLOWED
from tests.chaos.violation import Violation


@attrs.frozen(kw_only=True)
class Overlap:
    """Two runs of one lock, or of one job, at once; allowed where the first had lost its lease."""

    first: str
    second: str
    seconds: float
    #: What came to the first run's worker in the end.
    until: Until


@attrs.frozen(kw_only=True)
class Wait:
    """How long a job was without a worker after a death, in seconds."""

    #: Until another worker had rescued it.
    rescued: float
    #: Of these, those in which another worker was up (it may have been suspended or cut off).
    attended: float
    #: Until it was claimed again: its wait in the queue included. None: it was not.
    again: float | None


@attrs.frozen(kw_only=True)
class Findings:
    """What the check found."""

    violations: tuple[Violation, ...]
    #: Why jobs ran again.
    accounts: Counter[Account]
    overlaps: tuple[Overlap, ...]
    waits: tuple[Wait, ...]


def check(history: History) -> Findings:
    """Find every broken promise."""
    violations: list[Violation] = []
    claims = read_claims(history, violations)
    runs = match_runs(history, claims, violations)
    evidence = Evidence(history)
    violations += _check_rows(history)
    accounts: Counter[Account] = Counter()
    for own in claims.values():
        for claim in own:
            violations += _check_outcome(claim, evidence, own)
            violations += _count_account(claim, evidence, accounts)
    overlaps: list[Overlap] = []
    violations += _check_overlaps(runs, evidence, overlaps)
    violations += [
        Violation("processes", run.job_id, f"{run.process} ended before run {run.run_id} did")
        for run in history.runs
        if evidence.left_behind(run)
    ]
    violations += _check_processes(history.processes)
    violations += [
        Violation(
            "processes", each.job_id, f"{each.process} gave up a write before a stop was asked"
        )
        for each in history.not_written
        if evidence.was_not_asked(each)
    ]
    violations += [Violation("processes", None, text) for text in history.complaints]
    return Findings(
        violations=tuple(violations),
        accounts=accounts,
        overlaps=tuple(overlaps),
        waits=tuple(_waits(claims, evidence)),
    )


# -- rows ---------------------------------------------------------------------------------------------


def _check_rows(history: History) -> Iterator[Violation]:
    rows = {row.id: row for row in history.rows}
    for deferral in history.deferrals:
        row = rows.get(deferral.job_id)
        if row is None or row.token != deferral.token:
            yield Violation(
                "lost", deferral.job_id, f"{deferral.token} was deferred, no row has it"
            )
    tokens = Counter(row.token for row in history.rows if row.token is not None)
    for token, count in tokens.items():
        if count > 1:
            yield Violation("doubled", None, f"{count} rows for one deferral, {token}")
    reasons: dict[int, str] = {}
    requested: set[int] = set()
    for event in history.events:
        reasons[event.job_id] = event.reason or ""
        if event.type == "abort_requested":
            requested.add(event.job_id)
    for row in history.rows:
        if row.status not in _allowed(row, reasons.get(row.id, ""), row.id in requested):
            yield Violation("lost", row.id, f"{row.task} is {row.status} at the end")


def _allowed(row: Row, reason: str, requested: bool) -> set[str]:
    allowed = set(ALLOWED[row.task]) if row.task in ALLOWED else {"succeeded"}
    if requested:
        allowed |= {"aborted", "cancelled", "failed"}
    if row.queueing_lock is not None and "queueing lock" in reason:
        allowed.add("cancelled")
    if reason.startswith("worker_died"):
        allowed.add("failed")
    return allowed


# -- outcomes -----------------------------------------------------------------------------------------


def _check_outcome(claim: Claim, evidence: Evidence, own: Sequence[Claim]) -> Iterator[Violation]:
    """What was written when the claim was closed is what its run did, or what a rescue decides."""
    closed, how = claim.closed_as, claim.run.how if claim.run else None
    if closed is None:
        return  # `lost` tells it
    died = claim.is_rescued
    if claim.run is not None and not died:
        # Else it is somebody else's run that was written.
        ended = claim.run.ended
        if ended is None or ended > claim.closed_at + 0.001:
            text = f"written as {closed} before run {claim.run.run_id} had ended"
            yield Violation("outcome", claim.job_id, text)
            return
    requested = evidence.abort_was_requested(claim.job_id)
    match closed:
        case "succeeded":
            right = how is How.RETURNED and not died
        case "failed" if died:
            earlier = sum(each.is_counted_death and each.number < claim.number for each in own)
            right = claim.reason == f"worker_died {earlier + 1} times under it" and earlier >= 2
        case "failed":
            right = how is How.RAISED
        case "aborted":
            stopped = how is How.INTERRUPTED and (requested or claim.reason.startswith("shutdown"))
            right = stopped or (requested and (claim.run is None or died))
        case "cancelled":
            right = "queueing lock" in claim.reason and (how is not How.RETURNED or died)
        case _:
            right = closed == "todo" and (how is not How.RETURNED or died)
    if not right:
        told = "without a run" if claim.run is None else f"run {claim.run.run_id} {how}"
        yield Violation("outcome", claim.job_id, f"written as {closed} ({claim.reason}): {told}")


# -- runs again ---------------------------------------------------------------------------------------


def _count_account(
    claim: Claim, evidence: Evidence, accounts: Counter[Account]
) -> Iterator[Violation]:
    """Why a claim whose body ran was not closed by what its body did, or why it runs again."""
    if claim.run is None or (claim.closed_as != "todo" and not claim.is_rescued):
        return
    account = evidence.account(claim)
    if evidence.was_not_told(claim):
        text = f"run {claim.run.run_id} was not told when {claim.run.process} heard that it is lost"
        yield Violation("overlap", claim.job_id, text)
    if account is None:
        yield Violation(
            "again",
            claim.job_id,
            f"{claim.closed_as} ({claim.reason or 'no reason'}) at {claim.closed_at:.3f} after run "
            f"{claim.run.run_id} in {claim.run.process} ({claim.run.how}), and nothing accounts for it",
        )
    else:
        accounts[account] += 1


# -- overlaps -----------------------------------------------------------------------------------------


def _check_overlaps(
    runs: Iterable[tuple[Run, Claim]], evidence: Evidence, overlaps: list[Overlap]
) -> Iterator[Violation]:
    groups: defaultdict[str, list[tuple[Run, Claim]]] = defaultdict(list)
    for run, claim in runs:
        groups[run.lock or f"job {run.job_id}"].append((run, claim))
    for group in groups.values():
        group.sort(key=lambda each: each[0].began)
        active: list[tuple[Run, Claim]] = []
        for run, claim in group:
            active = [each for each in active if evidence.end_of(each[0]) > run.began]
            for other, other_claim in active:
                # Whose claim came first is not always whose body began first.
                first, second = sorted(
                    ((other, other_claim), (run, claim)), key=lambda each: each[1].number
                )
                yield from _check_overlap(first, second, evidence, overlaps)
            active.append((run, claim))


def _check_overlap(
    first: tuple[Run, Claim],
    second: tuple[Run, Claim],
    evidence: Evidence,
    overlaps: list[Overlap],
) -> Iterator[Violation]:
    (run, claim), (other, other_claim) = first, second
    both = f"run {run.run_id} ({run.process}) and run {other.run_id} ({other.process}) of job"
    until = evidence.until(claim)
    if not claim.is_rescued or claim.closed_number > other_claim.number:
        text = f"{both} {other.job_id}: the first had not been rescued"
        yield Violation("overlap", run.job_id, text)
    elif until is None:
        text = f"{both} {other.job_id}: its worker neither heard that the lease was lost nor died"
        yield Violation("overlap", run.job_id, text)
    else:
        end = min(evidence.end_of(run), evidence.end_of(other))
        seconds = end - max(run.began, other.began)
        overlaps.append(
            Overlap(first=run.run_id, second=other.run_id, seconds=seconds, until=until)
        )


# -- processes ----------------------------------------------------------------------------------------

#: The status of a process that a deadly job has ended.
DEADLY_STATUS = 7
#: What a worker may raise: the database was away, at its start or at its stop.
_ERRORS = {"OutcomesNotWritten", "ConnectorException"}


def _check_processes(processes: Iterable[Process]) -> Iterator[Violation]:
    for process in processes:
        if not process.is_worker:
            right = process.status == -9 and process.doomed is not None
        else:
            match process.status:
                case 0:
                    right = process.asks > 0
                case -9:
                    right = process.doomed is not None
                case -15:  # before the worker had its handlers, or when it needed them no more
                    idle = process.started is None or process.had_stopped
                    right = process.asks > 0 and idle
                case 143:
                    right = process.asks >= 3
                case 1:
                    right = process.error in _ERRORS
                case status:
                    right = status == DEADLY_STATUS
        if not right:
            told = f"{process.name} ended with {process.status} ({process.error})"
            yield Violation("processes", None, f"{told} after {process.asks} asks")


def _waits(claims: dict[int, list[Claim]], evidence: Evidence) -> Iterator[Wait]:
    for own in claims.values():
        for claim, following in pairwise([*own, None]):
            death = evidence.death_under(claim) if claim is not None else None
            if claim is not None and death is not None:
                again = None if following is None else max(0.0, following.at - death)
                yield Wait(
                    rescued=max(0.0, claim.closed_at - death),
                    attended=evidence.seconds_attended(claim, death),
                    again=again,
                )
