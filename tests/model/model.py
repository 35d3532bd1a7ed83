"""The contract of a worker, as a model without Trio, database or worker.

Given a script and what happened, it says when the worker is in which stage, and why and when a body
is told to stop; `treatment` says how that body then ends, `outcomes` which row its job may have. All
three are written from the tables of the documentation, on purpose not from the code that they judge.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import attrs

from tests.model.record import AbortedByUser, Asked, Pruned
from tests.model.script import (
    BEAT,
    POLL,
    STALLED,
    Ask,
    Ill,
    Refusal,
    Script,
    Theft,
    Trouble,
)
from trio_queue.jobs import AbortReason

#: Seconds by which two moments of fake time may differ and be the same.
SAME = 1e-5
#: Seconds after a trouble until everything that it held up has been said again: a pause between two
#: tries, and what is under way slowly.
RECOVERY = 4.0

# -- stages ---------------------------------------------------------------------------------------


@attrs.frozen
class Stages:
    """When a worker reaches which stage; infinity: never."""

    draining_at: float
    aborting_at: float
    #: It was stopped while it started: nothing is fetched.
    never_ran: bool


def stages(script: Script, asked: Sequence[Asked], exits: Iterable[float]) -> Stages:
    """The table of stages.

    Args:
        script: For its deadline.
        asked: Every ask, in order.
        exits: When jobs raised KeyboardInterrupt or SystemExit.
    """
    first = min((ask.at for ask in asked), default=math.inf)
    signals = [ask.at for ask in asked if ask.how is Ask.ASK]
    aborts = [
        *(ask.at for ask in asked if ask.how is Ask.ABORT),
        *signals[1:2],
        *exits,
    ]
    if script.graceful_timeout is not None:
        aborts.append(first + script.graceful_timeout)
    aborting_at = min(aborts, default=math.inf)
    return Stages(
        draining_at=min(first, aborting_at),
        aborting_at=aborting_at,
        never_ran=first < script.slow_start or first <= 0,
    )


# -- what is heard, and when ----------------------------------------------------------------------


@attrs.frozen
class Hearing:
    """A reason to stop reaches a job between these moments."""

    reason: AbortReason
    earliest: float
    latest: float


def settled(troubles: Iterable[Trouble], at: float, *verbs: str) -> float:
    """When something that is to be said at a moment has surely been said."""
    for trouble in sorted(troubles, key=lambda trouble: trouble.at):
        if trouble.meets(*verbs) and trouble.at <= at + SAME and at <= trouble.until + RECOVERY:
            at = trouble.until + RECOVERY
    return at


def may_give_up(script: Script) -> bool:
    """Whether outcomes may stay unwritten: the database was away for as long as a lease lasts."""
    ill = [each for each in script.troubles if each.ill not in {Ill.SLOW, Ill.SLOW_AFTER}]
    if not any(trouble.meets("finish_jobs") for trouble in ill):
        return False
    began = ended = -math.inf
    for trouble in sorted(ill, key=lambda trouble: trouble.at):
        if trouble.at > ended + RECOVERY:
            began = trouble.at
        ended = max(ended, trouble.until)
        if ended - began >= STALLED:
            return True
    return False


def given_back_by(script: Script, claimed_at: float) -> float:
    """When a claim whose answer was lost is given back: before the next claim."""
    claimed_at = settled(script.troubles, claimed_at, "fetch_jobs", "release_jobs")
    return settled(script.troubles, claimed_at + POLL, "fetch_jobs", "release_jobs")


def settled_lease(script: Script, at: float) -> float:
    """When a loss of the worker's row at this moment has surely been noticed and settled."""
    verbs = ("register_worker", "adopt_jobs", "update_heartbeat")
    return settled(script.troubles, settled(script.troubles, at, *verbs) + BEAT, *verbs)


def hearings(
    script: Script,
    job: int,
    claimed_at: float,
    lost: Pruned | None,
    *,
    stages: Stages,
    aborted: Iterable[AbortedByUser],
    pruned: Sequence[Pruned],
) -> list[Hearing]:
    """Why and when this run of a job is told to stop, as long as its body goes on."""
    told: list[Hearing] = []
    if stages.aborting_at < math.inf:
        told.append(Hearing(AbortReason.SHUTDOWN, stages.aborting_at, stages.aborting_at))
    told += [
        Hearing(AbortReason.USER_REQUEST, abort.at, _abort_heard_at(script, abort.at, lost, pruned))
        for abort in aborted
        if abort.job == job and abort.at >= claimed_at - SAME
    ]
    if lost is not None and lost.theft is not Theft.NONE:
        told.append(Hearing(AbortReason.LEASE_LOST, lost.at, settled_lease(script, lost.at)))
    return told


def _abort_heard_at(
    script: Script, at: float, lost: Pruned | None, pruned: Sequence[Pruned]
) -> float:
    """The latest moment at which a user's abort is heard: at once, or at a poll."""
    if script.listen:
        return at
    if lost is not None and lost.theft is not Theft.NONE and lost.at <= at + POLL:
        return math.inf  # the row is not this worker's: its polls do not see it
    if any(
        isinstance(step, Refusal) and step.verb == "list_jobs_to_abort" for step in script.steps
    ):
        return math.inf  # the service that polls may have ended, and the worker with it
    heard_at = settled(script.troubles, at, "list_jobs_to_abort") + POLL
    for loss in pruned:
        if loss.at <= heard_at + SAME and settled_lease(script, loss.at) >= at:
            heard_at = max(heard_at, settled_lease(script, loss.at) + POLL)
    return settled(script.troubles, heard_at, "list_jobs_to_abort") + (
        POLL if script.troubles else 0
    )
