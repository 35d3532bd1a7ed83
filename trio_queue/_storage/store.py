"""PostgreSQL as a worker sees it: a few connections of its own, a listener, a heartbeat."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, Self, TypeVar

import psycopg
import trio

from trio_queue._pg.bounded import BoundedConnection
from trio_queue._pg.connection import TrioConnection
from trio_queue._pg.direct import Rows
from trio_queue._pg.listener import Listener
from trio_queue._pg.pool import Pool
from trio_queue._storage.encoding import Dumps, Loads
from trio_queue._storage.errors import is_transient, translate, translated
from trio_queue._storage.hearing import NothingHeard, PostgresNotifications, channels
from trio_queue._storage.heartbeat import beating
from trio_queue._storage.parameters import Parameters
from trio_queue._storage.schema_state import STATE_QUERY
from trio_queue._storage.senders import send, send_async
from trio_queue._storage.session import set_up_async
from trio_queue._storage.statements import statement_of
from trio_queue.store import Heartbeat, Notifications, Outages
from trio_queue.verbs import UnregisterWorker, UpdateHeartbeat, Verb

R = TypeVar("R")

#: One connection to fetch, one to complete, one for the polls.
MAX_CONNECTIONS = 3
#: Seconds that a verb waits for a connection.
POOL_TIMEOUT = 10.0
#: Seconds that the heartbeat's thread waits for a connection or an answer.
HEARTBEAT_TIMEOUT = 5
#: Seconds that a session of the listener's own takes to answer.
SESSION_TIMEOUT = 1.0


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
        self._is_pooled = False
        self._address = parameters.address
        self._dumps, self._loads = dumps, loads
        self._pool = Pool(
            parameters.conninfo,
            kwargs=parameters.trio_kwargs(),
            min_size=1,
            max_size=MAX_CONNECTIONS,
            timeout=POOL_TIMEOUT,
            configure=self._configure,
        )

    async def _configure(self, connection: TrioConnection) -> None:
        self._is_pooled = await set_up_async(connection, may_prepare=self._parameters.may_prepare)

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
        try:
            async with self._pool.connection() as connection:
                return await send_async(
                    connection, statement, address=self._address, loads=self._loads
                )
        except psycopg.Error as error:
            raise translate(error, self._address) from error

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
            if self._is_pooled and not await self._keeps_session(listener):
                yield NothingHeard()
            else:
                yield PostgresNotifications(listener, outages)
        finally:
            await listener.__aexit__(None, None, None)

    async def _keeps_session(self, listener: Listener) -> bool:
        """Whether the pooler in between leaves the listener its session, and does not lend it to others."""
        with translated(self._address):
            # Whichever session the pooler lends first, the listener's most likely, it has lent now.
            async with self._pool.connection() as other, other.transaction():
                await other.execute("SELECT 1")
                with trio.move_on_after(SESSION_TIMEOUT):
                    if await listener.still_listens():
                        return True
        return False

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
        # TCP ends a beat whose server is gone, the function itself one that waits for a lock. Nothing is prepared: that
        # pays for no statement in ten seconds, and behind a pooler it could be another client's by then. And nobody
        # commits here: without autocommit no beat would be seen, and the worker be taken for dead.
        bounds: dict[str, Any] = {
            "autocommit": True,
            "prepare_threshold": None,
            "connect_timeout": HEARTBEAT_TIMEOUT,
            "tcp_user_timeout": HEARTBEAT_TIMEOUT * 1000,
            "keepalives_idle": HEARTBEAT_TIMEOUT,
            "keepalives_interval": 1,
            "keepalives_count": 3,
        }
        return BoundedConnection.connect(
            self._parameters.conninfo, **{**self._parameters.sync_kwargs(), **bounds}
        )

    def beat(self, connection: BoundedConnection, worker_id: int) -> bool:
        """Renew the lease of this worker; tells whether its row is there."""
        return self._send(connection, UpdateHeartbeat(worker_id))

    def unregister(self, connection: BoundedConnection, worker_id: int) -> None:
        """Delete the worker's row; nothing happens where it is gone already."""
        self._send(connection, UnregisterWorker(worker_id))

    def _send(self, connection: BoundedConnection, verb: Verb[R]) -> R:
        return send(connection, statement_of(verb, None), address=self._address, loads=None)
