"""SIGINT and SIGTERM, with the worker's handlers and without."""

from __future__ import annotations

import logging
import signal
import sys
from typing import Any

import pytest
import trio
import trio.testing

from tests.fix_hosts import run_trio, run_worker
from tests.fix_worker import FaultyConnector, Steps, asleep, stage_of, wait_until
from trio_queue import App, Worker
from trio_queue.testing import FaultyStore
from trio_queue.verbs import FetchJobs, Verb
from trio_queue.worker import Stage

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@pytest.mark.promise(
    "What is promised / 2",
    "What is promised / 6",
    "What asks for it / SIGINT (Ctrl-C) or SIGTERM, once",
    "What asks for it / SIGINT or SIGTERM again",
    "What the caller gets / it was stopped by a signal, stop() or abort(), or no job was left",
)
@pytest.mark.parametrize("number", SIGNALS)
async def test_the_first_signal_drains_and_the_second_aborts(
    app: App, connector: FaultyConnector, number: signal.Signals
) -> None:
    steps = Steps()
    await app.task(name="job")(steps.__call__).defer_async()
    worker = Worker(app)
    async with trio.open_nursery() as nursery:
        await nursery.start(worker.run)
        await steps.started.wait()
        signal.raise_signal(number)
        await wait_until(lambda: worker.stage is Stage.DRAINING)
        await trio.testing.wait_all_tasks_blocked()
        assert connector.statuses == ["doing"]
        signal.raise_signal(number)
    assert stage_of(worker) is Stage.STOPPED
    assert connector.statuses == ["aborted"]


async def test_two_signals_while_the_loop_is_blocked_are_two(
    app: App, connector: FaultyConnector
) -> None:
    @app.task(name="job")
    async def job() -> None:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        await trio.sleep_forever()

    await job.defer_async()
    await Worker(app).run()
    assert connector.statuses == ["aborted"]


@pytest.mark.promise("What asks for it / any of these while it starts")
async def test_a_signal_while_it_starts_stops_it(app: App, store: FaultyStore) -> None:
    hung = store.hang("listen")
    worker = Worker(app)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.run)
        await hung.wait_hit()
        signal.raise_signal(signal.SIGTERM)
    assert stage_of(worker) is Stage.STOPPED
    assert "fetch_jobs" not in store.calls


async def test_the_handlers_stay_until_the_last_job_has_ended_and_are_then_restored(
    app: App,
) -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    steps = Steps()
    await app.task(name="job")(steps.__call__).defer_async()
    worker = Worker(app, wait=False)
    async with trio.open_nursery() as nursery:
        await nursery.start(worker.run)
        installed = [signal.getsignal(number) for number in SIGNALS]
        assert not set(installed) & set(before)
        await steps.started.wait()
        worker.stop()
        await trio.testing.wait_all_tasks_blocked()
        assert [signal.getsignal(number) for number in SIGNALS] == installed
        steps.may_end.set()
    assert [signal.getsignal(number) for number in SIGNALS] == before


async def test_a_handler_that_somebody_put_there_meanwhile_stays(app: App) -> None:
    def mine(number: int, frame: object) -> None: ...

    before = signal.getsignal(signal.SIGTERM)
    worker = Worker(app)
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(worker.run)
            signal.signal(signal.SIGTERM, mine)
            worker.stop()
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)


async def test_every_worker_of_the_process_hears_a_signal_and_the_last_one_restores_the_handlers(
    app: App, connector: FaultyConnector
) -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    steps = Steps()
    await app.task(name="job")(steps.__call__).defer_async()
    first, second = Worker(app), Worker(app)
    async with app.open_async(), trio.open_nursery() as nursery:
        await nursery.start(first.run)
        await steps.started.wait()
        await nursery.start(second.run)
        signal.raise_signal(signal.SIGTERM)
        await wait_until(lambda: second.stage is Stage.STOPPED)
        assert stage_of(first) is Stage.DRAINING
        assert [signal.getsignal(number) for number in SIGNALS] != before
        steps.may_end.set()
    assert [signal.getsignal(number) for number in SIGNALS] == before


@pytest.mark.promise("What is promised / 2")
async def test_without_the_option_no_handler_is_installed(app: App) -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    worker = Worker(app, install_signal_handlers=False)
    async with trio.open_nursery() as nursery:
        await nursery.start(worker.run)
        assert [signal.getsignal(number) for number in SIGNALS] == before
        worker.stop()


