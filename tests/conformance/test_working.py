"""Workers and their claims: who may start what, and in which order."""

from __future__ import annotations

import datetime

import pytest
import trio

from tests.conformance.conftest import registration
from trio_queue.exceptions import WorkerGone
from trio_queue.jobs import Job
from trio_queue.management import (
    CancelJob,
    ListEvents,
    ListJobs,
    ListStalledJobs,
    ListWorkers,
    RetryJob,
)
from trio_queue.store import AbortRequested, JobInserted, JobStore
from trio_queue.types import JSONDict
from trio_queue.verbs import (
    DeferJobs,
    FetchJobs,
    HasEligibleJob,
    ListJobsToAbort,
    PruneStalledWorkers,
    UnregisterWorker,
    UpdateHeartbeat,
    UpdateWorkerStage,
)

PAST = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)
FUTURE = datetime.datetime(2100, 1, 1, tzinfo=datetime.UTC)


async def fetch(store: JobStore, worker_id: int, limit: int = 100, *queues: str) -> list[str]:
    """The names of the tasks that are claimed."""
    jobs = (await store.run(FetchJobs(worker_id, queues or None, limit))).jobs
    return [job.task_name for job in jobs]


async def test_by_priority_then_id(store: JobStore, worker_id: int) -> None:
    await store.run(
        DeferJobs(
            [
                Job(task_name="a"),
                Job(task_name="b", priority=2),
                Job(task_name="c", priority=-1),
                Job(task_name="d", priority=2, scheduled_at=PAST),
            ]
        )
    )
    assert await fetch(store, worker_id, 0) == []
    assert await fetch(store, worker_id, 3) == ["b", "d", "a"]
    assert await fetch(store, worker_id, 3) == ["c"]


async def test_a_claimed_job(store: JobStore, worker_id: int) -> None:
    [job_id] = await store.run(DeferJobs([Job(task_name="a", task_kwargs={"x": [1]})]))
    [job] = (await store.run(FetchJobs(worker_id, None, 1))).jobs
    assert (job.id, job.status, job.worker_id, job.attempts) == (job_id, "doing", worker_id, 0)
    assert job.task_kwargs == {"x": [1]}
    assert [event.type for event in await store.run(ListEvents(job_id))] == ["deferred", "started"]


async def test_only_the_queues_asked_for(store: JobStore, worker_id: int) -> None:
    await store.run(DeferJobs([Job(task_name=name, queue=name) for name in "abc"]))
    assert not await store.run(HasEligibleJob(["x"]))
    assert await store.run(HasEligibleJob(["x", "b"]))
    assert await fetch(store, worker_id, 9, "c", "a", "c", "x") == ["a", "c"]
    assert (await store.run(FetchJobs(worker_id, [], 9))).jobs == []
    assert await fetch(store, worker_id) == ["b"]
    assert not await store.run(HasEligibleJob(None))


async def test_the_future_waits(store: JobStore, worker_id: int) -> None:
    assert (await store.run(FetchJobs(worker_id, None, 1))).next_in is None
    await store.run(DeferJobs([Job(task_name="a", queue="q", scheduled_at=FUTURE)]))
    assert not await store.run(HasEligibleJob(None))
    fetched = await store.run(FetchJobs(worker_id, None, 1))
    assert fetched.jobs == []
    assert fetched.next_in is not None
    assert fetched.next_in > 1e9
    assert (await store.run(FetchJobs(worker_id, ["other"], 1))).next_in is None
    assert (await store.run(FetchJobs(worker_id, ["q"], 1))).next_in is not None


async def test_a_claim_of_fewer_than_asked_tells_when_the_next_is_due(
    store: JobStore, worker_id: int
) -> None:
    due = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)
    jobs = [Job(task_name="now"), Job(task_name="due", scheduled_at=due)]
    await store.run(DeferJobs([*jobs, Job(task_name="later", scheduled_at=FUTURE)]))
    one = await store.run(FetchJobs(worker_id, None, 1))
    assert (len(one.jobs), one.next_in) == (1, None)  # it found as many: nobody asks
    other = await store.run(FetchJobs(worker_id, None, 2))
    assert len(other.jobs) == 1  # the due one, which is not what comes next
    assert other.next_in is not None
    assert other.next_in > 1e9


LARGE: JSONDict = {"text": "0123456789" * 30}


