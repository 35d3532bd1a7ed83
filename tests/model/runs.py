"""One time that the worker claimed a job."""

from __future__ import annotations

import math

import attrs

from tests.model.record import Body, Pruned


@attrs.define
class Run:
    """A claim, and what came of it."""

    job: int
    claimed: int
    claimed_at: float
    #: None: it did not begin.
    body: Body | None = None
    #: The worker's row was deleted under it, and it is not adopted again.
    lost: Pruned | None = None
    #: When its row was written.
    written: int | None = None
    written_at: float | None = None

    def runs_at(self, order: float) -> bool:
        """Whether its body runs."""
        body = self.body
        return body is not None and body.began < order < (
            math.inf if body.ended is None else body.ended
        )

    def is_held_at(self, order: float) -> bool:
        """Whether it may have a place: until its body has ended and its row is written."""
        return self.claimed <= order < self._let_go()

    def _let_go(self) -> float:
        if self.body is None or self.body.ended is None:
            return math.inf if self.written is None else self.written
        if self.written is None:
            # Nothing is written of it: the row is somebody else's.
            return self.body.ended if self.lost else math.inf
        return max(self.written, self.body.ended)
