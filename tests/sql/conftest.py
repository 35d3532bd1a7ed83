"""Connections to the databases, in autocommit mode as ours are."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.sql.table import Connection, connect


@pytest.fixture
def connection(queue_database: str) -> Iterator[Connection]:
    """A connection to a database with our schema."""
    with connect(queue_database) as connection:
        yield connection


@pytest.fixture
def stock(stock_database: str) -> Iterator[Connection]:
    """A connection to a database with Procrastinate's schema."""
    with connect(stock_database) as connection:
        yield connection


@pytest.fixture
def second(queue_database: str) -> Iterator[Connection]:
    with connect(queue_database) as second:
        second.execute("SET statement_timeout = '20s'")
        yield second
