"""A sync connection whose waits end: at its deadline, or when they are called off."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator

import psycopg
import pytest

from trio_queue._pg.bounded import BoundedConnection


@pytest.fixture
def connection(database: str) -> Iterator[BoundedConnection]:
    """A connection in autocommit mode, over the Unix socket."""
    with BoundedConnection.connect(database, autocommit=True) as connection:
        yield connection


def test_it_is_a_connection_like_any_other(connection: BoundedConnection) -> None:
    connection.deadline = time.monotonic() + 60
    connection.execute("CREATE TABLE t (number int, text text)")
    with connection.transaction(), connection.cursor() as cursor:
        cursor.executemany("INSERT INTO t VALUES (%s, %s)", [(n, "x" * n) for n in range(100)])
    # More than fits into the socket's buffers.
    [size] = connection.execute("SELECT length(%s)", ["x" * 10_000_000]).fetchall()
    assert size == (10_000_000,)
    assert connection.execute("SELECT sum(length(text)) FROM t").fetchone() == (4950,)
    with pytest.raises(psycopg.errors.DivisionByZero):
        connection.execute("SELECT 1 / 0")
    assert not connection.closed


def test_nothing_is_waited_for_after_the_deadline(connection: BoundedConnection) -> None:
    connection.deadline = time.monotonic() + 0.01
    with pytest.raises(psycopg.OperationalError, match="did not answer in time"):
        connection.execute("SELECT pg_sleep(600)")
    assert connection.closed
    with pytest.raises(psycopg.OperationalError):
        connection.execute("SELECT 1")


def test_a_deadline_in_the_past_is_one(connection: BoundedConnection) -> None:
    connection.deadline = 0
    with pytest.raises(psycopg.OperationalError, match="did not answer in time"):
        connection.execute("SELECT pg_sleep(600)")


def test_an_exchange_may_have_its_own_timeout(connection: BoundedConnection) -> None:
    exchange = connection.cursor()._execute_gen("SELECT pg_sleep(600)")  # pyright: ignore[reportPrivateUsage] - what wait() is given
    with pytest.raises(psycopg.OperationalError, match="did not answer in time"):
        connection.wait(exchange, timeout=0.01)


def test_another_thread_calls_it_off(connection: BoundedConnection) -> None:
    reads, writes = os.pipe()
    try:
        connection.interrupt = reads
        assert connection.execute("SELECT 1").fetchone() == (1,)
        calling = threading.Timer(0.01, os.write, (writes, b"."))
        calling.start()
        with pytest.raises(psycopg.OperationalError, match="called off"):
            connection.execute("SELECT pg_sleep(600)")
        assert connection.closed
        calling.join()
    finally:
        os.close(reads)
        os.close(writes)


def test_a_connection_that_the_server_ends_says_so(
    connection: BoundedConnection, database: str
) -> None:
    pid = connection.info.backend_pid
    with psycopg.connect(database, autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(%s, 10000)", [pid])
    with pytest.raises(psycopg.errors.AdminShutdown):
        connection.execute("SELECT 1")