async def test_a_claim_ends_before_what_is_too_large_together(
    store: JobStore, worker_id: int
) -> None:
    sizes: list[JSONDict] = [{}, {}, LARGE, LARGE, {}, LARGE]
    await store.run(DeferJobs([Job(task_name="a", task_kwargs=size) for size in sizes]))
    await store.run(DeferJobs([Job(task_name="later", scheduled_at=FUTURE)]))
    found: list[tuple[int, bool]] = []
    for turn in range(1, 6):
        claim = FetchJobs(worker_id, None, 9, turn, max_bytes=500)
        fetched = await store.run(claim)
        found.append((len(fetched.jobs), fetched.found_all))
        assert (fetched.next_in is not None) is fetched.found_all
    assert found == [(3, False), (2, False), (1, True), (0, True), (0, True)]


async def test_one_job_is_taken_however_large(store: JobStore, worker_id: int) -> None:
    await store.run(DeferJobs([Job(task_name="a", task_kwargs=LARGE) for _ in range(2)]))
    for max_bytes in (1, 0):
        [job] = (await store.run(FetchJobs(worker_id, None, 9, max_bytes=max_bytes))).jobs
        assert job.task_kwargs == LARGE


@pytest.mark.parametrize("limit", [-1, 0, 1, 2, 3])
async def test_whether_there_is_more(store: JobStore, worker_id: int, limit: int) -> None:
    await store.run(DeferJobs([Job(task_name="a") for _ in range(2)]))
    fetched = await store.run(FetchJobs(worker_id, None, limit, max_bytes=500))
    assert fetched.found_all is (not fetched.jobs or limit > 2)


async def test_a_retry_for_later_is_told(store: JobStore, worker_id: int) -> None:
    """A worker that has nothing to do would sleep beyond it."""
    await store.run(DeferJobs([Job(task_name="a")]))
    [job] = (await store.run(FetchJobs(worker_id, None, 1))).jobs
    assert job.id is not None
    async with store.listen(None) as notifications:
        await store.run(RetryJob(job_id=job.id, retry_at=FUTURE))
        assert list(await notifications.wait()) == [JobInserted()]


async def test_one_job_of_a_lock_at_a_time(store: JobStore, worker_id: int) -> None:
    await store.run(DeferJobs([Job(task_name=name, lock="l") for name in "ab"]))
    assert await fetch(store, worker_id) == ["a"]
    assert not await store.run(HasEligibleJob(None))
    assert await fetch(store, worker_id) == []


@pytest.mark.parametrize(
    "first",
    [
        Job(task_name="first", lock="l", priority=1, scheduled_at=FUTURE),
        Job(task_name="first", lock="l", priority=1, queue="foreign"),
    ],
)
async def test_the_first_of_a_lock_holds_the_others(
    store: JobStore, worker_id: int, first: Job
) -> None:
    await store.run(DeferJobs([Job(task_name="second", lock="l"), first, Job(task_name="free")]))
    assert await fetch(store, worker_id, 9, "default") == ["free"]
    assert not await store.run(HasEligibleJob(["default"]))


async def test_a_worker_that_is_not_registered_claims_nothing(store: JobStore) -> None:
    [job_id] = await store.run(DeferJobs([Job(task_name="a")]))
    with pytest.raises(WorkerGone):
        await store.run(FetchJobs(12345, None, 1))
    [job] = await store.run(ListJobs(id=job_id))
    assert (job.status, job.worker_id) == ("todo", None)


async def test_what_a_worker_shows(store: JobStore) -> None:
    worker_id = await store.run(registration(queues=None))
    await store.run(DeferJobs([Job(task_name="a")]))
    await fetch(store, worker_id)
    await store.run(UpdateWorkerStage(worker_id, "draining"))
    [worker] = await store.run(ListWorkers())
    assert (worker.id, worker.name, worker.host, worker.pid) == (worker_id, "bee", "hive", 12)
    assert (worker.version, worker.queues, worker.concurrency) == ("1.0", None, 3)
    assert (worker.stage, worker.running) == ("draining", 1)
    assert worker.since is not None
    assert 0 <= worker.seconds_since_heartbeat < 60
    assert not worker.is_foreign
    await store.run(UpdateWorkerStage(worker_id + 1, "draining"))


