"""Which errors of PostgreSQL pass by themselves, and how to name a server in a message."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict

if TYPE_CHECKING:
    from collections.abc import Mapping


class PoolTimeout(psycopg.OperationalError):
    """No connection could be had from the pool in time.

    The message says why, as far as it is known: all connections are in use, or the last error
    met while connecting, which is also the ``__cause__``.
    """


class PoolClosed(psycopg.OperationalError):
    """The pool is not open (any more): open it before asking it for a connection."""


_TRANSIENT_SQLSTATES: Final = frozenset(
    {
        "25006",  # read_only_sql_transaction: a failover, and we still talk to the standby
        "25P03",  # idle_in_transaction_session_timeout: the server ended the session
        "40001",  # serialization_failure
        "40P01",  # deadlock_detected
        "53300",  # too_many_connections
        "57P01",  # admin_shutdown
        "57P02",  # crash_shutdown
        "57P03",  # cannot_connect_now: the server starts up or recovers
        "57P05",  # idle_session_timeout: the server ended the session
    }
)
_CONNECTION_EXCEPTION_CLASS: Final = "08"


def is_transient(error: BaseException) -> bool:
    """Tell whether *error* means "the connection or the server is away, try again".

    Errors met while connecting carry no SQLSTATE, so a wrong password looks like a server that is
    down: bound your retries, or show the error to somebody.

    Args:
        error: Anything that was raised.

    Returns:
        True when the same statement may succeed on another connection, or a little later.
    """
    if not isinstance(error, psycopg.Error):
        return False
    if isinstance(error, (PoolClosed, psycopg.errors.PipelineAborted)):
        # Without an SQLSTATE too, but no connection is away: the caller closed the pool, or the
        # statement follows one that failed for a reason of its own.
        return False
    if error.sqlstate is None:
        return isinstance(error, psycopg.OperationalError)
    return error.sqlstate in _TRANSIENT_SQLSTATES or error.sqlstate.startswith(
        _CONNECTION_EXCEPTION_CLASS
    )


_SHOWN_PARAMETERS: Final = ("service", "host", "hostaddr", "port", "user", "dbname")


def describe_parameters(parameters: Mapping[str, object]) -> str:
    """Name a server by its connection parameters, without any secret.

    Args:
        parameters: As :func:`psycopg.conninfo.conninfo_to_dict` returns them.

    Returns:
        For instance ``host=db.example port=5432 user=alice dbname=app``.
    """
    shown = [
        f"{name}={parameters[name]}"
        for name in _SHOWN_PARAMETERS
        if parameters.get(name) not in {None, ""}
    ]
    return " ".join(shown) or "libpq's default server"


def describe_conninfo(conninfo: str, **kwargs: object) -> str:
    """Name the server that *conninfo* leads to, without its password or any other secret.

    What the string leaves open is filled in as libpq would: from ``PGHOST`` and the like.

    Args:
        conninfo: A connection string, of either kind that libpq reads.
        **kwargs: Keywords that go with it when connecting; they win.

    Returns:
        For instance ``host=db.example port=5432 user=alice dbname=app``. A string that cannot be
        read is not shown at all, for its password would be somewhere in it.
    """
    try:
        given = conninfo_to_dict(conninfo)
    except psycopg.Error:
        return "a server whose connection string cannot be read"
    parameters: dict[str, object] = {}
    for option in pq.Conninfo.get_defaults():
        if option.val is not None:
            parameters[option.keyword.decode()] = option.val.decode(errors="replace")
    parameters.update(given)
    parameters.update(kwargs)
    return describe_parameters(parameters)
