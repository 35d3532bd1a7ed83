"""How a worker stops: who asks, what the stages mean for it, and what `run()` raises at the end."""

from __future__ import annotations

import threading

import pytest
import trio
import trio.testing

from tests.fix_worker import (
    FaultyConnector,
    Steps,
    ThreadGate,
    asleep,
    ran,
    stage_of,
    wait_until,
    working,
)
from trio_queue import App, JobContext, Worker
from trio_queue._worker.running import RunningJob
from trio_queue.exceptions import WorkerAlreadyRan
from trio_queue.jobs import AbortReason
from trio_queue.testing import FaultyStore
from trio_queue.verbs import FetchJobs, RegisterWorker
from trio_queue.worker import Stage

pytestmark = pytest.mark.both_hosts


@pytest.mark.promise(
    "What is promised / 4",
    "What asks for it / worker.stop()",
    "What lives in which stage / fetching",
)
async def test_a_stop_lets_running_jobs_finish_and_fetches_no_more(
    app: App, connector: FaultyConnector
) -> None:
    steps = Steps()
    task = app.task(name="job")(steps.__call__)
    await task.defer_async()
    async with working(app) as worker:
        await steps.started.wait()
        worker.stop()
        await task.defer_async()
        assert stage_of(worker) is Stage.DRAINING
        await trio.testing.wait_all_tasks_blocked()
        steps.may_end.set()
    assert stage_of(worker) is Stage.STOPPED
    assert connector.statuses == ["succeeded", "todo"]


@pytest.mark.promise("What is promised / 9", "What asks for it / worker.abort()")
async def test_an_abort_cancels_running_jobs(app: App, connector: FaultyConnector) -> None:
    steps = Steps()
    await app.task(name="job")(steps.__call__).defer_async()
    async with working(app) as worker:
        await steps.started.wait()
        worker.abort()
        assert stage_of(worker) is Stage.ABORTING
    assert connector.statuses == ["aborted"]


async def test_stop_and_abort_may_be_called_often_and_after_the_end(
    app: App, connector: FaultyConnector
) -> None:
    steps = Steps()
    await app.task(name="job")(steps.__call__).defer_async()
    async with working(app) as worker:
        await steps.started.wait()
        for _ in range(3):
            worker.stop()
        assert stage_of(worker) is Stage.DRAINING, "stop() asked again is not an abort"
        for _ in range(3):
            worker.abort()
    for ask in (worker.stop, worker.abort):
        ask()
    assert stage_of(worker) is Stage.STOPPED
    assert connector.event_types(1) == ["deferred", "started", "aborted"]


@pytest.mark.promise("What asks for it / stop() or abort() before run()")
@pytest.mark.parametrize("ask", ["stop", "abort"])
async def test_asked_before_it_runs_a_worker_fetches_nothing(
    app: App, connector: FaultyConnector, ask: str
) -> None:
    await app.configure_task("job").defer_async()
    worker = Worker(app)
    getattr(worker, ask)()
    await worker.run()
    assert stage_of(worker) is Stage.STOPPED
    assert connector.statuses == ["todo"]
    assert connector.store.calls == []


@pytest.mark.promise("What the caller gets / it ran before")
async def test_a_worker_runs_once(app: App) -> None:
    worker = Worker(app, wait=False)
    await worker.run()
    with pytest.raises(WorkerAlreadyRan, match="make a new one"):
        await worker.run()


async def test_another_thread_may_stop_it(app: App) -> None:
    async with working(app) as worker:
        thread = threading.Thread(target=worker.stop)
        thread.start()
        thread.join()
        await wait_until(lambda: worker.stage is not Stage.RUNNING)


async def test_a_sync_job_may_stop_its_worker(app: App, connector: FaultyConnector) -> None:
    worker = Worker(app, install_signal_handlers=False)

    @app.task(name="job")
    def job() -> None:
        worker.stop()

    await job.defer_async()
    await worker.run()
    assert connector.statuses == ["succeeded"]


async def test_a_job_may_stop_its_worker(app: App, connector: FaultyConnector) -> None:
    worker = Worker(app, install_signal_handlers=False)

    @app.task(name="job")
    async def job() -> None:
        worker.stop()
        await trio.lowlevel.checkpoint()

    await job.defer_async()
    await worker.run()
    assert connector.statuses == ["succeeded"]


