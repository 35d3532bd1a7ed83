"""What the log says at night: who asked, what runs, what the next ask does."""

from __future__ import annotations

import logging
import signal

import pytest
import trio
import trio.testing

from tests.fix_worker import Steps, wait_until, work, working
from trio_queue import App, RetryStrategy, Worker
from trio_queue.exceptions import JobAborted
from trio_queue.testing import FaultyStore
from trio_queue.worker import Stage


@pytest.fixture(autouse=True)
def _informed(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="trio_queue.worker")


def lines(caplog: pytest.LogCaptureFixture, *actions: str) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.name.startswith("trio_queue.worker")
        and (not actions or record.__dict__.get("action") in actions)
    ]


STAGES = ("start_worker", "worker_stage", "stop_worker")


async def test_a_drain_by_stop_says_who_asked_and_what_runs(
    app: App, caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    @app.task(name="job")
    async def job(number: int) -> None:
        await trio.sleep(3)

    await job.defer_async(number=1)
    await job.defer_async(number=2)
    async with working(app, concurrency=2, queues=["default"]) as worker:
        await trio.sleep(1)
        worker.stop()
    first, second, third = lines(caplog, *STAGES)
    assert first == "Starting worker worker on queues default, concurrency 2"
    assert second.startswith(
        "Worker worker is draining (stop() was called): 2 jobs run, the oldest is job["
    )
    assert second.endswith("for 1.0 s; it stops when they have ended")
    assert third == "Stopped worker worker"


async def test_a_signal_is_named_and_the_next_one_is_announced(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    steps = Steps()
    await app.task(name="job")(steps.__call__).defer_async()
    worker = Worker(app)
    async with trio.open_nursery() as nursery:
        await nursery.start(worker.run)
        await steps.started.wait()
        signal.raise_signal(signal.SIGTERM)
        await wait_until(lambda: worker.stage is Stage.DRAINING)
        signal.raise_signal(signal.SIGINT)
    _, draining, aborting, _ = lines(caplog, *STAGES)
    assert "is draining (SIGTERM): 1 job runs, the oldest is job[1]() for" in draining
    assert draining.endswith("s; ask again to abort")
    assert "is aborting (SIGINT): 1 job runs" in aborting
    assert aborting.endswith("; it stops when they have ended")


async def test_a_deadline_is_named(
    app: App, caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    await app.task(name="job")(trio.sleep_forever).defer_async()
    async with working(app, shutdown_graceful_timeout=1.5):
        await trio.sleep(1)
    assert any("aborting (shutdown_graceful_timeout of 1.5 s)" in line for line in lines(caplog))


async def test_an_idle_drain_says_that_no_job_runs(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    await work(app)
    assert "Worker worker is draining (wait=False, no job is left): no job runs" in lines(caplog)


async def test_a_cancel_is_named(
    app: App, caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    with trio.move_on_after(1):
        await Worker(app, install_signal_handlers=False).run()
    assert any("draining (the scope around run() was cancelled)" in line for line in lines(caplog))


async def test_a_long_drain_says_now_and_then_what_it_waits_for(
    app: App, caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    @app.task(name="job")
    async def job() -> None:
        await trio.sleep(18)

    await job.defer_async()
    async with working(app) as worker:
        await trio.sleep(1)
        worker.stop()
    still = [line for line in lines(caplog) if line.startswith("Still draining")]
    assert still == [
        f"Still draining: 1 job runs, the oldest is job[1]() for {age:.1f} s; "
        "it stops when they have ended"
        for age in (6, 11, 16)
    ]


async def test_stages_carry_what_a_filter_needs(app: App, caplog: pytest.LogCaptureFixture) -> None:
    async with working(app, name="mine") as worker:
        worker_id = worker.worker_id
    records = [r.__dict__ for r in caplog.records if r.__dict__.get("action") in STAGES]
    assert [record["stage"] for record in records] == ["running", "draining", "stopped"]
    assert all(
        record["worker"] == {"name": "mine", "worker_id": worker_id, "queues": []}
        for record in records
    )
    assert records[1]["who"] == "stop() was called"
    assert {record["name"] for record in records} == {"trio_queue.worker.mine"}


async def test_each_end_of_a_job_has_its_line(
    app: App, caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    @app.task(name="returns")
    async def returns() -> int:
        await trio.sleep(2)
        return 12

    @app.task(name="raises")
    async def raises() -> None:
        await trio.lowlevel.checkpoint()
        raise ValueError("by the job")

    @app.task(name="retries", retry=RetryStrategy(max_attempts=1, wait=100))
    async def retries() -> None:
        await trio.lowlevel.checkpoint()
        raise ValueError("once more")

    @app.task(name="gives_up")
    async def gives_up() -> None:
        await trio.lowlevel.checkpoint()
        raise JobAborted

    for task in (returns, raises, retries, gives_up):
        await task.defer_async()
    await work(app)
    told = [
        (record.__dict__["action"], record.levelname, record.getMessage().split(", lasted")[0])
        for record in caplog.records
        if record.__dict__.get("action", "").startswith("job_")
        and record.name.startswith("trio_queue.worker")
    ]
    assert told == [
        ("job_success", "INFO", "Job returns[1]() succeeded"),
        ("job_error", "ERROR", "Job raises[2]() failed: ValueError('by the job')"),
        ("job_error_retry", "INFO", "Job retries[3]() failed, to retry"),
        ("job_aborted", "INFO", "Job gives_up[4]() was aborted"),
    ]
    assert lines(caplog, "start_job")[0] == "Starting job returns[1]()"
    success = next(r.__dict__ for r in caplog.records if r.__dict__["action"] == "job_success")
    assert success["result"] == 12
    assert success["job"]["task_name"] == "returns"
    assert success["worker"]["job_id"] == 1
    assert success["end_timestamp"] - success["start_timestamp"] == success["duration"]


async def test_a_failures_traceback_begins_in_the_users_code(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    @app.task(name="raises")
    async def raises() -> None:
        await trio.lowlevel.checkpoint()
        raise ValueError

    await raises.defer_async()
    await work(app)
    [record] = [r for r in caplog.records if r.__dict__.get("action") == "job_error"]
    assert record.exc_info is not None
    assert record.exc_info[2] is not None
    assert record.exc_info[2].tb_frame.f_code.co_name == "raises"


async def test_what_was_interrupted_is_told_without_a_traceback(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    steps = Steps()
    await app.task(name="job", interrupted_jobs="requeue")(steps.__call__).defer_async()
    async with working(app) as worker:
        await steps.started.wait()
        worker.abort()
    [record] = [r for r in caplog.records if r.__dict__.get("action") == "job_requeued"]
    assert "goes back to its queue" in record.getMessage()
    assert record.__dict__["reason"] == "shutdown"
    assert not record.exc_info


async def test_a_service_that_fails_is_told_with_its_name(
    app: App, caplog: pytest.LogCaptureFixture, store: FaultyStore
) -> None:
    store.fail("fetch_jobs", error=ZeroDivisionError, transient=False)
    with pytest.raises(ZeroDivisionError):
        await work(app)
    [line] = lines(caplog, "service_failed")
    assert line == "The worker's service fetch failed and cannot recover: the worker stops"
    assert any("is draining (its service fetch failed" in line for line in lines(caplog))


async def test_a_drain_gives_back_with_a_line_what_a_lost_claim_held(
    app: App,
    caplog: pytest.LogCaptureFixture,
    store: FaultyStore,
    autojump_clock: trio.testing.MockClock,
) -> None:
    await app.configure_task("lost").defer_async()
    hung = store.hang("fetch_jobs", after=True)
    async with working(app):
        await hung.wait_hit()
    [line] = lines(caplog, "released_jobs")
    assert line == "Gave back the jobs of claims that were not answered: 1"
