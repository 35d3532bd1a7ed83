"""PostgreSQL from sync code: a pool of psycopg's, the caller's or one of ours."""

from __future__ import annotations

import datetime
import functools
import threading
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, NoReturn, TypeVar, cast

import psycopg
import psycopg_pool
from psycopg.rows import tuple_row

from trio_queue import utils
from trio_queue._pg.direct import AnyConnection
from trio_queue._storage.checking import Checks
from trio_queue._storage.encoding import Dumps, Loads
from trio_queue._storage.errors import translate, translated
from trio_queue._storage.parameters import Parameters, resolve
from trio_queue._storage.pools import CLOSE_TIMEOUT, pool_sizes
from trio_queue._storage.senders import send, send_on_callers
from trio_queue._storage.session import set_up
from trio_queue._storage.statements import statement_of
from trio_queue.connector import BaseConnector
from trio_queue.exceptions import AppNotOpen, ConnectorException, SyncConnectorConfigurationError
from trio_queue.store import JobStore
from trio_queue.verbs import Verb

R = TypeVar("R")


class SyncPool:
    """A `psycopg_pool.ConnectionPool` and who has to close it. Thread-safe."""

    def __init__(self, pool_args: dict[str, Any], dumps: Dumps | None, loads: Loads | None) -> None:
        self._pool_args = pool_args
        self._dumps, self._loads = dumps, loads
        self._lock = threading.Lock()
        self._pool: psycopg_pool.ConnectionPool[Any] | None = None
        self._is_ours = False
        #: Where the pool leads.
        self._parameters: Parameters | None = None

    @property
    def is_open(self) -> bool:
        """Whether there is a pool."""
        return self._pool is not None

    def open(self, pool: psycopg_pool.ConnectionPool[Any] | None = None, **args: Any) -> None:
        """Take the caller's pool, or open one; nothing happens where one is open.

        Args:
            pool: The caller's.
            **args: Win over the user's arguments for the pool.

        Raises:
            ConnectorException: The server cannot be reached; the address is named.
        """
        with self._lock:
            if self._pool is not None:
                return
            if pool is not None:
                self._parameters = resolve(pool.conninfo, pool.kwargs)
                self._pool, self._is_ours = pool, False
                return
            parameters = self._resolve()
            # Once by hand: a pool would try for its whole timeout, and not say why it failed.
            self.connect(parameters).close()
            self._parameters = parameters
            self._pool, self._is_ours = self._make(parameters, args), True

    def _make(
        self, parameters: Parameters, args: dict[str, Any]
    ) -> psycopg_pool.ConnectionPool[Any]:
        made: psycopg_pool.ConnectionPool[Any] = cast("Any", psycopg_pool.ConnectionPool)(
            **{
                "check": Checks().check,
                "configure": partial(_configure, may_prepare=parameters.may_prepare),
                **self._pool_args,
                **pool_sizes(self._pool_args),
                **args,
                "conninfo": parameters.conninfo,
                "kwargs": parameters.sync_kwargs(),
                "open": False,
            }
        )
        with translated(parameters.address):
            made.open(wait=True, timeout=made.timeout)
        return made

    def close(self) -> None:
        """Close the pool, unless it is the caller's."""
        with self._lock:
            pool, self._pool = self._pool, None
            if pool is not None and self._is_ours:
                pool.close(CLOSE_TIMEOUT)

    def connect(self, parameters: Parameters | None = None) -> psycopg.Connection[Any]:
        """Open a connection outside of the pool, in autocommit mode. The caller closes it.

        Args:
            parameters: Where to; None: where the pool leads, or the user's arguments.

        Raises:
            ConnectorException: The server cannot be reached; the address is named.
        """
        told = parameters or self._parameters or self._resolve()
        with translated(told.address):
            return _connect(told)

    def _resolve(self) -> Parameters:
        return resolve(self._pool_args.get("conninfo", ""), self._pool_args.get("kwargs"))

    @property
    def _address(self) -> str:
        return self._parameters.address if self._parameters else ""

    def run(self, verb: Verb[R]) -> R:
        """Send a verb. Raises AppNotOpen where there is no pool; what the verb says."""
        statement = statement_of(verb, self._dumps)
        try:
            with self._require().connection() as connection:
                return send(connection, statement, address=self._address, loads=self._loads)
        except psycopg.Error as error:
            raise translate(error, self._address) from error

    def run_on(self, verb: Verb[R], connection: psycopg.Connection[Any]) -> R:
        """Send a verb as part of the caller's transaction. Raises what the verb says."""
        return send_on_callers(
            connection,
            statement_of(verb, self._dumps),
            address=address_of(connection),
            loads=self._loads,
        )

    def execute(self, text: str, parameters: Any = None) -> Sequence[tuple[Any, ...]]:
        """Send SQL, of several statements where there are no parameters; the last one's rows."""
        with translated(self._address), self._require().connection() as connection:
            cursor = psycopg.Cursor(connection, row_factory=tuple_row)
            cursor.execute(text.encode(), parameters)
            while cursor.nextset():
                pass
            return cursor.fetchall() if cursor.description else []

    def _require(self) -> psycopg_pool.ConnectionPool[Any]:
        if self._pool is None:
            raise AppNotOpen
        return self._pool


