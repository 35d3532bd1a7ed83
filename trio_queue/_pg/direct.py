"""Statements over a psycopg connection without a cursor.

A cursor is made for whoever knows nothing of the statement: for each execution it reads the placeholders, guesses types,
copies the map of adapters. For statements that are always the same that was a third of what the client did: 46 µs of 137
for a deferred job. What is left is libpq's part, as a generator of the kind that `wait` of every connection of psycopg's
runs: sync, asyncio's and Trio's, with its answer to a cancel.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from weakref import WeakKeyDictionary

import attrs
import psycopg
import trio
from psycopg import pq
from psycopg.adapt import AdaptersMap, Transformer
from psycopg.errors import (
    DuplicatePreparedStatement,
    FeatureNotSupported,
    InvalidSqlStatementName,
    error_from_result,
)
from psycopg.waiting import Ready, Wait

from trio_queue._pg.connection import TrioConnection
from trio_queue._pg.waiting import IDLE, NO_PIPELINE, deliver_notifications

if TYPE_CHECKING:
    from psycopg import abc
    from psycopg.abc import PQGen
    from psycopg.pq.abc import PGconn, PGresult

AnyConnection: TypeAlias = psycopg.Connection[Any] | psycopg.AsyncConnection[Any]
Rows: TypeAlias = Sequence[tuple[Any, ...]]

_FAILED: Final = int(pq.ExecStatus.FATAL_ERROR)
_READ: Final = int(Ready.R)


@attrs.frozen(eq=False)
class Command:
    """A statement that is sent again and again."""

    #: Under which it is prepared; unlike psycopg's names, and plain enough to stand in a statement.
    name: bytes
    #: Its parameters are `$1`, `$2`, with casts: the server is told no types.
    text: bytes


def can_send(connection: AnyConnection) -> bool:
    """Whether a statement can be sent over this connection, as it is now, without a cursor.

    Not in a transaction or a pipeline, which psycopg keeps the books of; not where the parameters are to be put into the text
    (client cursors), nor where texts and moments look different from what is read here.
    """
    pgconn = connection.pgconn
    return (
        pgconn.transaction_status == IDLE
        and connection.autocommit
        and pgconn.pipeline_status == NO_PIPELINE
        and pgconn.parameter_status(b"client_encoding") == b"UTF8"
        and (pgconn.parameter_status(b"DateStyle") or b"").startswith(b"ISO")
        and not issubclass(
            connection.cursor_factory, (psycopg.ClientCursor, psycopg.AsyncClientCursor)
        )
    )


def execute(
    connection: psycopg.Connection[Any],
    command: Command,
    parameters: Sequence[bytes | None],
    adapters: AdaptersMap,
) -> Rows:
    """Send a statement over a connection that `can_send`, and read its rows.

    It is prepared as `prepare_threshold` of the connection says.

    Args:
        connection: Nobody else may use it meanwhile.
        command: The statement.
        parameters: In PostgreSQL's text format, see `text_format`.
        adapters: Whose loaders read the rows. One object for all statements: their choice is kept.

    Raises:
        psycopg.Error: What the server says.
    """
    session = _session(connection)
    exchange = session.exchange(
        connection.pgconn, command, parameters, connection.prepare_threshold
    )
    with connection.lock:
        result = connection.wait(exchange)
    return session.read(result, adapters)


async def execute_async(
    connection: psycopg.AsyncConnection[Any],
    command: Command,
    parameters: Sequence[bytes | None],
    adapters: AdaptersMap,
) -> Rows:
    """Send a statement over an async connection of the running loop. See `execute`.

    Raises:
        psycopg.Error: What the server says.
        trio.Cancelled: As `TrioConnection.wait` does; in a cancelled scope nothing is sent.
    """
    if isinstance(connection, TrioConnection):
        await trio.lowlevel.checkpoint_if_cancelled()
    session = _session(connection)
    exchange = session.exchange(
        connection.pgconn, command, parameters, connection.prepare_threshold
    )
    async with connection.lock:
        result = await connection.wait(exchange)
    return session.read(result, adapters)


@attrs.frozen
class _Context:
    """What a Transformer is made of. Without the connection: who keeps it would keep that, too."""

    adapters: AdaptersMap
    connection: None = None


class _Session:
    """What is known of a connection: what is prepared on it, and what reads its rows."""

    __slots__ = ("_ours", "_prepared", "_runs", "_transformers")

    def __init__(self) -> None:
        self._prepared: set[bytes] = set()
        #: What has ever been prepared here by us.
        self._ours: set[bytes] = set()
        #: Of what is not prepared.
        self._runs: dict[bytes, int] = {}
        self._transformers: dict[AdaptersMap, abc.Transformer] = {}

    def read(self, result: PGresult, adapters: AdaptersMap) -> Rows:
        """The rows of a result."""
        transformer = self._transformers.get(adapters)
        if transformer is None:
            transformer = self._transformers[adapters] = Transformer(_Context(adapters))
        transformer.set_pgresult(result)
        rows = transformer.load_rows(0, result.ntuples, tuple)
        transformer.set_pgresult(None)
        return rows

    def exchange(
        self,
        pgconn: PGconn,
        command: Command,
        parameters: Sequence[bytes | None],
        threshold: int | None,
    ) -> PQGen[PGresult]:
        """Send it and get its result, as one of psycopg's generators."""
        name = command.name
        if name not in self._prepared and not self._is_due(name, threshold):
            pgconn.send_query_params(command.text, parameters)
            return (yield from get_result(pgconn))
        try:
            if name not in self._prepared:
                pgconn.send_prepare(name, command.text)
                yield from get_result(pgconn)
                self._prepared.add(name)
                self._ours.add(name)
            pgconn.send_query_prepared(name, parameters)
            return (yield from get_result(pgconn))
        except InvalidSqlStatementName:
            # DISCARD ALL, or a pooler that gave us another session: nothing else of ours is there either.
            if pgconn.transaction_status != IDLE:
                raise
            self._prepared.clear()
            self._runs.clear()
        except DuplicatePreparedStatement:
            # It is still there: when another was gone it was taken for gone, too, or the DEALLOCATE below was cancelled.
            if pgconn.transaction_status != IDLE or name not in self._ours:
                raise
            yield from self._forget(pgconn, name)
        except FeatureNotSupported:
            # "cached plan must not change result type": the table or the function was altered. (Or another feature, and
            # then it is said again below.)
            if pgconn.transaction_status != IDLE or name not in self._prepared:
                raise
            yield from self._forget(pgconn, name)
        # None of these has done anything: in autocommit mode it was rolled back.
        pgconn.send_query_params(command.text, parameters)
        return (yield from get_result(pgconn))

    def _forget(self, pgconn: PGconn, name: bytes) -> PQGen[None]:
        """Prepare it anew after as many runs as at first."""
        self._prepared.discard(name)
        self._runs.pop(name, None)
        pgconn.send_query_params(b"DEALLOCATE " + name, None)
        # Not there: a pooler gave us another session.
        with suppress(InvalidSqlStatementName):
            yield from get_result(pgconn)

    def _is_due(self, name: bytes, threshold: int | None) -> bool:
        """Whether it is to be prepared now. A run of its own counts."""
        if threshold is None:
            return False
        runs = self._runs.get(name, 0)
        self._runs[name] = runs + 1
        return runs >= threshold


