"""The connector for users' tests: no server, whatever the colour."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

import trio

from trio_queue._storage.encoding import Dumps, Loads
from trio_queue._storage.loops import refuse_in_a_loop, trio_runs_this_code
from trio_queue._storage.memory import InMemoryDatabase, InMemoryJobStore
from trio_queue._storage.memory_rows import EventRow
from trio_queue._storage.rows import JobRow
from trio_queue.connector import BaseConnector
from trio_queue.store import JobStore
from trio_queue.verbs import Verb

R = TypeVar("R")


class InMemoryConnector(BaseConnector):
    """A database in memory, for tests: forgotten with the object, the same rules as PostgreSQL's.

    It serves sync code, asyncio and Trio, from any thread, and need not be opened. Inside
    `trio.run` its time is the Trio clock's: on a `trio.testing.MockClock` schedules, heartbeats
    and retries pass in fake time.

    Args:
        clock: Tells the moment, with a time zone. By default the wall's, and inside `trio.run` the
            Trio clock's, counted from the wall's.
        json_dumps: Encodes tasks' arguments; by default `json.dumps`.
        json_loads: Decodes them; by default `json.loads`.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], datetime.datetime] | None = None,
        json_dumps: Dumps | None = None,
        json_loads: Loads | None = None,
    ) -> None:
        self.database: InMemoryDatabase = InMemoryDatabase(
            clock, dumps=json_dumps, loads=json_loads
        )
        self._open = self._open_async = False

    @property
    def jobs(self) -> dict[int, JobRow]:
        """The rows of the table of jobs, as dictionaries by column, by id."""
        return self.database.tables.jobs

    @property
    def events(self) -> dict[int, list[EventRow]]:
        """The events of each job, by its id."""
        return self.database.tables.events

    def reset(self) -> None:
        """Remove all that is in the database, so that the next test does not see it."""
        self.database.reset()

    def now(self) -> datetime.datetime:
        """This moment by the connector's clock."""
        return self.database.clock()

    def open(self, pool: Any = None) -> None:  # noqa: ARG002  # memory needs no pool
        """Note that it is open; a pool is ignored."""
        self._open = True

    def close(self) -> None:
        """Note that it is closed. What it holds stays."""
        self._open = False

    async def open_async(self, pool: Any = None) -> None:  # noqa: ARG002  # memory needs no pool
        """Note that it is open; a pool is ignored."""
        self._open_async = True

    async def close_async(self) -> None:
        """Note that it is closed. What it holds stays."""
        self._open_async = False

    def is_open(self) -> bool:
        """Whether it was opened, in whatever colour."""
        return self._open or self._open_async

    def run(self, verb: Verb[R], connection: Any = None) -> R:  # noqa: ARG002  # memory has no connections
        """Do what a verb says, at once; a connection is ignored. Raises what the verb says.

        Opened by `open_async()` only, it refuses in the loop's own thread, as a database does:
        AppNotOpen names what to await instead.
        """
        if self._open_async and not self._open:
            refuse_in_a_loop()
        return self.database.run(verb)

    async def run_async(self, verb: Verb[R], connection: Any = None) -> R:  # noqa: ARG002  # memory has no connections
        """Do what a verb says, at once; a connection is ignored. Raises what the verb says."""
        if trio_runs_this_code():
            await trio.lowlevel.checkpoint()
        return self.database.run(verb)

    def open_store(self) -> AbstractAsyncContextManager[JobStore]:
        """The store for a worker."""
        return self._open_store()

    @contextlib.asynccontextmanager
    async def _open_store(self) -> AsyncGenerator[JobStore]:
        await trio.lowlevel.checkpoint()
        yield InMemoryJobStore(self.database)
