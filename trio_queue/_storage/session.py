"""What every new connection of ours is set to, and whether a pooler stands between it and the server.

A pooler in transaction mode lends the same session to many clients, transaction by transaction. A SET would reach one of its
sessions, not necessarily ours, and stay there for whoever gets it next; and the statement that a client prepared under a name
may be another client's. So nothing is set where it need not be, and nothing is prepared unless the user says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg.rows import tuple_row

from trio_queue._pg.direct import AnyConnection
from trio_queue.exceptions import ConnectorException

# Under REPEATABLE READ a claim and the deletion of its worker could miss each other. In another zone the last moment there is
# would be read as one of the year 10,000, moments in another style cannot be read at all, and of a SQL_ASCII database texts come
# as bytes; PgBouncer keeps each client's values of these apart, so that they may be set behind it too.
_SET_UP = """
SELECT pg_backend_pid() = {pid}, current_setting('default_transaction_isolation'),
       CASE WHEN current_setting('default_transaction_isolation') <> 'read committed' AND pg_backend_pid() = {pid}
            THEN set_config('default_transaction_isolation', 'read committed', false) END,
       CASE WHEN current_setting('TimeZone') <> 'UTC' THEN set_config('TimeZone', 'UTC', false) END,
       CASE WHEN current_setting('DateStyle') NOT LIKE 'ISO%' THEN set_config('DateStyle', 'ISO', false) END,
       CASE WHEN current_setting('client_encoding') <> 'UTF8' THEN set_config('client_encoding', 'UTF8', false) END
"""


def set_up(connection: psycopg.Connection[Any], *, may_prepare: bool = False) -> bool:
    """Set a new connection up. Answers whether a pooler stands before the server.

    Args:
        connection: The connection; where it is not in autocommit mode, the caller commits.
        may_prepare: The user said how statements are prepared: behind a pooler, too.

    Raises:
        ConnectorException: The server's default isolation is not the one we need, and cannot be set.
    """
    cursor = psycopg.ClientCursor(connection, row_factory=tuple_row).execute(_question(connection))
    return _understand(connection, cursor.fetchall()[0], may_prepare=may_prepare)


async def set_up_async(
    connection: psycopg.AsyncConnection[Any], *, may_prepare: bool = False
) -> bool:
    """Set a new connection up. See `set_up`."""
    cursor = connection.cursor(row_factory=tuple_row)
    await cursor.execute(_question(connection), prepare=False)
    return _understand(connection, (await cursor.fetchall())[0], may_prepare=may_prepare)


def _question(connection: AnyConnection) -> bytes:
    return _SET_UP.format(pid=connection.info.backend_pid).encode()


def _understand(
    connection: AnyConnection,
    answer: Sequence[Any],
    *,
    may_prepare: bool,
) -> bool:
    # A pooler gives its clients keys of its own, with which they may ask it to cancel: the number in them is no server's.
    is_direct, isolation = answer[:2]
    if is_direct:
        return False
    if isolation != "read committed":
        raise ConnectorException(
            f"default_transaction_isolation is {isolation!r} for this user behind a pooler, where a connection cannot set "
            "its own: ALTER ROLE ... SET default_transaction_isolation = 'read committed' for the user of the queue"
        )
    if not may_prepare:
        connection.prepare_threshold = None
    return True
