"""Hear notifications on a connection of its own, through every outage.

There is no task in here: whoever reads drives it. What a reader must be able to rely on is that
silence means that nothing was notified; so a listener that was cut off says so with a `Gap`, and
one that hears nothing asks the server, from time to time, whether it is still there.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, TypeAlias

import attrs
import psycopg
import trio
from psycopg import Notify, sql

from trio_queue._pg.backoff import Backoff
from trio_queue._pg.connection import TrioConnection
from trio_queue._pg.errors import describe_conninfo, is_transient

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from types import TracebackType
    from typing import Self

logger = logging.getLogger("trio_queue.postgres")


@attrs.frozen
class Gap:
    """Notifications may have been missed: look at the tables once.

    The listener hears again by the time its reader gets this, so what is notified after is heard.

    Attributes:
        seconds: How long the listener was deaf, as far as it knows.
    """

    seconds: float


Heard: TypeAlias = "Sequence[Notify] | Gap"


@attrs.define
class _Outage:
    """The connection is lost, and what is known about it."""

    since: float
    next_attempt_at: float
    backoff: Backoff = attrs.field(factory=Backoff)


class Listener:
    """LISTEN to a fixed set of channels.

    Use it as an ``async with`` block; from its beginning on, nothing that is notified is missed
    in silence.

    Args:
        conninfo: A connection string, of either kind that libpq reads.
        channels: The names of the channels, as they are (they are quoted here).
        kwargs: Keywords for `TrioConnection.connect`.
        check_interval: Seconds of silence after which the server is asked whether it is there.
            TCP keepalive finds most dead wires; this finds those it cannot see (a proxy that
            answers for a server that is gone).
        check_timeout: Seconds for the answer, and again for giving it up.
        on_lost: Called with the reason when the connection is lost; `next` returns a `Gap` when
            there is one again.
    """

    def __init__(
        self,
        conninfo: str = "",
        channels: Iterable[str] = (),
        *,
        kwargs: Mapping[str, Any] | None = None,
        check_interval: float = 30.0,
        check_timeout: float = 5.0,
        on_lost: Callable[[psycopg.OperationalError], None] | None = None,
    ) -> None:
        self.conninfo = conninfo
        self.channels = tuple(dict.fromkeys(channels))
        self.kwargs = dict(kwargs or {})
        self.check_interval = check_interval
        self.check_timeout = check_timeout
        self._on_lost = on_lost
        self._connection: TrioConnection | None = None
        self._outage: _Outage | None = None
        if not self.channels:
            raise ValueError("a listener needs the name of at least one channel")

    def __repr__(self) -> str:
        return f"<Listener to {', '.join(self.channels)} at {describe_conninfo(self.conninfo, **self.kwargs)}>"

    @property
    def is_listening(self) -> bool:
        """Whether the server tells us, as far as is known; false during an outage."""
        return self._connection is not None and not self._connection.closed

    async def __aenter__(self) -> Self:
        """Connect and LISTEN.

        Raises:
            psycopg.Error: Why that failed; it is tried only once.
            trio.Cancelled: Nothing stays open.
        """
        self._connection = await self._connect()
        self._outage = None
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._connection is not None:
            await self._connection.close()
            self._connection = None

    async def next(self) -> Heard:
        """Wait for notifications, or for the end of an outage.

        During an outage this reconnects, until it succeeds or is cancelled.

        Returns:
            The notifications that have arrived since the last call, in their order, one at least;
            or a `Gap` when the listener hears again after it was cut off.

        Raises:
            psycopg.Error: Reconnecting fails for a reason that will not pass by itself.
            trio.Cancelled: Nothing is lost: the next call goes on where this one was.
            RuntimeError: The listener is not open.
        """
        while True:
            if self._outage is not None:
                return await self._reconnect(self._outage)
            if self._connection is None:
                raise RuntimeError(f"{self!r} is not open: use it inside of `async with`")
            try:
                if notifications := await self._wait_notifies(self._connection):
                    return notifications
            except psycopg.OperationalError as error:
                await self._lose(self._connection, error)

    async def _wait_notifies(self, connection: TrioConnection) -> list[Notify]:
        notifications = await connection.wait_notifies(self.check_interval)
        if notifications:
            return notifications
        connection.cancel_timeout = self.check_timeout
        with trio.move_on_after(self.check_timeout):
            await connection.execute("SELECT 1")
            return []  # what arrived meanwhile is kept for the next call
        raise psycopg.OperationalError(
            f"the server did not answer within {self.check_timeout:g} seconds"
        )

    async def still_listens(self) -> bool:
        """Ask the server whether it would tell us. False where somebody in between has changed our session for another."""
        if self._connection is None:
            return False
        cursor = await self._connection.execute(
            "SELECT count(*) FROM pg_listening_channels()", prepare=False
        )
        ((count,),) = await cursor.fetchall()
        return int(count) >= len(self.channels)

    async def _lose(self, connection: TrioConnection, error: psycopg.OperationalError) -> None:
        now = trio.current_time()
        self._outage = _Outage(since=now, next_attempt_at=now)
        self._connection = None
        await connection.close()
        logger.debug("%r lost its connection: %s", self, error)
        if self._on_lost is not None:
            self._on_lost(error)

    async def _reconnect(self, outage: _Outage) -> Gap:
        while True:
            await trio.sleep_until(outage.next_attempt_at)
            # Counted from the beginning, and before it: a reader who is cancelled again and again
            # does not connect more often than one who waits.
            outage.next_attempt_at = trio.current_time() + outage.backoff.next_delay()
            try:
                connection = await self._connect()
            except psycopg.Error as error:
                if not is_transient(error):
                    raise
                logger.debug("cannot reconnect %r: %s", self, error)
                continue
            # No checkpoint from here to the caller: the gap must reach them.
            self._connection = connection
            self._outage = None
            seconds = trio.current_time() - outage.since
            logger.debug("%r hears again, after %.1f s", self, seconds)
            return Gap(seconds)

    async def _connect(self) -> TrioConnection:
        connection = await TrioConnection.connect(self.conninfo, **self.kwargs)
        try:
            # One message, so that all of them are heard from the same moment on.
            await connection.execute(
                sql.SQL("; ").join(
                    sql.SQL("LISTEN {}").format(sql.Identifier(channel))
                    for channel in self.channels
                ),
                prepare=False,
            )
        except BaseException:
            await connection.close()
            raise
        return connection
