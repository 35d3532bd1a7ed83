"""Connections that an administrator ends, one by one and all at once, while jobs run."""

from __future__ import annotations

import logging
import re

import pytest

from tests.fix_proxy import Proxy
from tests.waiting import eventually
from tests.worker_on_postgres.bench import Bench, told
from trio_queue.log import Action
from trio_queue.worker import Stage

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


@pytest.mark.promise(
    "When the database is away / its connections are lost",
    "When the database is away / running jobs",
)
@pytest.mark.parametrize("kind", KINDS)
async def test_again_and_again_while_jobs_run(
    bench: Bench, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    caplog.set_level(logging.INFO)
    long = bench.defer("hold", 2)
    short: list[int] = []
    async with bench.working(concurrency=5, update_heartbeat_interval=0.05) as worker:
        await eventually(lambda: len(bench.began) == 2, "the long jobs")
        for _ in range(5):
            await eventually(lambda: terminate(bench, kind) > 0, "a connection to end")
            added = bench.defer(count=4)
            short += added
            await bench.all_ended(added)
            assert worker.stage is Stage.RUNNING
        assert bench.strays(worker) == []
        assert worker.worker_id == 1
        # An outage that was told of has an end that is told of.
        await eventually(
            lambda: (
                len(told(caplog, Action.DATABASE_AWAY)) == len(told(caplog, Action.DATABASE_BACK))
            ),
            "the ends of the outages",
        )
    bench.each_ran_once(long + short)
    await bench.is_quiet()


async def test_a_thousand_short_jobs_through_a_storm(bench: Bench) -> None:
    ids = bench.defer(count=1000)
    storms = 0

    def left() -> int:
        count: int = bench.value(
            "SELECT count(*) FROM procrastinate_jobs WHERE status <> 'succeeded'"
        )
        return count

    async with bench.working(concurrency=20):
        while before := left():
            storms += terminate(bench, "all")
            # By a pace of its own, a storm would let nothing through on a machine that is busy.
            await eventually(lambda: left() < before, "a job to come through")
    assert storms > 0
    bench.each_ran_once(ids)
    await bench.is_quiet()


@pytest.mark.promise("When the database is away / its log")
async def test_one_line_for_an_outage_and_one_for_its_end(
    wired: Bench, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with wired.working(update_heartbeat_interval=0.05, fetch_job_polling_interval=0.05):
        await wired.all_ended(wired.defer())
        await proxy.refuse()
        # The verbs', the listener's and the heartbeat's connections are lost: one outage.
        await eventually(lambda: len(told(caplog, Action.DATABASE_AWAY)) > 0, "it to notice")
        refused = proxy.accepted
        await eventually(lambda: proxy.accepted > refused + 10, "many tries")
        ids = wired.defer()
        proxy.accept()
        # No notification was heard: it looks, because it may have missed one.
        await wired.all_ended(ids)
        await eventually(lambda: len(told(caplog, Action.DATABASE_BACK)) > 0, "it to notice")
    [away] = told(caplog, Action.DATABASE_AWAY)
    [back] = told(caplog, Action.DATABASE_BACK)
    warnings = [
        record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING
    ]
    assert warnings == [away, back]
    assert away.startswith("Lost the database (")
    assert re.fullmatch(r"The database is back after \d+\.\d s", back)
    wired.each_ran_once([1, *ids])
