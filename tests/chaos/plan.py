"""The plan of faults: what is done to whom and when, drawn from the seed and nothing else."""

from __future__ import annotations

import random
from enum import Enum

import attrs


class Kind(Enum):
    """What can be done. The value is how the table names it."""

    KILL = "SIGKILL to a worker"
    TERMINATE = "SIGTERM once"
    TERMINATE_TWICE = "SIGTERM twice"
    TERMINATE_THRICE = "SIGTERM three times"
    SUSPEND_SHORTLY = "SIGSTOP, SIGCONT within the lease"
    SUSPEND = "SIGSTOP, SIGCONT after the lease"
    SUSPEND_AND_KILL = "SIGSTOP, SIGKILL after the lease"
    CUT = "connections of a worker cut"
    CUT_BEFORE_ANSWER = "connection cut before an answer"
    FREEZE_SHORTLY = "wire frozen within the lease"
    FREEZE = "wire frozen longer than the lease"
    HALF_OPEN = "connections half open, then cut"
    REFUSE = "connections refused to a worker"
    TERMINATE_BACKEND = "pg_terminate_backend"
    RESTART_SERVER = "server restarted (fast)"
    CRASH_SERVER = "server killed with SIGKILL"
    ABORT_JOB = "a user's abort"
    PRUNE = "row of a live worker pruned"
    DEADLY_JOB = "a job that ends its process"
    KILL_DEFERRER = "SIGKILL to a deferring process"
    CUT_DEFERRER = "connections of a deferring process cut"


#: How often each is drawn.
_WEIGHTS = {
    Kind.KILL: 9,
    Kind.TERMINATE: 6,
    Kind.TERMINATE_TWICE: 6,
    Kind.TERMINATE_THRICE: 4,
    Kind.SUSPEND_SHORTLY: 5,
    Kind.SUSPEND: 8,
    Kind.SUSPEND_AND_KILL: 3,
    Kind.CUT: 8,
    Kind.CUT_BEFORE_ANSWER: 8,
    Kind.FREEZE_SHORTLY: 4,
    Kind.FREEZE: 6,
    Kind.HALF_OPEN: 4,
    Kind.REFUSE: 4,
    Kind.TERMINATE_BACKEND: 10,
    Kind.RESTART_SERVER: 2,
    Kind.CRASH_SERVER: 2,
    Kind.ABORT_JOB: 10,
    Kind.PRUNE: 8,
    Kind.DEADLY_JOB: 1,
    Kind.KILL_DEFERRER: 2,
    Kind.CUT_DEFERRER: 4,
}

#: Of those that last: how long, in seconds. The lease lasts one second.
_LASTS = {
    Kind.TERMINATE_TWICE: (0.0, 0.6),
    Kind.TERMINATE_THRICE: (0.0, 0.6),
    Kind.SUSPEND_SHORTLY: (0.1, 0.6),
    Kind.SUSPEND: (1.3, 4.0),
    Kind.SUSPEND_AND_KILL: (1.3, 3.0),
    Kind.FREEZE_SHORTLY: (0.1, 0.6),
    Kind.FREEZE: (1.3, 5.0),
    Kind.HALF_OPEN: (2.0, 8.0),
    Kind.REFUSE: (0.2, 2.5),
    Kind.RESTART_SERVER: (0.0, 1.0),
    Kind.CRASH_SERVER: (0.0, 1.0),
}


@attrs.frozen(kw_only=True)
class Fault:
    """One fault.

    Attributes:
        number: Its place in the plan, from 0.
        at: Seconds after the beginning.
        kind: What is done.
        target: Which worker (or deferring process) it is done to, as a fraction of all there are
            at that moment; also which job, which session.
        lasts: For how long, in seconds; between two signals: the pause.
    """

    number: int
    at: float
    kind: Kind
    target: float
    lasts: float = 0.0


def draw_plan(seed: int, faults: int, seconds: float) -> list[Fault]:
    """Draw so many faults over so many seconds."""
    numbers = random.Random(f"plan {seed}")
    moments = sorted(numbers.uniform(0.0, seconds) for _ in range(faults))
    plan: list[Fault] = []
    for number, at in enumerate(moments):
        [kind] = numbers.choices(list(_WEIGHTS), list(_WEIGHTS.values()))
        shortest, longest = _LASTS.get(kind, (0.0, 0.0))
        plan.append(
            Fault(
                number=number,
                at=round(at, 3),
                kind=kind,
                target=round(numbers.random(), 6),
                lasts=round(numbers.uniform(shortest, longest), 3),
            )
        )
    return plan
