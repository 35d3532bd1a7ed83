"""What the original gets wrong about how a job ended, and about writing it down."""

from __future__ import annotations

import pytest
import trio

from tests.faults_of_the_original.bench import (
    REFUSED,
    SESSION_ENDED,
    ended_by,
    events,
    reasons,
    refusals,
    refuse,
    run_on,
)
from tests.waiting import eventually, within_patience
from tests.worker_on_postgres.bench import Bench
from trio_queue import RetryStrategy
from trio_queue.worker import Stage


@pytest.mark.parametrize("how", [REFUSED, SESSION_ENDED], ids=["refused", "session ended"])
async def test_06_a_write_that_fails_loses_no_job(bench: Bench, how: str) -> None:
    """The original tries once, and a retry may collide: the job stays `doing` under a living worker."""
    failing = trio.Event()

    @bench.app.task(name="job", retry=True, queueing_lock="one waits", lock="one runs")
    async def job(fails: bool) -> None:
        if fails:
            await within_patience(failing.wait)
            raise ValueError

    refuse(bench, "succeeded", how, times=3)
    ids = bench.defer(count=2)
    async with bench.app.open_async(), bench.working(concurrency=3) as worker:
        await bench.all_ended()
        collides = await job.defer_async(fails=True)
        await eventually(lambda: bench.in_hands(worker) == {collides}, "the job")
        waits = await job.defer_async(fails=False)
        failing.set()
        await bench.all_ended([waits])
        assert worker.stage is Stage.RUNNING
    assert refusals(bench) > 3
    bench.each_ran_once(ids)
    # Its queueing lock is taken: it may not wait again.
    assert bench.statuses([collides, waits]) == {
        collides: ("cancelled", 1),
        waits: ("succeeded", 1),
    }
    for job_id in (*ids, waits):
        assert events(bench, job_id) == ["deferred", "started", "succeeded"]
    assert events(bench, collides) == ["deferred", "started", "cancelled"]
    await bench.is_quiet()


@pytest.mark.parametrize("strategy", [None, RetryStrategy(max_attempts=1, wait=3600)])
async def test_14_a_shutdown_does_no_harm(bench: Bench, strategy: RetryStrategy | None) -> None:
    """The original aborts for good, or lets the job wait out its backoff, and counts the attempt."""
    started, may_end = trio.Event(), trio.Event()

    @bench.app.task(name="job", retry=strategy or False)
    async def job() -> None:
        started.set()
        await may_end.wait()

    ids = bench.defer("job")
    async with ended_by(worker := bench.worker(interrupted_jobs="requeue")) as ended:
        await within_patience(started.wait)
        worker.abort()
    assert ended == [None]
    assert bench.statuses() == {ids[0]: ("todo", 0)}
    assert bench.rows("SELECT scheduled_at, abort_requested FROM procrastinate_jobs") == [
        (None, False)
    ]
    assert events(bench, ids[0]) == ["deferred", "started", "deferred_for_retry"]
    assert reasons(bench, ids[0]) == ["shutdown"]
    # The next worker has it at once, and its one retry is still its own.
    may_end.set()
    async with ended_by(bench.worker(wait=False)):
        pass
    assert bench.statuses() == {ids[0]: ("succeeded", 1)}
    await bench.is_quiet()


@pytest.mark.parametrize("exits", [SystemExit, KeyboardInterrupt])
async def test_17_a_stray_cancel_is_no_abort_and_an_exit_is_heard(
    bench: Bench, exits: type[BaseException]
) -> None:
    """The original ends the stray one `aborted`, and swallows exits as if they were failures like others."""
    running = trio.Event()

    @bench.app.task(name="stray", retry=False)
    async def stray() -> None:
        kept: list[trio.Cancelled] = []
        with trio.CancelScope() as scope:
            scope.cancel()
            try:
                await trio.lowlevel.checkpoint()
            except trio.Cancelled as cancelled:
                kept.append(cancelled)
        raise kept[0]

    @bench.app.task(name="other")
    async def other() -> None:
        running.set()
        await run_on()

    @bench.app.task(name="exits", retry=True)
    async def leave() -> None:
        raise exits("enough")

    strays = bench.defer("stray")
    others = bench.defer("other")
    worker = bench.worker(concurrency=3)
    async with ended_by(worker) as ended:
        await bench.all_ended(strays, "failed")
        await within_patience(running.wait)
        assert worker.stage is Stage.RUNNING
        leavers = bench.defer("exits")
    [raised] = ended
    assert raised is not None
    assert type(raised) is exits
    assert raised.args == ("enough",)
    assert bench.statuses() == {
        strays[0]: ("failed", 1),
        others[0]: ("aborted", 1),
        leavers[0]: ("failed", 1),
    }
    assert events(bench, strays[0]) == ["deferred", "started", "failed"]
    assert reasons(bench, others[0]) == ["shutdown"]
    await bench.is_quiet()
