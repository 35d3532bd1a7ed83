"""What the driver's tests share: waiting for what the server says, and cancelling at each step."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
import psycopg
import pytest
import trio
from psycopg import pq
from trio.abc import Instrument

from tests.waiting import PATIENCE
from trio_queue._pg import TrioConnection

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Generator
    from typing import LiteralString

    from tests.fix_proxy import Direction, Message, Proxy

T = TypeVar("T")

#: Whether a backend sleeps, or waits for a lock. That it is active says less: between two messages of one statement it
#: is, too, and there it forgets a request to cancel.
IS_HELD_UP = "SELECT wait_event_type IN ('Timeout', 'Lock') FROM pg_stat_activity WHERE pid = %s"


async def fetch_value(connection: TrioConnection, query: LiteralString, *params: Any) -> Any:
    """Return the first column of the first row."""
    cursor = await connection.execute(query, params or None)
    row = await cursor.fetchone()
    return None if row is None else row[0]


async def assert_usable(connection: TrioConnection) -> None:
    """The connection is idle, and answers what it is asked."""
    assert connection.info.transaction_status.name == "IDLE"
    assert await fetch_value(connection, "SELECT 42") == 42


async def wait_until(connection: TrioConnection, query: LiteralString, *params: Any) -> None:
    """Ask the server again and again, until *query* is true.

    Not in a transaction: there `pg_stat_activity` shows until its end what it showed first.
    """
    assert connection.info.transaction_status.name == "IDLE"
    with trio.fail_after(PATIENCE):
        while not await fetch_value(connection, query, *params):
            pass


async def wait_until_running(admin: TrioConnection, pid: int) -> None:
    """Wait until a backend is in the middle of a statement that does not end by itself."""
    await wait_until(admin, IS_HELD_UP, pid)


async def wait_until_idle(admin: TrioConnection, pid: int) -> None:
    """Wait until a backend has nothing to do, be it inside of a transaction."""
    await wait_until(admin, "SELECT state LIKE 'idle%%' FROM pg_stat_activity WHERE pid = %s", pid)


async def wait_until_gone(admin: TrioConnection, pid: int) -> None:
    """Wait until a backend has ended."""
    await wait_until(admin, "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = %s)", pid)


async def terminate(admin: TrioConnection, *pids: int) -> None:
    """End backends, as an administrator would, and wait until they are gone."""
    for pid in pids:
        await admin.execute("SELECT pg_terminate_backend(%s)", (pid,))
        await wait_until_gone(admin, pid)


@attrs.define(eq=False)
class CancelAtStep(Instrument):
    """Cancels a scope at one step of the current task.

    Attributes:
        step: Which one, from 1.
        resuming: Cancel when the task is about to run on (what it waited for has come, and the
            scope is cancelled in the same turn), instead of when it has just begun to wait.
        steps: How many steps were counted.
    """

    step: int
    resuming: bool
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    steps: int = 0
    task: Any = None

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self.task:
            self.steps += 1
            if self.resuming and self.steps == self.step:
                self.scope.cancel()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self.task and not self.resuming and self.steps + 1 == self.step:
            self.scope.cancel()


@contextmanager
def cancelled_at(step: int, *, resuming: bool) -> Generator[CancelAtStep, None, None]:
    """Run the block in a scope that is cancelled at the given step of its task.

    The block ran to its end, or was not even reached by the cancel, unless
    `scope.cancelled_caught`.
    """
    instrument = CancelAtStep(step, resuming)
    instrument.task = trio.lowlevel.current_task()
    with instrument.scope:
        trio.lowlevel.add_instrument(instrument)
        try:
            yield instrument
        finally:
            trio.lowlevel.remove_instrument(instrument)


async def assert_frozen_wire_costs_the_connection(
    proxy: Proxy,
    conninfo: str,
    use: Callable[[TrioConnection], Awaitable[object]],
    *,
    direction: Direction,
) -> None:
    """A cancel that meets a frozen wire is not held up by it: the connection is closed.

    Args:
        proxy: Where the wire is frozen and the cancel comes, at the first message in that direction.
        conninfo: The server, past the proxy.
        use: What is cancelled.
        direction: As said.
    """
    connection = await TrioConnection.connect(proxy.conninfo(conninfo))
    connection.cancel_timeout = connection.cleanup_timeout = 0.1
    with trio.CancelScope() as scope:

        async def freeze(message: Message) -> None:
            await trio.lowlevel.checkpoint()
            if message.direction is direction:
                proxy.freeze()
                scope.cancel()

        proxy.on_message = freeze
        await use(connection)
    assert scope.cancelled_caught
    assert connection.closed


# -- asyncio ----------------------------------------------------------------------------------------


def in_asyncio(conninfo: str, use: Callable[[psycopg.AsyncConnection[Any]], Awaitable[T]]) -> T:
    """Use a connection of psycopg's own, in an asyncio loop."""

    async def main() -> T:
        async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as connection:
            return await use(connection)

    return asyncio.run(main())


async def cancel_in_asyncio(
    conninfo: str, connection: psycopg.AsyncConnection[Any], statement: Coroutine[Any, Any, object]
) -> None:
    """Cancel an asyncio task in the middle of its statement, which must leave the connection at rest."""
    task = asyncio.create_task(statement)
    async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as admin:
        while True:
            cursor = await admin.execute(IS_HELD_UP, [connection.info.backend_pid])
            if await cursor.fetchone() == (True,):
                break
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert connection.info.transaction_status == pq.TransactionStatus.IDLE
