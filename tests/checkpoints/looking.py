"""Is a database left as it should be: its rows, its sessions, the pool of who used it?"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import psycopg
import trio
from psycopg import pq

from tests.waiting import eventually
from trio_queue import App, PsycopgConnector
from trio_queue._pg.connection import TrioConnection
from trio_queue._pg.pool import Pool

TESTER = "the test itself"


class Witness:
    """A look at the database that does not go through the code under test."""

    def __init__(self, conninfo: str) -> None:
        self._connection = psycopg.connect(conninfo, autocommit=True, application_name=TESTER)

    def close(self) -> None:
        self._connection.close()

    def rows(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        return self._connection.execute(query.encode(), parameters).fetchall()

    def value(self, query: str, *parameters: Any) -> Any:
        return self.rows(query, *parameters)[0][0]

    def forget(self) -> None:
        """Delete every job, with what is told of it."""
        self._connection.execute("DELETE FROM procrastinate_jobs")

    def sessions(self) -> list[tuple[str, str]]:
        """The state and the last statement of everybody's sessions in this database but ours."""
        return self._sessions("true")

    def busy_sessions(self) -> list[tuple[str, str]]:
        """Those that work, or hold a transaction."""
        return self._sessions("state <> 'idle'")

    def _sessions(self, condition: str) -> list[tuple[str, str]]:
        return [
            (str(state), str(query))
            for state, query in self.rows(
                "SELECT state, query FROM pg_stat_activity WHERE datname = current_database()"
                f" AND backend_type = 'client backend' AND application_name <> '{TESTER}'"
                f" AND {condition}"
            )
        ]


def pool_of(app: App) -> Pool:
    """The pool of an App's connector that is open for Trio. From Trio."""
    connector = app.connector
    assert isinstance(connector, PsycopgConnector)
    pool = connector._pools.require()  # pyright: ignore[reportPrivateUsage] - no user needs it
    assert isinstance(pool, Pool)
    return pool


def dirty(connections: Iterable[TrioConnection]) -> list[str]:
    """Those that have something under way: a command, a transaction, a pipeline."""
    return [
        f"{connection}: {connection.info.transaction_status.name}"
        for connection in connections
        if not connection.closed
        and (
            connection.info.transaction_status != pq.TransactionStatus.IDLE
            or connection.pgconn.pipeline_status != pq.PipelineStatus.OFF
        )
    ]


def assert_pool_is_whole(pool: Pool, where: str) -> None:
    """Nothing is lent, every place is free, every connection that is kept is clean."""
    statistics = pool.statistics()
    assert statistics.in_use == 0, where
    assert statistics.waiting == 0, where
    kept = [member.connection for member in pool._idle]  # pyright: ignore[reportPrivateUsage] - no user needs them
    assert not any(connection.closed for connection in kept), where
    assert dirty(kept) == [], where


async def nobody_is_busy(witness: Witness, where: str) -> None:
    """No session works or holds a transaction: a moment after a cancel, the server knows it too."""
    await eventually(
        lambda: not witness.busy_sessions(), lambda: f"{where}: {witness.busy_sessions()}"
    )


async def whole_pool_can_be_lent(pool: Pool) -> None:
    """As many can be lent at once as there are places, and each works."""
    async with trio.open_nursery() as nursery:
        all_lent = trio.Event()
        lent = 0

        async def borrow() -> None:
            nonlocal lent
            async with pool.connection() as connection:
                await connection.execute("SELECT 1")
                lent += 1
                if lent == pool.max_size:
                    all_lent.set()
                await all_lent.wait()

        with trio.fail_after(30):
            async with trio.open_nursery() as borrowers:
                for _ in range(pool.max_size):
                    borrowers.start_soon(borrow)
        nursery.cancel_scope.cancel()
