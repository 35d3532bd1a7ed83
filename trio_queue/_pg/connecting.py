"""Reach a PostgreSQL server: parameters, addresses, one attempt after the other.

Written on `psycopg.pq` rather than on psycopg's own generator for connecting, which changed
between patch releases. One difference that users see: every attempt's failure is in the error.
"""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any, Final, NoReturn

import psycopg
import trio
from psycopg import pq
from psycopg.conninfo import conninfo_attempts, conninfo_to_dict, make_conninfo

from trio_queue._pg.errors import describe_parameters

if TYPE_CHECKING:
    from psycopg.pq.abc import PGconn

DEFAULT_CONNECT_TIMEOUT: Final = 10.0
"""Seconds for one attempt, where neither the caller nor ``PGCONNECT_TIMEOUT`` says otherwise."""

WIRE_DEFAULTS: Final = {
    "tcp_user_timeout": 30_000,  # milliseconds
    "keepalives_idle": 10,  # seconds
    "keepalives_interval": 5,  # seconds
    "keepalives_count": 3,
}
"""How a peer that vanished is found. With Linux's own settings, an idle LISTEN notices after two
hours and a sent query after a quarter of an hour; with these, after 25 and 30 seconds."""


def connection_parameters(conninfo: str, **kwargs: Any) -> dict[str, Any]:
    """Merge a connection string and keywords, and add our defaults where both are silent.

    Args:
        conninfo: A connection string, of either kind that libpq reads.
        **kwargs: libpq's parameters by name; they win over *conninfo*, except for None.

    Returns:
        The parameters of one connection, `WIRE_DEFAULTS` among them.

    Raises:
        psycopg.ProgrammingError: *conninfo* cannot be read, or a keyword is none of libpq's.
    """
    try:
        given = conninfo_to_dict(conninfo)
    except psycopg.ProgrammingError:
        # libpq quotes the part it stumbled over, which may hold the password.
        raise psycopg.ProgrammingError(
            "the connection string cannot be read: write it as 'host=... dbname=...' or as "
            "'postgresql://user@host/dbname', with special characters quoted (it is not shown "
            "here, since it may contain a password)"
        ) from None
    parameters = {**WIRE_DEFAULTS, **given}
    parameters.update({name: value for name, value in kwargs.items() if value is not None})
    make_conninfo("", **parameters)  # refuses unknown names; the message names only those
    connect_timeout(parameters)  # refuses what is no number
    return parameters


def connect_timeout(parameters: dict[str, Any]) -> float:
    """Return how many seconds one attempt may take; infinity for zero or less, as in libpq.

    Raises:
        psycopg.ProgrammingError: ``connect_timeout`` is not a number.
    """
    value = parameters.get("connect_timeout", os.environ.get("PGCONNECT_TIMEOUT"))
    if value is None:
        return DEFAULT_CONNECT_TIMEOUT
    try:
        seconds = float(value)
    except ValueError:
        raise psycopg.ProgrammingError(
            f"connect_timeout must be a number of seconds, not {value!r}"
        ) from None
    return seconds if seconds > 0 else math.inf


async def connect_pgconn(parameters: dict[str, Any]) -> PGconn:
    """Connect to the first address that answers.

    Args:
        parameters: As `connection_parameters` returns them.

    Returns:
        An open, non-blocking connection of libpq's.

    Raises:
        psycopg.OperationalError: No address could be connected to. The message has each
            attempt's address and failure.
        psycopg.errors.ConnectionTimeout: The same, when every failure was that it took too long.
        trio.Cancelled: Nothing stays open. A thread that waits for DNS is abandoned.
    """
    timeout = connect_timeout(parameters)
    failures: list[tuple[str, psycopg.OperationalError]] = []
    attempts = await _resolve(parameters, timeout, failures)
    for attempt in attempts:
        try:
            return await _attempt(attempt, timeout)
        except psycopg.OperationalError as error:
            failures.append((describe_parameters(attempt), error))
    raise _connection_error(failures)


async def _resolve(
    parameters: dict[str, Any],
    timeout: float,
    failures: list[tuple[str, psycopg.OperationalError]],
) -> list[dict[str, Any]]:
    """Split *parameters* into one set per address; note the names that cannot be resolved."""
    names = _host_names(parameters)
    attempts: list[dict[str, Any]] = []
    error: psycopg.OperationalError | None = None
    with trio.move_on_after(timeout) as scope:
        try:
            # Blocks on DNS. A limiter of its own: Trio's default one may be full of a user's
            # blocking jobs, which may be waiting for this very connection.
            attempts = await trio.to_thread.run_sync(
                conninfo_attempts,
                parameters,
                abandon_on_cancel=True,
                limiter=trio.CapacityLimiter(1),
            )
        except psycopg.OperationalError as reason:
            error = reason
    if scope.cancelled_caught:
        error = psycopg.errors.ConnectionTimeout(
            f"its name was not resolved within {timeout:g} seconds"
        )
    if error is not None:
        failures.append((describe_parameters(parameters), error))
        return []
    resolved = {attempt.get("host") for attempt in attempts}
    failures.extend(
        (f"host={name}", psycopg.OperationalError("its name cannot be resolved"))
        for name in names
        if name not in resolved
    )
    return attempts


def _host_names(parameters: dict[str, Any]) -> list[str]:
    if parameters.get("hostaddr"):
        return []
    hosts = str(parameters.get("host") or os.environ.get("PGHOST") or "")
    return [host for host in hosts.split(",") if host]


async def _attempt(attempt: dict[str, Any], timeout: float) -> PGconn:
    with trio.move_on_after(timeout):
        return await _connect_one(make_conninfo("", **attempt))
    raise psycopg.errors.ConnectionTimeout(
        f"no connection within {timeout:g} seconds (connect_timeout)"
    )


async def _connect_one(conninfo: str) -> PGconn:
    pgconn = pq.PGconn.connect_start(conninfo.encode())
    try:
        if pgconn.status == pq.ConnStatus.BAD:
            _raise_error_of(pgconn)
        # libpq's manual: before the first poll, behave as if it had asked for a writable socket.
        status: int = pq.PollingStatus.WRITING
        while status != pq.PollingStatus.OK:
            # The socket may be another one after each poll.
            if status == pq.PollingStatus.READING:
                await trio.lowlevel.wait_readable(pgconn.socket)
            elif status == pq.PollingStatus.WRITING:
                await trio.lowlevel.wait_writable(pgconn.socket)
            else:
                _raise_error_of(pgconn)
            status = pgconn.connect_poll()
    except OSError as error:
        pgconn.finish()
        raise psycopg.OperationalError(str(error)) from error
    except BaseException:
        pgconn.finish()
        raise
    pgconn.nonblocking = 1
    return pgconn


def _raise_error_of(pgconn: PGconn) -> NoReturn:
    raise psycopg.OperationalError(pgconn.get_error_message())


def _connection_error(
    failures: list[tuple[str, psycopg.OperationalError]],
) -> psycopg.OperationalError:
    described = [f"{where}: {str(error).strip()}" for where, error in failures]
    if len(described) == 1:
        message = f"could not connect to {described[0]}"
    else:
        message = "could not connect; all attempts failed:\n- " + "\n- ".join(described)
    timed_out = all(isinstance(error, psycopg.errors.ConnectionTimeout) for _, error in failures)
    kind = psycopg.errors.ConnectionTimeout if timed_out else psycopg.OperationalError
    result = kind(message)
    result.__cause__ = failures[-1][1]
    return result
