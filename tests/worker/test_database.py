"""What a worker says of an outage, whichever of its connections tell it first."""

from __future__ import annotations

import logging

import pytest
import trio
import trio.testing

from tests.fix_worker import FaultyConnector, Steps, working
from trio_queue import App
from trio_queue._worker.database import VERBS, Database
from trio_queue._worker.services import Supervisor
from trio_queue._worker.shutdown import Shutdown
from trio_queue.exceptions import ConnectorException
from trio_queue.testing import FaultyStore, InMemoryJobStore


@pytest.fixture
async def database(
    connector: FaultyConnector, mock_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> Database:
    del mock_clock
    caplog.set_level(logging.INFO)
    supervisor = Supervisor(Shutdown(), logging.getLogger("trio_queue.test"))
    return Database(InMemoryJobStore(connector.database), supervisor)


def words(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the lines begin with."""
    return [record.getMessage().partition(" database")[0] for record in caplog.records]


async def test_the_first_connection_to_be_lost_and_the_last_to_return_are_told(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    for connection in ("notifications", "heartbeat", "heartbeat"):
        database.began(connection, ConnectorException("cut"))
    database.ended("notifications")
    assert words(caplog) == ["Lost the"]
    database.ended("heartbeat")
    assert words(caplog) == ["Lost the", "The"]


async def test_it_is_back_when_verbs_are_answered_whatever_has_yet_to_connect(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    database.began("notifications", ConnectorException("cut"))
    database.began(VERBS, ConnectorException("cut"))
    database.ended(VERBS)
    assert words(caplog) == ["Lost the", "The"]
    assert database.lost_since > trio.current_time()
    database.began("notifications", ConnectorException("cut still"))
    database.ended("notifications")
    assert words(caplog) == ["Lost the", "The"]


async def test_the_next_outage_is_told_again(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        database.began(VERBS, ConnectorException("cut"))
        database.ended(VERBS)
    assert words(caplog) == ["Lost the", "The"] * 2


async def test_outcomes_are_not_given_up_while_another_job_holds_the_worker_anyway(
    app: App, connector: FaultyConnector, store: FaultyStore, autojump_clock: trio.testing.MockClock
) -> None:
    """The lease is over, but nobody may have taken the job: written late, it need not run again."""
    short, long = Steps(), Steps()
    await app.task(name="short")(short.__call__).defer_async()
    await app.task(name="long")(long.__call__).defer_async()
    async with working(app, concurrency=2) as worker:
        await long.started.wait()
        outage = store.fail(times=None)
        worker.stop()
        short.may_end.set()
        await trio.sleep(300)
        outage.release()
        await trio.sleep(2)
        assert connector.statuses == ["succeeded", "doing"]
        long.may_end.set()
    assert connector.statuses == ["succeeded", "succeeded"]
