"""The pauses between two attempts to reach a server that is away."""

from __future__ import annotations

import random
from typing import Final

FIRST_DELAY: Final = 0.05
LONGEST_DELAY: Final = 0.8
"""Seconds. Below one second, because whoever waits is to be back within a second of the server."""


class Backoff:
    """Delays that double up to a cap, each shortened by chance.

    The chance keeps the many clients of one server from coming back at the same instant.
    """

    __slots__ = ("_cap",)

    def __init__(self) -> None:
        self._cap = FIRST_DELAY

    def next_delay(self) -> float:
        """Return how many seconds to wait before the next attempt."""
        cap = self._cap
        self._cap = min(cap * 2, LONGEST_DELAY)
        return cap * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, protects nothing

    def reset(self) -> None:
        """Begin with short delays again, after a success."""
        self._cap = FIRST_DELAY
