"""What the original gets wrong about who holds a job."""

from __future__ import annotations

import logging

import pytest
import trio

from tests.faults_of_the_original.bench import ended_by, events, reaches, reasons, slow_to_stop
from tests.waiting import PATIENCE, eventually, within_patience
from tests.worker_on_postgres.bench import Bench, told
from trio_queue import JobContext
from trio_queue.completion import WORKER_DIED
from trio_queue.log import Action
from trio_queue.verbs import FetchJobs, RegisterWorker
from trio_queue.worker import Stage

#: Seconds; a worker whose server stands still for one of them is not taken for dead.
LEASE = 3.0
SHORT = {"update_heartbeat_interval": 0.1, "stalled_worker_timeout": LEASE}


async def test_03_a_draining_worker_keeps_its_jobs(bench: Bench) -> None:
    """The original's heartbeat stops with the drain: other workers run the job a second time."""
    job = slow_to_stop(bench)
    ids = bench.defer("slow")
    draining = bench.worker(**SHORT)
    async with ended_by(draining) as ended:
        await job.has_started()
        async with bench.working(**SHORT):
            draining.stop()
            await reaches(draining, Stage.DRAINING)
            since = bench.value("SELECT now()")

            def outlived_its_lease_twice() -> bool:
                return bench.rows(
                    "SELECT last_heartbeat > %s::timestamptz + make_interval(secs => %s)"
                    "  FROM procrastinate_workers WHERE id = %s",
                    since,
                    2 * LEASE,
                    draining.worker_id,
                ) == [(True,)]

            try:
                await eventually(outlived_its_lease_twice, "heartbeats of the worker that drains")
                assert events(bench, ids[0]) == ["deferred", "started"]
            finally:
                job.may_end.set()
            await bench.all_ended()
    assert ended == [None]
    assert events(bench, ids[0]) == ["deferred", "started", "succeeded"]
    await bench.is_quiet()


async def test_07_who_no_longer_holds_a_job_cannot_end_it(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """The original's finish names the job only: a stale owner ends the new run, whose owner then fails."""
    caplog.set_level(logging.INFO)
    started = [trio.Event(), trio.Event()]
    may_end = [trio.Event(), trio.Event()]

    @bench.app.task(name="job", pass_context=True)
    async def job(context: JobContext) -> None:
        started[context.job.attempts].set()
        await within_patience(may_end[context.job.attempts].wait, 2 * PATIENCE)

    ids = bench.defer("job")
    async with bench.app.open_async(), bench.working() as stale:
        await within_patience(started[0].wait)
        async with bench.working() as owner:
            await bench.app.job_manager.retry_job_by_id_async(ids[0], bench.app.connector.now())
            await within_patience(started[1].wait)
            may_end[0].set()
            await eventually(lambda: not bench.in_hands(stale), "the stale run to be let go")
            assert bench.statuses() == {ids[0]: ("doing", 1)}
            assert events(bench, ids[0])[-1] == "started"
            assert len(told(caplog, Action.LEASE_LOST)) == 1
            assert bench.value("SELECT worker_id FROM procrastinate_jobs") == owner.worker_id
            may_end[1].set()
            await bench.all_ended()
            assert owner.stage is Stage.RUNNING
    assert bench.statuses() == {ids[0]: ("succeeded", 2)}
    happened = ["deferred", "started", "deferred_for_retry", "started", "succeeded"]
    assert [each for each in events(bench, ids[0]) if each != "scheduled"] == happened
    assert len(told(caplog, Action.LEASE_LOST)) == 1
    await bench.is_quiet()


async def test_08_a_worker_that_was_pruned_alive_works_on(bench: Bench) -> None:
    """The original dies of a foreign-key violation at its next fetch."""
    held = bench.defer("hold")
    async with bench.working(concurrency=2) as worker:
        await eventually(lambda: len(bench.began) == 1, "the job")
        [(pruned,)] = bench.rows(
            "SELECT worker_id FROM procrastinate_prune_stalled_workers_v1(-3600)"
        )
        ids = bench.defer(count=3)
        await bench.all_ended(ids)
        assert worker.stage is Stage.RUNNING
        assert worker.worker_id != pruned
        assert bench.rows("SELECT id FROM procrastinate_workers") == [(worker.worker_id,)]
        # What it ran then is its own still, under the new row.
        assert bench.rows(
            "SELECT worker_id, status::text FROM procrastinate_jobs WHERE id = %s", held[0]
        ) == [(worker.worker_id, "doing")]
    bench.each_ran_once([*held, *ids])
    assert events(bench, held[0]) == ["deferred", "started", "succeeded"]
    await bench.is_quiet()


async def test_23_the_jobs_of_a_dead_worker_run_again_and_their_locks_are_freed(
    bench: Bench,
) -> None:
    """The original has no rescue: a dead worker's job stays `doing`, and its lock held, for ever."""
    holder, successor = bench.defer(count=2, lock="one")
    async with bench.app.connector.open_store() as store:
        dead = await store.run(
            RegisterWorker(
                worker_name="dead",
                host="elsewhere",
                pid=1,
                version="0",
                queues=None,
                concurrency=1,
                stage="running",
            )
        )
        await store.run(FetchJobs(dead, None, 10))
    assert bench.statuses() == {holder: ("doing", 0), successor: ("todo", 0)}
    async with bench.working(**SHORT):
        await bench.all_ended()
    assert bench.began == {holder: 1, successor: 1}
    assert [job_id for _, job_id in bench.order] == [holder, successor]
    assert bench.statuses() == {holder: ("succeeded", 2), successor: ("succeeded", 1)}
    assert reasons(bench, holder) == [WORKER_DIED]
    assert reasons(bench, successor) == []
    assert bench.overlapped == set()
    await bench.is_quiet()
