"""Do something at a chosen place of a run: before or after a step, what a task does between two checkpoints."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import trio

#: More places than anything here has.
ENOUGH = 20_000
#: Only every so manieth place is tried, unless the long run says otherwise: 1 is each of them.
STRIDE = int(os.environ.get("TRIO_QUEUE_TEST_STRIDE", "0"))


class Stepwise(trio.abc.Instrument):
    """Counts the places of all tasks' steps while it is armed, and does something at one of them.

    Each step has two places. After it, its task waits, and what it waits for has not come: a cancel
    finds a statement under way. Before it, that has come, and the task has not seen it.
    """

    def __init__(self) -> None:
        self.places = 0
        self._at = 0
        self._then: Callable[[], object] | None = None

    def arm(self, at: int, then: Callable[[], object]) -> None:
        """Count from here on, and do this at place *at*, counted from 1."""
        self.places, self._at, self._then = 0, at, then

    def disarm(self) -> int:
        """Count no more. Answers how many places there were."""
        self._then = None
        return self.places

    def before_task_step(self, task: trio.lowlevel.Task) -> None:  # noqa: ARG002 - as Trio calls it
        self._pass_place()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:  # noqa: ARG002 - as Trio calls it
        self._pass_place()

    def _pass_place(self) -> None:
        if self._then is None:
            return
        self.places += 1
        if self.places == self._at:
            self._then()


def places_to_try(stride: int, first: int) -> Iterator[int]:
    """Every *stride*-th place from *first* on, or, in a long run, as TRIO_QUEUE_TEST_STRIDE says.

    Ends with an error: whoever asks stops when a run ended before its place.
    """
    if STRIDE:
        stride, first = STRIDE, 1 + first % STRIDE
    yield from range(first, ENOUGH, stride)
    raise AssertionError("the run has no end")
