"""The port to a database: open it, say verbs to it in any colour, get its store for a worker."""

from __future__ import annotations

import abc
import datetime
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

from trio_queue.store import JobStore, Verb

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
