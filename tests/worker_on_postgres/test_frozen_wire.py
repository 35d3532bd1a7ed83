"""The wire says nothing any more, in either direction: every wait on it has an end, and so a stop."""

from __future__ import annotations

import pytest
import trio

from tests.fix_proxy import Direction, Proxy
from tests.short_bounds import shorten_bounds
from tests.waiting import eventually, within_patience
from tests.worker_on_postgres.bench import Bench, told
from tests.worker_on_postgres.statements import CLAIM, WRITE, Step, Watch
from trio_queue._storage import heartbeat
from trio_queue._worker import lease
from trio_queue.exceptions import OutcomesNotWritten
from trio_queue.log import Action
from trio_queue.worker import Stage

BOUND = 0.3
SHORT_LEASE = {"update_heartbeat_interval": 0.1, "stalled_worker_timeout": 1.0}


@pytest.fixture(autouse=True)
def short_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten_bounds(monkeypatch, BOUND)
    monkeypatch.setattr(lease, "GOODBYE_BOUND", 2 * BOUND)
    monkeypatch.setattr(heartbeat, "STOP_TIMEOUT", BOUND)


class FreezeAt:
    """Freezes the whole wire when a message of a statement comes by."""

    def __init__(self, proxy: Proxy, statement: str, direction: Direction) -> None:
        self._proxy = proxy
        self._where = statement, direction
        self.reached = trio.Event()

    async def __call__(self, step: Step) -> None:
        if (step.statement, step.message.direction) == self._where and not self.reached.is_set():
            self._proxy.freeze()
            self.reached.set()


async def test_idle(wired: Bench, proxy: Proxy) -> None:
    watch = Watch(proxy, CLAIM)
    worker = wired.worker()
    async with trio.open_nursery() as nursery:
        await nursery.start(worker.run)
        await eventually(lambda: watch.answered[CLAIM] > 0, "the worker to rest")
        proxy.freeze()
        worker.stop()
        await eventually(lambda: worker.stage is Stage.STOPPED, "the end")
    await proxy.cut()


@pytest.mark.parametrize("held_back", ["lost", "late"])
@pytest.mark.parametrize("direction", Direction)
@pytest.mark.parametrize("moment", ["claiming", "writing"])
async def test_frozen_for_a_while(
    wired: Bench,
    proxy: Proxy,
    caplog: pytest.LogCaptureFixture,
    direction: Direction,
    moment: str,
    held_back: str,
) -> None:
    watch = Watch(proxy, CLAIM, WRITE)
    statement = CLAIM if moment == "claiming" else WRITE
    watch.action = freeze = FreezeAt(proxy, statement, direction)
    ids = wired.defer(count=7)
    async with wired.working(concurrency=3, fetch_job_polling_interval=0.1) as worker:
        await within_patience(freeze.reached.wait)
        await eventually(lambda: bool(told(caplog, Action.DATABASE_AWAY)), "the worker to notice")
        # Lost, as where a router forgot the connections; or sent again by the system, although
        # the worker has closed its connection by now.
        if held_back == "lost":
            await proxy.cut()
        proxy.thaw()
        await wired.all_ended(ids)
        assert wired.strays(worker) == []
    wired.each_ran_once(ids)
    await wired.is_quiet()


@pytest.mark.parametrize("direction", Direction)
@pytest.mark.parametrize("moment", ["claiming", "writing"])
async def test_a_stop_ends_on_a_frozen_wire(
    wired: Bench, proxy: Proxy, direction: Direction, moment: str
) -> None:
    watch = Watch(proxy, CLAIM, WRITE)
    statement = CLAIM if moment == "claiming" else WRITE
    watch.action = freeze = FreezeAt(proxy, statement, direction)
    wired.defer(count=3)
    worker = wired.worker(concurrency=3, **SHORT_LEASE)
    error: BaseException | None = None

    async def run() -> None:
        nonlocal error
        try:
            await worker.run()
        except OutcomesNotWritten as raised:
            error = raised

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await within_patience(freeze.reached.wait)
        worker.stop()
        await eventually(lambda: worker.stage is Stage.STOPPED, "the end")
    assert worker.stage is Stage.STOPPED
    assert (error is not None) == (moment == "writing")
    await proxy.cut()


async def test_a_stop_that_meets_a_running_job_on_a_frozen_wire(
    wired: Bench, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    ids = wired.defer("hold")
    worker = wired.worker(update_heartbeat_interval=0.1)
    async with trio.open_nursery() as nursery:
        await nursery.start(worker.run)
        await eventually(lambda: wired.began[ids[0]] == 1, "the job")
        proxy.freeze()
        worker.stop()
        await eventually(lambda: worker.stage is Stage.DRAINING, "the drain")
        await eventually(lambda: bool(told(caplog, Action.DATABASE_AWAY)), "the worker to notice")
        # The network comes back as it was before the job ends: nothing was lost but time.
        proxy.thaw()
        wired.gate.set()
        await eventually(lambda: worker.stage is Stage.STOPPED, "the end")
    assert wired.statuses() == {ids[0]: ("succeeded", 1)}
    await wired.is_quiet()
