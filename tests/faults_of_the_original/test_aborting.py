"""What the original gets wrong when jobs are to give up."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import Context

import pytest
import trio
import trio.testing

from tests.faults_of_the_original.bench import (
    FaultyBench,
    ended_by,
    events,
    heard,
    reaches,
    reasons,
    run_on,
    slow_to_stop,
)
from tests.fix_worker import ThreadGate
from tests.waiting import eventually, within_patience
from tests.worker_on_postgres.bench import Bench
from trio_queue import JobContext
from trio_queue._worker.run import Runner
from trio_queue._worker.running import RunningJob
from trio_queue.jobs import AbortReason
from trio_queue.verbs import FetchJobs
from trio_queue.worker import Stage


async def ask_for_abort(bench: Bench, job_id: int) -> None:
    """What a user does."""
    assert await bench.app.job_manager.cancel_job_by_id_async(job_id, abort=True)


@pytest.mark.parametrize("by", ["notification", "poll"])
async def test_04_a_users_abort_is_heard_while_draining(bench: Bench, by: str) -> None:
    """The original stops listening and polling for aborts when the drain begins."""
    started = trio.Event()

    @bench.app.task(name="job")
    async def job() -> None:
        started.set()
        await run_on()

    ids = bench.defer("job")
    options = {"listen_notify": False, "abort_job_polling_interval": 0.05} if by == "poll" else {}
    worker = bench.worker(**options)
    async with bench.app.open_async(), ended_by(worker) as ended:
        await within_patience(started.wait)
        worker.stop()
        await reaches(worker, Stage.DRAINING)
        await trio.testing.wait_all_tasks_blocked(0.02)
        await ask_for_abort(bench, ids[0])
        await bench.all_ended(ids, "aborted")
    assert ended == [None]
    assert events(bench, ids[0]) == ["deferred", "started", "abort_requested", "aborted"]
    assert reasons(bench, ids[0]) == ["user_request"]
    await bench.is_quiet()


def when_started(monkeypatch: pytest.MonkeyPatch, then: Callable[[], object]) -> list[int]:
    """Do something when a job's task was made, and has not made a step; which jobs' it was."""
    start, started = Runner.start, list[int]()

    def start_and(
        runner: Runner, jobs: trio.Nursery, context: Context, running: RunningJob
    ) -> None:
        start(runner, jobs, context, running)
        started.append(running.id)
        then()

    monkeypatch.setattr(Runner, "start", start_and)
    return started


@pytest.mark.parametrize("by", ["shutdown", "user"])
async def test_10_a_job_whose_abort_comes_before_its_first_step_is_not_left_behind(
    faulty: FaultyBench, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    """The original cancels a task that has not begun and never writes its row: `doing` for ever."""
    ids = faulty.defer("work")
    worker = faulty.worker()
    if by == "shutdown":
        started = when_started(monkeypatch, worker.abort)
        async with ended_by(worker) as ended:
            pass
        assert started == ids
        assert faulty.statuses() == {ids[0]: ("todo", 0)}
    else:
        was_heard = heard(monkeypatch, "hear_abort")
        claim = faulty.store.hang(FetchJobs, after=True)
        async with faulty.app.open_async(), ended_by(worker) as ended:
            await within_patience(claim.wait_hit)
            await ask_for_abort(faulty, ids[0])
            await within_patience(was_heard.wait)
            claim.release()
            await faulty.all_ended(ids, "aborted")
            worker.stop()
    assert ended == [None]
    assert faulty.began == {}
    await faulty.is_quiet()


@pytest.mark.parametrize("ends", ["by its cancel", "by an error of its own"])
async def test_15_a_users_abort_is_never_retried(bench: Bench, ends: str) -> None:
    """The original ends a job that has a retry strategy `failed`, attempts 0, the abort still asked for."""
    started = trio.Event()

    @bench.app.task(name="job", retry=5)
    async def job() -> None:
        started.set()
        try:
            await run_on()
        except trio.Cancelled:
            if ends == "by its cancel":
                raise
            raise ValueError("its own") from None

    ids = bench.defer("job")
    worker = bench.worker()
    async with bench.app.open_async(), ended_by(worker):
        await within_patience(started.wait)
        await ask_for_abort(bench, ids[0])
        status = "aborted" if ends == "by its cancel" else "failed"
        await bench.all_ended(ids, status)
        worker.stop()
    assert bench.statuses() == {ids[0]: (status, 1)}
    assert bench.value("SELECT abort_requested FROM procrastinate_jobs") is False
    assert events(bench, ids[0]) == ["deferred", "started", "abort_requested", status]
    await bench.is_quiet()


async def test_16_a_shutdown_changes_no_reason_and_disturbs_no_cleanup(bench: Bench) -> None:
    """The original overwrites a user's reason, and cancels the job again in the midst of its clean-up."""
    job = slow_to_stop(bench, retry=5, interrupted_jobs="requeue")
    ids = bench.defer("slow")
    worker = bench.worker()
    async with bench.app.open_async(), ended_by(worker) as ended:
        await job.has_started()
        await ask_for_abort(bench, ids[0])
        await job.is_cleaning()
        worker.stop()
        worker.abort()
        await reaches(worker, Stage.ABORTING)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert bench.statuses() == {ids[0]: ("doing", 0)}
        job.may_end.set()
    assert ended == [None]
    assert job.reasons == [AbortReason.USER_REQUEST, AbortReason.USER_REQUEST]
    # A shutdown would have given it back.
    assert bench.statuses() == {ids[0]: ("aborted", 1)}
    assert reasons(bench, ids[0]) == ["user_request"]
    await bench.is_quiet()