@pytest.mark.runs_trio
def test_outside_the_main_thread_a_warning_says_that_there_are_no_handlers(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    before = [signal.getsignal(number) for number in SIGNALS]

    async def in_thread() -> None:
        await trio.to_thread.run_sync(lambda: run_worker(Worker(app, wait=False)))

    with caplog.at_level(logging.WARNING):
        run_trio(in_thread)
    [record] = [record for record in caplog.records if record.name.startswith("trio_queue")]
    assert "Signals are not heard" in record.getMessage()
    assert "install_signal_handlers=False" in record.getMessage()
    assert record.__dict__["action"] == "worker_no_signals"
    assert [signal.getsignal(number) for number in SIGNALS] == before


# -- Ctrl-C, without handlers ------------------------------------------------------


def run_until_interrupted(app: App, *, wait: bool = True) -> None:
    """Run a worker, without handlers, as the main task of a program that Ctrl-C ends."""
    worker = Worker(app, install_signal_handlers=False, wait=wait)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            run_worker(worker, clock=trio.testing.MockClock(autojump_threshold=0))
    finally:
        signal.signal(signal.SIGINT, before)
    assert stage_of(worker) is Stage.STOPPED


def ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


@pytest.mark.runs_trio
@pytest.mark.promise("What the caller gets / Ctrl-C came, and it has no signal handlers")
def test_ctrl_c_drains_and_leaves_bare_at_the_end(app: App, connector: FaultyConnector) -> None:
    @app.task(name="job")
    async def job() -> None:
        trio.lowlevel.current_trio_token().run_sync_soon(ctrl_c)
        await trio.sleep(100)

    job.defer()
    run_until_interrupted(app)
    assert connector.statuses == ["succeeded"]


@pytest.mark.runs_trio
def test_ctrl_c_while_a_job_holds_the_cpu_is_not_the_jobs(
    app: App, connector: FaultyConnector
) -> None:
    @app.task(name="job")
    async def job() -> None:
        ctrl_c()
        await trio.sleep(100)

    job.defer()
    run_until_interrupted(app)
    assert connector.statuses == ["succeeded"]


@pytest.mark.only_trio("asyncio.run() raises the second one in whatever its thread does: see hosts")
def test_ctrl_c_twice_aborts(app: App, connector: FaultyConnector) -> None:
    @app.task(name="job")
    async def job() -> None:
        ctrl_c()
        trio.lowlevel.spawn_system_task(asleep, 5, ctrl_c)
        await trio.sleep(100)

    job.defer()
    run_until_interrupted(app)
    assert connector.statuses == ["aborted"]


@pytest.mark.runs_trio
@pytest.mark.parametrize(
    "verb",
    [
        "register_worker",
        "fetch_jobs",
        "update_worker_stage",
        "update_heartbeat",
        "finish_jobs",
        "release_jobs",
        "unregister_worker",
    ],
)
def test_ctrl_c_while_the_workers_own_code_holds_the_cpu_loses_nothing(
    app: App, connector: FaultyConnector, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    run, pressed = connector.database.run, [False]

    def run_and_press(asked: Verb[Any]) -> Any:
        if asked.name == verb and not pressed[0]:
            pressed[0] = True
            ctrl_c()
        return run(asked)

    monkeypatch.setattr(connector.database, "run", run_and_press)

    @app.task(name="job")
    async def job() -> None:
        await trio.sleep(15)

    job.defer()
    run_until_interrupted(app, wait=False)
    assert pressed == [True]
    assert not connector.has_orphan()
    # Pressed during the claim, it may be given back; it is never lost and never half done.
    assert connector.statuses in (["succeeded"], ["todo"])
    assert connector.database.tables.workers == {}


# -- what a job raises ----------------------------------------------------------------------------


@pytest.mark.promise(
    "What asks for it / a job raises KeyboardInterrupt or SystemExit",
    "What the caller gets / a job raised KeyboardInterrupt or SystemExit",
)
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("kind", ["async", "sync", "group"])
async def test_an_exit_that_a_job_raises_aborts_the_worker_and_leaves_bare(
    app: App, connector: FaultyConnector, error: type[BaseException], kind: str
) -> None:
    @app.task(name="async", retry=True)
    async def leave() -> None:
        await trio.lowlevel.checkpoint()
        raise error("by the job")

    @app.task(name="sync", retry=True)
    def leave_sync() -> None:
        raise error("by the job")

    @app.task(name="group", retry=True)
    async def leave_in_group() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(leave.func)

    other = Steps()
    await app.task(name="other")(other.__call__).defer_async()
    await app.configure_task(kind).defer_async()
    worker = Worker(app, concurrency=2, install_signal_handlers=False)
    with pytest.raises(error, match="by the job"):
        await worker.run()
    assert connector.statuses == ["aborted", "failed"]
    assert stage_of(worker) is Stage.STOPPED
    assert connector.jobs[2]["attempts"] == 1


async def test_an_exit_that_a_job_raises_while_draining_aborts(
    app: App, connector: FaultyConnector
) -> None:
    other = Steps()
    await app.task(name="other")(other.__call__).defer_async()
    may_leave = trio.Event()

    @app.task(name="job")
    async def job() -> None:
        await may_leave.wait()
        sys.exit(3)

    await job.defer_async()
    worker = Worker(app, concurrency=2, install_signal_handlers=False)

    async def stop_and_leave() -> None:
        await other.started.wait()
        worker.stop()
        may_leave.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(stop_and_leave)
        with pytest.raises(SystemExit) as caught:
            await worker.run()
    assert caught.value.code == 3
    assert connector.statuses == ["aborted", "failed"]


async def test_nothing_is_fetched_after_an_exit(app: App, store: FaultyStore) -> None:
    @app.task(name="job")
    def job() -> None:
        sys.exit()

    await job.defer_async()
    await job.defer_async()
    with pytest.raises(SystemExit):
        await Worker(app, install_signal_handlers=False).run()
    assert store.calls.count(FetchJobs.name) == 1


@pytest.mark.promise("What is promised / 13")
@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize(
    ("timeout", "ends_at", "statuses"),
    [(10, 11, ["succeeded", "aborted"]), (None, 1_000, ["succeeded", "succeeded"])],
)
async def test_a_signal_gives_jobs_the_graceful_timeout(
    app: App,
    connector: FaultyConnector,
    autojump_clock: trio.testing.MockClock,
    number: signal.Signals,
    timeout: float | None,
    ends_at: float,
    statuses: list[str],
) -> None:
    task = app.task(name="job")(trio.sleep)
    await task.defer_async(seconds=5)
    await task.defer_async(seconds=1_000)
    async with trio.open_nursery() as nursery:
        worker = Worker(app, concurrency=2, shutdown_graceful_timeout=timeout)
        await nursery.start(worker.run)
        nursery.start_soon(asleep, 1, lambda: signal.raise_signal(number))
    assert connector.statuses == statuses
    # Between the signal and the loop's hearing of it, the wall's clock runs.
    assert trio.current_time() == pytest.approx(ends_at, abs=0.9)
