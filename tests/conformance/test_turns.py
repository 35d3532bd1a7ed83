"""Claims and releases are numbered: one that arrives after a later one does nothing."""

from __future__ import annotations

import pytest

from tests.conformance.conftest import registration
from trio_queue.jobs import Job, Status
from trio_queue.store import JobStore
from trio_queue.verbs import AdoptOrphans, DeferJobs, FetchJobs, ReleaseJobs, UnregisterWorker


@pytest.fixture
async def jobs(store: JobStore) -> list[int]:
    return await store.run(DeferJobs([Job(task_name="t"), Job(task_name="t")]))


async def test_a_late_claim_takes_nothing(store: JobStore, worker_id: int, jobs: list[int]) -> None:
    assert await store.run(ReleaseJobs(worker_id, [], 2)) == []
    assert (await store.run(FetchJobs(worker_id, None, 1, 1))).jobs == []
    assert (
        await store.run(FetchJobs(worker_id, None, 1, 2))
    ).jobs == []  # the same one a second time
    [claimed] = (await store.run(FetchJobs(worker_id, None, 1, 3))).jobs
    assert claimed.id == jobs[0]


async def test_a_late_release_gives_nothing_back(
    store: JobStore, worker_id: int, jobs: list[int]
) -> None:
    [claimed] = (await store.run(FetchJobs(worker_id, None, 1, 2))).jobs
    assert await store.run(ReleaseJobs(worker_id, [], 1)) == []
    [released] = await store.run(ReleaseJobs(worker_id, [], 3))
    assert (released.job_id, released.status) == (claimed.id, Status.TODO)


async def test_a_late_rescue_takes_nothing_over(
    store: JobStore, worker_id: int, jobs: list[int]
) -> None:
    dead = await store.run(registration())
    await store.run(FetchJobs(dead, None, 2))
    await store.run(UnregisterWorker(dead))
    await store.run(ReleaseJobs(worker_id, [], 2))
    assert await store.run(AdoptOrphans(worker_id, 30.0, 9, 1)) == []
    assert len(await store.run(AdoptOrphans(worker_id, 30.0, 9, 3))) == 2


async def test_each_worker_counts_for_itself_and_none_need_count(
    store: JobStore, worker_id: int, jobs: list[int]
) -> None:
    other = await store.run(registration())
    assert len((await store.run(FetchJobs(worker_id, None, 1, 9))).jobs) == 1
    assert len((await store.run(FetchJobs(other, None, 1, 1))).jobs) == 1
    assert len(await store.run(ReleaseJobs(worker_id, []))) == 1
    assert len((await store.run(FetchJobs(worker_id, None, 1))).jobs) == 1
