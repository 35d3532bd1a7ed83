"""Lend connections, and keep a few; without any task of its own.

psycopg's pool keeps its connections in order with background tasks. Here the caller who takes or
returns a connection does that work: closes what is too old or was idle for too long, and replaces
what is broken. So a pool needs no nursery, nothing of it can die unnoticed or hold a shutdown, and
it is usable until the last row is written. The price: an idle pool notices nothing.

At most `max_size` connections are open: each is idle, or belongs to whoever holds one of the
places. State changes in single steps without a checkpoint, so a cancel finds a connection either
in the stack or in somebody's hands.
"""

from __future__ import annotations

import logging
import random
from collections import Counter
from typing import TYPE_CHECKING, Any

import psycopg
import trio
from psycopg import pq

from trio_queue._pg.backoff import Backoff
from trio_queue._pg.connection import TrioConnection
from trio_queue._pg.errors import PoolClosed, PoolTimeout, describe_conninfo, is_transient
from trio_queue._pg.pool_member import Loan, Member, WhyDiscarded
from trio_queue._pg.pool_statistics import PoolStatistics

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType
    from typing import Self

logger = logging.getLogger("trio_queue.postgres")


class Pool:
    """A pool of `TrioConnection`.

    Args:
        conninfo: A connection string, of either kind that libpq reads.
        kwargs: Keywords for `TrioConnection.connect`.
        min_size: How many idle connections are kept, however long they idle. They are opened
            when they are first needed, not beforehand.
        max_size: How many connections there may be at most.
        timeout: Seconds to wait for a connection, unless the request says otherwise.
        max_idle: Seconds after which an idle connection beyond *min_size* is closed.
        max_lifetime: Seconds after which a connection is replaced, shortened by chance by up to
            a tenth, so that a fleet does not reconnect all at once.
        configure: Awaited with each new connection, before anybody gets it.
    """

    def __init__(
        self,
        conninfo: str = "",
        *,
        kwargs: Mapping[str, Any] | None = None,
        min_size: int = 1,
        max_size: int = 4,
        timeout: float = 30.0,
        max_idle: float = 600.0,
        max_lifetime: float = 3600.0,
        configure: Callable[[TrioConnection], Awaitable[None]] | None = None,
    ) -> None:
        if not 0 <= min_size <= max_size or max_size < 1:
            raise ValueError(
                f"a pool needs 0 <= min_size <= max_size and max_size >= 1, not "
                f"min_size={min_size} and max_size={max_size}"
            )
        self.conninfo = conninfo
        self.kwargs = dict(kwargs or {})
        self.min_size = min_size
        self.max_size = max_size
        self.timeout = timeout
        self.max_idle = max_idle
        self.max_lifetime = max_lifetime
        self.configure = configure
        self._is_open = False
        self._opening = trio.Lock()
        self._places = trio.Semaphore(max_size, max_value=max_size)
        # A stack: the connection used last is lent first, so that the others can age.
        self._idle: list[Member] = []
        self._requests_under_way: set[trio.CancelScope] = set()
        self._last_failure: psycopg.OperationalError | None = None
        self._counts: Counter[str] = Counter()
        self._discarded: Counter[str] = Counter()

    def __repr__(self) -> str:
        return f"<Pool of {self._describe()}>"

    def _describe(self) -> str:
        return describe_conninfo(self.conninfo, **self.kwargs)

    # -- open and close -----------------------------------------------------------------------

    async def open(self, *, wait: bool = True) -> None:
        """Open the pool; does nothing if it is open.

        Args:
            wait: Whether to open the first connection now, so that a wrong address or password
                shows at once. It is tried only once.

        Raises:
            psycopg.Error: Why that connection failed; the pool stays closed.
            PoolTimeout: It took longer than `timeout`; the pool stays closed.
            trio.Cancelled: The pool stays closed.
        """
        async with self._opening:
            if self._is_open:
                return
            if wait:
                await self._open_first()
            self._is_open = True

    async def _open_first(self) -> None:
        with trio.move_on_after(self.timeout):
            # Without a place: while the pool is closed, nobody holds one.
            self._put(await self._connect())
            return
        raise PoolTimeout(f"no connection to {self._describe()} within {self.timeout:g} seconds")

    async def close(self) -> None:
        """Close the idle connections, without waiting for anything; safe in a cancelled scope.

        Whoever waits for a connection gets `PoolClosed`. Connections that are lent are closed
        when they come back. A closed pool may be opened again.
        """
        self._is_open = False
        for scope in self._requests_under_way:
            scope.cancel()
        while self._idle:
            await self._discard(self._idle.pop(), "closed")

    def throw_away(self) -> None:
        """Close the idle connections at once, from anywhere: for a pool whose `trio.run` has ended."""
        self._is_open = False
        for member in self._idle:
            member.connection.pgconn.finish()
        self._idle.clear()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def statistics(self) -> PoolStatistics:
        """Tell what the pool is doing and has done."""
        return PoolStatistics(
            max_size=self.max_size,
            idle=len(self._idle),
            in_use=self.max_size - self._places.value,
            waiting=self._places.statistics().tasks_waiting,
            requests=self._counts["requests"],
            timeouts=self._counts["timeouts"],
            opened=self._counts["opened"],
            failures=self._counts["failures"],
            discarded=dict(self._discarded),
        )

    # -- lend and take back ----------------------------------------------------------------------

    def connection(
        self, timeout: float | None = None
    ) -> AbstractAsyncContextManager[TrioConnection, None]:
        """Borrow a connection; those who wait are served in their order.

        One that is returned inside of a transaction is rolled back first.

        Args:
            timeout: Seconds to wait for it; None for the pool's `timeout`. While the server is
                away, connecting is tried again and again until then.

        Raises:
            PoolTimeout: None could be had in time; the message and the ``__cause__`` say why.
            PoolClosed: The pool is not open, or was closed meanwhile.
            psycopg.Error: A connection could be opened, but `configure` failed on it.
            trio.Cancelled: Nothing is kept.
        """
        return Loan(self.acquire, self.release, self.timeout if timeout is None else timeout)

    async def acquire(self, timeout: float) -> Member:
        """Take a connection, with its place; `release` has to be called. See `connection`."""
        if not self._is_open:
            raise PoolClosed(f"{self!r} is not open: open it before asking for a connection")
        self._counts["requests"] += 1
        await trio.lowlevel.checkpoint_if_cancelled()
        return self._take_ready() or await self._acquire(timeout)

    def _take_ready(self) -> Member | None:
        """A connection that can be had at once, as nearly always: without a turn of the event loop, nor a timeout."""
        try:
            # Raises where somebody waits: they come first.
            self._places.acquire_nowait()
        except trio.WouldBlock:
            return None
        now = trio.current_time()
        if self._idle and not self._dropped_by(now) and self._idle[-1].works_for_sure(now):
            return self._idle.pop()
        self._places.release()
        return None

    async def _acquire(self, timeout: float) -> Member:
        has_place = False
        with trio.move_on_after(timeout) as scope:
            self._requests_under_way.add(scope)
            try:
                await self._places.acquire()
                has_place = True
                member = await self._find()
            except BaseException:
                if has_place:
                    self._places.release()
                raise
            finally:
                self._requests_under_way.discard(scope)
            # No checkpoint from here to the caller: the place and the connection are theirs.
            return member
        if not self._is_open:
            raise PoolClosed(f"{self!r} was closed while a task waited for a connection")
        self._counts["timeouts"] += 1
        raise self._timeout_error(timeout, has_place=has_place)

    def _timeout_error(self, timeout: float, *, has_place: bool) -> PoolTimeout:
        message = f"no connection to {self._describe()} within {timeout:g} seconds"
        if not has_place:
            message += f": all {self.max_size} connections of the pool are in use"
        if self._last_failure is not None:
            message += f"; connecting last failed with: {self._last_failure}"
        error = PoolTimeout(message)
        error.__cause__ = self._last_failure
        return error

    async def _find(self) -> Member:
        await self._expire_idle()
        while self._idle:
            member = self._idle.pop()
            usable = False
            try:
                usable = await member.is_usable()
            finally:
                if not usable:
                    await self._discard(member, "broken")
            if usable:
                return member
        return await self._connect_patiently()

    async def release(self, member: Member) -> None:
        """Give back what `acquire` took."""
        if self._is_open and member.is_at_rest():
            self._put(member)
            self._places.release()
        else:
            await self._release(member)
        await self._expire_idle()

    async def _release(self, member: Member) -> None:
        reason: WhyDiscarded | None = "unclean"
        try:
            reason = await member.clean_up() if self._is_open else "closed"
        finally:
            if reason is None and not self._is_open:
                reason = "closed"
            if reason is None:
                self._put(member)
            else:
                await self._discard(member, reason)
            self._places.release()

    # -- the connections -----------------------------------------------------------------------------

    def _put(self, member: Member) -> None:
        member.idle_since = trio.current_time()
        self._idle.append(member)

    async def _discard(self, member: Member, reason: WhyDiscarded) -> None:
        self._discarded[reason] += 1
        await member.connection.close()

    async def _expire_idle(self) -> None:
        dropped = self._dropped_by(trio.current_time())
        for member in dropped:
            self._idle.remove(member)
        for member, reason in dropped.items():
            await self._discard(member, reason)

    def _dropped_by(self, now: float) -> dict[Member, WhyDiscarded]:
        """Which idle connections are not to be kept any longer, and why."""
        spare = len(self._idle) - self.min_size
        dropped: dict[Member, WhyDiscarded] = {}
        for member in self._idle:  # the one that idles longest is first
            if now >= member.expires_at:
                dropped[member] = "expired"
            elif len(dropped) < spare and now - member.idle_since >= self.max_idle:
                dropped[member] = "idle"
        return dropped

    async def _connect(self) -> Member:
        try:
            connection = await TrioConnection.connect(self.conninfo, **self.kwargs)
        except psycopg.OperationalError as error:
            self._counts["failures"] += 1
            self._last_failure = error
            raise
        try:
            await self._configure(connection)
        except BaseException:
            await connection.close()
            raise
        self._counts["opened"] += 1
        self._last_failure = None
        now = trio.current_time()
        lifetime = self.max_lifetime * random.uniform(0.9, 1.0)  # noqa: S311 - spreads load
        return Member(connection, expires_at=now + lifetime, idle_since=now)

    async def _configure(self, connection: TrioConnection) -> None:
        if self.configure is None:
            return
        await self.configure(connection)
        if connection.info.transaction_status != pq.TransactionStatus.IDLE:
            raise psycopg.ProgrammingError(
                f"{self.configure!r} left a transaction open: end it in there"
            )

    async def _connect_patiently(self) -> Member:
        backoff = Backoff()
        while True:
            try:
                return await self._connect()
            except psycopg.OperationalError as error:
                if not is_transient(error):
                    raise
                self._last_failure = error
                logger.debug("cannot connect to %s: %s", self._describe(), error)
            await trio.sleep(backoff.next_delay())