def _configure(connection: psycopg.Connection[Any], *, may_prepare: bool) -> None:
    set_up(connection, may_prepare=may_prepare)
    if not connection.autocommit:
        connection.commit()


def _connect(parameters: Parameters) -> psycopg.Connection[Any]:
    options: dict[str, Any] = {**parameters.sync_kwargs(), "autocommit": True}
    connection: psycopg.Connection[Any] = psycopg.connect(parameters.conninfo, **options)
    try:
        set_up(connection, may_prepare=parameters.may_prepare)
    except BaseException:
        connection.close()
        raise
    return connection


def address_of(connection: AnyConnection) -> str:
    """Names the server of the caller's connection."""
    if connection.closed:
        return "the server of a closed connection"
    return _address(connection.info.dsn)


@functools.lru_cache(maxsize=64)
def _address(dsn: str) -> str:
    return Parameters(dsn, {}).address


class SyncPsycopgConnector(BaseConnector):
    """PostgreSQL for sync code only: it defers and manages jobs, and cannot run a worker.

    Args:
        json_dumps: Encodes tasks' arguments; by default `json.dumps`.
        json_loads: Decodes them; by default `json.loads`.
        **kwargs: For `psycopg_pool.ConnectionPool`: `conninfo`, `kwargs` (of `psycopg.connect`),
            `min_size`, `max_size`, `timeout` and the like.
    """

    def __init__(
        self, *, json_dumps: Dumps | None = None, json_loads: Loads | None = None, **kwargs: Any
    ) -> None:
        self._sync = SyncPool(kwargs, json_dumps, json_loads)

    def open(self, pool: psycopg_pool.ConnectionPool[Any] | None = None) -> None:
        """Open a pool, or use the caller's. Raises ConnectorException, which names the address."""
        self._sync.open(pool)

    def close(self) -> None:
        """Close the pool, unless it is the caller's."""
        self._sync.close()

    def is_open(self) -> bool:
        """Whether there is a pool."""
        return self._sync.is_open

    def run(self, verb: Verb[R], connection: Any = None) -> R:
        """Send a verb. See BaseConnector."""
        if connection is None:
            return self._sync.run(verb)
        return self._sync.run_on(verb, sync_connection(connection))

    def connect(self) -> psycopg.Connection[Any]:
        """Open a connection of its own, in autocommit mode. The caller closes it."""
        return self._sync.connect()

    def run_script(self, script: str) -> None:
        """Run SQL of several statements: all of it, or nothing where it has no COMMIT of its own."""
        self._sync.execute(script)

    def fetch(self, text: str, parameters: Any = None) -> Sequence[tuple[Any, ...]]:
        """The rows of a query."""
        return self._sync.execute(text, parameters)

    async def open_async(self, pool: Any = None) -> NoReturn:  # noqa: ARG002  # BaseConnector's signature
        """Not possible. Raises SyncConnectorConfigurationError."""
        raise SyncConnectorConfigurationError

    async def close_async(self) -> NoReturn:
        """Not possible. Raises SyncConnectorConfigurationError."""
        raise SyncConnectorConfigurationError

    async def run_async(self, verb: Verb[R], connection: Any = None) -> R:
        """Only on the caller's own sync connection. Raises SyncConnectorConfigurationError."""
        if isinstance(connection, psycopg.Connection):
            return self._sync.run_on(verb, sync_connection(connection))
        raise SyncConnectorConfigurationError

    def open_store(self) -> AbstractAsyncContextManager[JobStore]:
        """Not possible. Raises SyncConnectorConfigurationError."""
        raise SyncConnectorConfigurationError

    def now(self) -> datetime.datetime:
        """This moment."""
        return utils.utcnow()


def sync_connection(connection: Any) -> psycopg.Connection[Any]:
    """The caller's connection, if sync code can use it. Raises ConnectorException."""
    if isinstance(connection, psycopg.Connection):
        fitting: psycopg.Connection[Any] = connection  # pyright: ignore[reportUnknownVariableType]  # a cast is redundant to mypy
        return fitting
    if isinstance(connection, psycopg.AsyncConnection):
        raise ConnectorException(
            "connection= is an AsyncConnection: await defer_async() with it, "
            "or give defer() a psycopg.Connection"
        )
    raise ConnectorException(
        f"connection= is a {type(connection).__name__}: give a psycopg 3 connection"
    )
