"""Writing outcomes: whatever fails, nothing is lost and nothing is held."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from tests.fix_worker import FaultyConnector, Steps, ran, work, working
from tests.waiting import PATIENCE
from trio_queue import App, BaseRetryStrategy, RetryDecision, Worker
from trio_queue._worker.complete import Completer
from trio_queue._worker.running import RunningJob
from trio_queue.exceptions import OutcomesNotWritten
from trio_queue.jobs import Job
from trio_queue.testing import FaultyStore
from trio_queue.verbs import FinishJobs


def short_task(app: App) -> Any:
    async def job() -> None:
        await trio.lowlevel.checkpoint()

    return app.task(name="job")(job)


async def defer(task: Any, times: int = 1) -> None:
    for _ in range(times):
        await task.defer_async()


async def test_a_failing_write_is_tried_again(
    app: App, connector: FaultyConnector, store: FaultyStore, autojump_clock: trio.testing.MockClock
) -> None:
    await defer(short_task(app), 3)
    store.fail(FinishJobs, times=10)
    await work(app, concurrency=2)
    assert connector.statuses == ["succeeded"] * 3
    assert connector.event_types(1) == ["deferred", "started", "succeeded"]


@pytest.mark.promise("When the database is away / a statement that is not answered")
@pytest.mark.parametrize("after", [False, True])
async def test_a_hung_write_is_tried_again_after_its_bound(
    app: App,
    connector: FaultyConnector,
    store: FaultyStore,
    after: bool,
    autojump_clock: trio.testing.MockClock,
) -> None:
    await defer(short_task(app))
    store.hang(FinishJobs, after=after)
    await work(app)
    assert connector.statuses == ["succeeded"]
    assert connector.event_types(1) == ["deferred", "started", "succeeded"]
    assert 10 <= trio.current_time() <= 11


async def test_a_slow_write_is_one_write(
    app: App, connector: FaultyConnector, store: FaultyStore, autojump_clock: trio.testing.MockClock
) -> None:
    await defer(short_task(app))
    store.delay(FinishJobs, seconds=8)
    await work(app)
    assert store.calls.count(FinishJobs.name) == 1
    assert connector.statuses == ["succeeded"]


@pytest.mark.promise("When the database is away / a write whose answer is lost")
async def test_a_write_whose_answer_is_lost_counts_as_written(
    app: App,
    connector: FaultyConnector,
    store: FaultyStore,
    caplog: pytest.LogCaptureFixture,
    autojump_clock: trio.testing.MockClock,
) -> None:
    caplog.set_level("INFO")
    await defer(short_task(app))
    store.lose_answer(FinishJobs, times=2)
    await work(app)
    assert store.calls.count(FinishJobs.name) == 3
    assert connector.statuses == ["succeeded"]
    assert connector.jobs[1]["attempts"] == 1
    actions = [record.__dict__.get("action") for record in caplog.records]
    assert actions.count("job_success") == 1
    assert "lease_lost" not in actions


async def test_what_gathers_while_a_write_is_under_way_goes_out_together(
    app: App, connector: FaultyConnector, store: FaultyStore, autojump_clock: trio.testing.MockClock
) -> None:
    await defer(short_task(app), 20)
    store.delay(FinishJobs, seconds=1)
    await work(app, concurrency=20)
    assert connector.statuses == ["succeeded"] * 20
    assert store.calls.count(FinishJobs.name) <= 3


async def test_one_refused_row_does_not_hold_the_others(
    app: App,
    connector: FaultyConnector,
    store: FaultyStore,
    caplog: pytest.LogCaptureFixture,
) -> None:
    connector.refuse(lambda completion: completion.job_id == 2)
    await defer(short_task(app), 3)
    await work(app, concurrency=3)
    assert [connector.status(job_id) for job_id in (1, 3)] == ["succeeded"] * 2
    [record] = [r for r in caplog.records if r.__dict__.get("action") == "outcome_not_written"]
    assert "job[2]()" in record.getMessage()


async def test_a_retry_that_the_database_refuses_is_a_failure(
    app: App, connector: FaultyConnector
) -> None:
    """A strategy may ask for a queue whose name no column can hold."""

    class Nowhere(BaseRetryStrategy):
        def get_retry_decision(self, *, exception: BaseException, job: Job) -> RetryDecision:  # noqa: ARG002 - as it is called
            return RetryDecision(queue="x" * 1_000)

    connector.refuse(lambda completion: completion.retry is not None)

    @app.task(name="bad", retry=Nowhere())
    def bad() -> None:
        raise ValueError

    await bad.defer_async()
    await work(app)
    assert connector.statuses == ["failed"]


async def test_an_error_of_no_known_kind_does_not_end_the_writing(
    app: App, connector: FaultyConnector, store: FaultyStore
) -> None:
    await defer(short_task(app), 3)
    store.fail(FinishJobs, error=ZeroDivisionError("a bug"), transient=False)
    with trio.fail_after(PATIENCE):
        await work(app, concurrency=3)
    assert connector.statuses == ["succeeded"] * 3, "each is tried apart from the others"


class Unprintable:
    error: type[BaseException] = ZeroDivisionError

    def __repr__(self) -> str:
        raise self.error("no text for this")


@pytest.mark.parametrize("kind", [ZeroDivisionError, SystemExit, KeyboardInterrupt])
async def test_a_result_that_cannot_be_shown_does_not_end_the_writing(
    app: App,
    connector: FaultyConnector,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    kind: type[BaseException],
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(Unprintable, "error", kind)

    class UnprintableError(Exception):
        def __repr__(self) -> str:
            raise kind("no text for this either")

    @app.task(name="returns")
    def returns() -> Unprintable:
        return Unprintable()

    @app.task(name="raises")
    def raises() -> None:
        raise UnprintableError

    for task in (returns, raises, short_task(app)):
        await task.defer_async()
    with trio.fail_after(PATIENCE):
        await work(app)
    assert connector.statuses == ["succeeded", "failed", "succeeded"]
    assert "returns[1]() succeeded" in caplog.text


@pytest.mark.promise("When the database is away / its connections are lost")
async def test_the_pauses_between_tries_are_capped(
    app: App, store: FaultyStore, autojump_clock: trio.testing.MockClock
) -> None:
    await defer(short_task(app))
    fault = store.fail(FinishJobs, times=None)
    async with working(app):
        await trio.sleep(100)
        assert fault.hits >= 100 / 1.05, "at least about one a second"
        assert fault.hits <= 100 / 0.5, "and not many more"
        fault.release()


async def test_a_bug_in_writing_ends_the_worker_and_does_not_hold_it(
    app: App, connector: FaultyConnector, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> list[RunningJob]:
        monkeypatch.undo()
        raise RuntimeError("a bug")

    steps = Steps()
    await app.task(name="waits")(steps.__call__).defer_async()
    await defer(short_task(app))
    monkeypatch.setattr(Completer, "_contested", broken)
    worker = Worker(app, concurrency=2, install_signal_handlers=False)
    async with ran(worker) as told:
        await steps.started.wait()
        await worker._shutdown.draining.wait()  # pyright: ignore[reportPrivateUsage]  # no other moment tells it
        steps.may_end.set()
    [error] = told
    assert str(error) == "a bug"
    assert connector.statuses == ["succeeded", "succeeded"]


# -- the database is away at a stop ---------------------------------------------------------------


@pytest.mark.promise(
    "When the database is away / a stop meanwhile",
    "What the caller gets / outcomes could not be written",
)
async def test_with_the_database_away_at_a_stop_it_leaves_when_the_lease_has_expired(
    app: App,
    connector: FaultyConnector,
    store: FaultyStore,
    caplog: pytest.LogCaptureFixture,
    autojump_clock: trio.testing.MockClock,
) -> None:
    steps = Steps()
    await app.task(name="job")(steps.__call__).defer_async()
    worker = Worker(app, install_signal_handlers=False, stalled_worker_timeout=40)

    async def go_away() -> None:
        await steps.started.wait()
        store.fail(times=None)
        worker.stop()
        steps.may_end.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(go_away)
        with pytest.raises(OutcomesNotWritten, match=r"job\[1\]\(\)"):
            await worker.run()
    assert 40 <= trio.current_time() <= 40 + 31
    assert connector.statuses == ["doing"]
    records = [r for r in caplog.records if r.__dict__.get("action") == "outcome_not_written"]
    assert len(records) == 1


async def test_a_database_that_comes_back_in_time_loses_nothing(
    app: App, connector: FaultyConnector, store: FaultyStore, autojump_clock: trio.testing.MockClock
) -> None:
    steps = Steps()
    steps.may_end.set()
    task = app.task(name="job")(steps.__call__)
    await task.defer_async()
    fault = store.fail(FinishJobs, times=None)
    async with working(app) as worker:
        await fault.wait_hit()
        worker.stop()
        await trio.sleep(25)
        fault.release()
    assert connector.statuses == ["succeeded"]


@pytest.mark.promise("When the database is away / outcomes")
async def test_before_a_stop_its_patience_is_endless(
    app: App, connector: FaultyConnector, store: FaultyStore, autojump_clock: trio.testing.MockClock
) -> None:
    await defer(short_task(app))
    fault = store.fail(FinishJobs, times=None)
    async with working(app):
        await trio.sleep(1_000)
        fault.release()
        await trio.sleep(2)
        assert connector.statuses == ["succeeded"]


async def test_writes_that_fail_while_all_else_works_do_not_hold_a_stop_for_ever(
    app: App, connector: FaultyConnector, store: FaultyStore, autojump_clock: trio.testing.MockClock
) -> None:
    await defer(short_task(app))
    fault = store.fail(FinishJobs, times=None)
    worker = Worker(app, install_signal_handlers=False, abort_job_polling_interval=1)
    async with trio.open_nursery() as nursery:

        async def stop() -> None:
            await fault.wait_hit()
            worker.stop()

        nursery.start_soon(stop)
        with trio.fail_after(120), pytest.raises(OutcomesNotWritten):
            await worker.run()
    # Its body has run: it is left to the rescue, which counts the attempt, and not given back.
    assert connector.statuses == ["doing"]
    assert connector.jobs[1]["worker_id"] is None


@pytest.mark.promise("When the database is away / its log")
async def test_an_outage_is_told_once_and_its_end_too(
    app: App,
    store: FaultyStore,
    caplog: pytest.LogCaptureFixture,
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with working(app):
        await trio.sleep(1)
        for _ in range(2):
            fault = store.fail(times=None)
            await trio.sleep(100)
            fault.release()
            await trio.sleep(10)
    actions = [record.__dict__.get("action") for record in caplog.records]
    assert [a for a in actions if a] == ["database_away", "database_back"] * 2
