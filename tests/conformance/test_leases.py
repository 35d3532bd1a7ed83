"""What becomes of the jobs of a worker whose row is gone: the worker itself, or another, takes them over."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio

from tests.conformance.conftest import finished, registration
from trio_queue.completion import WORKER_DIED, Completion
from trio_queue.exceptions import WorkerGone
from trio_queue.jobs import Job, Status
from trio_queue.management import FinishJob, ListEvents, ListJobs, ListWorkers, RetryJob
from trio_queue.retry import RetryDecision
from trio_queue.store import JobStore
from trio_queue.verbs import (
    AdoptJobs,
    AdoptOrphans,
    DeferJobs,
    FetchJobs,
    FinishJobs,
    Orphan,
    PruneStalledWorkers,
    ReleaseJobs,
    UnregisterWorker,
    UpdateHeartbeat,
)

#: Seconds: nobody is taken for dead.
LONG = 1e6


async def claim(store: JobStore, worker_id: int, count: int = 1) -> list[int]:
    """New jobs that this worker runs."""
    ids = await store.run(DeferJobs([Job(task_name=f"t{n}") for n in range(count)]))
    jobs = (await store.run(FetchJobs(worker_id, None, count))).jobs
    assert [job.id for job in jobs] == ids
    return ids


async def holders(store: JobStore) -> dict[int | None, int | None]:
    return {job.id: job.worker_id for job in await store.run(ListJobs())}


def ids_of(orphans: Sequence[Orphan]) -> list[int | None]:
    return [orphan.job.id for orphan in orphans]


async def write_death(store: JobStore, worker_id: int, job_id: int, attempts: int) -> None:
    """Give a job back whose worker died."""
    completion = Completion(
        job_id=job_id,
        attempts=attempts,
        status=Status.TODO,
        retry=RetryDecision(),
        reason=WORKER_DIED,
    )
    [answer] = await finished(store, FinishJobs(worker_id, [completion]))
    assert answer.status is Status.TODO


# -- adopt_jobs ---------------------------------------------------------------------------------


async def test_a_worker_takes_its_own_jobs_up_again(store: JobStore, worker_id: int) -> None:
    first, second, third = await claim(store, worker_id, 3)
    await store.run(UnregisterWorker(worker_id))
    renewed = await store.run(registration())
    adopt = AdoptJobs(renewed, worker_id, [(third, 0), (first, 0)])
    assert await store.run(adopt) == [first, third]
    assert await holders(store) == {first: renewed, second: None, third: renewed}
    # An earlier try arrived.
    assert await store.run(adopt) == [first, third]
    # Nobody rescues what was taken up again.
    other = await store.run(registration())
    assert ids_of(await store.run(AdoptOrphans(other, LONG, 10))) == [second]
    events = [event.type for event in await store.run(ListEvents(first))]
    assert events == ["deferred", "started"]


async def test_jobs_under_the_lost_id_are_taken_too(store: JobStore, worker_id: int) -> None:
    [job_id] = await claim(store, worker_id)
    renewed = await store.run(registration())
    assert await store.run(AdoptJobs(renewed, worker_id, [(job_id, 0)])) == [job_id]
    assert await holders(store) == {job_id: renewed}


async def test_what_is_somebody_elses_by_now_is_not_taken(store: JobStore, worker_id: int) -> None:
    mine, rescued, ended, retried, gone = await claim(store, worker_id, 5)
    await store.run(UnregisterWorker(worker_id))
    other, renewed = await store.run(registration()), await store.run(registration())
    assert await store.run(AdoptJobs(other, worker_id, [(rescued, 0)])) == [rescued]
    await store.run(FinishJob(ended, Status.FAILED))
    await store.run(FinishJob(gone, Status.FAILED, delete_job=True))
    await store.run(RetryJob(job_id=retried))
    [again] = (await store.run(FetchJobs(other, None, 9))).jobs
    assert again.attempts == 1
    everything = [(job_id, 0) for job_id in (mine, rescued, ended, retried, gone)]
    assert await store.run(AdoptJobs(renewed, worker_id, everything)) == [mine]
    assert await holders(store) == {mine: renewed, rescued: other, retried: other, ended: None}


async def test_nothing_to_take_up_again(store: JobStore, worker_id: int) -> None:
    assert await store.run(AdoptJobs(worker_id, 12345, [])) == []
    assert await store.run(AdoptJobs(12345, worker_id, [(999, 0)])) == []


async def test_jobs_need_a_row_to_be_taken_up(store: JobStore, worker_id: int) -> None:
    [job_id] = await claim(store, worker_id)
    await store.run(UnregisterWorker(worker_id))
    with pytest.raises(WorkerGone):
        await store.run(AdoptJobs(12345, worker_id, [(job_id, 0)]))
    with pytest.raises(WorkerGone):
        await store.run(AdoptOrphans(12345, LONG, 1))
    # Nothing is lost.
    other = await store.run(registration())
    assert ids_of(await store.run(AdoptOrphans(other, LONG, 1))) == [job_id]


# -- adopt_orphans ------------------------------------------------------------------------------


async def test_a_worker_not_heard_of_is_taken_for_dead(store: JobStore, worker_id: int) -> None:
    ids = await claim(store, worker_id, 3)
    other = await store.run(registration())
    assert await store.run(AdoptOrphans(other, LONG, 10)) == []
    assert await store.run(UpdateHeartbeat(worker_id))
    # Not heard of since a moment in the future: everybody, but not the asker.
    taken = await store.run(AdoptOrphans(other, -1000, 2))
    assert [worker.id for worker in await store.run(ListWorkers())] == [other]
    assert not await store.run(UpdateHeartbeat(worker_id))
    assert ids_of(taken) == ids[:2]
    job = taken[0].job
    assert (job.status, job.worker_id, job.attempts) == (Status.DOING.value, other, 0)
    assert job.task_name == "t0"
    assert [orphan.deaths for orphan in taken] == [1, 1]
    assert ids_of(await store.run(AdoptOrphans(other, LONG, 10))) == ids[2:]
    assert await store.run(AdoptOrphans(other, LONG, 10)) == []
    assert await holders(store) == dict.fromkeys(ids, other)


@pytest.mark.parametrize("prune", [False, True])
async def test_whoever_deletes_the_row_leaves_orphans(
    store: JobStore, worker_id: int, *, prune: bool
) -> None:
    [job_id] = await claim(store, worker_id)
    await store.run(PruneStalledWorkers(-1000) if prune else UnregisterWorker(worker_id))
    other = await store.run(registration())
    assert ids_of(await store.run(AdoptOrphans(other, LONG, 1))) == [job_id]


async def test_nothing_is_taken_where_nothing_is_asked_for(store: JobStore, worker_id: int) -> None:
    await claim(store, worker_id)
    other = await store.run(registration())
    assert await store.run(AdoptOrphans(other, -1000, 0)) == []
    assert await store.run(UpdateHeartbeat(worker_id))


async def test_orphans_that_moved_on_are_nobodys(store: JobStore, worker_id: int) -> None:
    ended, deleted, retried, orphan = await claim(store, worker_id, 4)
    await store.run(UnregisterWorker(worker_id))
    await store.run(FinishJob(ended, Status.FAILED))
    await store.run(FinishJob(deleted, Status.FAILED, delete_job=True))
    await store.run(RetryJob(job_id=retried))
    other, third = await store.run(registration()), await store.run(registration())
    # Running elsewhere, in its second attempt.
    [again] = (await store.run(FetchJobs(third, None, 9))).jobs
    assert again.id == retried
    assert ids_of(await store.run(AdoptOrphans(other, LONG, 1))) == [orphan]
    assert await store.run(AdoptOrphans(other, LONG, 10)) == []
    assert await holders(store) == {ended: None, retried: third, orphan: other}


async def test_deaths_are_counted(store: JobStore, worker_id: int) -> None:
    [job_id] = await claim(store, worker_id)
    for deaths in (1, 2, 3):
        await store.run(PruneStalledWorkers(-1000))
        rescuer = await store.run(registration())
        [orphan] = await store.run(AdoptOrphans(rescuer, LONG, 9))
        assert (orphan.deaths, orphan.job.attempts) == (deaths, deaths - 1)
        await write_death(store, rescuer, job_id, deaths - 1)
        events = await store.run(ListEvents(job_id))
        assert sum(event.reason == WORKER_DIED for event in events) == deaths
        [again] = (await store.run(FetchJobs(rescuer, None, 9))).jobs
        assert again.attempts == deaths


async def test_a_job_taken_up_and_given_back_is_no_orphan(store: JobStore, worker_id: int) -> None:
    [job_id] = await claim(store, worker_id)
    await store.run(UnregisterWorker(worker_id))
    other = await store.run(registration())
    await store.run(AdoptOrphans(other, LONG, 9))
    # The same attempt again, under somebody else.
    assert await store.run(ReleaseJobs(other, [])) != []
    third = await store.run(registration())
    assert (await store.run(FetchJobs(third, None, 9))).jobs != []
    assert await store.run(AdoptOrphans(other, LONG, 9)) == []
    await store.run(UnregisterWorker(third))
    assert ids_of(await store.run(AdoptOrphans(other, LONG, 9))) == [job_id]


async def test_each_is_taken_once_however_many_ask(store: JobStore, worker_id: int) -> None:
    ids = await claim(store, worker_id, 60)
    await store.run(UnregisterWorker(worker_id))
    taken: list[tuple[int, int | None]] = []

    async def adopt(rescuer: int) -> None:
        while orphans := await store.run(AdoptOrphans(rescuer, LONG, 3)):
            taken.extend((rescuer, job_id) for job_id in ids_of(orphans))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(adopt, await store.run(registration()))
    assert sorted(job_id or 0 for _, job_id in taken) == ids
    assert await holders(store) == {job_id: rescuer for rescuer, job_id in taken}
