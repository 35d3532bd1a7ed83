"""A job's life in the database: its claims, each with what closed it and the run under it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from itertools import zip_longest

import attrs

from tests.chaos.history import Change, Event, History, Run
from tests.chaos.violation import Violation

#: The event that tells of each change of a status.
_EVENT_OF = {
    ("todo", "doing"): "started",
    ("todo", "cancelled"): "cancelled",
    ("doing", "todo"): "deferred_for_retry",
    ("doing", "succeeded"): "succeeded",
    ("doing", "failed"): "failed",
    ("doing", "aborted"): "aborted",
    ("doing", "cancelled"): "cancelled",
}
#: Events that tell of no change of the status.
_OTHER_EVENTS = {"deferred", "scheduled", "abort_requested"}
_ENDS = {"succeeded", "failed", "aborted", "cancelled"}


@attrs.define(kw_only=True)
class Claim:
    """A row became `doing` under a worker; later it was closed, by whomever."""

    number: int
    job_id: int
    at: float
    attempt: int
    worker_id: int | None
    #: The status that closed it; None: it is open.
    closed_as: str | None = None
    closed_at: float = 0.0
    closed_number: int = 0
    #: What stands beside the event that closed it.
    reason: str = ""
    #: Who held the row when it was closed: its worker, under a new id perhaps, or who took it over.
    holder_id: int | None = None
    run: Run | None = None
    #: The ids that the process of the run was known by.
    own_ids: frozenset[int] = frozenset()

    @property
    def is_rescued(self) -> bool:
        """It was closed by a worker that took its worker for dead.

        One that could not write so, because the answer to its taking over was lost or because it was
        stopped just then, gives the job back without a reason.
        """
        taken_over = bool(self.own_ids) and self.holder_id not in {None, *self.own_ids}
        return self.is_counted_death or taken_over

    @property
    def is_counted_death(self) -> bool:
        """It was closed as the death of its worker."""
        return self.reason.startswith("worker_died")


def read_claims(history: History, violations: list[Violation]) -> dict[int, list[Claim]]:
    """The claims of each job, in order; and whether events and changes tell the same."""
    changes: defaultdict[int, list[Change]] = defaultdict(list)
    holders: dict[int, int | None] = {}
    held_by: dict[int, int | None] = {}
    for change in sorted(history.changes, key=lambda each: each.number):
        if change.before != change.after:
            changes[change.job_id].append(change)
        if change.after == "doing":
            holders[change.job_id] = change.worker_id
        else:
            held_by[change.number] = holders.get(change.job_id)
    events: defaultdict[int, list[Event]] = defaultdict(list)
    for event in sorted(history.events, key=lambda each: each.id):
        events[event.job_id].append(event)
    claims: dict[int, list[Claim]] = {}
    for row in history.rows:
        told = [event for event in events[row.id] if event.type not in _OTHER_EVENTS]
        violations += _check_story(row.id, events[row.id], told, changes[row.id])
        claims[row.id] = _claims_of(changes[row.id], told, held_by)
    return claims


def _check_story(
    job_id: int, events: list[Event], told: list[Event], changes: list[Change]
) -> Iterable[Violation]:
    types = [event.type for event in events]
    if types.count("deferred") != 1:
        yield Violation("events", job_id, "not deferred once")
    if "abort_requested" in types and "started" in types[types.index("abort_requested") :]:
        yield Violation("again", job_id, "started after a user had asked for its abort")
    ends = [event.type for event in told if event.type in _ENDS]
    if len(ends) > 1:
        yield Violation("doubled", job_id, f"ended {len(ends)} times: {', '.join(ends)}")
    elif ends and told[-1].type not in _ENDS:
        yield Violation("doubled", job_id, f"{told[-1].type} after it was {ends[0]}")
    for event, change in zip_longest(told, changes):
        expected = _EVENT_OF.get((change.before, change.after)) if change else None
        if event is None or event.type != expected:
            seen = event.type if event else "no event"
            of = f"{change.before} to {change.after}" if change else "no change"
            yield Violation("events", job_id, f"{seen} stands for {of}")
            return


def _claims_of(
    changes: list[Change], told: list[Event], held_by: dict[int, int | None]
) -> list[Claim]:
    claims: list[Claim] = []
    for change, event in zip_longest(changes, told):
        if change is None:
            break
        if change.after == "doing":
            claims.append(
                Claim(
                    number=change.number,
                    job_id=change.job_id,
                    at=change.at,
                    attempt=change.attempts,
                    worker_id=change.worker_id,
                )
            )
        elif change.before == "doing" and claims:
            claims[-1].closed_as = change.after
            claims[-1].closed_at = change.at
            claims[-1].closed_number = change.number
            claims[-1].holder_id = held_by[change.number]
            claims[-1].reason = (event.reason if event else None) or ""
    return claims


def match_runs(
    history: History, claims: dict[int, list[Claim]], violations: list[Violation]
) -> list[tuple[Run, Claim]]:
    """Each run with the claim that it ran under: a claim has one run at most, a run one claim."""
    matched: list[tuple[Run, Claim]] = []
    ids = {process.name: process.worker_ids for process in history.processes}
    for run in sorted(history.runs, key=lambda each: each.began):
        fitting = [
            claim
            for claim in claims.get(run.job_id, [])
            if claim.worker_id == run.worker_id
            and claim.attempt == run.attempt
            and claim.at <= run.began
        ]
        if not fitting:
            violations.append(
                Violation("claims", run.job_id, f"run {run.run_id} of {run.process}: no claim")
            )
            continue
        claim = fitting[-1]
        if claim.run is not None:
            violations.append(
                Violation(
                    "claims",
                    run.job_id,
                    f"runs {claim.run.run_id} and {run.run_id}: one claim (attempt {run.attempt}, "
                    f"worker {run.worker_id})",
                )
            )
            continue
        claim.run = run
        claim.own_ids = ids[run.process] | {run.worker_id}
        matched.append((run, claim))
    return matched
