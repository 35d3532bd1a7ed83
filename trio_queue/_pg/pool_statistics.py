"""What a pool tells of itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Mapping


@attrs.frozen(kw_only=True)
class PoolStatistics:
    """A pool at one moment, and what has happened to it since it was made.

    Attributes:
        max_size: How many connections there may be.
        idle: How many wait to be lent.
        in_use: How many are lent, or being opened for somebody.
        waiting: How many tasks wait for a connection.
        requests: How often a connection was asked for.
        timeouts: How often none could be had in time.
        opened: How many connections were opened.
        failures: How many attempts to open one failed.
        discarded: How many were closed, by reason: ``broken``, ``expired`` (`max_lifetime`),
            ``idle`` (`max_idle`), ``unclean`` (returned in a state that cannot be undone),
            ``closed`` (with the pool).
    """

    max_size: int
    idle: int
    in_use: int
    waiting: int
    requests: int
    timeouts: int
    opened: int
    failures: int
    discarded: Mapping[str, int]
