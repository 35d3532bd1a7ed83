"""Send a statement over a connection: sync or async, ours or the caller's.

Psycopg's async connections differ by their loop only (asyncio's, or the driver's for Trio), so
there are two colours here and not three.

There are two ways over a connection. Ours are in autocommit mode and at rest, so a statement goes without a cursor
(`_pg.direct`); wherever that is not possible, psycopg's cursor does it. `_encoded` decides.

On the caller's own connection nothing is committed. The statement runs under a savepoint where a
transaction is open, so that one that fails (AlreadyEnqueued!) leaves the caller's work as it was.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from typing import Any, Generic, TypeVar, cast

import attrs
import psycopg
from psycopg.abc import Buffer
from psycopg.adapt import AdaptersMap, Loader
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from trio_queue._pg.connection import TrioConnection
from trio_queue._pg.cursor import TrioCursor
from trio_queue._pg.direct import AnyConnection, Rows, can_send, execute, execute_async
from trio_queue._pg.in_turn import can_send_in_turn, execute_in_turn, execute_in_turn_async
from trio_queue._storage.encoding import Loads
from trio_queue._storage.errors import translate, translated
from trio_queue._storage.moments import NearestTimestamptzLoader
from trio_queue._storage.queries import Query
from trio_queue.exceptions import TrioQueueException
from trio_queue.jobs import UnreadableArguments

R = TypeVar("R")


@attrs.frozen
class Statement(Generic[R]):
    """A verb in SQL."""

    #: Answers rows, if only one of nothing: in a pipeline nobody can tell before they are fetched.
    query: Query
    parameters: dict[str, Any]
    #: Makes the answer of the rows.
    read: Callable[[Rows], R]
    #: Of the jobs that it defers.
    queueing_locks: tuple[str | None, ...] = ()
    #: The parameters of each further time that it is sent, in one transaction: made as they are taken.
    more: Iterator[dict[str, Any]] | None = None
    #: Whether all of `more` can be encoded where `parameters` can.
    is_uniform: bool = True

    def each_time(self) -> Iterator[dict[str, Any]]:
        """The parameters of each time. To be asked for once."""
        yield self.parameters
        yield from self.more or ()


def send(
    connection: psycopg.Connection[Any],
    statement: Statement[R],
    *,
    address: str,
    loads: Loads | None,
) -> R:
    """Send a statement over a connection that nobody else uses meanwhile.

    Raises:
        Exception: What `errors.translated` makes of psycopg's.
    """
    try:
        parameters = _encoded(connection, statement)
        if parameters is None:
            rows = _execute_by_cursor(connection, statement, loads)
        elif statement.more is None:
            rows = execute(connection, statement.query.command, parameters, _adapters(loads))
        else:
            rows = execute_in_turn(
                connection,
                statement.query.command,
                _encoded_parts(statement, parameters),
                _adapters(loads),
            )
    except psycopg.Error as error:
        raise _translated(error, address, statement) from error
    return statement.read(rows)


async def send_async(
    connection: psycopg.AsyncConnection[Any],
    statement: Statement[R],
    *,
    address: str,
    loads: Loads | None,
) -> R:
    """Send a statement over an async connection of the running loop. See `send`."""
    # Not by a context manager: each costs a microsecond or two, which is to be seen here.
    try:
        parameters = _encoded(connection, statement)
        if parameters is None:
            rows = await _execute_by_cursor_async(connection, statement, loads)
        elif statement.more is None:
            rows = await execute_async(
                connection, statement.query.command, parameters, _adapters(loads)
            )
        else:
            rows = await execute_in_turn_async(
                connection,
                statement.query.command,
                _encoded_parts(statement, parameters),
                _adapters(loads),
            )
    except psycopg.Error as error:
        raise _translated(error, address, statement) from error
    return statement.read(rows)


def _encoded(connection: AnyConnection, statement: Statement[Any]) -> list[bytes | None] | None:
    """The parameters for the way without a cursor; None where it has to be a cursor's."""
    if statement.more is None:
        may = can_send(connection)
    else:
        may = statement.is_uniform and can_send_in_turn(connection)
    return statement.query.encode(statement.parameters) if may else None


def _encoded_parts(
    statement: Statement[Any], first: list[bytes | None]
) -> Iterator[list[bytes | None]]:
    """The parameters of each time, of which the first are encoded already."""
    yield first
    for parameters in statement.more or ():
        encoded = statement.query.encode(parameters)
        assert encoded is not None, "uniform parameters are encoded like the first ones"
        yield encoded


def _execute_by_cursor(
    connection: psycopg.Connection[Any], statement: Statement[Any], loads: Loads | None
) -> Rows:
    rows: list[tuple[Any, ...]] = []
    needs_block = _needs_block(connection, statement)
    with (
        connection.transaction() if needs_block else contextlib.nullcontext(),
        plain_cursor(connection) as cursor,
    ):
        _set_readers(cursor.adapters, loads)
        for parameters in statement.each_time():
            cursor.execute(statement.query.placeholders, parameters)
            rows += cursor.fetchall()
    return rows


