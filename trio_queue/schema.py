"""The database's schema: make it, migrate it, check it.

What it should be stands in `sql/`; `trio_queue._storage.schema_state` tells what a database is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from typing import Any, Final, Protocol, TypeAlias, assert_never, cast

import attrs
import psycopg
import sniffio

from trio_queue._storage.schema_state import (
    CLEARING,
    MIGRATIONS,
    STATE_QUERY,
    UNCHECKED_QUERY,
    Migration,
    Rows,
    SchemaKind,
    SchemaState,
    check_usable,
    describe,
    get_migrations_path,
    get_restoring_sql,
    get_schema,
    read_state,
)
from trio_queue.exceptions import ConnectorException, SchemaError

__all__ = [
    "MIGRATIONS",
    "STATE_QUERY",
    "Migration",
    "SchemaKind",
    "SchemaManager",
    "SchemaState",
    "apply",
    "check_usable",
    "describe",
    "get_migrations_path",
    "get_restoring_sql",
    "get_schema",
    "read_state",
    "restore_procrastinate",
    "restore_steps",
    "steps",
]

#: The key of the advisory lock that one who applies the schema holds; any number of our own.
LOCK_KEY: Final = 0x7472696F71756575
#: Seconds between two tries for that lock. Waiting for it inside a statement would hold a snapshot,
#: for which CREATE INDEX CONCURRENTLY, run by its holder, waits: a deadlock.
LOCK_PAUSE: Final = 0.2


@attrs.frozen
class Run:
    """Send this, outside of any transaction block; several statements are one transaction."""

    text: str


@attrs.frozen
class Pause:
    """Wait this long, holding nothing."""

    seconds: float


Step: TypeAlias = Run | Pause


def steps() -> Generator[Step, Rows, tuple[str, ...]]:
    """Yield the steps that bring a database to this version; returns the migrations applied.

    Whoever drives it sends in the rows of each step, over one connection, and releases the advisory
    lock on LOCK_KEY at the end (or closes the connection). A step that fails ends it: what went
    before is recorded and stays, and the next try goes on from there.

    Raises:
        SchemaError: The database is not one that can be brought to this version.
    """
    while not (yield Run(f"SELECT pg_try_advisory_lock({LOCK_KEY})"))[0][0]:
        yield Pause(LOCK_PAUSE)
    state = read_state((yield Run(STATE_QUERY)))
    match state.kind:
        case SchemaKind.CURRENT | SchemaKind.NEWER:
            return ()
        case SchemaKind.OLD_PROCRASTINATE | SchemaKind.UNKNOWN_PROCRASTINATE:
            raise SchemaError(describe(state))
        case SchemaKind.ABSENT:
            yield Run(get_schema())
            return tuple(migration.name for migration in MIGRATIONS)
        case SchemaKind.PROCRASTINATE | SchemaKind.BROKEN:
            applied: set[str] = set()
        case SchemaKind.INCOMPLETE:
            applied = {row[0] for row in (yield Run("SELECT name FROM trio_queue_migrations"))}
        case _:
            assert_never(state.kind)
    missing = [migration for migration in MIGRATIONS if migration.name not in applied]
    for migration in missing:
        if migration.in_transaction:
            yield Run(f"{migration.text}\n{migration.record}")
        else:
            yield from _one_by_one(migration)
    return tuple(migration.name for migration in missing)


#: How many ids one statement looks through that clears rows a foreign key would not have.
_WINDOW: Final = 100_000


def restore_steps() -> Generator[Step, Rows, tuple[str, ...]]:
    """Yield the steps that give a database back to Procrastinate. Driven as those of `steps` are.

    Interrupted, it leaves a database of ours or, from the first statement on, of Procrastinate's,
    and the next try goes on from there.

    Raises:
        SchemaError: There is no queue, or a newer version of ours has to do it.
    """
    while not (yield Run(f"SELECT pg_try_advisory_lock({LOCK_KEY})"))[0][0]:
        yield Pause(LOCK_PAUSE)
    state = read_state((yield Run(STATE_QUERY)))
    match state.kind:
        case SchemaKind.ABSENT:
            raise SchemaError("there are no tables of a queue, so nothing is to be given back")
        case SchemaKind.NEWER:
            raise SchemaError(
                "a newer version of trio_queue made the schema, and knows what to take away: "
                "give the database back with that one"
            )
        case SchemaKind.INCOMPLETE | SchemaKind.CURRENT | SchemaKind.BROKEN:
            yield Run(get_restoring_sql())
        case (
            SchemaKind.PROCRASTINATE
            | SchemaKind.OLD_PROCRASTINATE
            | SchemaKind.UNKNOWN_PROCRASTINATE
        ):
            pass  # it has all back, but perhaps unchecked
        case _:
            assert_never(state.kind)
    unchecked = yield Run(UNCHECKED_QUERY)
    if unchecked:
        yield from _clear_dangling_rows()
    for relation, constraint in unchecked:
        # Scans the table, and locks nobody out.
        yield Run(f'ALTER TABLE {relation} VALIDATE CONSTRAINT "{constraint}"')
    return ()


def _clear_dangling_rows() -> Generator[Step, Rows, None]:
    for table, clearing in CLEARING.items():
        ((lowest, highest),) = yield Run(
            f"SELECT coalesce(min(id), 0), coalesce(max(id), 0) FROM {table}"  # noqa: S608  # names of our own
        )
        for first in range(lowest, highest + 1, _WINDOW):
            yield Run(f"{clearing} AND id >= {first} AND id < {first + _WINDOW}")


def _one_by_one(migration: Migration) -> Generator[Step, Rows, None]:
    interrupted = yield Run(
        "SELECT i.indexrelid::regclass::text FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid"
        " WHERE i.indrelid = to_regclass('procrastinate_jobs') AND NOT i.indisvalid AND c.relname ^@ 'trio_queue_'"
    )
    for (index,) in interrupted:
        yield Run(f"DROP INDEX CONCURRENTLY IF EXISTS {index}")
    for statement in migration.statements:
        yield Run(statement)
    yield Run(migration.record)


def apply(connection: psycopg.Connection[Any]) -> tuple[str, ...]:
    """Bring a database to this version. Safe at any time, and from two processes at once.

    Args:
        connection: In autocommit mode, with nothing under way. Its settings (`search_path`) are used.

    Returns:
        The names of the migrations applied; none where there was nothing to do.

    Raises:
        ValueError: The connection is not in autocommit mode.
        SchemaError: The database cannot be brought to this version, or its tables were never free for
            a moment; applying again goes on from there.
        psycopg.Error: The server refused a step.
    """
    return _drive(connection, steps())


def restore_procrastinate(connection: psycopg.Connection[Any]) -> None:
    """Give a database back to Procrastinate: take away what `apply` added, and keep every job.

    What Procrastinate does not know goes: the reasons of events, and that a dead worker of ours held
    a job (it stays `doing`, as Procrastinate leaves it). Its own workers may go on meanwhile.

    Args:
        connection: As of `apply`.

    Raises:
        ValueError: The connection is not in autocommit mode.
        SchemaError: A worker of ours is alive; there is no queue; a newer version has to do it; or the
            tables were never free for a moment.
        psycopg.Error: The server refused a step.
    """
    _drive(connection, restore_steps())


def _drive(
    connection: psycopg.Connection[Any], walk: Generator[Step, Rows, tuple[str, ...]]
) -> tuple[str, ...]:
    if not connection.autocommit:
        raise ValueError(
            "give a connection with autocommit=True: indexes are built outside of transactions"
        )
    rows: Rows = ()
    try:
        step = next(walk)
        while True:
            match step:
                case Run(text):
                    rows = _send(connection, text)
                case Pause(seconds):
                    time.sleep(seconds)
            step = walk.send(rows)
    except StopIteration as stop:
        applied: tuple[str, ...] = stop.value
        return applied
    except (psycopg.errors.LockNotAvailable, psycopg.errors.ObjectInUse) as error:
        raise SchemaError(
            f"{error.diag.message_primary}. {error.diag.message_hint or ''}".strip()
        ) from error
    finally:
        if not connection.closed and not connection.broken:
            _send(connection, f"SELECT pg_advisory_unlock({LOCK_KEY})")


def _send(connection: psycopg.Connection[Any], text: str) -> Rows:
    # Its own cursor: a connection's row factory may make something else of rows than tuples.
    cursor = psycopg.Cursor(connection)
    cursor.execute(text.encode(), prepare=False)
    while cursor.nextset():
        pass
    return cursor.fetchall() if cursor.description else ()


class ConnectorWithSchema(Protocol):
    """What a SchemaManager needs of a connector to a database that has one."""

    def connect(self) -> psycopg.Connection[Any]:
        """Open a sync connection in autocommit mode, which the caller closes."""
        ...


class SchemaManager:
    """Makes and migrates the tables of a connector's database. It need not be open.

    An in-memory connector has no schema: there is nothing to apply, and it is always current.
    """

    def __init__(self, connector: object) -> None:
        self.connector = connector

    @staticmethod
    def get_schema() -> str:
        """The whole schema as SQL, for an empty database."""
        return get_schema()

    @staticmethod
    def get_migrations_path() -> str:
        """The folder of the migrations."""
        return get_migrations_path()

    def apply_schema(self) -> None:
        """Make the tables, or migrate them. Nothing happens where that is done.

        Raises:
            ConnectorException: The server cannot be reached, or refuses a step.
            SchemaError: See `apply`.
        """
        self._change(apply)

    async def apply_schema_async(self) -> None:
        """`apply_schema` from Trio or asyncio: in a thread.

        A cancel waits for it under Trio; under asyncio it goes on to its end, unheard.
        """
        await _in_thread(self.apply_schema)

    def restore_procrastinate(self) -> None:
        """Take away what trio_queue added to Procrastinate's tables, which stay, with every job.

        Raises:
            ConnectorException: The server cannot be reached, or refuses a step.
            SchemaError: See `restore_procrastinate`.
        """
        self._change(restore_procrastinate)

    async def restore_procrastinate_async(self) -> None:
        """`restore_procrastinate` from Trio or asyncio: in a thread, as `apply_schema_async`."""
        await _in_thread(self.restore_procrastinate)

    def check(self) -> SchemaState:
        """What the database is to this version. Raises ConnectorException."""
        connector = self._connector()
        if connector is None:
            return SchemaState(SchemaKind.CURRENT)
        with connector.connect() as connection:
            return read_state(_send(connection, STATE_QUERY))

    async def check_async(self) -> SchemaState:
        """`check` from Trio or asyncio: in a thread.

        A cancel waits for it under Trio; under asyncio it goes on to its end, unheard.
        """
        return cast("SchemaState", await _in_thread(self.check))

    def _change(self, change: Callable[[psycopg.Connection[Any]], object]) -> None:
        if (connector := self._connector()) is None:
            return
        with connector.connect() as connection:
            user, database = connection.info.user, connection.info.dbname
            try:
                # Building an index on a large table takes its time, whatever is right for queries.
                connection.execute("SET statement_timeout = 0")
                change(connection)
            except psycopg.Error as error:
                told = f"the schema of database {database!r} was not changed to its end: {error.diag.message_primary or error}"
                if isinstance(error, psycopg.errors.InsufficientPrivilege):
                    told += f". User {user!r} may not do it: connect as the owner of the tables"
                raise ConnectorException(told) from error

    def _connector(self) -> ConnectorWithSchema | None:
        if hasattr(self.connector, "connect"):
            return cast("ConnectorWithSchema", self.connector)
        return None


async def _in_thread(function: Any) -> Any:
    if sniffio.current_async_library() == "trio":
        import trio

        return await trio.to_thread.run_sync(function)
    import asyncio

    return await asyncio.to_thread(function)
