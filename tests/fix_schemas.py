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
#: And its migrations, which a database that has served for years has come through.
STOCK_MIGRATIONS = {
    each.name: each.read_text("utf-8")
    for each in importlib.resources.files("procrastinate").joinpath("sql", "migrations").iterdir()
    if each.name.endswith(".sql")
}
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


def apply_stock_migrations(conninfo: str, *, without: str = "") -> None:
    """Make Procrastinate's tables as its older versions did, and migrate them to 3.10.

    Args:
        conninfo: The empty database.
        without: Leave out the migrations whose names contain this.
    """
    with psycopg.connect(conninfo, autocommit=True) as connection:
        for name, text in sorted(STOCK_MIGRATIONS.items()):
            if not without or without not in name:
                connection.execute(text.encode())


@pytest.fixture
def migrated_database(database: str) -> str:
    """The connection string of a database that has come through all of Procrastinate's migrations."""
    apply_stock_migrations(database)
    return database