@pytest.mark.promise(
    "What is promised / 5",
    "What asks for it / shutdown_graceful_timeout seconds after the first of these",
)
async def test_jobs_are_aborted_when_the_graceful_timeout_has_passed_since_the_stop(
    app: App, autojump_clock: trio.testing.MockClock
) -> None:
    ended_at: list[float] = []

    @app.task(name="job")
    async def job() -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended_at.append(trio.current_time())

    await job.defer_async()
    async with working(app, shutdown_graceful_timeout=10) as worker:
        await trio.sleep(100)
        worker.stop()
        await trio.sleep(4)
        worker.stop()
    assert ended_at == [110]


async def test_a_graceful_timeout_of_zero_aborts_at_once(
    app: App, connector: FaultyConnector, autojump_clock: trio.testing.MockClock
) -> None:
    steps = Steps()
    await app.task(name="job")(steps.__call__).defer_async()
    async with working(app, shutdown_graceful_timeout=0):
        await steps.started.wait()
    assert connector.statuses == ["aborted"]
    assert trio.current_time() == 0


@pytest.mark.promise("What is promised / 4")
async def test_without_a_graceful_timeout_jobs_take_as_long_as_they_take(
    app: App, connector: FaultyConnector, autojump_clock: trio.testing.MockClock
) -> None:
    @app.task(name="job")
    async def job() -> None:
        await trio.sleep(10_000)

    await job.defer_async()
    async with working(app):
        await trio.sleep(1)
    assert connector.statuses == ["succeeded"]


async def test_the_deadline_counts_from_the_ask_and_not_from_the_end_of_a_claim(
    app: App, store: FaultyStore, autojump_clock: trio.testing.MockClock
) -> None:
    steps = Steps()
    await app.task(name="job")(steps.__call__).defer_async()
    async with working(app, shutdown_graceful_timeout=10, concurrency=2) as worker:
        await steps.started.wait()
        hung = store.hang(FetchJobs)
        await hung.wait_hit()
        asked_at = trio.current_time()
        worker.stop()
    assert trio.current_time() == asked_at + 10


@pytest.mark.promise("What asks for it / wait=False, and no job is left")
async def test_a_worker_that_does_not_wait_has_no_deadline(
    app: App, connector: FaultyConnector, autojump_clock: trio.testing.MockClock
) -> None:
    @app.task(name="job")
    async def job() -> None:
        await trio.sleep(1_000)

    await job.defer_async()
    await job.defer_async()
    await Worker(app, wait=False, shutdown_graceful_timeout=1).run()
    assert connector.statuses == ["succeeded", "succeeded"]


async def test_a_worker_that_does_not_wait_has_a_deadline_when_it_is_asked(
    app: App, connector: FaultyConnector, autojump_clock: trio.testing.MockClock
) -> None:
    @app.task(name="job")
    async def job() -> None:
        await trio.sleep(1_000)

    await job.defer_async()
    async with working(app, wait=False, shutdown_graceful_timeout=1):
        await trio.sleep(500)
    assert connector.statuses == ["aborted"]
    assert trio.current_time() == 501


@pytest.mark.promise("What is promised / 10")
@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_a_job_that_heeds_nothing_holds_the_worker_beyond_the_timeout(
    app: App,
    connector: FaultyConnector,
    mock_clock: trio.testing.MockClock,
    gate: ThreadGate,
    kind: str,
) -> None:
    may_end, started = trio.Event(), trio.Event()

    @app.task(name="async")
    async def deaf() -> None:
        started.set()
        with trio.CancelScope(shield=True):
            await may_end.wait()

    @app.task(name="sync")
    def deaf_thread() -> None:
        gate.wait()

    await app.configure_task(kind).defer_async()
    worker = Worker(app, install_signal_handlers=False, shutdown_graceful_timeout=10)
    async with ran(worker) as told:
        await (started.wait if kind == "async" else gate.wait_entered)()
        worker.stop()
        mock_clock.jump(1_000)
        await wait_until(lambda: worker.stage is Stage.ABORTING)
        mock_clock.jump(1_000)
        await trio.testing.wait_all_tasks_blocked()
        assert told == []
        assert connector.statuses == ["doing"]
        may_end.set()
        gate.open()
    assert told == [None]
    assert connector.statuses == ["succeeded"], "for this job it was a graceful stop"


