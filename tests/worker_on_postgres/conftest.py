"""Benches: an application on a real database, and one behind a proxy."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest
from psycopg.conninfo import conninfo_to_dict

from tests.fix_postgres import PostgresServer
from tests.fix_proxy import Proxy
from tests.worker_on_postgres.bench import Bench


@pytest.fixture
async def bench(queue_database: str) -> AsyncGenerator[Bench]:
    """An application on a database of its own."""
    bench = Bench(queue_database, queue_database)
    yield bench
    bench.close()


@pytest.fixture
async def wired(
    proxy: Proxy, postgres_server: PostgresServer, queue_database: str
) -> AsyncGenerator[Bench]:
    """An application that reaches its database through the proxy; the test does not."""
    name = str(conninfo_to_dict(queue_database)["dbname"])
    bench = Bench(proxy.conninfo(postgres_server.conninfo(name, tcp=True)), queue_database)
    yield bench
    bench.close()