@pytest.mark.parametrize("by", ["shutdown", "user"])
async def test_18_what_a_sync_function_returns_to_be_awaited_is_cancelled(
    bench: Bench, by: str
) -> None:
    """The original takes it for a sync job: the coroutine that it returned is never cancelled."""
    started = trio.Event()

    async def rest() -> None:
        started.set()
        await run_on()

    @bench.app.task(name="job")
    def job() -> Awaitable[None]:
        return rest()

    ids = bench.defer("job")
    worker = bench.worker()
    async with bench.app.open_async(), ended_by(worker) as ended:
        await within_patience(started.wait)
        if by == "user":
            await ask_for_abort(bench, ids[0])
            await bench.all_ended(ids, "aborted")
            worker.stop()
        else:
            worker.abort()
    assert ended == [None]
    assert bench.statuses() == {ids[0]: ("aborted", 1)}
    assert reasons(bench, ids[0]) == ["user_request" if by == "user" else "shutdown"]
    await bench.is_quiet()


async def test_19_a_sync_job_that_waits_for_a_thread_does_not_start_after_the_abort(
    bench: Bench, gate: ThreadGate
) -> None:
    """The original's cancel does not reach the queue for a thread: the job starts when one is free."""
    began: list[int] = []

    @bench.app.task(name="sync", pass_context=True)
    def sync(context: JobContext) -> None:
        assert context.job.id is not None
        began.append(context.job.id)
        gate.wait()

    ids = bench.defer("sync", 2)
    worker = bench.worker(concurrency=2, thread_limit=1)
    async with ended_by(worker) as ended:
        await gate.wait_entered()
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert bench.statuses() == dict.fromkeys(ids, ("doing", 0))
        [runs] = began
        [waits] = set(ids) - {runs}
        worker.abort()
        # Its row is written while the thread of the other is still busy.
        await eventually(lambda: bench.statuses([waits]) == {waits: ("todo", 0)}, "its return")
        gate.open()
    assert ended == [None]
    assert began == [runs]
    assert bench.statuses() == {runs: ("succeeded", 1), waits: ("todo", 0)}
    await bench.is_quiet()
