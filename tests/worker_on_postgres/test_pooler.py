"""Behind a pooler in transaction mode, with nothing set but what the guide says."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from typing import Any

import psycopg
import pytest
import trio
from psycopg import sql

from tests.fix_pooler import Pooled
from tests.waiting import eventually
from tests.worker_on_postgres.bench import Bench, told
from trio_queue import App, PsycopgConnector, SyncPsycopgConnector
from trio_queue.exceptions import ConnectorException
from trio_queue.log import Action

#: What the guide says, and polls that a test does not wait for.
POLLING: dict[str, Any] = {
    "listen_notify": False,
    "fetch_job_polling_interval": 0.02,
    "abort_job_polling_interval": 0.02,
    "update_heartbeat_interval": 0.02,
}


@pytest.fixture
async def behind(pooled: Pooled) -> AsyncGenerator[Bench]:
    """An application behind the pooler; the test looks past it."""
    bench = Bench(pooled.conninfo, pooled.direct)
    yield bench
    bench.close()


def left_in_sessions(pooled: Pooled) -> list[tuple[Any, ...]]:
    """What is left on the pooler's connections: of each, its settings and what it keeps."""
    asked = (
        "SELECT current_setting('statement_timeout'), current_setting('default_transaction_isolation'),"
        " (SELECT count(*) FROM pg_prepared_statements), (SELECT count(*) FROM pg_listening_channels())"
    )
    found: list[tuple[Any, ...]] = []
    with (
        psycopg.connect(pooled.conninfo, prepare_threshold=None) as one,
        psycopg.connect(pooled.conninfo, prepare_threshold=None) as other,
    ):
        for connection in (one, other):  # each holds what it asks until the end
            found += connection.execute(asked.encode()).fetchall()
    return found


@pytest.mark.both_hosts
async def test_jobs_run_once_and_nothing_is_left_behind(behind: Bench, pooled: Pooled) -> None:
    ids = behind.defer(count=150)
    for number in range(5):
        ids += behind.defer(count=10, lock=f"lock {number}")
    async with behind.working(**POLLING, concurrency=10):
        await behind.all_ended(ids)
        ids += behind.defer(count=5)  # found by a poll
        await behind.all_ended(ids)
    behind.each_ran_once(ids)
    assert behind.overlapped == set()
    assert behind.rows("SELECT id FROM procrastinate_workers") == []
    assert left_in_sessions(pooled) == [("0", "read committed", 0, 0)] * 2


async def test_three_workers_share_two_connections(behind: Bench) -> None:
    ids = behind.defer(count=200) + behind.defer(count=20, lock="one")
    async with (
        behind.working(**POLLING, concurrency=5),
        behind.working(**POLLING, concurrency=5),
        behind.working(**POLLING, concurrency=5),
    ):
        await behind.all_ended(ids)
    behind.each_ran_once(ids)
    assert behind.overlapped == set()


async def test_a_stop_waits_for_jobs_and_an_abort_ends_them(behind: Bench) -> None:
    first = behind.defer("hold")
    async with behind.working(**POLLING, concurrency=2) as worker:
        await eventually(lambda: behind.began[first[0]] == 1, "the job to begin")
        worker.stop()
        behind.gate.set()
    assert behind.statuses(first) == {first[0]: ("succeeded", 1)}

    behind.gate = type(behind.gate)()
    second = behind.defer("hold")
    async with behind.working(**POLLING) as worker:
        await eventually(lambda: behind.began[second[0]] == 1, "the job to begin")
        worker.abort()
        await eventually(lambda: not behind.rows("SELECT FROM procrastinate_workers"), "its end")
    assert behind.statuses(second) == {second[0]: ("aborted", 1)}


async def test_a_users_abort_is_found_by_a_poll(behind: Bench) -> None:
    (job,) = behind.defer("hold")
    async with behind.working(**POLLING), behind.app.open_async():
        await eventually(lambda: behind.began[job] == 1, "the job to begin")
        assert await behind.app.job_manager.cancel_job_by_id_async(job, abort=True)
        await behind.all_ended(status="aborted")


