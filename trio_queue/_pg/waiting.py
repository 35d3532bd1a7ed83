"""Drive psycopg's protocol generators on Trio, one at a time per connection.

psycopg's protocol code is made of plain generators which yield "wake me when the socket is
readable or writable"; its connections await little else than ``self.wait(generator)`` and
``self.lock``. What this package relies on beyond psycopg's documented interface is listed in
`PSYCOPG_INTERNALS`, and a test holds that list against the psycopg that is installed.
"""

from __future__ import annotations

import math
import select
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Generic, TypeVar, cast

import psycopg
import trio
from psycopg import pq
from psycopg.waiting import Ready, Wait

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from psycopg.abc import PQGen
    from psycopg.errors import Diagnostic
    from psycopg.pq.abc import PGconn

PSYCOPG_INTERNALS: Final = {
    "psycopg.AsyncConnection.lock": "an attribute, used as `async with connection.lock`",
    "psycopg.AsyncConnection.wait": "every exchange with the server passes through it",
    "psycopg.AsyncConnection._pipeline": "the pipeline block that is open, or None",
    "psycopg.AsyncConnection._num_transactions": "how many transaction blocks are open",
    "psycopg.AsyncConnection._closed": "set by close(), so that `broken` is false afterwards",
    "psycopg.AsyncCursor._fetch_pipeline": "awaited by every fetch, before anything else",
    "psycopg.Connection.lock": "the same of a sync connection, used as `with connection.lock`",
    "psycopg.Connection.wait": "every exchange of a sync connection passes through it, but connecting",
    "psycopg.errors.error_from_result": "makes the exception of a result that is an error",
    "psycopg.waiting.Wait": "what generators yield: R, W, RW",
    "psycopg.waiting.Ready": "what they are sent: R, W, RW",
    "psycopg.conninfo.conninfo_attempts": "splits parameters into single addresses; blocks on DNS",
}
"""What psycopg does not document and this package uses, each with its meaning.

The connection's attributes are the same since psycopg 3.0. The keywords of ``wait()`` are not:
``interval`` until 3.3.5, ``timeout`` beside it since 3.3.6; both are accepted. Not used, because
3.3.6 changed them: ``_connect_gen``, ``_cancel_gen``, ``generators``, ``waiting.wait_async``.
"""

MAX_BUSY: Final = 0.005
"""Seconds for which a connection may find its socket ready again and again without yielding.

Nearly every write is possible at once; yielding for each would cost a turn of the event loop per
query (about a tenth of a query's time), never yielding would let a large ``executemany`` hold it.
"""

# Members of an enum take 0.1 µs to be looked up, and as long to be compared.
IDLE: Final = int(pq.TransactionStatus.IDLE)
NO_PIPELINE: Final = int(pq.PipelineStatus.OFF)

_MOST_READS_OF_AN_IDLE_SOCKET: Final = 16

_ReturnT = TypeVar("_ReturnT")


def in_cancelled_scope() -> bool:
    """Tell whether the current task's next checkpoint raises `trio.Cancelled`."""
    return trio.current_effective_deadline() == -math.inf


def is_readable_now(descriptor: int) -> bool:
    """Tell, without waiting, whether there is something to read, be it the end of the stream."""
    return bool(_ready_now(descriptor, Wait.R))


class LastWords:
    """What the server said when it ended a session (a handler of notices).

    On an idle connection libpq takes the server's last message for a notice. It arrives before
    the end of the stream, sometimes milliseconds before.
    """

    __slots__ = ("text",)

    def __init__(self) -> None:
        self.text: str | None = None

    def hear(self, diagnostic: Diagnostic) -> None:
        """Keep the message if it is the last one."""
        if diagnostic.severity_nonlocalized in {"FATAL", "PANIC"}:
            self.text = diagnostic.message_primary


def deliver_notifications(pgconn: PGconn) -> None:
    """Hand the notifications that were read to psycopg's handlers."""
    while notification := pgconn.notifies():
        if pgconn.notify_handler is not None:
            pgconn.notify_handler(notification)


def has_hung_up(pgconn: PGconn, last_words: LastWords) -> bool:
    """Tell, without a round trip, whether the server has ended an idle connection.

    Args:
        pgconn: The connection; nothing may be under way on it.
        last_words: Its handler of notices.

    Returns:
        True if it has. False is no proof: a peer that vanished without a word looks idle.
    """
    try:
        # First comes the server's last message, then the end of the stream.
        for _ in range(_MOST_READS_OF_AN_IDLE_SOCKET):
            if not is_readable_now(pgconn.socket):
                break
            pgconn.consume_input()
            deliver_notifications(pgconn)
    except psycopg.OperationalError:
        return True
    return last_words.text is not None


def _ready_now(descriptor: int, wanted: int) -> int:
    poller = select.poll()
    poller.register(
        descriptor,
        (select.POLLIN if wanted & Wait.R else 0) | (select.POLLOUT if wanted & Wait.W else 0),
    )
    ready = 0
    for _, events in poller.poll(0):
        if events & select.POLLIN:
            ready |= Ready.R
        if events & select.POLLOUT:
            ready |= Ready.W
        if not ready and events:
            # POLLERR, POLLHUP, POLLNVAL: only libpq can say what is wrong, when it tries.
            ready = wanted
    return ready


