"""A connection of a pool: is it fit to be lent, and fit to be kept?"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import attrs
import psycopg
import trio
from psycopg import pq

from trio_queue._pg.waiting import IDLE, NO_PIPELINE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio_queue._pg.connection import TrioConnection

logger = logging.getLogger("trio_queue.postgres")

CHECK_AFTER: Final = 10.0
"""Seconds of idling after which a connection proves itself with a round trip before it is lent."""

CHECK_TIMEOUT: Final = 1.0
"""Seconds for that round trip, and again for giving it up: on a wire that is dead both pass, and
the borrower's own statement still has to fit in its bound (five seconds for a claim)."""

WhyDiscarded: TypeAlias = Literal["broken", "expired", "idle", "unclean", "closed"]


@attrs.define(eq=False)
class Member:
    """A connection of a pool.

    Attributes:
        connection: The connection.
        expires_at: When it has to be replaced, on Trio's clock.
        idle_since: When it was last returned, on Trio's clock.
    """

    connection: TrioConnection
    expires_at: float
    idle_since: float

    def works_for_sure(self, now: float) -> bool:
        """Tell, free of charge, whether the connection works; False: it is to be asked, or does not."""
        return now - self.idle_since < CHECK_AFTER and not self.connection.has_hung_up()

    async def is_usable(self) -> bool:
        """Tell whether the connection works; free of charge, unless it idled for long.

        Raises:
            trio.Cancelled: Not known; the connection may be closed.
        """
        if self.works_for_sure(trio.current_time()):
            return True
        if self.connection.has_hung_up():
            return False
        usual = self.connection.cancel_timeout
        self.connection.cancel_timeout = CHECK_TIMEOUT
        with trio.move_on_after(CHECK_TIMEOUT):
            try:
                await self.connection.execute("")
            except psycopg.Error:
                return False
            finally:
                self.connection.cancel_timeout = usual
            return True
        return False

    def is_at_rest(self) -> bool:
        """Tell whether the borrower left nothing open; a closed connection is not at rest."""
        pgconn = self.connection.pgconn
        return pgconn.transaction_status == IDLE and pgconn.pipeline_status == NO_PIPELINE

    async def clean_up(self) -> WhyDiscarded | None:
        """Undo what a borrower left open; bounded in a cancelled scope.

        Returns:
            Why the connection must not be lent again; None if it may.

        Raises:
            trio.Cancelled: It must not be lent again.
        """
        connection = self.connection
        if connection.closed:
            return "broken"
        if self.is_at_rest():
            return None
        in_pipeline = connection.pgconn.pipeline_status != NO_PIPELINE
        if in_pipeline or connection.info.transaction_status == pq.TransactionStatus.ACTIVE:
            # Somebody still uses it, or left a block that only its owner can leave.
            logger.warning("closing %s, which was returned while it was in use", connection)
            return "unclean"
        logger.warning("rolling back a transaction that was left open on %s", connection)
        try:
            await connection.rollback()
        except psycopg.Error as error:
            logger.warning("cannot roll back %s: %s", connection, error)
            return "unclean"
        return None


class Loan:
    """A connection of a pool for the time of a block. A class: a generator costs 2 µs more, of 60 for a statement."""

    __slots__ = ("_acquire", "_member", "_release", "_timeout")

    def __init__(
        self,
        acquire: Callable[[float], Awaitable[Member]],
        release: Callable[[Member], Awaitable[None]],
        timeout: float,
    ) -> None:
        self._acquire = acquire
        self._release = release
        self._timeout = timeout
        self._member: Member | None = None

    async def __aenter__(self) -> TrioConnection:
        self._member = await self._acquire(self._timeout)
        return self._member.connection

    async def __aexit__(self, *_: object) -> None:
        assert self._member is not None
        await self._release(self._member)
