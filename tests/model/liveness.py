"""What must not take long, and what must not happen at once."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from tests.model import model
from tests.model.model import SAME, Stages
from tests.model.record import Change, Record, Row
from tests.model.runs import Run
from tests.model.script import POLL, OnCancel, Theft

#: Seconds: the database tells moments by the microsecond.
PROMPT = 1e-3
#: The statements that a claim may have to wait for.
_CLAIMING = (
    "fetch_jobs",
    "release_jobs",
    "has_eligible_job",
    "register_worker",
    "adopt_jobs",
    "adopt_orphans",
    "update_heartbeat",
    "finish_jobs",
)


def overlap_faults(record: Record, runs: list[Run]) -> Iterator[str]:
    """No job and no lock runs twice at once, but where a lease was lost; nor do too many."""
    script = record.script
    for run in runs:
        if run.body is None:
            continue
        beside = [other for other in runs if other is not run and other.runs_at(run.body.began)]
        if len(beside) >= script.concurrency:
            yield f"{len(beside) + 1} jobs ran at once"
        threads = [
            one for one in (run, *beside) if script.jobs[one.job].on_cancel is OnCancel.THREAD
        ]
        if len(threads) > (script.thread_limit or script.concurrency):
            yield f"{len(threads)} threads ran at once"
        lock = script.jobs[run.job].lock
        for other in beside:
            same = other.job == run.job or (lock and lock == script.jobs[other.job].lock)
            if same and (other.lost is None or other.lost.theft is Theft.NONE):
                yield f"jobs {other.job} and {run.job} ran at once"


def idle_faults(record: Record, runs: list[Run], stages: Stages) -> Iterator[str]:
    """A job that may start, with a place free, starts: at once, or at the next poll."""
    if stages.never_ran:
        return
    end = min(stages.draining_at, record.ended_at)
    if not record.script.wait:
        # With the last row written it may have found no job left, and drained.
        end = min(end, max((each.at for each in record.changes if each.by_worker), default=0.0))
    rows: dict[int, Row] = {}
    #: Since when each job could begin, and whether the worker knows by its own doing.
    could_since: dict[int, tuple[float, bool]] = {}
    changes: dict[float, Change] = {change.order: change for change in record.changes}
    for order, at in _moments(record, end):
        for job, (startable_at, known) in could_since.items():
            since = max(startable_at, rows[job].due_at or 0, record.script.slow_start)
            latest = _claimed_by(record, since, known=known)
            if at > latest + PROMPT:
                yield f"job {job} could begin from {since:g} on, and had not at {at:g}"
        change = changes.get(order)
        if change is not None:
            if change.after is None:
                del rows[change.job]
            else:
                rows[change.job] = change.after
        hands = sum(run.is_held_at(order) for run in runs)
        startable = startable_jobs(record, rows) if hands < record.script.concurrency else []
        known = change is not None and change.verb == "finish_jobs" and change.by_worker
        could_since = {job: could_since.get(job, (at, known)) for job in startable}


def _moments(record: Record, end: float) -> list[tuple[float, float]]:
    """The order and the time of whatever changes what may start, up to a moment."""
    moments: list[tuple[float, float]] = [(change.order, change.at) for change in record.changes]
    moments += [
        (body.ended, body.ended_at)
        for body in record.bodies
        if body.ended is not None and body.ended_at is not None
    ]
    return [*sorted(moment for moment in moments if moment[1] <= end), (math.inf, end)]


def _claimed_by(record: Record, since: float, *, known: bool) -> float:
    script = record.script
    latest = model.settled(script.troubles, since, *_CLAIMING)
    for prune in record.pruned:
        if prune.at <= latest + SAME:
            latest = max(latest, model.settled_lease(script, prune.at))
    if (script.listen or known) and not script.troubles:
        return latest
    return model.settled(script.troubles, latest + POLL, *_CLAIMING)


def startable_jobs(record: Record, rows: Mapping[int, Row]) -> list[int]:
    """The waiting jobs whose lock is free, the first of each lock; `rows` by age."""
    jobs = record.script.jobs
    locks = {jobs[job].lock for job, row in rows.items() if row.status == "doing"}
    found: list[int] = []
    for job, row in rows.items():
        lock = jobs[job].lock
        if row.status != "todo" or (lock is not None and lock in locks):
            continue
        locks.add(lock)
        found.append(job)
    return found