async def _wait_ready(descriptor: int, wanted: int) -> int:
    """Park until the socket is ready; return for what (`Ready`)."""
    if wanted == Wait.R:
        await trio.lowlevel.wait_readable(descriptor)
        return Ready.R
    if wanted == Wait.W:
        await trio.lowlevel.wait_writable(descriptor)
        return Ready.W
    return await _wait_readable_or_writable(descriptor)


async def _wait_readable_or_writable(descriptor: int) -> int:
    # Rare: only where a write found no room. Both must be waited for, since a server that cannot
    # send its results does not read our commands either.
    ready = 0

    async def wait_writable() -> None:
        nonlocal ready
        await trio.lowlevel.wait_writable(descriptor)
        ready |= Ready.W
        nursery.cancel_scope.cancel()

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait_writable)
            await trio.lowlevel.wait_readable(descriptor)
            ready |= Ready.R
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        # The callers tell Cancelled, KeyboardInterrupt and a closed socket apart; both halves
        # of the wait may have met the same.
        raise _most_important(group) from None
    return ready


def _most_important(group: BaseExceptionGroup[BaseException]) -> BaseException:
    return min(
        _leaves(group),
        key=lambda error: (
            not isinstance(error, KeyboardInterrupt),
            isinstance(error, trio.Cancelled),
        ),
    )


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        for inner in group.exceptions:
            yield from _leaves(inner)
    else:
        yield error


class Pace:
    """When a connection last let other tasks run (see `MAX_BUSY`)."""

    __slots__ = ("_busy_since",)

    def __init__(self) -> None:
        self._busy_since: float | None = None

    def parked(self) -> None:
        """Note that the task has just been waiting: others have run."""
        self._busy_since = None

    async def yield_if_busy(self) -> None:
        """Yield, with a checkpoint that can be cancelled, when the task was busy for long."""
        now = time.monotonic()
        if self._busy_since is None:
            self._busy_since = now
        elif now - self._busy_since > MAX_BUSY:
            self._busy_since = None
            await trio.lowlevel.checkpoint()


class Exchange(Generic[_ReturnT]):
    """One of psycopg's generators under way on a connection.

    `run` may be cancelled and called again: it resumes the generator where it was suspended.
    """

    __slots__ = ("_descriptor", "_generator", "_pace", "_wanted")

    def __init__(self, generator: PQGen[_ReturnT], descriptor: int, pace: Pace) -> None:
        self._generator = generator
        self._descriptor = descriptor
        self._pace = pace
        self._wanted: int | None = None

    async def run(self) -> _ReturnT:
        """Run the generator to its end.

        Returns:
            What the generator returns.

        Raises:
            psycopg.Error: What the generator raises; `psycopg.OperationalError` when the
                connection is closed by another task meanwhile.
            trio.Cancelled: The generator is then suspended, and the command may be under way on
                the server.
        """
        try:
            if self._wanted is None:
                self._wanted = next(self._generator)
            while True:
                ready = await self._wait()
                self._wanted = self._generator.send(ready)
        except StopIteration as stop:
            result: _ReturnT = stop.value
            return result
        except (trio.ClosedResourceError, OSError) as error:
            self.close()
            raise psycopg.OperationalError(
                "the connection was closed while a command was under way"
            ) from error

    async def _wait(self) -> int:
        wanted = self._wanted
        assert wanted is not None
        # The answer to what was just sent is never there yet: no use polling for it.
        if wanted != Wait.R and (ready := _ready_now(self._descriptor, wanted)):
            await self._pace.yield_if_busy()
            return ready
        ready = await _wait_ready(self._descriptor, wanted)
        self._pace.parked()
        return ready

    def close(self) -> None:
        """Drop the generator. Its connection must be closed, or have nothing under way."""
        # Some of psycopg's generators talk to the server in a `finally`. That raises here, where
        # it can be ignored; left to the garbage collector it would be reported.
        with suppress(psycopg.Error, RuntimeError):
            self._generator.close()


class ConnectionLock:
    """A FIFO lock for the exchanges of one connection.

    Not `trio.Lock`: that one yields to the scheduler at each acquisition, contended or not (one
    more turn of the event loop per query), and insists that the owner release it, which an
    abandoned asynchronous generator cannot, since Trio finalizes it in another task.
    """

    __slots__ = ("_held", "_waiting", "cleanup_timeout")

    def __init__(self, cleanup_timeout: float) -> None:
        self._held = False
        self._waiting = trio.lowlevel.ParkingLot()
        self.cleanup_timeout = cleanup_timeout

    def locked(self) -> bool:
        """Tell whether somebody holds the lock."""
        return self._held

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> None:
        if not self._held:
            self._held = True
        elif in_cancelled_scope():
            # Only psycopg's clean-up comes here in a cancelled scope.
            with trio.move_on_after(self.cleanup_timeout, shield=True):
                await self._waiting.park()
                return
            raise psycopg.OperationalError(
                "the connection is still in use by another task: it could not be cleaned up"
            )
        else:
            await self._waiting.park()
            if in_cancelled_scope():
                # The lock was handed over and the scope cancelled in the same turn. Holding on
                # would let a new command pass for clean-up, which is shielded.
                self._release()
                await trio.lowlevel.checkpoint_if_cancelled()

    @trio.lowlevel.enable_ki_protection
    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._release()

    def _release(self) -> None:
        if self._waiting:
            self._waiting.unpark()  # `_held` stays true: the first in the queue owns it now
        else:
            self._held = False
