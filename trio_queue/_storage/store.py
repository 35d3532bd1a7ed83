"""PostgreSQL as a worker sees it: a few connections of its own, a listener, a heartbeat."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, Self, TypeVar

import psycopg

from trio_queue._pg.bounded import BoundedConnection
from trio_queue._pg.listener import Listener
from trio_queue._pg.pool import Pool
from trio_queue._storage.encoding import Dumps, Loads
from trio_queue._storage.errors import is_transient, translated
from trio_queue._storage.hearing import PostgresNotifications, channels
from trio_queue._storage.heartbeat import beating
from trio_queue._storage.parameters import SESSION, Parameters
from trio_queue._storage.schema_state import STATE_QUERY
from trio_queue._storage.senders import Rows, send, send_async
from trio_queue._storage.statements import statement_of
from trio_queue.store import (
    Heartbeat,
    Notifications,
    Outages,
    UnregisterWorker,
    UpdateHeartbeat,
    Verb,
)

R = TypeVar("R")

#: One connection to fetch, one to complete, one for the polls.
MAX_CONNECTIONS = 3
#: Seconds that a verb waits for a connection.
POOL_TIMEOUT = 10.0
#: Seconds that the heartbeat's thread waits for a connection or an answer.
HEARTBEAT_TIMEOUT = 5


async def configure(connection: psycopg.AsyncConnection[Any]) -> None:
    """Set a new connection of ours up."""
    await connection.execute(SESSION)


class PostgresJobStore:
    """A database, opened for a worker. See JobStore for what its methods promise.

    Use it as an `async with` block: `PostgresJobStore(parameters)`.
    """

    def __init__(
        self,
        parameters: Parameters,
        *,
        dumps: Dumps | None = None,
        loads: Loads | None = None,
    ) -> None:
        self._parameters = parameters
        self._outages: Outages | None = None
        self._address = parameters.address
        self._dumps, self._loads = dumps, loads
        self._pool = Pool(
            parameters.conninfo,
            kwargs=parameters.trio_kwargs(),
            min_size=1,
            max_size=MAX_CONNECTIONS,
            timeout=POOL_TIMEOUT,
            configure=configure,
        )

    async def __aenter__(self) -> Self:
        """Connect. Raises ConnectorException, which names the address."""
        with translated(self._address):
            await self._pool.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connections; in a cancelled scope too."""
        await self._pool.close()

    async def run(self, verb: Verb[R]) -> R:
        """Send a verb over one of the store's connections. See JobStore."""
        statement = statement_of(verb, self._dumps)
        with translated(self._address):
            async with self._pool.connection() as connection:
                return await send_async(
                    connection, statement, address=self._address, loads=self._loads
                )

    async def check_schema(self, check: Callable[[Rows, str], None]) -> None:
        """Ask for the state of the schema and let `check` judge it, given the address.

        Raises:
            SchemaError: What `check` says.
        """
        with translated(self._address):
            async with self._pool.connection() as connection:
                cursor = await connection.execute(STATE_QUERY.encode())
                found = await cursor.fetchall()
        check(found, self._address)

    def is_transient(self, error: BaseException) -> bool:
        """Whether trying again may help. See JobStore."""
        return is_transient(error)

    def tell_outages(self, outages: Outages) -> None:
        """Tell of the listener's and the heartbeat's outages. See JobStore."""
        self._outages = outages

    def listen(self, queues: Sequence[str] | None) -> AbstractAsyncContextManager[Notifications]:
        """Hear about jobs on a connection of its own. See JobStore."""
        return self._listen(queues)

    @contextlib.asynccontextmanager
    async def _listen(self, queues: Sequence[str] | None) -> AsyncGenerator[Notifications]:
        outages = self._outages
        listener = Listener(
            self._parameters.conninfo,
            channels(queues),
            kwargs=self._parameters.trio_kwargs(),
            on_lost=None if outages is None else partial(outages.began, "notifications"),
        )
        with translated(self._address):
            await listener.__aenter__()
        try:
            yield PostgresNotifications(listener, outages)
        finally:
            await listener.__aexit__(None, None, None)

    def keep_alive(self, worker_id: int, interval: float) -> AbstractAsyncContextManager[Heartbeat]:
        """Renew the lease by a thread with a connection of its own. See JobStore."""
        return beating(HeartbeatLine(self._parameters), worker_id, interval, self._outages)


class HeartbeatLine:
    """How the heartbeat's thread talks to PostgreSQL. See `heartbeat.Line`."""

    def __init__(self, parameters: Parameters) -> None:
        self._parameters = parameters
        self._address = parameters.address

    def connect(self) -> BoundedConnection:
        """Open a connection, of which neither end waits for ever."""
        # The server ends a beat that waits for a lock, TCP one whose server is gone.
        bounds: dict[str, Any] = {
            "connect_timeout": HEARTBEAT_TIMEOUT,
            "tcp_user_timeout": HEARTBEAT_TIMEOUT * 1000,
            "keepalives_idle": HEARTBEAT_TIMEOUT,
            "keepalives_interval": 1,
            "keepalives_count": 3,
        }
        connection = BoundedConnection.connect(
            self._parameters.conninfo, **{**self._parameters.connect_kwargs(), **bounds}
        )
        connection.deadline = time.monotonic() + HEARTBEAT_TIMEOUT
        connection.execute(
            "SELECT set_config('statement_timeout', %s, false)", [f"{HEARTBEAT_TIMEOUT}s"]
        )
        connection.deadline = math.inf
        return connection

    def beat(self, connection: BoundedConnection, worker_id: int) -> bool:
        """Renew the lease of this worker; tells whether its row is there."""
        return self._send(connection, UpdateHeartbeat(worker_id))

    def unregister(self, connection: BoundedConnection, worker_id: int) -> None:
        """Delete the worker's row; nothing happens where it is gone already."""
        self._send(connection, UnregisterWorker(worker_id))

    def _send(self, connection: BoundedConnection, verb: Verb[R]) -> R:
        return send(connection, statement_of(verb, None), address=self._address, loads=None)
