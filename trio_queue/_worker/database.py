"""The database as a worker's services see it: every wait has a bound, every outage one word."""

from __future__ import annotations

import logging
import math
import random
from typing import TypeVar

import trio

from trio_queue.exceptions import ConnectorException
from trio_queue.log import Action, fields
from trio_queue.store import JobStore, Verb

R = TypeVar("R")

#: Seconds: a claim, one try of a write, and whatever else is asked.
CLAIM_BOUND = 5.0
WRITE_BOUND = 10.0
#: Seconds: the first and the longest pause between two tries. A worker fetches again within a
#: second of the server's return.
BACKOFF = (0.05, 0.8)


class TooSlow(ConnectorException):
    """The database did not answer in time."""


class Database:
    """A store, with bounds and a memory of whether it is away."""

    def __init__(self, store: JobStore, logger: logging.Logger) -> None:
        self.store = store
        self._logger = logger
        #: Since when it is away, by Trio's clock; infinity: it is there.
        self.away_since = math.inf

    async def run(self, verb: Verb[R], *, bound: float = WRITE_BOUND) -> R:
        """Say something and wait for the answer, `bound` seconds at most.

        Raises:
            TooSlow: No answer in time; what was said may have been done or not.
            Exception: What the verb says.

        Cancelled: what was said may have been done or not.
        """
        try:
            with trio.fail_after(bound):
                answer = await self.store.run(verb)
        except trio.TooSlowError:
            error = TooSlow(f"no answer to {verb.name} in {bound:g} s")
            self._is_away(verb, error)
            raise error from None
        except ConnectorException as error:
            if self.store.is_transient(error):
                self._is_away(verb, error)
            raise
        self._is_back()
        return answer

    def is_transient(self, error: BaseException) -> bool:
        """Whether trying again may help."""
        return isinstance(error, TooSlow) or self.store.is_transient(error)

    def _is_away(self, verb: Verb[object], error: BaseException) -> None:
        if self.away_since < math.inf:
            return
        self.away_since = trio.current_time()
        self._logger.warning(
            "The database is away (%s: %s); running jobs go on, trying again until it is back",
            verb.name,
            error,
            extra=fields(Action.DATABASE_AWAY, verb=verb.name, error=str(error)),
        )

    def _is_back(self) -> None:
        if self.away_since == math.inf:
            return
        length = trio.current_time() - self.away_since
        self.away_since = math.inf
        self._logger.warning(
            "The database is back after %.1f s",
            length,
            extra=fields(Action.DATABASE_BACK, seconds=round(length, 3)),
        )


class Backoff:
    """Pauses between tries: growing, capped, and never the same for two workers."""

    def __init__(self) -> None:
        self._pause = BACKOFF[0]

    def next(self) -> float:
        """Seconds to wait before the next try."""
        pause = self._pause
        self._pause = min(pause * 2, BACKOFF[1])
        return pause * random.uniform(0.75, 1.25)  # noqa: S311 - jitter, not a secret

    def reset(self) -> None:
        """It worked: begin with the short pause again."""
        self._pause = BACKOFF[0]
