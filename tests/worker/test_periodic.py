"""Periodic tasks, deferred by the workers: each moment once."""

from __future__ import annotations

import datetime

import pytest
import trio
import trio.testing

from tests.fix_worker import FaultyConnector, Steps, stage_of, work, working
from trio_queue import App, Worker
from trio_queue.testing import FaultyStore
from trio_queue.verbs import DeferPeriodicJob
from trio_queue.worker import Stage

#: A moment that no cron expression of these tests has.
BEGIN = datetime.datetime(2030, 1, 1, 12, 0, 30, tzinfo=datetime.UTC)


class SetClock:
    """The wall's clock, which moves with Trio's and may be set."""

    def __init__(self) -> None:
        self.offset = 0.0

    def __call__(self) -> datetime.datetime:
        try:
            passed = trio.current_time()
        except RuntimeError:
            passed = 0
        return BEGIN + datetime.timedelta(seconds=passed + self.offset)


@pytest.fixture
def wall() -> SetClock:
    return SetClock()


@pytest.fixture
def connector(wall: SetClock) -> FaultyConnector:
    return FaultyConnector(clock=wall)


@pytest.fixture
def moments(app: App) -> list[int]:
    """The moments that the task, due every minute, was run for, in seconds from the first."""
    ran_for: list[int] = []

    @app.periodic(cron="* * * * *")
    @app.task(name="job")
    async def job(timestamp: int) -> None:
        await trio.lowlevel.checkpoint()
        ran_for.append(timestamp - int(BEGIN.timestamp()) + 30)

    return ran_for


async def test_every_moment_has_one_job(
    app: App, moments: list[int], autojump_clock: trio.testing.MockClock
) -> None:
    async with working(app):
        await trio.sleep(200)
    assert moments == [0, 60, 120, 180]


async def test_a_job_is_deferred_at_its_moment_and_not_before(
    app: App,
    connector: FaultyConnector,
    moments: list[int],
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with working(app):
        await trio.sleep(29.9)
        assert moments == [0]
        await trio.sleep(0.2)
        assert moments == [0, 60]


async def test_however_many_workers_there_are_each_moment_has_one_job(
    app: App, moments: list[int], autojump_clock: trio.testing.MockClock
) -> None:
    async with app.open_async(), working(app), working(app), working(app):
        await trio.sleep(200)
    assert moments == [0, 60, 120, 180]


async def test_moments_missed_by_an_outage_are_made_up_for(
    app: App, store: FaultyStore, moments: list[int], autojump_clock: trio.testing.MockClock
) -> None:
    async with working(app):
        await trio.sleep(1)
        fault = store.fail(DeferPeriodicJob, times=None)
        await trio.sleep(180)
        assert moments == [0]
        fault.release()
        await trio.sleep(2)
    assert moments == [0, 60, 120, 180]


async def test_moments_missed_for_longer_than_max_delay_are_given_up(
    connector: FaultyConnector, autojump_clock: trio.testing.MockClock
) -> None:
    app = App(connector=connector, periodic_defaults={"max_delay": 100})
    ran_for: list[int] = []

    @app.periodic(cron="* * * * *")
    @app.task(name="job")
    async def job(timestamp: int) -> None:
        await trio.lowlevel.checkpoint()
        ran_for.append(timestamp - int(BEGIN.timestamp()) + 30)

    async with working(app):
        await trio.sleep(1)
        fault = connector.store.fail(DeferPeriodicJob, times=None)
        await trio.sleep(600)
        fault.release()
        await trio.sleep(2)
    # It is 603 seconds after the first moment, about.
    assert ran_for == [0, 540, 600]


async def test_the_first_worker_in_a_long_time_makes_up_for_the_last_moment_only(
    connector: FaultyConnector, autojump_clock: trio.testing.MockClock
) -> None:
    app = App(connector=connector, periodic_defaults={"max_delay": 10})

    @app.periodic(cron="* * * * *")
    @app.task(name="job")
    def job(timestamp: int) -> None: ...

    async with working(app):
        await trio.sleep(10)
        assert connector.statuses == [], "the last moment was half a minute ago"


async def test_a_moment_whose_queueing_lock_is_taken_is_left_out(
    app: App,
    connector: FaultyConnector,
    caplog: pytest.LogCaptureFixture,
    autojump_clock: trio.testing.MockClock,
) -> None:
    caplog.set_level("INFO")

    @app.periodic(cron="* * * * *", queue="nobody works it", queueing_lock="one")
    @app.task(name="job")
    def job(timestamp: int) -> None: ...

    async with working(app, queues=["another"]):
        await trio.sleep(200)
    assert connector.statuses == ["todo"]
    actions = [record.__dict__.get("action") for record in caplog.records]
    assert actions.count("periodic_task_deferred") == 1
    assert actions.count("skip_periodic_task_queueing_lock") == 3


@pytest.mark.parametrize("fault", ["fail", "hang", "lose_answer"])
async def test_an_insert_that_fails_is_tried_again(
    app: App,
    store: FaultyStore,
    moments: list[int],
    autojump_clock: trio.testing.MockClock,
    fault: str,
) -> None:
    getattr(store, fault)(DeferPeriodicJob)
    async with working(app):
        await trio.sleep(20)
    assert moments == [0]


async def test_a_clock_that_is_set_forth_skips_nothing_and_back_repeats_nothing(
    app: App, wall: SetClock, moments: list[int], autojump_clock: trio.testing.MockClock
) -> None:
    async with working(app):
        await trio.sleep(1)
        wall.offset = 120
        await trio.sleep(61)
        forth = list(moments)
        wall.offset = -3_600
        await trio.sleep(120)
        assert moments == forth, "these moments have had their jobs"
        wall.offset = 0
        await trio.sleep(200)
    assert forth == [0, 60, 120, 180]
    assert moments == sorted(set(moments))


@pytest.mark.promise("What lives in which stage / deferring periodic jobs")
async def test_it_stops_when_the_worker_drains(
    app: App,
    connector: FaultyConnector,
    moments: list[int],
    autojump_clock: trio.testing.MockClock,
) -> None:
    steps = Steps()
    await app.task(name="long")(steps.__call__).defer_async()
    async with working(app, concurrency=2) as worker:
        await trio.sleep(10)
        worker.stop()
        await trio.sleep(300)
        assert stage_of(worker) is Stage.DRAINING
        steps.may_end.set()
    assert connector.statuses == ["succeeded", "succeeded"]
    assert moments == [0]


async def test_a_hung_insert_does_not_hold_a_stop(
    app: App, store: FaultyStore, moments: list[int], autojump_clock: trio.testing.MockClock
) -> None:
    hung = store.hang(DeferPeriodicJob, times=None)
    async with working(app):
        await hung.wait_hit()
    assert trio.current_time() == 0


async def test_a_worker_that_does_not_wait_ends_in_spite_of_periodic_tasks(
    app: App, moments: list[int], autojump_clock: trio.testing.MockClock
) -> None:
    await work(app)
    assert trio.current_time() < 1


async def test_without_periodic_tasks_nothing_is_asked(
    app: App, store: FaultyStore, autojump_clock: trio.testing.MockClock
) -> None:
    async with working(app) as worker:
        await trio.sleep(200)
        assert isinstance(worker, Worker)
    assert DeferPeriodicJob.name not in store.calls