async def _execute_by_cursor_async(
    connection: psycopg.AsyncConnection[Any], statement: Statement[Any], loads: Loads | None
) -> Rows:
    rows: list[tuple[Any, ...]] = []
    needs_block = _needs_block(connection, statement)
    async with (
        connection.transaction() if needs_block else contextlib.nullcontext(),
        plain_cursor_async(connection) as cursor,
    ):
        _set_readers(cursor.adapters, loads)
        for parameters in statement.each_time():
            await cursor.execute(statement.query.placeholders, parameters)
            rows += await cursor.fetchall()
    return rows


def _needs_block(connection: AnyConnection, statement: Statement[Any]) -> bool:
    """Whether several times would be as many transactions."""
    return (
        statement.more is not None
        and connection.autocommit
        and connection.info.transaction_status == TransactionStatus.IDLE
    )


def _translated(
    error: psycopg.Error, address: str, statement: Statement[Any]
) -> TrioQueueException:
    return translate(error, address, statement.query.name, statement.queueing_locks)


def send_on_callers(
    connection: psycopg.Connection[Any],
    statement: Statement[R],
    *,
    address: str,
    loads: Loads | None,
) -> R:
    """Send a statement as part of the caller's transaction. See `send`."""
    with translated(address, statement=statement.query.name), _callers_transaction(connection):
        return send(connection, statement, address=address, loads=loads)


async def send_on_callers_async(
    connection: psycopg.AsyncConnection[Any],
    statement: Statement[R],
    *,
    address: str,
    loads: Loads | None,
) -> R:
    """Send a statement as part of the caller's transaction. See `send`."""
    with translated(address, statement=statement.query.name):
        async with _callers_transaction_async(connection):
            return await send_async(connection, statement, address=address, loads=loads)


@contextlib.contextmanager
def _callers_transaction(connection: psycopg.Connection[Any]) -> Generator[None]:
    if not _begins_with_us(connection):
        with connection.transaction():
            yield
        return
    try:
        yield
    except BaseException:
        # Nothing else is in this transaction yet.
        if not connection.closed:
            connection.rollback()
        raise


@contextlib.asynccontextmanager
async def _callers_transaction_async(
    connection: psycopg.AsyncConnection[Any],
) -> AsyncGenerator[None]:
    if not _begins_with_us(connection):
        async with connection.transaction():
            yield
        return
    try:
        yield
    except BaseException:
        if not connection.closed:
            await connection.rollback()
        raise


def _begins_with_us(connection: AnyConnection) -> bool:
    """Whether our statement is what begins the caller's transaction.

    `connection.transaction()` would then be the transaction, and commit it.
    """
    return (
        not connection.autocommit and connection.info.transaction_status == TransactionStatus.IDLE
    )


def plain_cursor(connection: psycopg.Connection[Any]) -> psycopg.Cursor[tuple[Any, ...]]:
    """A cursor for our placeholders and of tuples, whatever factories the connection has."""
    kind = connection.cursor_factory
    if issubclass(kind, psycopg.ClientCursor):
        # Chosen because a pooler in between cannot bind on the server.
        return psycopg.ClientCursor(connection, row_factory=tuple_row)
    return psycopg.Cursor(connection, row_factory=tuple_row)


def plain_cursor_async(
    connection: psycopg.AsyncConnection[Any],
) -> psycopg.AsyncCursor[tuple[Any, ...]]:
    """See `plain_cursor`."""
    if isinstance(connection, TrioConnection):
        return TrioCursor(connection, row_factory=tuple_row)
    if issubclass(connection.cursor_factory, psycopg.AsyncClientCursor):
        return psycopg.AsyncClientCursor(connection, row_factory=tuple_row)
    return psycopg.AsyncCursor(connection, row_factory=tuple_row)


def _set_readers(adapters: AdaptersMap, loads: Loads | None) -> None:
    """Read JSON by the user's decoder; and let no value that somebody stored fail a statement.

    A claim has happened by the time that its rows are read: what cannot be read must not keep the
    other rows, nor its own, from whoever claimed them.
    """
    reader = _json_reader(loads)
    adapters.register_loader("json", reader)
    adapters.register_loader("jsonb", reader)
    adapters.register_loader("timestamptz", NearestTimestamptzLoader)


@functools.cache
def _adapters(loads: Loads | None) -> AdaptersMap:
    """Psycopg's adapters and our readers, for the way without a cursor."""
    adapters = AdaptersMap(psycopg.adapters)
    _set_readers(adapters, loads)
    return adapters


# It has no type in typeshed; the module that it is from is documented as what JSONDecoder uses.
_scan: Callable[[str, int], tuple[Any, int]] = cast("Any", json.JSONDecoder()).scan_once


def _read_json(data: bytes) -> Any:
    # What the server writes is JSON, without space around it: `json.loads` takes half a microsecond to look for that, and
    # for the encoding. A job's arguments are read by this.
    return _scan(data.decode(), 0)[0]


@functools.cache
def _json_reader(loads: Loads | None) -> type[Loader]:
    decode = _read_json if loads is None else loads

    class JsonReader(Loader):
        def load(self, data: Buffer) -> Any:
            try:
                return decode(bytes(data))
            except Exception as error:  # noqa: BLE001 - nested too deeply, too many digits, whatever a user's decoder raises
                return UnreadableArguments(f"{type(error).__name__}: {error}")

    return JsonReader
