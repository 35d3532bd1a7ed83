"""What the original gets wrong when its database or one of its services fails, hangs or is slow."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing

from tests.faults_of_the_original.bench import (
    REFUSED,
    SESSION_ENDED,
    FaultyBench,
    ended_by,
    events,
    heard,
    locked,
    reaches,
    refusals,
    refuse,
    slow_to_stop,
)
from tests.fix_proxy import Direction, Proxy
from tests.waiting import eventually, within_patience
from tests.worker_on_postgres.bench import Bench
from tests.worker_on_postgres.statements import CLAIM, HoldAt, Watch
from trio_queue._pg.connection import TrioConnection
from trio_queue._worker import fetch
from trio_queue._worker.hear import Ear
from trio_queue.store import Notifications
from trio_queue.verbs import FetchJobs, RegisterWorker
from trio_queue.worker import Stage

#: In the text of the statement that looks for requests to abort, and of no other.
LOOK = "abort_requested\n ORDER BY"


async def test_05_a_service_that_fails_is_noticed_without_any_periodic_task(
    faulty: FaultyBench,
) -> None:
    """The original's supervision ends at once where there is no periodic task: nobody sees the failure."""
    assert not faulty.app.periodic_registry.periodic_tasks
    job = slow_to_stop(faulty)
    ids = faulty.defer("slow")
    broken = RuntimeError("the heartbeat is broken")
    faulty.store.fail(RegisterWorker, skip=1, error=broken, transient=False)
    worker = faulty.worker()
    async with ended_by(worker) as ended:
        await job.has_started()
        faulty.store.lose_lease()
        await reaches(worker, Stage.DRAINING)
        assert ended == []
        assert not job.cleaning.is_set()
        job.may_end.set()
    assert ended == [broken]
    assert faulty.statuses() == {ids[0]: ("succeeded", 1)}
    assert events(faulty, ids[0]) == ["deferred", "started", "succeeded"]
    await faulty.is_quiet()


@pytest.mark.parametrize("asked", ["stop()", "cancel"])
async def test_09_a_stop_that_meets_a_fetch_in_flight_loses_no_job(
    faulty: FaultyBench, asked: str
) -> None:
    """The original forgets what the fetch had claimed: `doing`, and nobody runs it."""
    ids = faulty.defer(count=2)
    claim = faulty.store.hang(FetchJobs, after=True)
    scope = trio.CancelScope()
    worker = faulty.worker(concurrency=5)
    async with ended_by(worker, scope) as ended:
        await within_patience(claim.wait_hit)
        assert faulty.statuses() == dict.fromkeys(ids, ("doing", 0))
        if asked == "cancel":
            scope.cancel()
        else:
            worker.stop()
    assert ended == [None]
    assert faulty.statuses() == dict.fromkeys(ids, ("todo", 0))
    assert faulty.began == {}
    async with ended_by(faulty.worker(wait=False)):
        pass
    faulty.each_ran_once(ids)
    await faulty.is_quiet()


@pytest.mark.parametrize("how", [REFUSED, SESSION_ENDED], ids=["refused", "session ended"])
async def test_20_a_fetch_that_fails_does_not_end_the_worker(bench: Bench, how: str) -> None:
    """The original ends with the first fetch that fails."""
    refuse(bench, "doing", how, times=3)
    async with bench.working() as worker:
        ids = bench.defer(count=2)
        await bench.all_ended()
        assert worker.stage is Stage.RUNNING
    assert refusals(bench) > 3
    bench.each_ran_once(ids)
    await bench.is_quiet()


REFUSE_FAREWELLS = """
    CREATE FUNCTION refuse_farewell() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'stay'; END $$;
    CREATE TRIGGER refuse_farewell BEFORE DELETE ON procrastinate_workers
        FOR EACH ROW EXECUTE FUNCTION refuse_farewell();
"""


