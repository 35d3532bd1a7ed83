"""The kinds of jobs, what each may end as, and how jobs are drawn."""

from __future__ import annotations

import random
from typing import Any

import attrs

#: What each task's jobs may end as, when nobody asks for their abort.
ALLOWED: dict[str, frozenset[str]] = {
    "quick": frozenset({"succeeded"}),
    "steady": frozenset({"succeeded"}),
    "thread": frozenset({"succeeded"}),
    "heeding": frozenset({"succeeded"}),
    "flaky": frozenset({"succeeded"}),
    "failing": frozenset({"failed"}),
    "deaf": frozenset({"succeeded"}),
    "cleaning": frozenset({"succeeded"}),
    # A shutdown interrupts these for good: no strategy, or none is asked.
    "plain": frozenset({"succeeded", "aborted"}),
    "giving_up": frozenset({"succeeded", "aborted"}),
    "blocking": frozenset({"succeeded"}),
    # It ends its own process, three times.
    "deadly": frozenset({"failed"}),
}

#: How often each is drawn, and how long it lasts, in seconds.
_DRAWN: dict[str, tuple[int, float, float]] = {
    "quick": (30, 0.0, 0.05),
    "steady": (18, 0.2, 1.5),
    "thread": (10, 0.05, 0.8),
    "heeding": (8, 0.2, 2.0),
    "flaky": (8, 0.0, 0.3),
    "failing": (4, 0.0, 0.1),
    "deaf": (6, 0.5, 2.0),
    "cleaning": (8, 0.2, 1.5),
    "plain": (4, 0.2, 1.0),
    "giving_up": (4, 0.2, 1.0),
    "blocking": (1, 1.1, 1.6),  # the event loop, for longer than the lease
}


@attrs.frozen(kw_only=True)
class Draw:
    """A job that is to be deferred."""

    task: str
    arguments: dict[str, Any]
    lock: str | None = None
    queueing_lock: str | None = None
    priority: int = 0
    #: Seconds until it may start.
    delay: float | None = None


def draw_job(numbers: random.Random, token: str) -> Draw:
    """Draw a job of any kind."""
    [task] = numbers.choices(list(_DRAWN), [weight for weight, _, _ in _DRAWN.values()])
    _, shortest, longest = _DRAWN[task]
    has_lock = task != "blocking" and numbers.random() < 0.3
    return Draw(
        task=task,
        arguments={"token": token, "seconds": round(numbers.uniform(shortest, longest), 3)},
        lock=f"lock {numbers.randrange(8)}" if has_lock else None,
        queueing_lock=f"queueing {numbers.randrange(20)}" if numbers.random() < 0.1 else None,
        priority=numbers.choice([0, 0, 0, 1, 2, -1]),
        delay=round(numbers.uniform(0.1, 4.0), 3) if numbers.random() < 0.15 else None,
    )
