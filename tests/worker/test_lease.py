"""A worker whose row is gone registers anew, keeps what nobody took, and lets go of the rest."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from tests.fix_worker import (
    FaultyConnector,
    Steps,
    rescue_elsewhere,
    stage_of,
    wait_until,
    working,
)
from trio_queue import App, JobContext
from trio_queue.jobs import AbortReason
from trio_queue.testing import FaultyStore
from trio_queue.verbs import (
    AdoptJobs,
    FetchJobs,
    FinishJobs,
    RegisterWorker,
    UnregisterWorker,
    UpdateHeartbeat,
    UpdateWorkerStage,
)
from trio_queue.worker import Stage


def prune(connector: FaultyConnector) -> None:
    """What somebody does who takes every worker for dead."""
    for worker_id in list(connector.database.tables.workers):
        connector.database.run(UnregisterWorker(worker_id))


@pytest.mark.promise("Leases and fences / it was suspended, or cut off, and its row is gone")
async def test_a_worker_whose_row_is_gone_registers_anew_and_works_on(
    app: App,
    connector: FaultyConnector,
    caplog: pytest.LogCaptureFixture,
    autojump_clock: trio.testing.MockClock,
) -> None:
    steps = Steps()
    steps.may_end.set()
    task = app.task(name="job")(steps.__call__)
    async with working(app) as worker:
        await trio.sleep(1)
        before = worker.worker_id
        prune(connector)
        await trio.sleep(11)
        assert worker.worker_id != before
        assert list(connector.database.tables.workers) == [worker.worker_id]
        await task.defer_async()
        await trio.sleep(1)
        assert connector.statuses == ["succeeded"]
    [record] = [r for r in caplog.records if r.__dict__.get("action") == "lease_lost"]
    assert f"its row {before} was gone" in record.getMessage()
    assert connector.database.tables.workers == {}


@pytest.mark.promise("Leases and fences / … and nobody has taken its job meanwhile")
async def test_jobs_that_nobody_has_taken_run_on_under_the_new_row(
    app: App, connector: FaultyConnector, autojump_clock: trio.testing.MockClock
) -> None:
    steps = Steps()
    await app.task(name="job")(steps.__call__).defer_async()
    async with working(app) as worker:
        await trio.sleep(1)
        prune(connector)
        await trio.sleep(11)
        assert connector.jobs[1]["worker_id"] == worker.worker_id
        steps.may_end.set()
        await trio.sleep(1)
    assert connector.statuses == ["succeeded"]
    assert connector.event_types(1) == ["deferred", "started", "succeeded"]


async def test_a_job_that_ends_before_its_lost_row_is_noticed_is_written_under_the_new_one(
    app: App, connector: FaultyConnector, autojump_clock: trio.testing.MockClock
) -> None:
    steps = Steps()
    await app.task(name="job")(steps.__call__).defer_async()
    async with working(app, update_heartbeat_interval=500, stalled_worker_timeout=1_000) as worker:
        await trio.sleep(1)
        before = worker.worker_id
        prune(connector)
        steps.may_end.set()
        await trio.sleep(1)
        assert connector.statuses == ["succeeded"]
        assert worker.worker_id != before
    assert connector.event_types(1) == ["deferred", "started", "succeeded"]


async def test_a_job_whose_lost_row_is_noticed_while_its_write_fails_is_written_under_the_new_one(
    app: App, connector: FaultyConnector, store: FaultyStore, autojump_clock: trio.testing.MockClock
) -> None:
    """The heartbeat adopts it between two tries: the next one still names the old row."""
    steps = Steps()
    await app.task(name="job")(steps.__call__).defer_async()
    async with working(app) as worker:
        await trio.sleep(1)
        before = worker.worker_id
        prune(connector)
        failing = store.fail(FinishJobs, times=None)
        steps.may_end.set()
        await trio.sleep(11)
        assert worker.worker_id != before
        failing.release()
        await trio.sleep(1)
        assert connector.statuses == ["succeeded"]
    assert connector.event_types(1) == ["deferred", "started", "succeeded"]


async def test_a_worker_does_not_rescue_its_own_jobs_while_it_adopts_them(
    app: App, connector: FaultyConnector, store: FaultyStore, autojump_clock: trio.testing.MockClock
) -> None:
    steps = Steps()
    await app.task(name="job")(steps.__call__).defer_async()
    async with working(app, update_heartbeat_interval=1, stalled_worker_timeout=3) as worker:
        await trio.sleep(1.5)
        prune(connector)
        failing = store.fail(AdoptJobs, times=None)
        store.lose_lease()  # the heartbeat notices it, and not the rescue
        await trio.sleep(10)
        assert connector.jobs[1]["worker_id"] is None
        failing.release()
        await trio.sleep(2)
        assert connector.jobs[1]["worker_id"] == worker.worker_id
        steps.may_end.set()
        await trio.sleep(1)
    assert connector.event_types(1) == ["deferred", "started", "succeeded"]


async def test_a_job_that_ends_while_it_is_being_adopted_is_written_when_it_is(
    app: App, connector: FaultyConnector, store: FaultyStore, autojump_clock: trio.testing.MockClock
) -> None:
    steps = Steps()
    await app.task(name="job")(steps.__call__).defer_async()
    async with working(app):
        await trio.sleep(1)
        prune(connector)
        failing = store.fail(AdoptJobs, times=None)
        store.lose_lease()
        await failing.wait_hit()
        steps.may_end.set()
        await trio.sleep(1)
        failing.release()
        await trio.sleep(1)
        assert connector.statuses == ["succeeded"]
    assert connector.event_types(1) == ["deferred", "started", "succeeded"]


async def test_a_row_that_is_lost_again_before_the_jobs_are_adopted_is_one_more_loss(
    app: App, connector: FaultyConnector, store: FaultyStore, autojump_clock: trio.testing.MockClock
) -> None:
    steps = Steps()
    await app.task(name="job")(steps.__call__).defer_async()
    async with working(app) as worker:
        await trio.sleep(1)
        prune(connector)
        adoption = store.hang(AdoptJobs)
        store.lose_lease()
        await adoption.wait_hit()
        prune(connector)
        adoption.release()
        await trio.sleep(1)
        assert connector.jobs[1]["worker_id"] == worker.worker_id
        assert stage_of(worker) is Stage.RUNNING
        steps.may_end.set()
        await trio.sleep(1)
    assert connector.event_types(1) == ["deferred", "started", "succeeded"]


@pytest.mark.promise("Leases and fences / … and another worker has its job by now")
async def test_jobs_that_another_has_taken_are_aborted_and_nothing_of_them_is_written(
    app: App, connector: FaultyConnector, autojump_clock: trio.testing.MockClock
) -> None:
    reasons: list[AbortReason | None] = []

    @app.task(name="job", pass_context=True)
    async def job(context: JobContext) -> None:
        try:
            await trio.sleep_forever()
        finally:
            reasons.append(context.abort_reason())

    await job.defer_async()
    async with working(app) as worker:
        await trio.sleep(1)
        rescue_elsewhere(connector)
        await trio.sleep(11)
        assert reasons == [AbortReason.LEASE_LOST]
        assert connector.statuses == ["doing"]
        assert connector.jobs[1]["worker_id"] not in {None, worker.worker_id}


async def test_a_lost_row_is_noticed_at_a_claim_too(
    app: App, connector: FaultyConnector, autojump_clock: trio.testing.MockClock
) -> None:
    steps = Steps()
    steps.may_end.set()
    task = app.task(name="job")(steps.__call__)
    async with working(app, update_heartbeat_interval=500, stalled_worker_timeout=1_000):
        await trio.sleep(1)
        prune(connector)
        await task.defer_async()
        await trio.sleep(1)
        assert connector.statuses == ["succeeded"]


async def test_a_row_lost_twice_is_noticed_twice(
    app: App, connector: FaultyConnector, autojump_clock: trio.testing.MockClock
) -> None:
    """The claim notices the first loss; the heartbeat, which goes on with the new row, the second."""
    async with working(app, fetch_job_polling_interval=1_000) as worker:
        ids: set[int | None] = set()
        for _ in range(3):
            await trio.sleep(1)
            ids.add(worker.worker_id)
            prune(connector)
            await app.configure_task("wakes the claim").defer_async()
            await trio.sleep(1)
            prune(connector)
            ids.add(worker.worker_id)
            await trio.sleep(11)
        assert len(ids) == 6
        assert list(connector.database.tables.workers) == [worker.worker_id]


async def test_a_loss_noticed_by_claim_and_heartbeat_at_once_is_one_loss(
    app: App, connector: FaultyConnector, store: FaultyStore, autojump_clock: trio.testing.MockClock
) -> None:
    steps = Steps()
    task = app.task(name="job")(steps.__call__)
    async with working(app, concurrency=2) as worker:
        await trio.sleep(1)
        lost_id = worker.worker_id
        prune(connector)
        claim = store.hang(FetchJobs)
        await task.defer_async()
        await claim.wait_hit()
        store.lose_lease()  # the heartbeat notices it while the claim is under way
        await wait_until(lambda: worker.worker_id != lost_id)
        claim.release()
        await trio.sleep(1)
        assert store.calls.count(RegisterWorker.name) == 2
        assert list(connector.database.tables.workers) == [worker.worker_id]
        steps.may_end.set()
        await trio.sleep(1)
        assert connector.statuses == ["succeeded"]


async def test_jobs_that_are_claimed_under_a_row_that_is_then_lost_do_not_begin(
    app: App, connector: FaultyConnector, store: FaultyStore, autojump_clock: trio.testing.MockClock
) -> None:
    steps = Steps()
    async with working(app) as worker:
        await trio.sleep(1)
        claim = store.hang(FetchJobs, after=True)
        await app.task(name="job")(steps.__call__).defer_async()
        await claim.wait_hit()
        lost_id = worker.worker_id
        prune(connector)
        store.lose_lease()
        await wait_until(lambda: worker.worker_id != lost_id)
        claim.release()
        await trio.testing.wait_all_tasks_blocked()
        assert not steps.started.is_set(), "it may run elsewhere by now"
        assert connector.jobs[1]["worker_id"] is None


async def test_registering_anew_is_tried_until_the_database_is_back(
    app: App, connector: FaultyConnector, store: FaultyStore, autojump_clock: trio.testing.MockClock
) -> None:
    async with working(app) as worker:
        await trio.sleep(1)
        prune(connector)
        store.fail(RegisterWorker, times=20)
        await trio.sleep(60)
        assert list(connector.database.tables.workers) == [worker.worker_id]


async def test_a_row_is_found_gone_while_draining_too(
    app: App, connector: FaultyConnector, autojump_clock: trio.testing.MockClock
) -> None:
    reasons: list[AbortReason | None] = []

    @app.task(name="job", pass_context=True)
    async def job(context: JobContext) -> None:
        try:
            await trio.sleep_forever()
        finally:
            reasons.append(context.abort_reason())

    await job.defer_async()
    async with working(app) as worker:
        await trio.sleep(1)
        worker.stop()
        assert stage_of(worker) is Stage.DRAINING
        await trio.sleep(1)
        rescue_elsewhere(connector)
    assert reasons == [AbortReason.LEASE_LOST]


async def test_the_lease_is_renewed_in_time(
    app: App, connector: FaultyConnector, autojump_clock: trio.testing.MockClock
) -> None:
    async with working(app, update_heartbeat_interval=3, stalled_worker_timeout=9):
        for _ in range(20):
            await trio.sleep(7)
            [row] = connector.database.tables.workers.values()
            assert (connector.now() - row.last_heartbeat).total_seconds() <= 3


async def test_a_stage_that_cannot_be_shown_is_shown_later_and_asked_for_with_patience(
    app: App, connector: FaultyConnector, store: FaultyStore, autojump_clock: trio.testing.MockClock
) -> None:
    fault = store.fail(UpdateWorkerStage, times=None)
    async with working(app):
        await trio.sleep(100)
        assert fault.hits <= 100 / 0.5
        fault.release()
        await trio.sleep(1)
        [row] = connector.database.tables.workers.values()
        assert row.stage == "running"


async def test_the_row_says_who_it_is(app: App, connector: FaultyConnector) -> None:
    async with working(app, name="mine", queues=["a", "b"], concurrency=7) as worker:
        [row] = connector.database.tables.workers.values()
        assert (row.id, row.name, row.queues, row.concurrency) == (
            worker.worker_id,
            "mine",
            ("a", "b"),
            7,
        )
        assert connector.database.run(UpdateHeartbeat(row.id))


async def test_renewing_what_was_renewed_already_does_nothing(
    app: App, connector: FaultyConnector
) -> None:
    async with working(app) as worker:
        before = worker.worker_id
        assert before is not None
        lease = worker._lease  # pyright: ignore[reportPrivateUsage]  # two who notice at once cannot be had otherwise
        assert lease is not None
        await lease.renew(before + 100)
        assert worker.worker_id == before


async def test_jobs_claimed_under_a_row_that_lived_shortly_are_kept_too(
    app: App,
    connector: FaultyConnector,
    store: FaultyStore,
    autojump_clock: trio.testing.MockClock,
) -> None:
    steps, more = Steps(), Steps()
    await app.task(name="job")(steps.__call__).defer_async()
    later = app.task(name="later")(more.__call__)
    async with working(app, concurrency=2) as worker:
        await steps.started.wait()
        prune(connector)
        adopting = store.hang(AdoptJobs)
        await adopting.wait_hit()
        await later.defer_async()
        await more.started.wait()
        prune(connector)
        adopting.release()
        await trio.sleep(1)
        assert {row["worker_id"] for row in connector.jobs.values()} == {worker.worker_id}
        steps.may_end.set()
        more.may_end.set()
        await trio.sleep(1)
        assert connector.statuses == ["succeeded", "succeeded"]
    # Neither was rescued by the worker that was running it.
    assert [connector.event_types(job_id) for job_id in (1, 2)] == [
        ["deferred", "started", "succeeded"]
    ] * 2


async def test_a_job_that_was_lost_is_not_adopted_at_a_later_loss(
    app: App, connector: FaultyConnector, autojump_clock: trio.testing.MockClock
) -> None:
    ends = trio.Event()

    @app.task(name="deaf")
    async def deaf() -> None:
        with trio.CancelScope(shield=True):
            await ends.wait()

    await deaf.defer_async()
    async with working(app):
        await trio.sleep(1)
        rescue_elsewhere(connector)
        await trio.sleep(11)
        status = connector.status(1)
        # It runs a second time, elsewhere, and that worker dies too: the run here is the lost one.
        row = connector.jobs[1]
        row["status"], row["worker_id"] = "doing", None
        prune(connector)
        await trio.sleep(11)
        holder = connector.jobs[1]["worker_id"]
        ends.set()
    assert (status, holder) == ("doing", None)
