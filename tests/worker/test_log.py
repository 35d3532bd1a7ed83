"""What the log says at night: who asked, what runs, what the next ask does."""

from __future__ import annotations

import logging
import signal

import pytest
import trio
import trio.testing

from tests.fix_worker import FaultyConnector, Steps, ThreadGate, ran, wait_until, work, working
from trio_queue import App, RetryStrategy, Worker
from trio_queue.exceptions import ConnectorException, JobAborted, OutcomesNotWritten
from trio_queue.store import Outages
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
    assert first == "Starting worker worker on queues default, concurrency 2 (worker 1)"
    assert second.startswith(
        "Worker worker is draining (stop() was called): 2 jobs run, the oldest is job["
    )
    assert second.endswith("for 1.0 s; it waits however long that takes, abort() aborts")
    assert third == "Stopped worker worker: every job has ended, 2.0 s after it was asked"


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
    assert "is draining (SIGTERM): 1 job runs, job[1]() for" in draining
    assert draining.endswith(
        "; it waits however long that takes, ask again to abort (another signal)"
    )
    assert "is aborting (SIGINT): 1 job runs" in aborting
    assert aborting.endswith("; it waits for the end, only SIGKILL ends it sooner")


async def test_no_signal_is_announced_where_none_is_heard(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    """As in a web server, which hears the signals, and cancels its worker."""
    steps = Steps()
    await app.task(name="job")(steps.__call__).defer_async()
    async with working(app, install_signal_handlers=False) as worker:
        await steps.started.wait()
        worker.ask("Task.cancel()")
        await wait_until(lambda: worker.stage is Stage.DRAINING)
        worker.ask("Task.cancel()")
    draining = lines(caplog, *STAGES)[1]
    assert draining.endswith(
        "; it waits however long that takes, ask again to abort (in the same way)"
    )


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
    _, draining, stopped = lines(caplog, *STAGES)
    assert draining == "Worker worker is draining (wait=False, no job is left): no job runs"
    assert stopped == "Stopped worker worker: every job has ended"


async def test_a_stop_while_it_starts_says_so(
    app: App, caplog: pytest.LogCaptureFixture, store: FaultyStore
) -> None:
    hung = store.hang("listen")
    worker = Worker(app)
    async with ran(worker):
        await hung.wait_hit()
        worker.stop()
    assert lines(caplog, *STAGES) == [
        "Stopped worker worker before it had started (stop() was called)"
    ]


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
    assert lines(caplog, "worker_stage")[1:] == [
        f"Worker worker is still draining: 1 job runs, job[1]() for {age:.1f} s; "
        "it waits however long that takes, abort() aborts"
        for age in (6, 11, 16)
    ]


@pytest.mark.parametrize(
    ("asks", "third", "told"),
    [
        (0, False, "it aborts in 60.0 s (shutdown_graceful_timeout), abort() aborts now"),
        (
            1,
            False,
            "it aborts in 60.0 s (shutdown_graceful_timeout), ask again to abort now (in the same way)",
        ),
        (2, False, "it waits for the end, only SIGKILL ends it sooner"),
        (
            2,
            True,
            "it waits for the end, a third signal leaves at once, and other workers rescue what runs",
        ),
    ],
)
async def test_what_the_next_ask_does(
    app: App,
    caplog: pytest.LogCaptureFixture,
    autojump_clock: trio.testing.MockClock,
    asks: int,
    third: bool,
    told: str,
) -> None:
    await app.task(name="job")(trio.sleep_forever).defer_async()
    options = {"shutdown_graceful_timeout": 60, "exit_on_third_signal": third}
    async with working(app, **options) as worker:
        await trio.sleep(1)
        for _ in range(asks):
            worker._shutdown.ask("a test")  # pyright: ignore[reportPrivateUsage]  # what a signal does
        worker.stop()
    records = [r for r in caplog.records if r.__dict__.get("action") == "worker_stage"]
    record = records[max(asks, 1) - 1]
    assert record.getMessage().endswith(f"; {told}")
    assert record.__dict__["next_ask"] == told
    assert record.__dict__.get("aborts_in") == (60 if asks < 2 else None)


async def test_jobs_that_were_aborted_by_time_may_be_left_by_signals(
    app: App, caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    """The deadline is nobody's ask: three signals are missing, or two where one began the drain."""
    await app.task(name="job")(trio.sleep_forever).defer_async()
    for asks, signals in ((0, "three signals leave"), (1, "two more signals leave")):
        caplog.clear()
        options = {"shutdown_graceful_timeout": 0, "exit_on_third_signal": True}
        async with working(app, interrupted_jobs="requeue", **options) as worker:
            await trio.sleep(1)
            for _ in range(asks):
                worker._shutdown.ask("a test")  # pyright: ignore[reportPrivateUsage]  # what a signal does
        assert f"; it waits for the end, {signals} at once" in lines(caplog, "worker_stage")[1]


async def test_jobs_that_were_asked_to_stop_and_go_on_are_named(
    app: App,
    caplog: pytest.LogCaptureFixture,
    autojump_clock: trio.testing.MockClock,
) -> None:
    @app.task(name="deaf")
    async def deaf(seconds: int) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(seconds)

    for seconds in (12, 20):
        await deaf.defer_async(seconds=seconds)
    async with working(app, concurrency=2, name="night") as worker:
        await trio.sleep(1)
        worker.abort()
    records = [r for r in caplog.records if r.__dict__.get("action") == "worker_stage"]
    assert records[0].getMessage() == (
        "Worker night is aborting (abort() was called): 2 jobs run, the oldest is "
        "deaf[1](seconds=12) for 1.0 s; it waits for the end, only SIGKILL ends it sooner"
    )
    assert records[0].levelname == "INFO"
    assert records[1].getMessage() == (
        "Worker night is still aborting: 2 jobs run, the oldest is deaf[1](seconds=12) for 6.0 s; "
        "2 were asked to stop and go on, deaf[1](seconds=12) since 5.0 s; "
        "it waits for the end, only SIGKILL ends it sooner"
    )
    assert records[3].getMessage() == (
        "Worker night is still aborting: 1 job runs, deaf[2](seconds=20) for 16.0 s; "
        "it was asked to stop 15.0 s ago and goes on; "
        "it waits for the end, only SIGKILL ends it sooner"
    )
    assert {record.levelname for record in records[1:]} == {"WARNING"}
    told = records[3].__dict__
    assert told["running"] == 1
    assert told["oldest"] == {
        "job_id": 2,
        "task": "deaf",
        "seconds": 16,
        "in_thread": False,
        "asked_to_stop": "shutdown",
        "seconds_since_asked": 15,
    }
    assert told["deaf"] == [told["oldest"]]


async def test_a_job_in_a_thread_is_told_as_one_that_cannot_be_interrupted(
    app: App, gate: ThreadGate, mock_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    @app.task(name="sync")
    def sync(text: str) -> None:
        gate.wait()

    await sync.defer_async(text="x" * 1_000)
    async with working(app) as worker:
        await gate.wait_entered()
        worker.abort()
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(200)
        await wait_until(lambda: any("still" in line for line in lines(caplog)))
        gate.open()
    [line] = [line for line in lines(caplog) if "still" in line]
    assert f"1 job runs, sync[1](text='{'x' * 105}… for 3 min 20 s; " in line
    assert "it was asked to stop 3 min 20 s ago and goes on (it runs in a thread, " in line


async def test_what_has_ended_and_is_not_written_is_told_with_the_outage(
    app: App,
    caplog: pytest.LogCaptureFixture,
    store: FaultyStore,
    autojump_clock: trio.testing.MockClock,
) -> None:
    steps = Steps()
    await app.task(name="job")(steps.__call__).defer_async()
    worker = Worker(app, install_signal_handlers=False)
    async with ran(worker) as told:
        await steps.started.wait()
        store.fail(times=None)
        steps.may_end.set()
        await trio.sleep(4)
        worker.stop()
    [error] = told
    assert isinstance(error, OutcomesNotWritten)
    first, second, *_ = [
        record.__dict__
        for record in caplog.records
        if record.__dict__.get("action") == "worker_stage"
    ]
    assert first["message"] == (
        "Worker worker is draining (stop() was called): "
        "1 ended, to be written, the database is away for 4.0 s"
    )
    assert second["message"] == (
        "Worker worker is still draining: 1 ended, to be written, the database is away for 9.0 s"
    )
    assert (second["running"], second["unwritten"], second["database_away"]) == (0, 1, 9)
    [line] = lines(caplog, "outcome_not_written")
    assert line == (
        "The outcome of job job[1]() could not be written, its row stays `doing` until it is "
        "rescued: the database is away, and the worker stops"
    )
    assert (
        "Stopped worker worker: every job has ended, run() raises OutcomesNotWritten"
        in (lines(caplog, "stop_worker")[0])
    )


async def test_a_start_that_fails_says_why(
    app: App, caplog: pytest.LogCaptureFixture, connector: FaultyConnector
) -> None:
    connector.open_error = ConnectorException("no server")
    with pytest.raises(ConnectorException):
        await Worker(app).run()
    assert lines(caplog, *STAGES) == [
        "Stopped worker worker before it had started (ConnectorException: no server)"
    ]


async def test_what_has_not_begun_is_told(
    app: App, caplog: pytest.LogCaptureFixture, gate: ThreadGate
) -> None:
    @app.task(name="sync")
    def sync() -> None:
        gate.wait()

    for _ in range(3):
        await sync.defer_async()
    async with working(app, concurrency=3, thread_limit=1) as worker:
        await gate.wait_entered()
        await trio.testing.wait_all_tasks_blocked()
        worker.stop()
        gate.open()
    assert ": 1 job runs, sync[" in lines(caplog, "worker_stage")[0]
    assert "; 2 not begun, to go back to the queue; " in lines(caplog, "worker_stage")[0]


async def test_the_third_signal_is_told(
    app: App, caplog: pytest.LogCaptureFixture, store: FaultyStore, connector: FaultyConnector
) -> None:
    steps = Steps()
    await app.task(name="job")(steps.__call__).defer_async()
    statuses: list[int] = []
    connector.database.end_process = statuses.append
    worker = Worker(app, exit_on_third_signal=True)
    async with ran(worker):
        await steps.started.wait()
        for _ in range(3):
            signal.raise_signal(signal.SIGTERM)
    assert statuses == [128 + signal.SIGTERM]
    [line] = lines(caplog, "worker_leaves")
    assert line.startswith(
        "Worker worker leaves at once (SIGTERM, the third signal): 1 job runs, job[1]() for "
    )
    assert line.endswith("; other workers rescue that")


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


async def test_an_outage_is_told_from_the_first_lost_connection_on(
    app: App,
    caplog: pytest.LogCaptureFixture,
    store: FaultyStore,
    monkeypatch: pytest.MonkeyPatch,
    autojump_clock: trio.testing.MockClock,
) -> None:
    told: list[Outages] = []
    monkeypatch.setattr(store, "tell_outages", told.append)

    await app.task(name="job")(trio.sleep).defer_async(seconds=13)
    async with working(app) as worker:
        await trio.sleep(1)
        told[0].began("heartbeat", ConnectorException("cut"))
        await trio.sleep(2)
        worker.stop()
        await trio.sleep(6)
        told[0].ended("heartbeat")
    first, second, third = lines(caplog, "worker_stage")
    assert "; the database is away for 2.0 s; " in first
    assert "; the database is away for 7.0 s; " in second
    assert "database" not in third
