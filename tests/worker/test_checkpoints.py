"""Stopped at each step of a whole run, nothing is lost and `run()` ends."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio
import trio.testing

from tests.fix_hosts import run_trio
from tests.fix_worker import FaultyConnector, stage_of
from trio_queue import App, JobContext, RetryStrategy, Worker
from trio_queue.worker import Stage

pytestmark = pytest.mark.runs_trio

#: More steps than a whole run has.
ENOUGH = 2_000
#: Seconds of fake time in which any run here ends.
PATIENCE = 200


class Stepwise(trio.abc.Instrument):
    """Does something after so many steps of tasks."""

    def __init__(self, steps: int, then: Callable[[], object]) -> None:
        self.steps = 0
        self._at = steps
        self._then = then

    def before_task_step(self, task: trio.lowlevel.Task) -> None:  # noqa: ARG002 - as Trio calls it
        self.steps += 1
        if self.steps == self._at:
            self._then()


def make_app(connector: FaultyConnector) -> App:
    """Every kind of job: async, sync that returns an awaitable, of a lock, deferring, retried, failing."""
    app = App(connector=connector)

    @app.task(name="deferring")
    async def deferring() -> None:
        await trio.sleep(1)
        await app.configure_task("locked").defer_async()

    @app.task(name="locked", lock="one")
    async def locked() -> None:
        await trio.sleep(0.5)

    @app.task(name="retried", retry=RetryStrategy(max_attempts=1), pass_context=True)
    async def retried(context: JobContext) -> None:
        await trio.sleep(0.2)
        if not context.job.attempts:
            raise ValueError

    @app.task(name="cleaning up", interrupted_jobs="requeue")
    async def cleaning_up() -> None:
        try:
            await trio.sleep(2)
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(1)

    for name in ("deferring", "locked", "locked", "retried", "cleaning up"):
        app.configure_task(name).defer()
    return app


def run_and_interrupt(
    step: int, interrupt: Callable[[Worker, trio.CancelScope], object]
) -> tuple[FaultyConnector, Worker, int]:
    """Run a worker to its end, interrupted before one step; how many steps there were."""
    connector = FaultyConnector()
    app = make_app(connector)
    worker = Worker(app, wait=False, concurrency=2, install_signal_handlers=False)
    scope = trio.CancelScope()
    stepwise = Stepwise(step, lambda: interrupt(worker, scope))

    async def main() -> None:
        with trio.fail_after(PATIENCE), scope:
            await worker.run()

    run_trio(main, clock=trio.testing.MockClock(autojump_threshold=0), instruments=[stepwise])
    return connector, worker, stepwise.steps


def stop_and_abort(worker: Worker, _: trio.CancelScope) -> None:
    worker.stop()
    worker.abort()


INTERRUPTS: dict[str, Callable[[Worker, trio.CancelScope], object]] = {
    "stop": lambda worker, _: worker.stop(),
    "abort": lambda worker, _: worker.abort(),
    "cancel": lambda _, scope: scope.cancel(),
    "stop and abort": stop_and_abort,
}


def assert_nothing_is_lost(connector: FaultyConnector, worker: Worker, step: int) -> None:
    where = f"interrupted before step {step}"
    assert stage_of(worker) is Stage.STOPPED, where
    assert "doing" not in connector.statuses, where
    assert connector.database.tables.workers == {}, where
    assert connector.database.tables.orphans == [], where
    assert connector.history.count("store opened") == connector.history.count("store closed"), where
    assert not connector.is_open(), where


def test_undisturbed_every_job_ends() -> None:
    connector, worker, steps = run_and_interrupt(ENOUGH, INTERRUPTS["stop"])
    assert_nothing_is_lost(connector, worker, ENOUGH)
    assert connector.statuses == ["succeeded"] * 6
    assert steps < ENOUGH


@pytest.mark.promise("What is promised / 12")
@pytest.mark.parametrize("interrupt", INTERRUPTS)
def test_interrupted_at_any_step_no_job_is_lost_and_run_ends(interrupt: str) -> None:
    for step in range(1, ENOUGH):
        connector, worker, steps = run_and_interrupt(step, INTERRUPTS[interrupt])
        assert_nothing_is_lost(connector, worker, step)
        if steps < step:
            return  # the run was over before
    raise AssertionError("the run has no end")


@pytest.mark.parametrize("interrupt", ["stop", "cancel"])
def test_a_drain_at_any_step_punishes_no_job(interrupt: str) -> None:
    for step in range(1, ENOUGH):
        connector, _, steps = run_and_interrupt(step, INTERRUPTS[interrupt])
        for job_id, row in connector.jobs.items():
            assert row["status"] in {"todo", "succeeded"}
            tries = connector.event_types(job_id).count("deferred_for_retry")
            assert row["status"] == "succeeded" or row["attempts"] <= tries
        if steps < step:
            return
    raise AssertionError("the run has no end")
