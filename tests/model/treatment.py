"""How a body ends that is told to stop, or is not."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from tests.model.bodies import CLEAN_UP
from tests.model.model import SAME, Hearing
from tests.model.record import Body, End
from tests.model.script import JobSpec, OnCancel
from trio_queue.jobs import AbortReason

#: How long after its cancel a body ends that does not go on to its own end, and how.
CANCELLED_ENDS = {
    OnCancel.HEED: (0.0, End.CANCELLED),
    OnCancel.CLEAN_UP: (CLEAN_UP, End.CANCELLED),
    OnCancel.RETURN: (0.0, End.RETURNED),
    OnCancel.RAISE: (0.0, End.RAISED),
    OnCancel.JOB_ABORTED: (0.0, End.JOB_ABORTED),
}
#: Those that the cancel of their scope does not reach.
CANNOT_HEAR = {OnCancel.DEAF, OnCancel.THREAD}


def body_faults(spec: JobSpec, body: Body, told: Sequence[Hearing]) -> Iterator[str]:
    """What is wrong with how a body was treated; nothing, if it ended as the contract says.

    Args:
        spec: What it does.
        body: What it saw.
        told: Why it was to be told to stop, and when.
    """
    if body.ended_at is None:
        yield "run() returned while its body ran"
        return
    latest = min((hearing.latest for hearing in told), default=math.inf)
    if body.heard_at is None:
        yield from _undisturbed_faults(spec, body, body.ended_at, latest)
    else:
        yield from _cancelled_faults(spec, body, body.heard_at, latest)
    reason = body.reason if body.heard_at is None else body.heard_reason
    reason_at = body.ended_at if body.heard_at is None else body.heard_at
    if reason is not None and not _may_be_first(reason, reason_at, told):
        yield f"it was told {reason} at {reason_at:g} or before, of {told}"


def _undisturbed_faults(spec: JobSpec, body: Body, ended_at: float, latest: float) -> Iterator[str]:
    own_end = body.began_at + spec.seconds
    if not _same(ended_at, own_end):
        yield f"it ended at {ended_at:g}, not at {own_end:g}"
    if latest < ended_at - SAME:
        if spec.on_cancel not in CANNOT_HEAR:
            yield f"it was not cancelled by {latest:g}"
        if body.reason is None:
            yield "nobody told it why to stop"


def _cancelled_faults(spec: JobSpec, body: Body, heard_at: float, latest: float) -> Iterator[str]:
    assert body.ended_at is not None
    if spec.on_cancel in CANNOT_HEAR:
        yield "it was cancelled, shielded as it was"
        return
    if body.heard_reason is None:
        yield "it was cancelled before it was told why"
    if body.reason is not body.heard_reason:
        yield f"its reason was {body.heard_reason}, then {body.reason}"
    end_at = body.began_at + spec.seconds
    if spec.on_cancel in CANCELLED_ENDS:
        after, end = CANCELLED_ENDS[spec.on_cancel]
        end_at = heard_at + after
        if body.end is not end:
            yield f"it ended as {body.end}"
    if not _same(body.ended_at, end_at):
        yield f"it ended at {body.ended_at:g}, not at {end_at:g}"
    if latest < heard_at - SAME:
        yield f"it was cancelled at {heard_at:g}, not by {latest:g}"


def _may_be_first(reason: AbortReason, at: float, told: Sequence[Hearing]) -> bool:
    """Whether this may have been the first reason, told at this moment or before."""
    return any(
        hearing.earliest <= at + SAME
        and all(hearing.earliest <= other.latest + SAME for other in told)
        for hearing in told
        if hearing.reason is reason
    )


def _same(one: float, other: float) -> bool:
    return abs(one - other) < SAME
