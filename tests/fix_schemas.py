"""Databases with Procrastinate's own schema beside ours, for tests that compare the two."""

from __future__ import annotations

import importlib.resources
import os
from collections.abc import Iterator

import psycopg
import pytest

from tests.fix_postgres import PostgresServer

#: Procrastinate's schema, from the package that is installed.
STOCK_SCHEMA = (
    importlib.resources.files("procrastinate").joinpath("sql", "schema.sql").read_text("utf-8")
)
#: How many times as many random cases the tests try: raise it for a long run.
SCALE = int(os.environ.get("TRIO_QUEUE_TEST_SCALE", "1"))


def apply_stock_schema(conninfo: str) -> None:
    """Make Procrastinate's tables in an empty database."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(STOCK_SCHEMA.encode())


@pytest.fixture(scope="session")
def stock_template(postgres_server: PostgresServer) -> str:
    """The name of a database as Procrastinate makes it, to be copied."""
    return postgres_server.create_template(apply_stock_schema)


@pytest.fixture
def stock_database(postgres_server: PostgresServer, stock_template: str) -> Iterator[str]:
    """The connection string of a fresh database as Procrastinate makes it."""
    name = postgres_server.create_database(stock_template)
    yield postgres_server.conninfo(name)
    postgres_server.drop_database(name)