@pytest.mark.parametrize("asked", ["stop()", "cancel"])
async def test_21_a_hung_fetch_holds_no_stop_and_a_farewell_that_fails_is_no_error(
    faulty: FaultyBench,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    asked: str,
) -> None:
    """The original's hung fetch ignores `stop()` and the first cancel; `run()` raises what unregistering does."""

    def hung() -> Any:
        return faulty.value(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND wait_event_type = 'Lock' AND strpos(query, %s) > 0",
            CLAIM,
        )

    # The stop is to end it, not its own bound.
    monkeypatch.setattr(fetch, "CLAIM_BOUND", 3600.0)
    scope = trio.CancelScope()
    worker = faulty.worker(update_heartbeat_interval=10)
    async with ended_by(worker, scope) as ended:
        await eventually(lambda: "fetch_jobs" in faulty.store.calls, "the first claim")
        await trio.testing.wait_all_tasks_blocked(0.05)
        # A claim locks its worker's row, against its deletion.
        with locked(faulty.conninfo, "SELECT FROM procrastinate_workers FOR UPDATE"):
            ids = faulty.defer()
            await eventually(lambda: hung() == 1, "the claim to hang")
            if asked == "cancel":
                scope.cancel()
            else:
                worker.stop()
            await reaches(worker, Stage.DRAINING)
            await eventually(lambda: hung() == 0, "the claim to end, while the lock is held")
        faulty.database.execute(REFUSE_FAREWELLS)
    assert ended == [None]
    assert "stay" in caplog.text
    assert faulty.statuses() == {ids[0]: ("todo", 0)}
    assert faulty.value("SELECT count(*) FROM procrastinate_workers") == 1
    await eventually(lambda: not faulty.backends(), "the end of every connection")


async def test_22_no_job_waits_for_the_poll(
    faulty: FaultyBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The original drops what is notified during a fetch; successors of locks and retries wait, too."""
    was_heard = heard(monkeypatch, "ring")
    claim = faulty.store.hang(FetchJobs, after=True)
    async with faulty.working(concurrency=3, fetch_job_polling_interval=3600) as worker:

        async def all_ended() -> None:
            await faulty.all_ended()
            # What a row that is written wakes must not be what the next job needs.
            await eventually(lambda: not faulty.in_hands(worker), "the worker's hands to be empty")

        await within_patience(claim.wait_hit)  # it has found nothing
        notified = faulty.defer()
        await within_patience(was_heard.wait)
        claim.release()
        await all_ended()
        of_one_lock = faulty.defer(count=3, lock="one")
        await all_ended()
        retried = faulty.defer("fail_once")
        await all_ended()
        scheduled = faulty.defer(scheduled_in=0.3)
        await all_ended()
    assert faulty.statuses() == {
        **dict.fromkeys([*notified, *of_one_lock, *scheduled], ("succeeded", 1)),
        retried[0]: ("succeeded", 2),
    }
    assert [job_id for lock, job_id in faulty.order if lock] == of_one_lock
    await faulty.is_quiet()


async def test_24_a_service_that_ignores_its_cancel_holds_no_stop(
    wired: Bench, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The original waits without a bound for a service that swallows its cancel."""
    monkeypatch.setattr(TrioConnection, "cancel_timeout", 0.3)
    swallowed: list[trio.Cancelled] = []
    listen: Callable[[Ear, Notifications], Awaitable[None]] = Ear.listen

    async def listen_on(ear: Ear, notifications: Notifications) -> None:
        try:
            await listen(ear, notifications)
        except trio.Cancelled as cancelled:
            swallowed.append(cancelled)
        await listen(ear, notifications)

    monkeypatch.setattr(Ear, "listen", listen_on)
    ids = wired.defer("hold")
    watch = Watch(proxy, LOOK)
    worker = wired.worker(abort_job_polling_interval=0.05)
    async with ended_by(worker) as ended:
        await eventually(lambda: len(wired.began) == 1, "the job")
        watch.action = hold = HoldAt(LOOK, Direction.TO_SERVER, 0)
        watch.lose_cancels = True
        await within_patience(hold.reached.wait)
        wired.gate.set()
        worker.stop()
        try:
            await eventually(lambda: bool(ended), "the end of run()")
        finally:
            hold.let_go.set()
    assert ended == [None]
    assert swallowed
    assert watch.cancels > 0
    assert "could not be brought to rest" in caplog.text
    wired.each_ran_once(ids)
    await wired.is_quiet()
