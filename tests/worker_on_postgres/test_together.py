"""Several workers on one database: each job once, and of one lock one after the other, in order."""

from __future__ import annotations

from collections import defaultdict
from contextlib import AsyncExitStack
from functools import partial

import pytest
import trio

from tests.waiting import eventually
from tests.worker_on_postgres.bench import Bench
from trio_queue.worker import Stage

pytestmark = pytest.mark.both_hosts

LOCKS = [None, "a", "b", "c"]


def defer_mixed(bench: Bench, count: int, *queues: str) -> list[int]:
    """Jobs with three locks and without, in turn, of several queues."""
    return [
        bench.defer(lock=LOCKS[number % 4], queue=queues[number % len(queues)])[0]
        for number in range(count)
    ]


def locks_were_kept(bench: Bench) -> None:
    """Never two of one lock at once, and each lock's in their order."""
    assert bench.overlapped == set()
    order: dict[str | None, list[int]] = defaultdict(list)
    for lock, job_id in bench.order:
        order[lock].append(job_id)
    for lock in LOCKS[1:]:
        assert order[lock] == sorted(order[lock])


@pytest.mark.parametrize("workers", [2, 3, 6])
@pytest.mark.parametrize("concurrency", [1, 10])
async def test_in_one_process(bench: Bench, workers: int, concurrency: int) -> None:
    ids = defer_mixed(bench, 200, "one", "two", "three")
    async with AsyncExitStack() as stack:
        for _ in range(workers):
            await stack.enter_async_context(bench.working(concurrency=concurrency))
        ids += defer_mixed(bench, 100, "one", "two", "three")
        await bench.all_ended()
    bench.each_ran_once(ids)
    locks_were_kept(bench)
    await bench.is_quiet()


async def test_in_one_nursery_with_queues_of_their_own(bench: Bench) -> None:
    queues = ["one", "two", "three"]
    ids = defer_mixed(bench, 200, *queues)
    workers = [bench.worker(queues=[queue], concurrency=3) for queue in queues]
    async with trio.open_nursery() as nursery:
        for worker in workers:
            await nursery.start(worker.run)
        ids += defer_mixed(bench, 100, *queues)
        await bench.all_ended()
        for worker in workers:
            worker.stop()
    bench.each_ran_once(ids)
    locks_were_kept(bench)
    await bench.is_quiet()


def has_ended(bench: Bench, count: int) -> bool:
    return len(bench.ended) >= count


async def test_workers_that_come_and_go(bench: Bench) -> None:
    ids = defer_mixed(bench, 300, "one")
    while bench.value("SELECT count(*) FROM procrastinate_jobs WHERE status <> 'succeeded'"):
        goal = min(len(bench.ended) + 20, len(ids))
        async with bench.working(concurrency=3), bench.working(concurrency=7):
            await eventually(partial(has_ended, bench, goal), f"the end of job {goal}")
    bench.each_ran_once(ids)
    locks_were_kept(bench)
    await bench.is_quiet()


@pytest.mark.parametrize("workers", [1, 3])
async def test_until_no_job_is_left(bench: Bench, workers: int) -> None:
    ids = defer_mixed(bench, 100, "one")
    async with trio.open_nursery() as nursery:
        for _ in range(workers):
            nursery.start_soon(bench.worker(wait=False, concurrency=5).run)
    bench.each_ran_once(ids)
    locks_were_kept(bench)
    await bench.is_quiet()


async def test_the_app_is_open_until_the_last_worker_ends(bench: Bench) -> None:
    """Opened by none but the workers; a job of the last one still defers over it.

    On Trio, as it is this task that asks whether the App is open.
    """
    ids: list[int] = []

    @bench.app.task(name="defer_late", queue="slow", flavor="trio")
    async def defer_late() -> None:
        await bench.gate.wait()
        ids.append(await bench.app.configure_task("work").defer_async())

    bench.defer("defer_late", queue="slow")
    async with trio.open_nursery() as nursery:
        first, second = bench.worker(queues=["quick"]), bench.worker(queues=["slow"])
        await nursery.start(first.run)
        await nursery.start(second.run)
        first.stop()
        await eventually(lambda: first.stage is Stage.STOPPED, "the end")
        assert bench.app.connector.is_open()
        bench.gate.set()
        await eventually(lambda: bool(ids), "the job to defer another")
        second.stop()
    assert not bench.app.connector.is_open()
    assert bench.statuses() == {1: ("succeeded", 1), ids[0]: ("todo", 0)}
    await bench.is_quiet()


async def test_opened_twice_at_once_it_has_one_pool(bench: Bench) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(bench.app.connector.open_async)
    await eventually(lambda: len(bench.backends()) == 1, "the other pools to be closed")
    await bench.app.close_async()
    await bench.is_quiet()
