"""Cancel a command on the server, and bring its connection to rest."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final, TypeVar

import psycopg
import trio
from psycopg import capabilities, pq

if TYPE_CHECKING:
    from psycopg.pq.abc import PGconn

    from trio_queue._pg.waiting import Exchange

logger = logging.getLogger("trio_queue.postgres")

_ReturnT = TypeVar("_ReturnT")

CANCEL_AGAIN_AFTER: Final = 0.5
"""Seconds without an answer after which a request to cancel is repeated: the first may have
overtaken the command on its way, or met the gap between two commands of a pipeline."""


class Unsettled(Exception):  # noqa: N818 - caught two lines from where it is raised
    """The connection did not come to rest; the message says why. It must be closed."""


async def cancel_on_server(pgconn: PGconn) -> None:
    """Ask the server to cancel what this connection runs, and wait until the request is heard.

    The server may hear it too late, or before the command itself: the caller has to look at how
    the command ends.

    Args:
        pgconn: The connection, open.

    Raises:
        psycopg.OperationalError: The request could not be sent.
        trio.Cancelled: The request may be under way. With a libpq older than 17 its thread is
            abandoned.
    """
    if not capabilities.has_cancel_safe():
        # Takes its own copy of the address and key, so the connection may be closed meanwhile.
        cancel = pgconn.get_cancel()
        await trio.to_thread.run_sync(
            cancel.cancel, abandon_on_cancel=True, limiter=trio.CapacityLimiter(1)
        )
        return
    request = pgconn.cancel_conn()
    try:
        request.start()
        status: int = pq.PollingStatus.WRITING
        while status != pq.PollingStatus.OK:
            if status == pq.PollingStatus.READING:
                await trio.lowlevel.wait_readable(request.socket)
            elif status == pq.PollingStatus.WRITING:
                await trio.lowlevel.wait_writable(request.socket)
            else:
                raise psycopg.OperationalError(
                    f"the request to cancel failed: {request.get_error_message()}"
                )
            status = request.poll()
    except OSError as error:
        raise psycopg.OperationalError(f"the request to cancel failed: {error}") from error
    finally:
        request.finish()


async def settle(
    connection: psycopg.AsyncConnection[Any], exchange: Exchange[_ReturnT], timeout: float
) -> tuple[_ReturnT] | None:
    """Cancel an interrupted command on the server and wait, shielded, for how it ends.

    Args:
        connection: The connection of *exchange*.
        exchange: What was interrupted.
        timeout: Seconds for all of it.

    Returns:
        The result in a tuple, if the command had completed after all; None if it is cancelled.

    Raises:
        Unsettled: The connection must be closed.
        psycopg.Error: The command had failed, for a reason of its own.
    """
    pgconn = connection.pgconn
    in_pipeline = connection._pipeline is not None  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - see PSYCOPG_INTERNALS
    if pgconn.status == pq.ConnStatus.BAD or not (in_pipeline or is_active(pgconn)):
        exchange.close()
        return None
    try:
        with trio.move_on_after(timeout, shield=True):
            while True:
                with trio.move_on_after(CANCEL_AGAIN_AFTER):
                    if is_active(pgconn):
                        await _ask_to_cancel(pgconn)
                with trio.move_on_after(CANCEL_AGAIN_AFTER):
                    # In a pipeline this also sends what psycopg has queued: left behind, it
                    # would be sent by whatever uses the connection next.
                    return (await exchange.run(),)
    except psycopg.errors.QueryCanceled:
        return None
    except psycopg.Error as error:
        if pgconn.status != pq.ConnStatus.BAD and (in_pipeline or not is_active(pgconn)):
            raise
        raise Unsettled(str(error).strip()) from error
    raise Unsettled(f"no answer within {timeout:g} seconds")


def is_active(pgconn: PGconn) -> bool:
    """Tell whether a command is under way, as far as libpq knows."""
    return pgconn.transaction_status == pq.TransactionStatus.ACTIVE


async def _ask_to_cancel(pgconn: PGconn) -> None:
    try:
        await cancel_on_server(pgconn)
    except psycopg.OperationalError as error:
        # Not the end: the command may still end by itself, or the next request get through.
        logger.debug("cannot ask the server to cancel a command: %s", error)
