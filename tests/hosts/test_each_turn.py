"""Stopped at each turn of the asyncio loop, before whatever it calls: no job is lost, torn or left behind.

Between two of these lies what Trio does in one go, and what a job does between two awaits; the steps of
Trio's own tasks are tried in tests/worker/test_checkpoints.py.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager

import attrs
import pytest
import trio

from tests.fix_worker import FaultyConnector
from tests.hosts.application import the_worker
from trio_queue import App, JobContext, RetryStrategy
from trio_queue.worker import Stage, Worker

#: More turns than a whole run has.
ENOUGH = 5_000
JOBS = ("deferring", "in thread", "locked", "locked", "retried", "cleaning up")


class Turns:
    """Counts what the loop calls, and does something before one of it."""

    def __init__(self, at: int, then: Callable[[], object]) -> None:
        self.count = 0
        self._at, self._then = at, then

    @contextmanager
    def counted(self) -> Generator[None]:
        run = asyncio.Handle._run  # pyright: ignore[reportPrivateUsage] - nothing public tells

        def run_and_count(handle: asyncio.Handle) -> None:
            self.count += 1
            if self.count == self._at:
                self._then()
            run(handle)

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(asyncio.Handle, "_run", run_and_count)
            yield


@attrs.define
class Run:
    """One run of a worker, and what its jobs did."""

    connector: FaultyConnector = attrs.field(factory=FaultyConnector)
    completed: Counter[int] = attrs.field(factory=Counter[int])
    workers: list[Worker] = attrs.field(factory=list[Worker])
    turns: int = 0

    def done(self, context: JobContext) -> None:
        assert context.job.id is not None
        self.completed[context.job.id] += 1


async def work() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


def make_app(run: Run) -> App:
    """Every kind of job, of asyncio."""
    app = App(connector=run.connector)

    @app.task(name="deferring", pass_context=True)
    async def deferring(context: JobContext) -> None:
        await work()
        await app.configure_task("locked").defer_async()
        run.done(context)

    @app.task(name="in thread", pass_context=True)
    def in_thread(context: JobContext) -> None:
        run.done(context)

    @app.task(name="locked", lock="one", pass_context=True)
    async def locked(context: JobContext) -> None:
        await work()
        run.done(context)

    @app.task(name="retried", retry=RetryStrategy(max_attempts=1), pass_context=True)
    async def retried(context: JobContext) -> None:
        await work()
        if not context.job.attempts:
            raise ValueError
        run.done(context)

    @app.task(name="cleaning up", interrupted_jobs="requeue", pass_context=True)
    async def cleaning_up(context: JobContext) -> None:
        try:
            await work()
            run.done(context)
        finally:
            await work()

    for name in JOBS:
        app.configure_task(name).defer()
    return app


Interrupt = Callable[[Worker, "asyncio.Task[None]"], object]


def run_and_interrupt(turn: int, interrupt: Interrupt) -> Run:
    """Run a worker in asyncio to its end, interrupted before one turn."""
    run = Run()
    app = make_app(run)
    run.workers = the_worker(app)

    async def main() -> None:
        task = asyncio.create_task(
            app.run_worker_async(wait=False, concurrency=2, install_signal_handlers=False)
        )
        while not run.workers:  # noqa: ASYNC110 - it is made in the task's first step
            await asyncio.sleep(0)
        turns = Turns(turn, lambda: interrupt(run.workers[0], task))
        with turns.counted():
            await asyncio.wait([task], timeout=30)
        run.turns = turns.count
        assert task.done()
        assert task.cancelled() or task.exception() is None
        assert not trio.lowlevel.in_trio_run()

    asyncio.run(main())
    return run


def stop_and_abort(worker: Worker, _: asyncio.Task[None]) -> None:
    worker.stop()
    worker.abort()


INTERRUPTS: dict[str, Interrupt] = {
    "Task.cancel()": lambda _, task: task.cancel(),
    "stop": lambda worker, _: worker.stop(),
    "abort": lambda worker, _: worker.abort(),
    "stop and abort": stop_and_abort,
}


def assert_nothing_is_lost(run: Run, where: str) -> None:
    [worker] = run.workers
    assert worker.stage is Stage.STOPPED, where
    connector = run.connector
    assert connector.database.tables.workers == {}, where
    assert connector.database.tables.orphans == [], where
    assert not connector.is_open(), where
    for job_id, row in connector.jobs.items():
        told = f"{where}: job {job_id} {row['task_name']}: {row['status']}"
        assert row["status"] in {"todo", "succeeded", "aborted"}, told
        assert run.completed[job_id] <= 1, told
        # Interrupted while it cleans up, one has done its work and goes back nevertheless.
        if row["task_name"] != "cleaning up":
            assert run.completed[job_id] == (row["status"] == "succeeded"), told


def assert_nobody_is_punished(run: Run, where: str) -> None:
    for job_id, row in run.connector.jobs.items():
        told = f"{where}: job {job_id} {row['task_name']}: {row['status']}"
        assert row["status"] in {"todo", "succeeded"}, told
        tries = run.connector.event_types(job_id).count("deferred_for_retry")
        assert row["status"] == "succeeded" or row["attempts"] <= tries, told


def test_undisturbed_every_job_ends() -> None:
    run = run_and_interrupt(ENOUGH, INTERRUPTS["stop"])
    assert_nothing_is_lost(run, "undisturbed")
    assert run.connector.statuses == ["succeeded"] * (len(JOBS) + 1)
    assert run.turns < ENOUGH


@pytest.mark.parametrize("how", INTERRUPTS)
def test_interrupted_at_any_turn_no_job_is_lost(how: str) -> None:
    for turn in range(1, ENOUGH):
        run = run_and_interrupt(turn, INTERRUPTS[how])
        where = f"{how} before turn {turn} of {run.turns}"
        assert_nothing_is_lost(run, where)
        if "abort" not in how:
            assert_nobody_is_punished(run, where)
        if run.turns < turn:
            return  # the run was over before
    raise AssertionError("the run has no end")