_sessions: WeakKeyDictionary[AnyConnection, _Session] = WeakKeyDictionary()


def _session(connection: AnyConnection) -> _Session:
    found = _sessions.get(connection)
    if found is None:
        found = _sessions[connection] = _Session()
    return found


def read_rows(connection: AnyConnection, result: PGresult, adapters: AdaptersMap) -> Rows:
    """The rows of a result that was got by other means. See `execute`."""
    return _session(connection).read(result, adapters)


def flush(pgconn: PGconn) -> PQGen[None]:
    """Write all that is to be sent; and read meanwhile, since a server that cannot send does not read either."""
    while pgconn.flush():
        # None: resumed by psycopg's `wait`, after a cancel.
        if ((yield Wait.RW) or 0) & _READ:
            pgconn.consume_input()


def get_result(pgconn: PGconn) -> PQGen[PGresult]:
    """Get the only result of what was just sent, as one of psycopg's generators.

    Raises:
        psycopg.Error: What the server said instead, or that the connection was lost.
    """
    yield from flush(pgconn)
    last: PGresult | None = None
    try:
        while True:
            while pgconn.is_busy():
                yield Wait.R
                pgconn.consume_input()
            deliver_notifications(pgconn)
            result = pgconn.get_result()
            if result is None:
                break
            last = result
    except psycopg.DatabaseError:
        # The server's last word, before it ended the session, is the better reason.
        if last is None or last.status != _FAILED:
            raise
    if last is None:
        raise psycopg.InternalError("the server answered without a result")
    if last.status == _FAILED:
        raise error_from_result(last)
    return last
