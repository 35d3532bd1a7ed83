"""A statement sent again and again in one transaction, each time while the server works on the time before.

libpq's pipeline mode, without psycopg's books of it: the cursors of a pipeline cost the client as much as it gains. BEGIN goes
out with the first part and COMMIT with the last, so all of it is one round trip, and the server rests at no moment. At most two
parts are under way, so that no more than these is in memory, and an error is met early.

Each step is a generator of the kind that `wait` of every connection of psycopg's runs. Between two of them the next part is
made, which is what is gained: 10,000 jobs took 7.3 µs each instead of 8.0, but a thousand, or three, gained nothing.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import psycopg
import trio
from psycopg import pq
from psycopg.errors import error_from_result
from psycopg.waiting import Wait

from trio_queue._pg.connection import TrioConnection
from trio_queue._pg.direct import (
    AnyConnection,
    Command,
    Rows,
    can_send,
    flush,
    get_result,
    read_rows,
)
from trio_queue._pg.waiting import deliver_notifications

if TYPE_CHECKING:
    from psycopg.abc import PQGen
    from psycopg.adapt import AdaptersMap
    from psycopg.pq.abc import PGconn, PGresult

Parameters: TypeAlias = Sequence[bytes | None]

_SYNC: Final = pq.ExecStatus.PIPELINE_SYNC
_FAILED: Final = pq.ExecStatus.FATAL_ERROR


def can_send_in_turn(connection: AnyConnection) -> bool:
    """Whether `execute_in_turn` can be used: where `can_send` says so, with a libpq of 14 or later."""
    return psycopg.Pipeline.is_supported() and can_send(connection)


def execute_in_turn(
    connection: psycopg.Connection[Any],
    command: Command,
    parts: Iterable[Parameters],
    adapters: AdaptersMap,
) -> Rows:
    """Send a statement once for each of several parameters, all or none, over a connection that `can_send_in_turn`.

    Args:
        connection: Nobody else may use it meanwhile.
        command: The statement. It is not prepared for longer than this.
        parts: The parameters of each time, made while the server works on those before. What it raises undoes all.
        adapters: Whose loaders read the rows.

    Returns:
        The rows of all, in their order.

    Raises:
        psycopg.Error: What the server says. Nothing of it stays, unless the wire was lost at the very end.
    """
    exchange = InTurn(connection.pgconn, command)
    with connection.lock:
        try:
            for parameters in parts:
                connection.wait(exchange.send(parameters))
            results = connection.wait(exchange.commit())
        except BaseException:
            try:
                connection.wait(exchange.undo())
            except BaseException as error:
                connection.close()
                if not isinstance(error, psycopg.Error):  # else the first error says why
                    raise
            raise
    return _rows(connection, results, adapters)


async def execute_in_turn_async(
    connection: psycopg.AsyncConnection[Any],
    command: Command,
    parts: Iterable[Parameters],
    adapters: AdaptersMap,
) -> Rows:
    """Send a statement once for each of several parameters over an async connection. See `execute_in_turn`.

    Raises:
        psycopg.Error: As there.
        trio.Cancelled: Nothing of it stays, or all where the cancel came too late; then it returns. Likewise asyncio's, but
            that one is raised in either case.
    """
    exchange = InTurn(connection.pgconn, command)
    async with connection.lock:
        try:
            for parameters in parts:
                await _check_cancelled(connection)
                await connection.wait(exchange.send(parameters))
            await _check_cancelled(connection)
            results = await connection.wait(exchange.commit())
        except BaseException:
            try:
                await connection.wait(exchange.undo())
            except BaseException as error:
                await connection.close()
                if not isinstance(error, psycopg.Error):  # else the first error says why
                    raise
            raise
    return _rows(connection, results, adapters)


async def _check_cancelled(connection: psycopg.AsyncConnection[Any]) -> None:
    # An exchange that begins in a cancelled scope would pass for clean-up, see TrioConnection.
    if isinstance(connection, TrioConnection):
        await trio.lowlevel.checkpoint_if_cancelled()


def _rows(
    connection: AnyConnection, results: Iterable[PGresult], adapters: AdaptersMap
) -> list[tuple[Any, ...]]:
    return [row for result in results for row in read_rows(connection, result, adapters)]


class InTurn:
    """What is under way on a connection."""

    def __init__(self, pgconn: PGconn, command: Command) -> None:
        self._pgconn = pgconn
        self._command = command
        #: How many answers are still to come, before that of the sync.
        self._awaited = 0
        self._is_synced = False
        self._results: list[PGresult] = []

    def send(self, parameters: Parameters) -> PQGen[None]:
        """Send it with these parameters, and wait for the answer of the time before."""
        with self._last_words():
            yield from self._send(parameters)

    def _send(self, parameters: Parameters) -> PQGen[None]:
        pgconn = self._pgconn
        is_first = pgconn.pipeline_status == pq.PipelineStatus.OFF
        if is_first:
            pgconn.enter_pipeline_mode()
            pgconn.send_query_params(b"BEGIN", None)
            # Unnamed, which no other client behind a pooler can have taken, and forgotten with the next statement.
            pgconn.send_prepare(b"", self._command.text)
            self._awaited += 2
        pgconn.send_query_prepared(b"", parameters)
        # Else the answer would wait in the server for the end of it all.
        pgconn.send_flush_request()
        self._awaited += 1
        # The answers to what goes out before the first one come with its own.
        yield from self._get_results(but=self._awaited if is_first else 1)

    def commit(self) -> PQGen[list[PGresult]]:
        """Send the COMMIT, and get the answers that are left. All of them that have rows."""
        pgconn = self._pgconn
        with self._last_words():
            pgconn.send_query_params(b"COMMIT", None)
            pgconn.pipeline_sync()
            self._is_synced = True
            self._awaited += 1
            yield from self._get_results(but=0)
            yield from self._end_pipeline()
        deliver_notifications(pgconn)
        return self._results

    def undo(self) -> PQGen[None]:
        """Bring the connection to rest after whatever went wrong, with nothing done."""
        pgconn = self._pgconn
        if pgconn.pipeline_status != pq.PipelineStatus.OFF:
            if not self._is_synced:
                pgconn.pipeline_sync()
                self._is_synced = True
            yield from self._end_pipeline()
        if pgconn.transaction_status != pq.TransactionStatus.IDLE:
            pgconn.send_query_params(b"ROLLBACK", None)
            yield from get_result(pgconn)

    @contextmanager
    def _last_words(self) -> Generator[None]:
        """Where the server has ended the session, its last word is the better reason; it is unread where a write failed first."""
        try:
            yield
        except psycopg.OperationalError as error:
            if error.sqlstate is None and self._pgconn.status == pq.ConnStatus.BAD:
                result = self._pgconn.get_result()
                if result is not None and result.error_field(pq.DiagnosticField.SQLSTATE):
                    raise error_from_result(result) from error
            raise

    def _get_results(self, but: int) -> PQGen[None]:
        """Send what is to be sent, all of it, and get the answers but for the last few."""
        yield from flush(self._pgconn)
        while self._awaited > but:
            result = yield from self._get_result()
            if result is None:  # each answer ends so
                self._awaited -= 1
            elif result.status == _FAILED:
                raise error_from_result(result)
            elif result.status == pq.ExecStatus.TUPLES_OK:
                self._results.append(result)

    def _end_pipeline(self) -> PQGen[None]:
        yield from flush(self._pgconn)
        is_last = False
        while not is_last:
            result = yield from self._get_result()
            if result is None:
                # Nothing after the end of an answer: Ctrl-C struck when that of the sync had been read.
                result = yield from self._get_result()
            is_last = result is None or result.status == _SYNC
        self._pgconn.exit_pipeline_mode()

    def _get_result(self) -> PQGen[PGresult | None]:
        pgconn = self._pgconn
        while pgconn.is_busy():
            yield Wait.R
            pgconn.consume_input()
        if pgconn.status == pq.ConnStatus.BAD:
            raise psycopg.OperationalError("the connection was lost")
        return pgconn.get_result()
