"""Do something before a chosen step of a run: what Trio does between two checkpoints of a task."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import trio

#: More steps than anything here has.
ENOUGH = 20_000
#: Only every so manieth step is tried, unless the long run says otherwise: 1 is each of them.
STRIDE = int(os.environ.get("TRIO_QUEUE_TEST_STRIDE", "0"))


class Stepwise(trio.abc.Instrument):
    """Counts the steps of all tasks while it is armed, and does something before one of them."""

    def __init__(self) -> None:
        self.steps = 0
        self._at = 0
        self._then: Callable[[], object] | None = None

    def arm(self, at: int, then: Callable[[], object]) -> None:
        """Count from here on, and do this before step *at*, counted from 1."""
        self.steps, self._at, self._then = 0, at, then

    def disarm(self) -> int:
        """Count no more. Answers how many steps there were."""
        self._then = None
        return self.steps

    def before_task_step(self, task: trio.lowlevel.Task) -> None:  # noqa: ARG002 - as Trio calls it
        if self._then is None:
            return
        self.steps += 1
        if self.steps == self._at:
            self._then()


def steps_to_try(stride: int, first: int) -> Iterator[int]:
    """Every *stride*-th step from *first* on, or, in a long run, as TRIO_QUEUE_TEST_STRIDE says.

    Ends with an error: whoever asks stops when a run ended before its step.
    """
    if STRIDE:
        stride, first = STRIDE, 1 + first % STRIDE
    yield from range(first, ENOUGH, stride)
    raise AssertionError("the run has no end")
