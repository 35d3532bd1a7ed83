"""The wire is cut, or held, at every message of a claim and of a write."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from tests.fix_proxy import Direction, Proxy
from tests.waiting import eventually, within_patience
from tests.worker_on_postgres.bench import Bench
from tests.worker_on_postgres.statements import CLAIM, RELEASE, WRITE, CutAt, HoldAt, Watch
from trio_queue.worker import Stage

#: Parse, Bind, Describe, Execute, Sync go to the server; ParseComplete, BindComplete,
#: RowDescription, DataRow, CommandComplete, ReadyForQuery come back. A write answers without a row.
OF_A_WRITE = [
    *((Direction.TO_SERVER, number) for number in range(5)),
    *((Direction.TO_CLIENT, number) for number in range(5)),
]
OF_A_CLAIM = [*OF_A_WRITE, (Direction.TO_CLIENT, 5)]


@pytest.mark.parametrize("concurrency", [1, 5])
@pytest.mark.parametrize(
    ("statement", "direction", "number"),
    [(CLAIM, *message) for message in OF_A_CLAIM] + [(WRITE, *message) for message in OF_A_WRITE],
    ids=lambda v: getattr(v, "name", str(v)),
)
async def test_cut(
    wired: Bench,
    proxy: Proxy,
    statement: str,
    direction: Direction,
    number: int,
    concurrency: int,
) -> None:
    watch = Watch(proxy, CLAIM, WRITE)
    watch.action = cut = CutAt(statement, direction, number)
    ids = wired.defer(count=12)
    async with wired.working(concurrency=concurrency) as worker:
        await wired.all_ended()
        assert cut.reached.is_set()
        await eventually(lambda: not wired.in_hands(worker), "the worker's hands to be empty")
        assert wired.strays(worker) == []
    wired.each_ran_once(ids)
    await wired.is_quiet()


@pytest.mark.parametrize("concurrency", [1, 5])
@pytest.mark.parametrize(
    ("direction", "number"), OF_A_CLAIM, ids=lambda v: getattr(v, "name", str(v))
)
async def test_claim_held_until_a_stop_was_asked(
    wired: Bench, proxy: Proxy, direction: Direction, number: int, concurrency: int
) -> None:
    watch = Watch(proxy, CLAIM)
    # The worker holds a long job, where it has places for more.
    long = wired.defer("hold") if concurrency > 1 else []
    async with wired.working(concurrency=concurrency) as worker:
        await eventually(lambda: watch.answered[CLAIM] == 1, "the worker to rest")
        watch.action = hold = HoldAt(CLAIM, direction, number)
        ids = wired.defer(count=3)
        await within_patience(hold.reached.wait)
        worker.stop()
        await eventually(lambda: worker.stage is not Stage.RUNNING, "the drain")
        hold.let_go.set()
        # Until then the jobs are `todo` because the claim has not arrived yet.
        await eventually(lambda: watch.answered[CLAIM] == 2, "the end of the claim")
        # While the long job still runs, what was claimed is given back.
        await eventually(
            lambda: (
                wired.strays(worker) == []
                and wired.statuses(ids) == dict.fromkeys(ids, ("todo", 0))
            ),
            lambda: f"the jobs to be given back, seen: {wired.statuses()}",
        )
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert wired.strays(worker) == []
    assert wired.statuses(ids) == dict.fromkeys(ids, ("todo", 0))
    assert list(wired.began) == long
    await wired.is_quiet()


@pytest.mark.parametrize("concurrency", [1, 5])
@pytest.mark.parametrize(
    ("direction", "number"), OF_A_WRITE, ids=lambda v: getattr(v, "name", str(v))
)
async def test_write_held_until_a_stop_was_asked(
    wired: Bench, proxy: Proxy, direction: Direction, number: int, concurrency: int
) -> None:
    watch = Watch(proxy, WRITE)
    watch.action = hold = HoldAt(WRITE, direction, number)
    ids = wired.defer(count=concurrency)
    async with wired.working(concurrency=concurrency) as worker:
        await within_patience(hold.reached.wait)
        worker.stop()
        await eventually(lambda: worker.stage is not Stage.RUNNING, "the drain")
        hold.let_go.set()
    wired.each_ran_once(ids)
    await wired.is_quiet()


async def test_a_claim_that_arrives_after_a_stop_leaves_nothing(wired: Bench, proxy: Proxy) -> None:
    watch = Watch(proxy, CLAIM, RELEASE)
    wired.defer("hold")
    async with wired.working(concurrency=5) as worker:
        await eventually(lambda: watch.answered[CLAIM] == 1, "the worker to rest")
        watch.action = hold = HoldAt(CLAIM, Direction.TO_SERVER, 0)
        watch.lose_cancels = True
        ids = wired.defer(count=3)
        await within_patience(hold.reached.wait)
        worker.stop()
        await eventually(lambda: watch.cancels > 0, "the claim to be cancelled, in vain")
        hold.let_go.set()
        await eventually(lambda: watch.answered[CLAIM] == 2, "the answer")
        await eventually(
            lambda: wired.statuses(ids) == dict.fromkeys(ids, ("todo", 0)),
            "the jobs to be given back while another still runs",
        )
        assert worker.stage is Stage.DRAINING
    await wired.is_quiet()