@pytest.mark.promise("What is promised / 16")
async def test_who_set_no_timeout_may_abort_later(
    app: App, connector: FaultyConnector, autojump_clock: trio.testing.MockClock
) -> None:
    task = app.task(name="job")(trio.sleep)
    await task.defer_async(seconds=5)
    await task.defer_async(seconds=1_000)
    async with working(app, concurrency=2) as worker:
        await trio.sleep(1)
        worker.stop()
        await trio.sleep(10)
        assert connector.statuses == ["succeeded", "doing"]
        worker.abort()
    assert connector.statuses == ["succeeded", "aborted"]
    assert trio.current_time() == 11


@pytest.mark.promise(
    "What is promised / 3",
    "What is promised / 14",
    "What asks for it / the scope around worker.run() is cancelled",
    "What the caller gets / the scope around it was cancelled",
)
async def test_a_cancel_around_run_drains_and_then_goes_on(
    app: App, connector: FaultyConnector, autojump_clock: trio.testing.MockClock
) -> None:
    @app.task(name="job")
    async def job() -> None:
        await trio.sleep(1_000)

    await job.defer_async()
    worker = Worker(app, install_signal_handlers=False)
    with trio.move_on_after(5) as scope:
        await worker.run()
        raise AssertionError("run() returned in a cancelled scope")
    assert scope.cancelled_caught
    assert trio.current_time() == 1_000
    assert stage_of(worker) is Stage.STOPPED
    assert connector.statuses == ["succeeded"]


async def test_a_trio_cancel_after_a_stop_does_not_abort(
    app: App, connector: FaultyConnector, autojump_clock: trio.testing.MockClock
) -> None:
    @app.task(name="job")
    async def job() -> None:
        await trio.sleep(1_000)

    await job.defer_async()
    worker = Worker(app, install_signal_handlers=False)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(asleep, 1, worker.stop)
        with trio.move_on_after(5) as scope:
            await worker.run()
    assert scope.cancelled_caught
    assert connector.statuses == ["succeeded"]


@pytest.mark.promise("What is promised / 15")
async def test_a_cancel_gives_jobs_the_graceful_timeout(
    app: App, connector: FaultyConnector, autojump_clock: trio.testing.MockClock
) -> None:
    @app.task(name="job")
    async def job() -> None:
        await trio.sleep(1_000)

    await job.defer_async()
    with trio.move_on_after(5):
        await Worker(app, shutdown_graceful_timeout=10).run()
    assert connector.statuses == ["aborted"]
    assert trio.current_time() == 15


@pytest.mark.promise("What asks for it / any of these while it starts")
async def test_a_cancel_while_it_starts_closes_what_was_opened_and_fetches_nothing(
    app: App, connector: FaultyConnector, store: FaultyStore, autojump_clock: trio.testing.MockClock
) -> None:
    await app.configure_task("job").defer_async()
    store.hang(RegisterWorker)
    with trio.move_on_after(3) as scope:
        await Worker(app).run()
    assert scope.cancelled_caught
    assert trio.current_time() == 3
    assert connector.history == ["app opened", "store opened", "store closed", "app closed"]
    assert connector.statuses == ["todo"]


@pytest.mark.promise("What asks for it / any of these while it starts")
@pytest.mark.parametrize("ask", ["stop", "abort"])
async def test_a_stop_while_it_starts_ends_it_without_an_error(
    app: App, connector: FaultyConnector, store: FaultyStore, ask: str
) -> None:
    hung = store.hang("listen")
    worker = Worker(app)
    async with ran(worker) as told:
        await hung.wait_hit()
        assert stage_of(worker) is Stage.STARTING
        getattr(worker, ask)()
        assert stage_of(worker) is Stage.STOPPED
    assert told == [None]
    assert connector.database.tables.workers == {}, "the row it had registered is gone"
    assert "fetch_jobs" not in store.calls


async def test_a_stop_in_the_very_step_in_which_it_would_have_started_is_not_lost(
    app: App, store: FaultyStore
) -> None:
    hung = store.hang("listen", after=True)
    worker = Worker(app)
    async with ran(worker) as told:
        await hung.wait_hit()
        hung.release()
        worker.stop()
    assert told == [None]
    assert "fetch_jobs" not in store.calls


@pytest.mark.promise("What the caller gets / await nursery.start(worker.run)")
async def test_it_has_started_only_when_it_listens_and_has_its_row(
    app: App, connector: FaultyConnector, store: FaultyStore
) -> None:
    hung = store.hang("listen", after=True)
    worker = Worker(app)
    assert worker.worker_id is None
    async with trio.open_nursery() as nursery:
        started = trio.Event()

        async def start() -> None:
            await nursery.start(worker.run)
            started.set()

        nursery.start_soon(start)
        await hung.wait_hit()
        await trio.testing.wait_all_tasks_blocked()
        assert not started.is_set()
        assert stage_of(worker) is Stage.STARTING
        hung.release()
        await started.wait()
        assert stage_of(worker) is Stage.RUNNING
        assert list(connector.database.tables.workers) == [worker.worker_id]
        worker.stop()


