"""What the driver's tests share: waiting for what the server says, and cancelling at each step."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import attrs
import trio
from trio.abc import Instrument

if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import LiteralString

    from trio_queue._pg import TrioConnection

PATIENCE = 30
"""Seconds after which what a test waits for is not going to happen."""


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
    """Wait until a backend is busy with a statement."""
    await wait_until(
        admin,
        "SELECT state = 'active' AND query NOT LIKE '' FROM pg_stat_activity WHERE pid = %s",
        pid,
    )


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
