"""PostgreSQL in every colour: Trio, asyncio, sync code, and the store for a worker."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, TypeVar, cast

import psycopg
import trio

from trio_queue import utils
from trio_queue._pg.pool import Pool
from trio_queue._storage.checking import Checks
from trio_queue._storage.encoding import Dumps, Loads
from trio_queue._storage.errors import translate, translated
from trio_queue._storage.loops import (
    check_loop,
    in_serving_loop,
    in_trio,
    refuse_in_a_loop,
)
from trio_queue._storage.parameters import Parameters, resolve_async, without_address
from trio_queue._storage.pools import CLOSE_TIMEOUT, OpenPool, Pools, pool_sizes
from trio_queue._storage.schema_state import check_usable
from trio_queue._storage.senders import (
    Statement,
    plain_cursor_async,
    send_async,
    send_on_callers_async,
)
from trio_queue._storage.session import set_up_async
from trio_queue._storage.statements import statement_of
from trio_queue._storage.store import PostgresJobStore
from trio_queue._storage.sync_connector import (
    SyncPool,
    SyncPsycopgConnector,
    address_of,
    sync_connection,
)
from trio_queue.connector import BaseConnector, running_loop
from trio_queue.exceptions import ConnectorException
from trio_queue.store import JobStore
from trio_queue.verbs import Verb

__all__ = ["PsycopgConnector", "SyncPsycopgConnector"]

R = TypeVar("R")

#: What of the user's arguments for a pool means something to the driver's for Trio.
_TRIO_POOL_ARGS = ("timeout", "max_idle", "max_lifetime")

_ASYNC_CALLBACKS = frozenset(
    {"configure", "check", "reset", "reconnect_failed", "connection_class"}
)


class PsycopgConnector(BaseConnector):
    """PostgreSQL, from Trio, asyncio and sync code alike.

    Opened under Trio it keeps a pool of its own; under asyncio a pool of psycopg_pool's, the
    caller's or one that `pool_factory` makes. Each event loop, in whatever thread, opens it for
    itself. Sync code in other threads may use it once it is open in any way; in the thread of a
    loop only after `open()`, since it blocks.

    Args:
        json_dumps: Encodes tasks' arguments; by default `json.dumps`.
        json_loads: Decodes them; by default `json.loads`.
        pool_factory: Makes the pool under asyncio; by default `psycopg_pool.AsyncConnectionPool`.
        **kwargs: For the pool: `conninfo`, `kwargs` (of `psycopg.connect`), `min_size`, `max_size`,
            `timeout` (seconds) and the like.
    """

    def __init__(
        self,
        *,
        json_dumps: Dumps | None = None,
        json_loads: Loads | None = None,
        pool_factory: Callable[..., Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self._dumps, self._loads = json_dumps, json_loads
        self._pool_factory = pool_factory
        self._pool_args = kwargs
        # What is called with async connections is of no use to a sync pool.
        sync_args = {name: value for name, value in kwargs.items() if name not in _ASYNC_CALLBACKS}
        self._sync = SyncPool(sync_args, json_dumps, json_loads)
        #: Whether sync code asked for its pool; else it comes and goes with those of the loops.
        self._is_open_for_sync = False
        self._pools = Pools()
        #: Where the worker connects: of the caller's pool, where there is one.
        self._parameters: Parameters | None = None

    # -- which database -------------------------------------------------------------------------

    @property
    def names_database(self) -> bool:
        """Whether its arguments say where to connect; else libpq's environment and defaults do."""
        return bool(self._pool_args.get("conninfo") or self._pool_args.get("kwargs"))

    def moved_to(self, conninfo: str) -> PsycopgConnector:
        """A connector with the same arguments to another database. It is not open.

        Args:
            conninfo: The other database; what `kwargs=` says of the place counts no more.
        """
        arguments = {**self._pool_args, "conninfo": conninfo}
        if isinstance(keywords := arguments.get("kwargs"), Mapping):
            arguments["kwargs"] = without_address(cast("Mapping[str, Any]", keywords))
        elif keywords is not None:
            del arguments["kwargs"]  # a function that tells them: of the place, for all we know
        return PsycopgConnector(
            json_dumps=self._dumps,
            json_loads=self._loads,
            pool_factory=self._pool_factory,
            **arguments,
        )

    # -- open and close -------------------------------------------------------------------------

    def open(self, pool: Any = None) -> None:
        """Open for sync code. Raises ConnectorException, which names the address."""
        self._sync.open(pool)
        self._is_open_for_sync = True

    def close(self) -> None:
        """Close what `open()` opened; a pool of the caller's stays open."""
        self._is_open_for_sync = False
        self._sync.close()

    async def open_async(self, pool: Any = None) -> None:
        """Open for the running loop; nothing happens where that is done.

        Args:
            pool: Under asyncio, an open `psycopg_pool.AsyncConnectionPool` of the caller's.

        Raises:
            ConnectorException: The server cannot be reached; the address is named. Or a pool was
                given under Trio, which it cannot serve.
        """
        if in_trio() and pool is not None:
            raise ConnectorException(
                "a pool of psycopg_pool's cannot serve Trio: give the connector its conninfo"
            )
        await in_serving_loop(partial(self._open_pool, pool))

    async def _open_pool(self, pool: Any) -> None:
        if self._pools.current is not None:
            return
        if in_trio():
            made = await self._open_trio()
        elif pool is not None:
            made = OpenPool(pool, await resolve_async(pool.conninfo, pool.kwargs), is_ours=False)
        else:
            made = await self._open_asyncio()
        if self._pools.add(made):
            self._parameters = made.parameters
        else:  # somebody else opened it meanwhile
            await made.close()

    async def _open_trio(self) -> OpenPool:
        parameters = await self._resolve()
        made = Pool(
            parameters.conninfo,
            kwargs=parameters.trio_kwargs(),
            configure=partial(self._configure, parameters),
            **pool_sizes(self._pool_args),
            **{name: self._pool_args[name] for name in _TRIO_POOL_ARGS if name in self._pool_args},
        )
        with translated(parameters.address):
            await made.open()
        return OpenPool(made, parameters)

    async def _open_asyncio(self) -> OpenPool:
        # Imported here: Trio programs need none of it.
        import psycopg_pool

        parameters = await self._resolve()
        kwargs = parameters.connect_kwargs()
        factory = self._pool_factory or cast("Any", psycopg_pool.AsyncConnectionPool)
        made = factory(
            **{
                "check": Checks().check_async,
                **self._pool_args,
                # A factory of the user's may make a pool that has no sizes.
                **({} if self._pool_factory else pool_sizes(self._pool_args)),
                "configure": partial(self._configure, parameters),
                "conninfo": parameters.conninfo,
                "kwargs": kwargs,
                "open": False,
            }
        )
        with translated(parameters.address):
            # Once by hand: the pool would try for its whole timeout, and not say why it failed.
            first = await psycopg.AsyncConnection.connect(parameters.conninfo, **kwargs)
            async with first:
                await set_up_async(first)
            try:
                await made.open(wait=True)
            except BaseException:
                await made.close(CLOSE_TIMEOUT)
                raise
        return OpenPool(made, parameters)

    async def _configure(
        self, parameters: Parameters, connection: psycopg.AsyncConnection[Any]
    ) -> None:
        await set_up_async(connection, may_prepare=parameters.may_prepare)
        if not connection.autocommit:
            await connection.commit()
        if users := self._pool_args.get("configure"):
            await users(connection)

    async def close_async(self) -> None:
        """Close what was opened for the running loop, and sync code's pool if it came with it.

        A pool of the caller's stays open. In a cancelled scope too; bounded by 5 seconds for each.
        """
        await in_serving_loop(self._close_pool)

    async def _close_pool(self) -> None:
        opened = self._pools.pop()
        if opened is not None:
            await opened.close()
        if self._is_open_for_sync or self._pools or not self._sync.is_open:
            return
        if in_trio():
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self._sync.close)
        else:
            import asyncio

            await asyncio.to_thread(self._sync.close)

    def is_open(self) -> bool:
        """Whether it is open for the running loop; outside of one, for sync code."""
        if running_loop() is None:
            return self._sync.is_open or bool(self._pools)
        return self._pools.current is not None

    async def _resolve(self) -> Parameters:
        given = self._pool_args
        return await resolve_async(given.get("conninfo", ""), given.get("kwargs"))

    # -- verbs ----------------------------------------------------------------------------------

    def run(self, verb: Verb[R], connection: Any = None) -> R:
        """Send a verb from sync code. See BaseConnector.

        Opened by `open_async()` only, it opens a small pool for the sync code of other threads at
        the first use; in the loop's own thread it refuses: AppNotOpen names what to await instead.
        """
        if connection is not None:
            return self._sync.run_on(verb, sync_connection(connection))
        self._prepare_sync()
        return self._sync.run(verb)

    async def run_async(self, verb: Verb[R], connection: Any = None) -> R:
        """Send a verb from Trio or asyncio code. See BaseConnector."""
        if connection is not None and not isinstance(connection, psycopg.AsyncConnection):
            return self._sync.run_on(verb, sync_connection(connection))
        statement = statement_of(verb, self._dumps)
        if connection is not None:
            owner: psycopg.AsyncConnection[Any] = connection  # pyright: ignore[reportUnknownVariableType]  # a cast is redundant to mypy
            check_loop(owner)
            return await send_on_callers_async(
                owner, statement, address=address_of(owner), loads=self._loads
            )
        return await in_serving_loop(partial(self._send_over_pool, statement))

    async def _send_over_pool(self, statement: Statement[R]) -> R:
        try:
            async with self._pools.require().connection() as ours:
                return await send_async(ours, statement, address=self._address, loads=self._loads)
        except psycopg.Error as error:
            raise translate(error, self._address) from error

    def connect(self) -> psycopg.Connection[Any]:
        """Open a sync connection of its own, in autocommit mode. The caller closes it.

        The connector need not be open. Raises ConnectorException, which names the address.
        """
        return self._sync.connect(self._parameters)

    def run_script(self, script: str) -> None:
        """Run SQL of several statements: all of it, or nothing where it has no COMMIT of its own."""
        self.fetch(script)

    async def run_script_async(self, script: str) -> None:
        """Run SQL of several statements. See `run_script`."""
        await self.fetch_async(script)

    def fetch(self, text: str, parameters: Any = None) -> Sequence[tuple[Any, ...]]:
        """The rows of a query, from sync code."""
        self._prepare_sync()
        return self._sync.execute(text, parameters)

    async def fetch_async(self, text: str, parameters: Any = None) -> Sequence[tuple[Any, ...]]:
        """The rows of a query."""
        return await in_serving_loop(partial(self._fetch_over_pool, text, parameters))

    async def _fetch_over_pool(self, text: str, parameters: Any) -> Sequence[tuple[Any, ...]]:
        with translated(self._address):
            async with self._pools.require().connection() as connection:
                cursor = plain_cursor_async(connection)
                await cursor.execute(text.encode(), parameters)
                while cursor.nextset():
                    pass
                return await cursor.fetchall() if cursor.description else []

    def now(self) -> datetime.datetime:
        """This moment."""
        return utils.utcnow()

    @property
    def _address(self) -> str:
        return self._parameters.address if self._parameters else ""

    def _prepare_sync(self) -> None:
        if self._is_open_for_sync or not self._pools:
            return
        refuse_in_a_loop()
        if not self._sync.is_open:
            self._sync.open(min_size=1, max_size=4)

    # -- for a worker ---------------------------------------------------------------------------

    def open_store(self) -> AbstractAsyncContextManager[JobStore]:
        """On Trio: the store, with connections of its own. See BaseConnector."""
        return self._open_store()

    @contextlib.asynccontextmanager
    async def _open_store(self) -> AsyncGenerator[JobStore]:
        parameters = self._parameters or await self._resolve()
        async with PostgresJobStore(parameters, dumps=self._dumps, loads=self._loads) as store:
            await store.check_schema(check_usable)
            yield store