@pytest.mark.promise("What the caller gets / the App was not open")
async def test_the_worker_opens_an_app_that_is_not_open_and_closes_it_last(
    app: App, connector: FaultyConnector
) -> None:
    await Worker(app, wait=False).run()
    assert connector.history == ["app opened", "store opened", "store closed", "app closed"]


async def test_an_app_that_was_open_stays_open(app: App, connector: FaultyConnector) -> None:
    async with app.open_async():
        await Worker(app, wait=False).run()
        assert connector.is_open()


async def test_the_stage_stands_in_the_workers_row(app: App, connector: FaultyConnector) -> None:
    steps = Steps()
    await app.task(name="job")(steps.__call__).defer_async()

    def shown() -> list[str]:
        return [worker.stage for worker in connector.database.tables.workers.values()]

    async with working(app) as worker:
        await steps.started.wait()
        await wait_until(lambda: shown() == ["running"])
        worker.stop()
        await wait_until(lambda: shown() == ["draining"])
        assert worker.worker_id is not None
        steps.may_end.set()
    assert shown() == []


# -- what lives in which stage --------------------------------------------------------------------


@pytest.mark.promise("What is promised / 8", "What lives in which stage / running jobs")
async def test_jobs_hear_of_the_drain_and_of_the_abort(
    app: App, autojump_clock: trio.testing.MockClock
) -> None:
    heard: list[object] = []

    @app.task(name="job", pass_context=True)
    async def job(context: JobContext) -> None:
        heard.append((context.shutting_down(), context.should_abort()))
        await context.wait_shutting_down()
        heard.append((context.shutting_down(), context.should_abort()))
        try:
            await trio.sleep_forever()
        finally:
            heard.append((context.should_abort(), context.abort_reason(), trio.current_time()))

    await job.defer_async()
    async with working(app, shutdown_graceful_timeout=10):
        await trio.sleep(5)
    assert heard == [
        (False, None),
        (True, None),
        (AbortReason.SHUTDOWN, AbortReason.SHUTDOWN, 15),
    ]


@pytest.mark.promise("What is promised / 8", "What lives in which stage / running jobs")
async def test_a_sync_job_hears_of_the_drain_and_of_the_abort(app: App, gate: ThreadGate) -> None:
    heard: list[object] = []
    heard_abort = ThreadGate()

    @app.task(name="job", pass_context=True)
    def job(context: JobContext) -> None:
        heard.append((context.shutting_down(), context.should_abort()))
        gate.wait()
        heard.append((context.shutting_down(), context.should_abort()))
        heard_abort.wait()
        heard.append((context.shutting_down(), context.should_abort()))

    await job.defer_async()
    async with working(app) as worker:
        await gate.wait_entered()
        worker.stop()
        gate.open()
        await heard_abort.wait_entered()
        worker.abort()
        await trio.testing.wait_all_tasks_blocked()
        heard_abort.open()
    assert heard == [(False, None), (True, None), (True, AbortReason.SHUTDOWN)]


@pytest.mark.promise("What is promised / 7")
async def test_a_sync_job_ends_before_its_row_is_written_however_often_it_is_asked(
    app: App, connector: FaultyConnector, gate: ThreadGate
) -> None:
    @app.task(name="job")
    def job() -> None:
        gate.wait()

    await job.defer_async()
    worker = Worker(app, install_signal_handlers=False)
    async with ran(worker) as told:
        await gate.wait_entered()
        worker.stop()
        worker.abort()
        worker.abort()
        await trio.testing.wait_all_tasks_blocked()
        assert connector.statuses == ["doing"]
        assert told == []
        gate.open()
    assert connector.statuses == ["succeeded"]


async def test_an_aborted_sync_job_may_still_defer_from_its_thread(
    app: App, connector: FaultyConnector, gate: ThreadGate
) -> None:
    @app.task(name="job")
    def job() -> None:
        gate.wait()
        trio.from_thread.run(trio.sleep, 0)
        app.configure_task("another").defer()

    await job.defer_async()
    async with working(app) as worker:
        await gate.wait_entered()
        worker.abort()
        await trio.testing.wait_all_tasks_blocked()
        gate.open()
    assert connector.statuses == ["succeeded", "todo"]


