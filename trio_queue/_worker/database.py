"""The database as a worker's services see it: every wait has a bound, every outage one word."""

from __future__ import annotations

import math
import random
from typing import Any, TypeVar

import trio

from trio_queue._worker.services import Supervisor
from trio_queue.exceptions import ConnectorException
from trio_queue.log import Action, fields
from trio_queue.store import JobStore
from trio_queue.verbs import Verb

R = TypeVar("R")

#: Seconds: a claim, one try of a write, and whatever else is asked.
CLAIM_BOUND = 5.0
WRITE_BOUND = 10.0
#: How the connections that verbs are sent over are called.
VERBS = "verbs"
#: Seconds: away again so soon, it was not really back.
ONE_OUTAGE = 5.0
#: Seconds: the first and the longest pause between two tries. A worker fetches again within a
#: second of the server's return.
BACKOFF = (0.05, 0.8)


class TooSlow(ConnectorException):
    """The database did not answer in time."""


class Database:
    """A store, with bounds, and a memory of whether it is away: its `Outages`."""

    def __init__(self, store: JobStore, supervisor: Supervisor) -> None:
        self.store = store
        self._supervisor = supervisor
        #: Since when no verb is answered, by Trio's clock; infinity: they are.
        self.away_since = math.inf
        # The last time that verbs were not answered: from when to when.
        self._away_from = self._away_to = -math.inf
        # Which connections are lost, and since when the first of them is; when the last outage ended.
        self._lost: set[str] = set()
        self._is_told = False
        self._lost_since = -math.inf
        self._back_since = -math.inf
        store.tell_outages(self)

    @property
    def lost_since(self) -> float:
        """Since when some connection is lost, by Trio's clock; infinity: none is."""
        return self._lost_since if self._is_told else math.inf

    async def run(self, verb: Verb[R], *, bound: float = WRITE_BOUND) -> R:
        """Say something and wait for the answer, `bound` seconds at most.

        Raises:
            TooSlow: No answer in time; what was said may have been done or not.
            Exception: What the verb says.

        Cancelled: what was said may have been done or not.
        """
        said_at = trio.current_time()
        try:
            with trio.fail_after(bound):
                answer = await self.store.run(verb)
        except trio.TooSlowError:
            error = TooSlow(f"no answer to {verb.name} in {bound:g} s")
            self._is_away(verb, error, said_at)
            raise error from None
        except ConnectorException as error:
            if self.store.is_transient(error):
                self._is_away(verb, error, said_at)
            raise
        if self.away_since < math.inf:
            self.away_since = math.inf
            self._away_to = trio.current_time()
        self.ended(VERBS)
        return answer

    def is_transient(self, error: BaseException) -> bool:
        """Whether trying again may help."""
        return isinstance(error, TooSlow) or self.store.is_transient(error)

    def _is_away(self, verb: Verb[object], error: BaseException, said_at: float) -> None:
        now = trio.current_time()
        if self.away_since == math.inf and now - self._away_to > ONE_OUTAGE:
            self._away_from = now
        self.away_since = min(self.away_since, now)
        # What was said during an outage may fail after its end: that is no other one.
        if said_at >= self._back_since:
            self.began(VERBS, error, verb=verb.name)

    def was_away(self, seconds: float, *, within: float) -> bool:
        """Whether it is away, or came back in the last `within` seconds, and was away for so long."""
        now = trio.current_time()
        until = self._away_to if self.away_since == math.inf else now
        return until - self._away_from >= seconds and now - until < within

    # One line for an outage and one for its end, however many connections it takes.

    def began(self, connection: str, error: BaseException, *, verb: str | None = None) -> None:
        """See Outages."""
        if connection in self._lost:
            return
        if not self._is_told:
            self._is_told = True
            self._lost_since = trio.current_time()
            said = _in_one_line(error)
            self._warn(
                "Lost the database (%s: %s); running jobs go on, trying again until it is back",
                verb or connection,
                said,
                extra=fields(Action.DATABASE_AWAY, connection=connection, verb=verb, error=said),
            )
        self._lost.add(connection)

    def ended(self, connection: str) -> None:
        """See Outages."""
        if connection not in self._lost:
            return
        self._lost.discard(connection)
        # Once verbs are answered again it is back, whatever else has yet to connect; and nobody
        # waits for that where the worker stops meanwhile.
        if not self._is_told or (self._lost and connection != VERBS):
            return
        self._is_told = False
        self._back_since = trio.current_time()
        length = self._back_since - self._lost_since
        self._warn(
            "The database is back after %.1f s",
            length,
            extra=fields(Action.DATABASE_BACK, seconds=round(length, 3)),
        )

    def _warn(self, *message: object, **options: Any) -> None:
        # A log handler that raises must not be taken for what the database answered.
        supervisor = self._supervisor
        supervisor.call("the log of outages", supervisor.logger.warning, *message, **options)


def _in_one_line(error: BaseException) -> str:
    # Libpq's guesses at the reason are lines of their own, indented.
    lines = [line for line in str(error).splitlines() if not line.startswith("\t")]
    return " ".join(" ".join(lines).split()) or repr(error)


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