async def test_a_worker_that_leaves(store: JobStore, worker_id: int) -> None:
    assert await store.run(UpdateHeartbeat(worker_id))
    await store.run(DeferJobs([Job(task_name="a")]))
    [job] = (await store.run(FetchJobs(worker_id, None, 1))).jobs
    await store.run(UnregisterWorker(worker_id))
    await store.run(UnregisterWorker(worker_id))
    assert not await store.run(UpdateHeartbeat(worker_id))
    [left] = await store.run(ListJobs())
    assert left == job.evolve(worker_id=None)
    assert await store.run(ListWorkers()) == []
    assert [job.id for job in await store.run(ListStalledJobs())] == [job.id]


async def test_stalled_workers_are_pruned(store: JobStore, worker_id: int) -> None:
    assert await store.run(PruneStalledWorkers(1000)) == []
    assert await store.run(ListStalledJobs()) == []
    # Not heard of since a moment in the future: everybody.
    assert await store.run(PruneStalledWorkers(-1000)) == [worker_id]
    assert await store.run(ListWorkers()) == []


async def test_aborts_that_are_asked_for(store: JobStore, worker_id: int) -> None:
    other = await store.run(registration())
    await store.run(DeferJobs([Job(task_name="a"), Job(task_name="b")]))
    [mine] = (await store.run(FetchJobs(worker_id, None, 1))).jobs
    [foreign] = (await store.run(FetchJobs(other, None, 1))).jobs
    assert mine.id is not None
    assert foreign.id is not None
    assert await store.run(ListJobsToAbort(worker_id)) == []
    for job_id in (mine.id, foreign.id):
        assert await store.run(CancelJob(job_id, abort=True))
    assert await store.run(ListJobsToAbort(worker_id)) == [mine.id]


async def test_news_of_jobs_and_aborts(store: JobStore, worker_id: int) -> None:
    async with store.listen(None) as every, store.listen(["a", "b"]) as some:
        [job_id] = await store.run(DeferJobs([Job(task_name="t", queue="a")]))
        assert JobInserted() in await every.wait()
        assert JobInserted() in await some.wait()
        await store.run(DeferJobs([Job(task_name="t", queue="c")]))
        assert JobInserted() in await every.wait()
        await fetch(store, worker_id, 9, "a")
        await store.run(CancelJob(job_id, abort=True))
        assert AbortRequested(job_id) in await every.wait()
        # Nothing of queue c came before it.
        assert await some.wait() == [AbortRequested(job_id)]


async def test_a_cancelled_wait_loses_nothing(store: JobStore) -> None:
    async with store.listen(None) as notifications:
        with trio.CancelScope() as scope:
            scope.cancel()
            await notifications.wait()
        assert scope.cancelled_caught
        await store.run(DeferJobs([Job(task_name="t")]))
        with trio.CancelScope() as scope:
            scope.cancel()
            await notifications.wait()
        assert await notifications.wait() == [JobInserted()]


async def test_a_lease_is_found_lost_and_renewed(store: JobStore, worker_id: int) -> None:
    async with store.keep_alive(worker_id, 0.01) as heartbeat:
        await store.run(UnregisterWorker(worker_id))
        await heartbeat.wait_lost()
        renewed = await store.run(registration())
        [before] = await store.run(ListWorkers())
        heartbeat.renew(renewed)
        while (await store.run(ListWorkers()))[0].last_heartbeat == before.last_heartbeat:
            await trio.lowlevel.checkpoint()
        with trio.move_on_after(0) as scope:
            await heartbeat.wait_lost()
        assert scope.cancelled_caught


async def test_an_error_leaves_the_lease_as_it_is(store: JobStore, worker_id: int) -> None:
    with pytest.raises(ZeroDivisionError):
        async with store.keep_alive(worker_id, 10):
            raise ZeroDivisionError
    with trio.CancelScope() as scope:
        async with store.keep_alive(worker_id, 10):
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught


async def test_an_error_in_a_cancelled_block_is_raised_bare(
    store: JobStore, worker_id: int
) -> None:
    async def fail() -> None:
        async with store.keep_alive(worker_id, 10):
            with pytest.raises(trio.Cancelled):
                await trio.sleep_forever()
            raise ZeroDivisionError

    with trio.CancelScope() as scope:
        scope.cancel()
        with pytest.raises(ZeroDivisionError):
            await fail()
