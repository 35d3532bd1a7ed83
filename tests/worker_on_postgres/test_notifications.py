"""What wakes a worker: nothing here waits for a poll, for there is one in an hour."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from tests.fix_proxy import Direction, Proxy
from tests.waiting import eventually, within_patience
from tests.worker_on_postgres.bench import Bench
from tests.worker_on_postgres.statements import CLAIM, HoldAt, Watch


@pytest.mark.parametrize("direction", Direction)
async def test_deferred_while_a_claim_is_under_way(
    wired: Bench, proxy: Proxy, direction: Direction
) -> None:
    watch = Watch(proxy, CLAIM)
    watch.action = hold = HoldAt(CLAIM, direction, 0)
    async with wired.working():
        await within_patience(hold.reached.wait)
        ids = wired.defer()
        hold.let_go.set()
        await wired.all_ended(ids)
    wired.each_ran_once(ids)


@pytest.mark.parametrize("listen_notify", [True, False])
async def test_the_successor_of_a_lock(bench: Bench, listen_notify: bool) -> None:
    ids = bench.defer(count=20, lock="one")
    async with bench.working(concurrency=5, listen_notify=listen_notify):
        await bench.all_ended()
    bench.each_ran_once(ids)
    assert bench.order == [("one", job_id) for job_id in ids]
    assert not bench.overlapped


async def test_the_successor_of_a_lock_in_another_workers_queue(bench: Bench) -> None:
    ids = [bench.defer(queue="ab"[n % 2], lock="one")[0] for n in range(20)]
    async with bench.working(queues=["a"]), bench.working(queues=["b"]):
        await bench.all_ended()
    bench.each_ran_once(ids)
    assert [job_id for _, job_id in bench.order] == ids


@pytest.mark.parametrize("listen_notify", [True, False])
async def test_a_retried_job(bench: Bench, listen_notify: bool) -> None:
    ids = bench.defer("fail_once")
    async with bench.working(listen_notify=listen_notify):
        await bench.all_ended()
    assert bench.statuses() == {ids[0]: ("succeeded", 2)}


async def test_a_job_that_somebody_retries(bench: Bench) -> None:
    async with bench.app.open_async(), bench.working():
        ids = bench.defer("no.such.task")
        await bench.all_ended(ids, "failed")
        bench.rows("UPDATE procrastinate_jobs SET task_name = 'work' RETURNING id")
        await bench.app.job_manager.retry_job_by_id_async(ids[0], bench.value("SELECT now()"))
        await bench.all_ended(ids)


@pytest.mark.parametrize("listen_notify", [True, False])
async def test_a_scheduled_job_at_its_time(bench: Bench, listen_notify: bool) -> None:
    first = bench.defer(scheduled_in=0.2)
    async with bench.working(listen_notify=listen_notify):
        await bench.all_ended(first)
        if listen_notify:
            await bench.all_ended(bench.defer(scheduled_in=0.2))
    late = bench.value(
        "SELECT bool_and(e.at >= j.scheduled_at) FROM procrastinate_jobs j"
        " JOIN procrastinate_events e ON e.job_id = j.id AND e.type = 'started'"
    )
    assert late is True


@pytest.mark.parametrize("by", ["notification", "poll"])
async def test_an_abort_while_it_runs(bench: Bench, by: str) -> None:
    ids = bench.defer("hold")
    options = (
        {} if by == "notification" else {"listen_notify": False, "abort_job_polling_interval": 0.05}
    )
    async with bench.app.open_async(), bench.working(**options):
        await eventually(lambda: len(bench.began) == 1, "the job")
        await bench.app.job_manager.cancel_job_by_id_async(ids[0], abort=True)
        await bench.all_ended(ids, "aborted")
    assert bench.statuses() == {ids[0]: ("aborted", 1)}


async def test_an_abort_while_its_claim_is_under_way(wired: Bench, proxy: Proxy) -> None:
    watch = Watch(proxy, CLAIM)
    watch.action = hold = HoldAt(CLAIM, Direction.TO_CLIENT, 3)
    ids = wired.defer("hold")
    async with wired.working():
        await within_patience(hold.reached.wait)
        wired.rows("SELECT procrastinate_cancel_job_v1(%s, true, false)", ids[0])
        await trio.testing.wait_all_tasks_blocked(0.05)
        hold.let_go.set()
        await wired.all_ended(ids, "aborted")
