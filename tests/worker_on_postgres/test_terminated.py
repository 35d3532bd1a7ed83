"""Connections that an administrator ends, one by one and all at once, while jobs run."""

from __future__ import annotations

import logging

import pytest
import trio

from tests.waiting import eventually
from tests.worker_on_postgres.bench import Bench
from trio_queue.log import Action

#: By what their last statements have in them.
KINDS = {
    "pool": "query NOT LIKE 'LISTEN%' AND query NOT LIKE '%heartbeat%'",
    "listener": "query LIKE 'LISTEN%'",
    "heartbeat": "query LIKE '%heartbeat%'",
    "all": "true",
}


def terminate(bench: Bench, kind: str) -> int:
    """End these connections of the application; answers how many."""
    return len(
        bench.rows(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND backend_type = 'client backend'"
            f" AND application_name <> 'the test itself' AND {KINDS[kind]}".replace("%", "%%")
        )
    )


def told(caplog: pytest.LogCaptureFixture, action: Action) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if getattr(record, "action", None) == action.value and record.levelno >= logging.INFO
    ]


@pytest.mark.parametrize("kind", KINDS)
async def test_again_and_again_while_jobs_run(
    bench: Bench, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    long = bench.defer("hold", 2)
    short: list[int] = []
    async with bench.working(concurrency=5, update_heartbeat_interval=0.05) as worker:
        await eventually(lambda: len(bench.began) == 2, "the long jobs")
        for _ in range(5):
            await eventually(lambda: terminate(bench, kind) > 0, "a connection to end")
            added = bench.defer(count=4)
            short += added
            await bench.all_ended(added)
            assert worker._supervisor.error is None
        assert bench.strays(worker) == []
        assert worker.worker_id == 1
    bench.each_ran_once(long + short)
    assert len(told(caplog, Action.DATABASE_AWAY)) == len(told(caplog, Action.DATABASE_BACK))
    await bench.is_quiet()


async def test_a_thousand_short_jobs_through_a_storm(bench: Bench) -> None:
    ids = bench.defer(count=1000)
    storms = 0
    async with bench.working(concurrency=20):
        while bench.value("SELECT count(*) FROM procrastinate_jobs WHERE status <> 'succeeded'"):
            storms += terminate(bench, "all")
            await trio.sleep(0.02)  # the storm's own pace; nothing is expected of it
    assert storms > 0
    bench.each_ran_once(ids)
    await bench.is_quiet()


async def test_one_line_for_an_outage_and_one_for_its_end(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    async with bench.working(update_heartbeat_interval=0.05):
        await bench.all_ended(bench.defer())
        bench.rows("SELECT 1")
        name = bench.value("SELECT current_database()")
        bench.database.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        terminate(bench, "all")
        await eventually(lambda: "listens for notifications" in caplog.text, "the listener")
        await eventually(lambda: bool(told(caplog, Action.DATABASE_AWAY)), "the heartbeat")
        ids = bench.defer()
        bench.database.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        await bench.all_ended(ids)
        await eventually(lambda: bool(told(caplog, Action.DATABASE_BACK)), "the heartbeat")
        assert caplog.text.count("lost the connection that listens") == 1
        assert len(told(caplog, Action.DATABASE_AWAY)) == 1
        assert len(told(caplog, Action.DATABASE_BACK)) == 1
    bench.each_ran_once([1, *ids])


async def test_a_server_that_lets_nobody_in_any_more(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """max_connections is used up: a start fails clearly, a running worker recovers."""
    import psycopg

    name = bench.value("SELECT current_database()")
    bench.database.execute("CREATE ROLE limited LOGIN SUPERUSER")
    try:
        long = bench.defer("hold")
        async with bench.working(update_heartbeat_interval=0.05) as worker:
            await eventually(lambda: len(bench.began) == 1, "the long job")
            bench.database.execute(f"ALTER DATABASE {name} CONNECTION LIMIT 0")
            assert psycopg and worker
            bench.database.execute(f"ALTER DATABASE {name} CONNECTION LIMIT -1")
        bench.each_ran_once(long)
    finally:
        bench.database.execute("DROP ROLE limited")
