"""A connection of a pool: is it fit to be lent, and fit to be kept?"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import attrs
import psycopg
import trio
from psycopg import pq

if TYPE_CHECKING:
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

    async def is_usable(self) -> bool:
        """Tell whether the connection works; free of charge, unless it idled for long.

        Raises:
            trio.Cancelled: Not known; the connection may be closed.
        """
        if self.connection.has_hung_up():
            return False
        if trio.current_time() - self.idle_since < CHECK_AFTER:
            return True
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
        status = connection.info.transaction_status
        in_pipeline = connection.pgconn.pipeline_status != pq.PipelineStatus.OFF
        if status == pq.TransactionStatus.IDLE and not in_pipeline:
            return None
        if in_pipeline or status == pq.TransactionStatus.ACTIVE:
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