@pytest.mark.promise("What lives in which stage / jobs that were claimed and have not begun")
async def test_a_sync_job_that_waits_for_a_thread_goes_back_uncounted(
    app: App, connector: FaultyConnector, gate: ThreadGate
) -> None:
    began: list[int] = []

    @app.task(name="job")
    def job(number: int) -> None:
        began.append(number)
        gate.wait()

    for number in (1, 2):
        await job.defer_async(number=number)
    async with working(app, concurrency=2, thread_limit=1) as worker:
        await gate.wait_entered()
        await wait_until(lambda: connector.statuses == ["doing", "doing"])
        await trio.testing.wait_all_tasks_blocked()
        worker.stop()
        [waiting] = {1, 2} - set(began)
        await wait_until(lambda: connector.status(waiting) == "todo")
        assert connector.jobs[waiting]["attempts"] == 0
        gate.open()
    assert len(began) == 1


@pytest.mark.both_hosts
@pytest.mark.promise("What lives in which stage / jobs that were claimed and have not begun")
@pytest.mark.parametrize("ask", ["stop", "abort"])
async def test_a_job_that_was_claimed_and_not_stepped_goes_back_uncounted(
    app: App, connector: FaultyConnector, monkeypatch: pytest.MonkeyPatch, ask: str
) -> None:
    began: list[str] = []

    @app.task(name="job")
    async def job() -> None:
        began.append("job")
        await trio.lowlevel.checkpoint()

    worker = Worker(app, install_signal_handlers=False)
    running_jobs = worker._running  # pyright: ignore[reportPrivateUsage]  # see below
    add = running_jobs.add

    def add_and_ask(running: RunningJob) -> None:
        add(running)
        getattr(worker, ask)()

    # No other moment lies between the claim's answer and the first step of the job's task.
    monkeypatch.setattr(running_jobs, "add", add_and_ask)
    await job.defer_async()
    await worker.run()
    assert began == []
    assert connector.statuses == ["todo"]
    assert connector.jobs[1]["attempts"] == 0


@pytest.mark.promise(
    "What lives in which stage / the heartbeat", "Leases and fences / a worker drains, however long"
)
@pytest.mark.parametrize("ask", ["stop", "abort"])
async def test_the_heartbeat_goes_on_until_the_last_job_has_ended(
    app: App, connector: FaultyConnector, autojump_clock: trio.testing.MockClock, ask: str
) -> None:
    @app.task(name="job")
    async def job() -> None:
        with trio.CancelScope(shield=True):  # it takes its time to clean up
            await trio.sleep(1_000)

    await job.defer_async()
    async with working(app) as worker:
        await trio.sleep(100)
        getattr(worker, ask)()
        await trio.sleep(800)
        [row] = connector.database.tables.workers.values()
        assert (connector.now() - row.last_heartbeat).total_seconds() <= 10
    assert connector.statuses == ["succeeded"]


@pytest.mark.promise("What lives in which stage / writing outcomes")
async def test_outcomes_are_written_in_every_stage(
    app: App, connector: FaultyConnector, autojump_clock: trio.testing.MockClock
) -> None:
    @app.task(name="job")
    async def job(seconds: int) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(seconds)

    for seconds in (1, 20, 40):
        await job.defer_async(seconds=seconds)
    async with working(app, concurrency=3) as worker:
        await trio.sleep(10)
        assert connector.statuses == ["succeeded", "doing", "doing"]
        worker.stop()
        await trio.sleep(20)
        assert connector.statuses == ["succeeded", "succeeded", "doing"]
        worker.abort()
    assert connector.statuses == ["succeeded"] * 3


async def test_starting_a_worker_that_was_stopped_before_is_no_error(app: App) -> None:
    worker = Worker(app)
    worker.stop()
    async with trio.open_nursery() as nursery:
        await nursery.start(worker.run)
    assert stage_of(worker) is Stage.STOPPED


async def test_a_stop_while_it_starts_is_no_error_for_who_waits_for_the_start(
    app: App, connector: FaultyConnector, store: FaultyStore
) -> None:
    registering = store.hang(RegisterWorker)
    worker = Worker(app)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(nursery.start, worker.run)
        await registering.wait_hit()
        worker.stop()
    assert stage_of(worker) is Stage.STOPPED
    assert connector.database.tables.workers == {}
