"""psycopg's asynchronous connection and cursor, native on Trio.

How a cancel is answered (Trio's cancellation is level-triggered, so without this every clean-up
of psycopg's would die at its first await):

- what a user calls (`execute`, `executemany`, `commit`, `transaction`, a fetch inside a pipeline)
  begins with a check: in a cancelled scope nothing is sent;
- therefore an exchange that begins in a cancelled scope can only be psycopg's own clean-up
  (ROLLBACK, the end of a pipeline): it runs shielded, for `cleanup_timeout` seconds at most;
- an exchange that is cancelled half way is cancelled on the server too, and its generator is
  drained, shielded, for `cancel_timeout` seconds at most. If the command had completed after all,
  its result is returned, and Trio raises at the next checkpoint: what was committed is never
  reported as cancelled. No answer in time: the connection is closed.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import psycopg
import trio
from psycopg import Notify, pq
from psycopg.rows import tuple_row

from trio_queue._pg.cancelling import Unsettled, cancel_on_server, settle
from trio_queue._pg.connecting import connect_pgconn, connection_parameters
from trio_queue._pg.cursor import TrioCursor, refuse_server_cursor
from trio_queue._pg.waiting import (
    ConnectionLock,
    Exchange,
    LastWords,
    Pace,
    deliver_notifications,
    has_hung_up,
    in_cancelled_scope,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from types import TracebackType
    from typing import Self

    from psycopg.abc import PQGen
    from psycopg.pq.abc import PGconn
    from psycopg.rows import AsyncRowFactory

logger = logging.getLogger("trio_queue.postgres")

_ReturnT = TypeVar("_ReturnT")


class TrioConnection(psycopg.AsyncConnection[Any]):
    """A psycopg connection for Trio. Made by `connect`, closed by `close` or ``async with``.

    Several tasks may use one, statement by statement; only one while a block of it is open.

    Attributes:
        cancel_timeout: Seconds that a cancelled command may take to come to rest.
    """

    cancel_timeout: float = 5.0

    def __init__(self, pgconn: PGconn, row_factory: AsyncRowFactory[Any] = tuple_row) -> None:
        super().__init__(pgconn, row_factory)
        self._exchanges = ConnectionLock(cleanup_timeout=5.0)
        self.lock = self._exchanges  # type: ignore[assignment]  # pyright: ignore[reportAttributeAccessIssue] - psycopg only enters and leaves it
        self.cursor_factory = TrioCursor
        self.server_cursor_factory = refuse_server_cursor  # type: ignore[assignment]  # pyright: ignore[reportAttributeAccessIssue] - psycopg only calls it
        self._pace = Pace()
        self._notifications: deque[Notify] = deque()
        self.add_notify_handler(self._notifications.append)
        self._last_words = LastWords()
        self.add_notice_handler(self._last_words.hear)

    @classmethod
    async def connect(  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride] - without `context`, with our cursors only
        cls,
        conninfo: str = "",
        *,
        autocommit: bool = True,
        prepare_threshold: int | None = 5,
        row_factory: AsyncRowFactory[Any] | None = None,
        cursor_factory: type[TrioCursor] | None = None,
        **kwargs: Any,
    ) -> Self:
        """Connect to a server.

        By default an attempt may take 10 seconds, and TCP finds a vanished peer in half a minute.

        Args:
            conninfo: A connection string, of either kind that libpq reads.
            autocommit: Whether each statement is its own transaction (unlike in psycopg, the
                default).
            prepare_threshold: After how many runs a statement is prepared; None for never.
            row_factory: How rows are made; tuples by default.
            cursor_factory: A subclass of `TrioCursor`.
            **kwargs: libpq's parameters by name; they win over *conninfo*. ``connect_timeout``
                (seconds, fractions allowed, zero for no limit) applies to each attempt.

        Returns:
            An open connection.

        Raises:
            psycopg.OperationalError: No server answered; the message has every attempt's failure.
            psycopg.ProgrammingError: The parameters cannot be understood.
            trio.Cancelled: No connection stays open.
        """
        if cursor_factory is not None and not issubclass(cursor_factory, TrioCursor):  # pyright: ignore[reportUnnecessaryIsInstance] - callers without types
            raise psycopg.ProgrammingError(
                f"cursor_factory must be a subclass of TrioCursor, not {cursor_factory!r}: other "
                "cursors would send statements in a cancelled scope"
            )
        await trio.lowlevel.checkpoint_if_cancelled()
        connection = cls(await connect_pgconn(connection_parameters(conninfo, **kwargs)))
        # No checkpoint until the caller has the connection: nobody else would close it.
        await connection.set_autocommit(autocommit)
        connection.prepare_threshold = prepare_threshold
        if row_factory is not None:
            connection.row_factory = row_factory
        if cursor_factory is not None:
            connection.cursor_factory = cursor_factory
        return connection

    @property
    def cleanup_timeout(self) -> float:
        """Seconds that clean-up (ROLLBACK, a pipeline's end) may take in a cancelled scope."""
        return self._exchanges.cleanup_timeout

    @cleanup_timeout.setter
    def cleanup_timeout(self, seconds: float) -> None:
        self._exchanges.cleanup_timeout = seconds

    # -- exchanges with the server --------------------------------------------------------------

    @trio.lowlevel.enable_ki_protection
    async def wait(
        self,
        gen: PQGen[_ReturnT],
        interval: float = 0.0,  # noqa: ARG002 - psycopg passes it
        timeout: float | None = None,  # noqa: ARG002 - psycopg passes it
    ) -> _ReturnT:
        """Run one of psycopg's generators on this connection (called by psycopg).

        Args:
            gen: The generator.
            interval: Ignored. It is how often psycopg looks for Ctrl-C; Trio hears it at once.
            timeout: Ignored. Only psycopg's ``notifies()`` passes it, which is refused here.

        Returns:
            What the generator returns, also when the scope was cancelled too late to stop it.

        Raises:
            psycopg.Error: What the generator raises.
            trio.Cancelled: The command was cancelled; the connection is usable or closed.
        """
        exchange = Exchange(gen, self.pgconn.socket, self._pace)
        cleaning_up = in_cancelled_scope()
        try:
            if not cleaning_up:
                return await exchange.run()
            with trio.move_on_after(self.cleanup_timeout, shield=True):
                return await exchange.run()
        except (trio.Cancelled, KeyboardInterrupt):
            if settled := await self._settle(exchange):
                return settled[0]
            raise
        except (psycopg.errors.QueryCanceled, psycopg.errors.PipelineAborted):
            if not cleaning_up:
                raise
            # The end of a pipeline whose statements we had cancelled a moment ago.
            await trio.lowlevel.checkpoint_if_cancelled()
            raise
        if settled := await self._settle(exchange):
            return settled[0]
        await trio.lowlevel.checkpoint_if_cancelled()
        raise AssertionError("a cancelled scope does not become uncancelled")

    async def _settle(self, exchange: Exchange[_ReturnT]) -> tuple[_ReturnT] | None:
        try:
            return await settle(self, exchange, self.cancel_timeout)
        except Unsettled as problem:
            self._abandon(str(problem))
            exchange.close()
            return None
        except psycopg.Error:
            raise
        except BaseException:
            self._abandon("interrupted again")  # by a second Ctrl-C
            exchange.close()
            raise

    def _abandon(self, problem: str) -> None:
        logger.warning("closing %s, which could not be brought to rest: %s", self, problem)
        self._finish()

    async def cancel_safe(self, *, timeout: float = 30.0) -> None:
        """Ask the server to cancel what the connection runs, without waiting for its end.

        Args:
            timeout: Seconds.

        Raises:
            psycopg.errors.CancellationTimeout: The server did not hear in time.
            psycopg.OperationalError: The request could not be sent.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if self.closed:
            return
        with trio.move_on_after(timeout):
            await cancel_on_server(self.pgconn)
            return
        raise psycopg.errors.CancellationTimeout(
            f"the request to cancel was not heard within {timeout:g} seconds"
        )

    # -- the end ----------------------------------------------------------------------------------

    def _finish(self) -> None:
        with suppress(psycopg.OperationalError):  # raised for a socket that is gone already
            trio.lowlevel.notify_closing(self.pgconn.socket)
        self.pgconn.finish()

    async def close(self) -> None:
        """Close the connection, without waiting for anything; safe in a cancelled scope.

        A task that waits on it meanwhile gets `psycopg.OperationalError` at once.
        """
        if not self.closed:
            self._closed = True
            self._finish()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        """Commit, or roll back after an error; close the connection in any case."""
        try:
            if self.closed:
                return
            if exc_type is None:
                await self.commit()
                return
            try:
                await self.rollback()
            except psycopg.Error as error:
                logger.warning("cannot roll back %s: %s", self, error)
        finally:
            await self.close()

    # -- what may not begin in a cancelled scope ------------------------------------------------------

    async def commit(self) -> None:
        """Commit the transaction that is open, if any; in a cancelled scope, do not."""
        await trio.lowlevel.checkpoint_if_cancelled()
        await super().commit()

    @asynccontextmanager
    async def transaction(
        self, savepoint_name: str | None = None, force_rollback: bool = False
    ) -> AsyncGenerator[psycopg.AsyncTransaction, None]:
        """Open a transaction, or a savepoint inside of one.

        Left by an error or a cancel, it is rolled back; where that takes longer than
        `cleanup_timeout` in a cancelled scope, the connection is closed. Left without one, it is
        committed, also in a scope that was cancelled during the block's last step.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        depth = self._num_transactions
        outermost = self.info.transaction_status == pq.TransactionStatus.IDLE
        entered = False
        try:
            async with super().transaction(savepoint_name, force_rollback) as transaction:
                entered = True
                yield transaction
        finally:
            if not entered:
                # psycopg before 3.3 counts a block whose BEGIN failed.
                self._num_transactions = depth
            if (
                outermost
                and not self._pipeline
                and not self.closed
                and self.pgconn.transaction_status != pq.TransactionStatus.IDLE
            ):
                self._abandon("a transaction block left its transaction open")

    @asynccontextmanager
    async def pipeline(self) -> AsyncGenerator[psycopg.AsyncPipeline, None]:
        """Open a pipeline; see :meth:`psycopg.AsyncConnection.pipeline`."""
        await trio.lowlevel.checkpoint_if_cancelled()
        async with super().pipeline() as pipeline:
            yield pipeline

    def notifies(self, *_args: Any, **_kwargs: Any) -> AsyncGenerator[Notify, None]:
        """Refused: use `wait_notifies`, which holds no lock between two calls."""
        raise psycopg.NotSupportedError(
            "notifies() is not supported on Trio: call wait_notifies() in a loop"
        )

    async def tpc_begin(self, xid: Any) -> NoReturn:  # noqa: ARG002 - the name is psycopg's
        """Refused: a prepared transaction outlives a cancel."""
        raise psycopg.NotSupportedError("two-phase commit is not supported on Trio")

    # -- notifications ----------------------------------------------------------------------------

    async def wait_notifies(self, timeout: float = math.inf) -> list[Notify]:
        """Wait for notifications.

        Other tasks' statements on this connection wait meanwhile.

        Args:
            timeout: Seconds to wait for the first one; 0 only looks.

        Returns:
            All that have arrived since the last call, also during statements, in their order;
            an empty list after *timeout*.

        Raises:
            psycopg.OperationalError: The connection was lost, or closed by another task.
            trio.Cancelled: No notification is lost: the next call returns them.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        async with self.lock:
            deliver_notifications(self.pgconn)
            with trio.move_on_after(timeout):
                while not self._notifications:
                    try:
                        await trio.lowlevel.wait_readable(self.pgconn.socket)
                        self.pgconn.consume_input()
                    except (trio.ClosedResourceError, OSError, psycopg.OperationalError) as error:
                        reason = self._last_words.text or str(error).strip()
                        raise psycopg.OperationalError(
                            f"the connection was closed while waiting for notifications: {reason}"
                        ) from error
                    deliver_notifications(self.pgconn)
        arrived = list(self._notifications)
        self._notifications.clear()
        return arrived

    def has_hung_up(self) -> bool:
        """Tell, without a round trip, whether this idle connection has ended; False is no proof."""
        return self.closed or has_hung_up(self.pgconn, self._last_words)
