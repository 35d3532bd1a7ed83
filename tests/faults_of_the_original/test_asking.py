"""What the original gets wrong when it is asked to stop, and when it stops by itself."""

from __future__ import annotations

import signal
from collections.abc import Generator
from types import FrameType

import pytest
import trio
import trio.testing

from tests.faults_of_the_original.bench import (
    FaultyBench,
    ended_by,
    events,
    reaches,
    slow_to_stop,
)
from tests.fix_worker import ThreadGate
from tests.waiting import eventually, within_patience
from tests.worker_on_postgres.bench import Bench
from trio_queue import JobContext
from trio_queue.exceptions import JobAborted
from trio_queue.verbs import FinishJobs
from trio_queue.worker import Stage


@pytest.fixture
def not_ours() -> Generator[list[int]]:
    """The SIGTERMs that no worker hears: outside of pytest each would end the process."""
    unheard: list[int] = []

    def hear(number: int, _: FrameType | None) -> None:
        unheard.append(number)

    before = signal.signal(signal.SIGTERM, hear)
    yield unheard
    assert signal.signal(signal.SIGTERM, before) is hear, "the worker left its handler behind"


@pytest.mark.parametrize("way", ["two signals", "a timeout around run()"])
async def test_01_the_second_ask_abandons_no_job(
    bench: Bench, way: str, not_ours: list[int]
) -> None:
    """The original returns at once, the job `doing`, its coroutine an orphan; we wait for its end."""
    job = slow_to_stop(bench)
    ids = bench.defer("slow")
    scope = trio.CancelScope()
    # A timeout is one ask; the grace that is left to the jobs is an option.
    timeout = 0 if way == "a timeout around run()" else None
    worker = bench.worker(install_signal_handlers=True, shutdown_graceful_timeout=timeout)
    async with ended_by(worker, scope) as ended:
        await job.has_started()
        if way == "two signals":
            signal.raise_signal(signal.SIGTERM)
            await reaches(worker, Stage.DRAINING)
            assert not job.cleaning.is_set()
            signal.raise_signal(signal.SIGTERM)
        else:
            scope.deadline = trio.current_time()
        await job.is_cleaning()
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert ended == []
        assert worker.stage is Stage.ABORTING
        assert bench.statuses() == {ids[0]: ("doing", 0)}
        assert bench.value("SELECT count(*) FROM procrastinate_workers") == 1
        job.may_end.set()
    assert ended == [None]
    assert scope.cancelled_caught is (way == "a timeout around run()")
    assert not_ours == []
    assert bench.statuses() == {ids[0]: ("aborted", 1)}
    assert events(bench, ids[0]) == ["deferred", "started", "aborted"]
    await bench.is_quiet()


async def test_02_however_often_it_is_asked_a_row_says_how_its_job_ended(
    faulty: FaultyBench, gate: ThreadGate, not_ours: list[int]
) -> None:
    """The original writes a running thread off at the second cancel, and loses an outcome at the third."""

    @faulty.app.task(name="sync", pass_context=True)
    def sync(context: JobContext) -> None:
        gate.wait()
        assert context.should_abort()
        raise JobAborted

    in_thread, ended_already = faulty.defer("sync") + faulty.defer("work")
    write = faulty.store.hang(FinishJobs)
    worker = faulty.worker(install_signal_handlers=True, concurrency=2)
    async with ended_by(worker) as ended:
        await gate.wait_entered()
        await within_patience(write.wait_hit)
        for stage in (Stage.DRAINING, Stage.ABORTING, Stage.ABORTING):
            signal.raise_signal(signal.SIGTERM)
            await reaches(worker, stage)
            await trio.testing.wait_all_tasks_blocked(0.05)
        assert set(faulty.statuses().values()) == {("doing", 0)}
        write.release()
        await faulty.all_ended([ended_already])
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert faulty.statuses([in_thread]) == {in_thread: ("doing", 0)}
        assert ended == []
        gate.open()
    assert ended == [None]
    assert not_ours == []
    assert faulty.statuses([in_thread]) == {in_thread: ("aborted", 1)}
    assert events(faulty, in_thread) == ["deferred", "started", "aborted"]
    assert events(faulty, ended_already) == ["deferred", "started", "succeeded"]
    await faulty.is_quiet()


async def test_11_without_wait_no_deadline_applies_that_nobody_asked_for(
    bench: Bench,
) -> None:
    """The original aborts healthy jobs `shutdown_graceful_timeout` after it found no job to fetch."""
    job = slow_to_stop(bench)
    ids = bench.defer("slow")
    worker = bench.worker(
        wait=False,
        concurrency=2,
        shutdown_graceful_timeout=0,
        update_heartbeat_interval=0.05,
    )
    async with ended_by(worker) as ended:
        await job.has_started()
        # Its one claim found fewer jobs than it has places for: nothing is left to fetch.
        beats: set[object] = set()

        def a_few_beats() -> bool:
            beats.add(bench.value("SELECT last_heartbeat FROM procrastinate_workers"))
            return len(beats) > 3

        await eventually(a_few_beats, "time to pass")
        assert not job.cleaning.is_set()
        assert worker.stage is Stage.RUNNING
        job.may_end.set()
    assert ended == [None]
    assert job.reasons == []
    assert events(bench, ids[0]) == ["deferred", "started", "succeeded"]
    await bench.is_quiet()


@pytest.mark.parametrize("concurrency", [1, 2])
async def test_12_without_wait_it_runs_what_running_jobs_defer(
    bench: Bench, concurrency: int
) -> None:
    """The original returns when nothing is left to fetch, and leaves what its running jobs then defer."""

    @bench.app.task(name="deferring", pass_context=True, flavor="trio")
    async def deferring(context: JobContext, left: int = 2) -> None:
        # Not before the worker has looked again: it must find nothing to fetch first.
        await trio.testing.wait_all_tasks_blocked(0.02)
        if left:
            await deferring.configure(lock="one").defer_async(left=left - 1)

    bench.defer("deferring")
    bench.defer(count=2, lock="one")
    worker = bench.worker(wait=False, concurrency=concurrency)
    async with ended_by(worker) as ended:
        pass
    assert ended == [None]
    assert bench.statuses() == dict.fromkeys(range(1, 6), ("succeeded", 1))
    for job_id in range(1, 6):
        assert events(bench, job_id) == ["deferred", "started", "succeeded"]
    await bench.is_quiet()


async def test_13_signals_are_heard_until_the_last_job_has_ended(
    bench: Bench, not_ours: list[int]
) -> None:
    """The original's handlers are gone while it drains: there SIGTERM kills, the job stays `doing`."""
    job = slow_to_stop(bench)
    ids = bench.defer("slow")
    worker = bench.worker(wait=False, install_signal_handlers=True)
    async with ended_by(worker) as ended:
        await job.has_started()
        signal.raise_signal(signal.SIGTERM)
        await reaches(worker, Stage.DRAINING)
        await trio.testing.wait_all_tasks_blocked(0.05)
        signal.raise_signal(signal.SIGTERM)
        await job.is_cleaning()
        signal.raise_signal(signal.SIGTERM)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert bench.statuses() == {ids[0]: ("doing", 0)}
        job.may_end.set()
    assert ended == [None]
    assert not_ours == []
    assert events(bench, ids[0]) == ["deferred", "started", "aborted"]
    await bench.is_quiet()
