"""The port to a database: open it, say verbs to it in any colour, get its store for a worker."""

from __future__ import annotations

import abc
import datetime
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import trio

from trio_queue.store import JobStore
from trio_queue.verbs import Verb

R = TypeVar("R")


class BaseConnector(abc.ABC):
    """A way to a database. What an App is given as `connector=`."""

    @abc.abstractmethod
    def open(self, pool: Any = None) -> None:
        """Open for sync code; with a `psycopg_pool.ConnectionPool` of yours, or one of its own."""

    @abc.abstractmethod
    def close(self) -> None:
        """Close what `open()` opened; a pool of the caller's stays open."""

    @abc.abstractmethod
    async def open_async(self, pool: Any = None) -> None:
        """Open for the running event loop: Trio's, or asyncio's (with an AsyncConnectionPool of yours)."""

    @abc.abstractmethod
    async def close_async(self) -> None:
        """Close what `open_async()` opened. In a cancelled scope too: bounded, shielded."""

    @abc.abstractmethod
    def is_open(self) -> bool:
        """Whether it is open for the running event loop (outside of one: for sync code)."""

    @abc.abstractmethod
    def run(self, verb: Verb[R], connection: Any = None) -> R:
        """Say something from sync code, on the caller's own psycopg connection where one is given.

        Raises:
            AppNotOpen: Neither is the connector open, nor a connection given.
            Exception: What the verb says.
        """

    @abc.abstractmethod
    async def run_async(self, verb: Verb[R], connection: Any = None) -> R:
        """Say something from Trio or asyncio code, on the caller's own connection where one is given.

        The connection may be a `psycopg.AsyncConnection` of the running loop or a sync
        `psycopg.Connection`, which blocks the loop for the statement. Raises as `run` does.
        """

    @abc.abstractmethod
    def open_store(self) -> AbstractAsyncContextManager[JobStore]:
        """On Trio: the store with connections of its own, for a worker.

        Raises:
            ConnectorException: The database is away, or refuses: the address is named.
            SchemaError: It has no schema, or not one that this version works with.
        """

    @abc.abstractmethod
    def now(self) -> datetime.datetime:
        """This moment by the clock that schedules are reckoned with (the in-memory one may be fake)."""


def running_loop() -> object | None:
    """What tells one event loop from another: Trio's token, or asyncio's loop; None: no loop runs here.

    The asyncio code of a Trio task, which trio-asyncio runs, counts as Trio's: it is the same loop.
    """
    if trio.lowlevel.in_trio_task():
        return trio.lowlevel.current_trio_token()
    # Imported here: Trio programs need none of it.
    import asyncio

    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


#: For how many workers a connector is kept open, by the event loop that it is open for.
_keepers: WeakKeyDictionary[BaseConnector, WeakKeyDictionary[object, int]] = WeakKeyDictionary()


async def keep_open(connector: BaseConnector) -> bool:
    """Open a connector for the running event loop, unless whoever uses it has.

    Returns:
        Whether `let_close` has to be called once, in the same event loop: it was opened here, or
        for another worker of this loop, whose jobs defer over it too.

    Raises:
        ConnectorException: The database is away, or refuses.
    """
    loop = running_loop()
    keepers = _keepers.setdefault(connector, WeakKeyDictionary())
    if connector.is_open() and loop not in keepers:
        return False
    keepers[loop] = keepers.get(loop, 0) + 1
    try:
        await connector.open_async()
    except BaseException:
        await let_close(connector)
        raise
    return True


async def let_close(connector: BaseConnector) -> None:
    """Close a connector for the running event loop, if this is the last worker that needs it there."""
    loop = running_loop()
    keepers = _keepers[connector]
    keepers[loop] -= 1
    if not keepers[loop]:
        del keepers[loop]
        await connector.close_async()
