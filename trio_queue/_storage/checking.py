"""Whether a connection of psycopg's pools still works, asked each time before it is lent.

psycopg's own check is a round trip: an empty statement before every defer, which cost half as much as the defer. A server that
ends a connection says so, and that can be seen without asking. Only one that vanished without a word has to be asked, and only
after a while: the driver's own pool does the same.
"""

from __future__ import annotations

import math
import time
import weakref
from typing import Any

import attrs
import psycopg
import psycopg_pool

from trio_queue._pg.direct import AnyConnection
from trio_queue._pg.pool_member import CHECK_AFTER
from trio_queue._pg.waiting import LastWords, has_hung_up


@attrs.define
class _Known:
    """What is known of a connection."""

    lent_at: float
    last_words: LastWords = attrs.field(factory=LastWords)


class Checks:
    """The check of one pool: its `check=`."""

    def __init__(self) -> None:
        self._known: weakref.WeakKeyDictionary[AnyConnection, _Known] = weakref.WeakKeyDictionary()

    def check(self, connection: psycopg.Connection[Any]) -> None:
        """For a pool of sync connections. Raises psycopg.Error: it does not work."""
        if self._is_to_be_asked(connection):
            psycopg_pool.ConnectionPool.check_connection(connection)

    async def check_async(self, connection: psycopg.AsyncConnection[Any]) -> None:
        """For a pool of asyncio's connections. Raises psycopg.Error: it does not work."""
        if self._is_to_be_asked(connection):
            await psycopg_pool.AsyncConnectionPool.check_connection(connection)

    def _is_to_be_asked(self, connection: AnyConnection) -> bool:
        """Whether only a round trip can tell. Raises OperationalError where the server has ended it."""
        now = time.monotonic()
        known = self._known.get(connection)
        if known is None:
            # It may have waited for long to be lent for the first time.
            known = self._known[connection] = _Known(-math.inf)
            connection.add_notice_handler(known.last_words.hear)
        if connection.closed or has_hung_up(connection.pgconn, known.last_words):
            raise psycopg.OperationalError("the server has ended this connection")
        # It has rested no longer than since it was lent the last time.
        lent_before, known.lent_at = known.lent_at, now
        return now - lent_before >= CHECK_AFTER
