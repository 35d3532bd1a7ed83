"""A connection that the server has ended is not lent; one that works is not asked each time."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import psycopg
import psycopg_pool
import pytest

from trio_queue._pg.pool_member import CHECK_AFTER
from trio_queue._storage.checking import Checks

Lent = list[int]


def sync_pool(conninfo: str, then: Any) -> Lent:
    """The sessions that a pool lends, with something in between."""

    def lend() -> int:
        with pool.connection() as connection:
            return connection.info.backend_pid

    with psycopg_pool.ConnectionPool(
        conninfo, min_size=1, max_size=1, check=Checks().check, open=True
    ) as pool:
        first = lend()
        then(first)
        return [first, lend()]


def async_pool(conninfo: str, then: Any) -> Lent:
    async def main() -> Lent:
        async def lend() -> int:
            async with pool.connection() as connection:
                return connection.info.backend_pid

        async with psycopg_pool.AsyncConnectionPool(
            conninfo, min_size=1, max_size=1, check=Checks().check_async, open=False
        ) as pool:
            first = await lend()
            then(first)
            return [first, await lend()]

    return asyncio.run(main())


POOLS = pytest.mark.parametrize("lent_by", [sync_pool, async_pool])


@POOLS
def test_one_that_the_server_has_ended_is_not_lent(queue_database: str, lent_by: Any) -> None:
    def end(pid: int) -> None:
        with psycopg.connect(queue_database, autocommit=True) as other:
            # With a timeout it waits for the end.
            assert other.execute("SELECT pg_terminate_backend(%s, 10000)", [pid]).fetchone()

    first, second = lent_by(queue_database, end)
    assert second != first


def statements(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which round trips there are."""
    asked: list[str] = []
    sync, in_loop = (
        psycopg_pool.ConnectionPool.check_connection,
        psycopg_pool.AsyncConnectionPool.check_connection,
    )

    def check(connection: Any) -> None:
        asked.append("sync")
        sync(connection)

    async def check_async(connection: Any) -> None:
        asked.append("async")
        await in_loop(connection)

    monkeypatch.setattr(psycopg_pool.ConnectionPool, "check_connection", check)
    monkeypatch.setattr(psycopg_pool.AsyncConnectionPool, "check_connection", check_async)
    return asked


@POOLS
@pytest.mark.parametrize("seconds", [0.0, CHECK_AFTER])
def test_one_that_idled_for_long_is_asked_and_no_other(
    queue_database: str, lent_by: Any, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = statements(monkeypatch)
    monotonic = time.monotonic

    def wait(_: int) -> None:
        monkeypatch.setattr(
            "trio_queue._storage.checking.time.monotonic", lambda: monotonic() + seconds
        )

    first, second = lent_by(queue_database, wait)
    assert second == first
    assert len(asked) == (2 if seconds else 1), "the first time always"