async def test_the_job_of_a_dead_worker_is_rescued(behind: Bench) -> None:
    (job,) = behind.defer()
    dead = behind.value(
        "SELECT trio_queue_register_worker_v1('dead', 'there', 1, '0', NULL, 1, 'running')"
    )
    behind.rows("UPDATE procrastinate_jobs SET status = 'doing', worker_id = %s RETURNING id", dead)
    behind.rows(
        "UPDATE procrastinate_workers SET last_heartbeat = now() - interval '1 day' RETURNING id"
    )
    async with behind.working(**POLLING):
        await behind.all_ended()
    assert behind.statuses() == {job: ("succeeded", 2)}


async def test_a_beat_behind_a_held_row_ends_and_bounds_nobody_else(
    behind: Bench, pooled: Pooled
) -> None:
    function = "trio_queue_update_heartbeat_v1"
    asked = "SELECT proconfig FROM pg_proc WHERE proname = %s"
    assert behind.value(asked, function) == ["lock_timeout=5s"]
    behind.database.execute(f"ALTER FUNCTION {function} SET lock_timeout = '50ms'".encode())
    async with behind.working(**POLLING) as worker:
        with psycopg.connect(pooled.direct) as holder:
            holder.execute(
                "SELECT FROM procrastinate_workers WHERE id = %s FOR UPDATE", [worker.worker_id]
            )
            waits: set[Any] = set()

            def several_began() -> bool:
                waits.update(
                    behind.rows(
                        "SELECT query_start FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
                        " AND datname = current_database()"
                    )
                )
                return len(waits) > 2

            await eventually(several_began, "beats that wait, one after the other")
    assert [left[0] for left in left_in_sessions(pooled)] == ["0", "0"]


def defers_from_sync(app: App) -> None:
    with app.open():
        for number in range(60):
            app.configure_task("work").defer(number=number)


def defers_from_asyncio(app: App) -> None:
    async def main() -> None:
        async with app.open_async():
            for number in range(60):
                await app.configure_task("work").defer_async(number=number)

    asyncio.run(main())


def defers_from_trio(app: App) -> None:
    async def main() -> None:
        async with app.open_async():
            for number in range(60):
                await app.configure_task("work").defer_async(number=number)

    trio.run(main)


@pytest.mark.parametrize("kind", [PsycopgConnector, SyncPsycopgConnector])
@pytest.mark.parametrize("defers", [defers_from_sync, defers_from_asyncio, defers_from_trio])
def test_nothing_is_prepared(
    pooled: Pooled, kind: type[Any], defers: Callable[[App], None]
) -> None:
    if kind is SyncPsycopgConnector and defers is not defers_from_sync:
        return  # it has no other way
    app = App(connector=kind(conninfo=pooled.conninfo))
    defers(app)
    assert left_in_sessions(pooled) == [("0", "read committed", 0, 0)] * 2
    with psycopg.connect(pooled.direct) as connection:
        assert connection.execute("SELECT count(*) FROM procrastinate_jobs").fetchone() == (60,)


def test_what_is_prepared_all_the_same_is_refused_with_the_reason(pooled: Pooled) -> None:
    connector = SyncPsycopgConnector(
        conninfo=pooled.conninfo, kwargs={"prepare_threshold": 1}, min_size=2
    )
    with pytest.raises(ConnectorException, match="prepare_threshold"):
        defers_from_sync(App(connector=connector))
    connector.close()


def test_an_isolation_that_nobody_can_set_is_refused(pooled: Pooled) -> None:
    with psycopg.connect(pooled.direct, autocommit=True) as admin:
        admin.execute(
            sql.SQL("ALTER DATABASE {} SET default_transaction_isolation = 'serializable'").format(
                sql.Identifier(admin.info.dbname)
            )
        )
    app = App(connector=PsycopgConnector(conninfo=pooled.conninfo))
    for defers in (defers_from_sync, defers_from_asyncio, defers_from_trio):
        with pytest.raises(ConnectorException, match="ALTER ROLE"):
            defers(app)


async def test_a_worker_that_would_listen_is_told_that_it_cannot(
    behind: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    options = {**POLLING, "listen_notify": True}
    async with behind.working(**options):
        ids = behind.defer(count=3)
        await behind.all_ended(ids)
    [line] = told(caplog, Action.CANNOT_LISTEN)
    assert "listen_notify=False" in line


async def test_a_worker_past_the_pooler_is_told_nothing(
    pooled: Pooled, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    bench = Bench(pooled.direct, pooled.direct)
    async with bench.working():
        ids = bench.defer(count=3)  # heard
        await bench.all_ended(ids)
    bench.close()
    assert told(caplog, Action.CANNOT_LISTEN) == []
