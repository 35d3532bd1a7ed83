"""How `run()` ends, and what it leaves behind."""

from __future__ import annotations

import math
from collections.abc import Iterator

from tests.model import model
from tests.model.liveness import startable_jobs
from tests.model.model import SAME, Stages
from tests.model.record import End, Record
from tests.model.script import BEAT, STALLED, VERBS, Ask, Ending, Ill, Theft
from trio_queue.exceptions import OutcomesNotWritten
from trio_queue.testing import FaultError

#: Seconds: one try of a write, and the goodbye.
WRITE_BOUND = 10.0
GOODBYE_BOUND = 30.0

_ENDED = {"succeeded", "failed", "aborted", "cancelled"}


def ending_faults(record: Record, stages: Stages) -> Iterator[str]:
    """What is wrong with the end of `run()`, and with the rows that are left."""
    if record.hung:
        yield "run() did not end"
        return
    yield from _moment_faults(record, stages)
    yield from _error_faults(record, stages)
    yield from _row_faults(record)
    registers_late = any(trouble.meets("register_worker") for trouble in record.script.troubles)
    if record.oldest_beat > BEAT + SAME and not (record.pruned and registers_late):
        yield f"its last heartbeat was {record.oldest_beat:g} s ago"


def _moment_faults(record: Record, stages: Stages) -> Iterator[str]:
    script, ended_at = record.script, record.ended_at
    last_body = max(
        (math.inf if body.ended_at is None else body.ended_at for body in record.bodies),
        default=0.0,
    )
    if ended_at < last_body:
        yield f"run() ended at {ended_at:g}, before a body at {last_body:g}"
    if stages.never_ran:
        may_end_at = min(asked.at for asked in record.asked)
    elif stages.draining_at <= ended_at + SAME:
        may_end_at = max(stages.draining_at, last_body)
    elif script.wait:
        yield f"run() ended at {ended_at:g} although nobody asked"
        return
    else:
        last_write = max((each.at for each in record.changes if each.by_worker), default=0.0)
        may_end_at = max(last_body, last_write, script.slow_start)
        if left := _jobs_left(record, may_end_at):
            yield f"run() ended with jobs left: {left}"
    latest = min(
        model.settled(script.troubles, may_end_at, *VERBS),
        may_end_at + STALLED + WRITE_BOUND + GOODBYE_BOUND + model.RECOVERY,
    )
    if not stages.never_ran and not script.wait and script.troubles:
        latest += model.RECOVERY
    if ended_at > latest + SAME:
        yield f"run() ended at {ended_at:g}, not by {latest:g}"


def _jobs_left(record: Record, at: float) -> list[int]:
    """The jobs that could have begun when the last one of a worker had ended."""
    changed = {change.job: change for change in record.changes}
    return [
        job
        for job in startable_jobs(record, record.rows)
        # What somebody deferred in the moment of the end came too late.
        if (changed[job].by_worker or changed[job].at < at - SAME)
        and (record.rows[job].due_at or 0) <= at + SAME
    ]


def _error_faults(record: Record, stages: Stages) -> Iterator[str]:
    script, error = record.script, record.error
    may: set[type[BaseException]] = {
        KeyboardInterrupt
        if script.jobs[body.job].ending is Ending.KEYBOARD_INTERRUPT
        else SystemExit
        for body in record.bodies
        if body.end is End.EXITED
    }
    must = bool(may)
    if not may:
        refused = [asked.at for asked in record.asked if asked.how is None]
        if refused:
            must = _goes_on_at(record, min(refused))
            may.add(FaultError)
        if model.may_give_up(script):
            may.add(OutcomesNotWritten)
    if error is None and must:
        yield f"run() raised nothing, not {may}"
    if error is not None and type(error) not in may:
        yield f"run() raised {error!r}"
    cancels = [asked.at for asked in record.asked if asked.how is Ask.CANCEL]
    if error is None and cancels and not record.was_cancelled and not stages.never_ran:
        yield "run() swallowed its caller's cancel"
    if record.was_cancelled and not cancels:
        yield "run() raised a Cancelled that nobody asked for"


def _goes_on_at(record: Record, refused_at: float) -> bool:
    """Whether the services live: in the moment of the end the refused one may be gone already."""
    asked_at = min((asked.at for asked in record.asked if asked.how), default=math.inf)
    runs = any((body.ended_at or 0) > refused_at + SAME for body in record.bodies)
    return asked_at > refused_at + SAME and (record.script.wait or runs)


def _row_faults(record: Record) -> Iterator[str]:
    lost_answers = any(
        trouble.meets("register_worker") and trouble.ill not in {Ill.FAIL, Ill.HANG}
        for trouble in record.script.troubles
    )
    # A registration without an answer leaves a row that nobody knows: it holds no job, and goes stale.
    if record.workers_left and not lost_answers:
        yield f"the worker's row is left: {record.workers_left}"
    for job, row in record.rows.items():
        if row.status != "doing":
            continue
        if row.worker_id in record.worker_ids:
            yield f"job {job} is `doing` under the worker that has ended"
        elif row.worker_id is None:
            # Its lease was lost at the end, or its outcome could not be written.
            if not record.pruned and not model.may_give_up(record.script):
                yield f"job {job} is left `doing`"
        elif all(prune.theft is not Theft.KEEP for prune in record.pruned):
            yield f"job {job} is `doing` under a worker that nobody knows"
    for change in record.changes:
        if change.before and change.before.status in _ENDED:
            yield f"job {change.job} changed after it had ended: {change}"
