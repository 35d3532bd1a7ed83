"""Looking and managing: lists, counts, cancel, retry, finish, and the removal of old jobs."""

from __future__ import annotations

import datetime
from typing import Any

import pytest

from trio_queue.completion import Completion
from trio_queue.exceptions import AlreadyEnqueued, ConnectorException, InvalidOption, JobNotFound
from trio_queue.jobs import GroupCount, Job, Status
from trio_queue.management import (
    CancelJob,
    CheckConnection,
    Deleted,
    DeleteOldJobs,
    FinishJob,
    GetJobStatus,
    ListEvents,
    ListJobs,
    ListLocks,
    ListQueues,
    ListStalledJobs,
    ListTasks,
    RetryJob,
)
from trio_queue.store import JobStore
from trio_queue.verbs import DeferJobs, FetchJobs, FinishJobs

FUTURE = datetime.datetime(2100, 1, 1, tzinfo=datetime.UTC)


async def running(store: JobStore, worker_id: int, **values: Any) -> int:
    [job_id] = await store.run(DeferJobs([Job(task_name="t").evolve(**values)]))
    await store.run(FetchJobs(worker_id, None, 100))
    return job_id


async def types(store: JobStore, job_id: int) -> list[str]:
    return [event.type for event in await store.run(ListEvents(job_id))]


async def test_the_connection(store: JobStore) -> None:
    assert await store.run(CheckConnection()) is True


async def test_every_filter(store: JobStore, worker_id: int) -> None:
    held = await running(store, worker_id, task_name="held")
    ids = await store.run(
        DeferJobs(
            [
                Job(task_name="a", queue="p", lock="l"),
                Job(task_name="b", queue="q", queueing_lock="k"),
                Job(task_name="a", queue="q", lock="m"),
            ]
        )
    )

    async def found(**filters: Any) -> list[int | None]:
        return [job.id for job in await store.run(ListJobs(**filters))]

    assert await found() == [held, *ids]
    assert await found(id=ids[1]) == [ids[1]]
    assert await found(queue="q") == ids[1:]
    assert await found(task="a") == [ids[0], ids[2]]
    assert await found(task="a", queue="q") == [ids[2]]
    assert await found(status=Status.DOING) == [held]
    assert await found(lock="l") == [ids[0]]
    assert await found(queueing_lock="k") == [ids[1]]
    assert await found(worker_id=worker_id) == [held]
    assert await found(limit=2) == [held, ids[0]]
    assert await found(limit=2, after_id=held) == ids[:2]
    assert await found(limit=2, newest=True) == ids[1:]
    assert await found(limit=0) == []
    assert await found(after_id=ids[1]) == [ids[2]]
    assert await found(queue="nothing") == []


async def test_counts(store: JobStore, worker_id: int) -> None:
    await running(store, worker_id, task_name="b", queue="Q", lock="l")
    await store.run(
        DeferJobs([Job(task_name="b", queue="q", lock="l"), Job(task_name="a", queue="q")])
    )
    assert await store.run(ListQueues()) == [
        GroupCount(name="Q", jobs_count=1, stats={"doing": 1}),
        GroupCount(name="q", jobs_count=2, stats={"todo": 2}),
    ]
    assert await store.run(ListTasks()) == [
        GroupCount(name="a", jobs_count=1, stats={"todo": 1}),
        GroupCount(name="b", jobs_count=2, stats={"doing": 1, "todo": 1}),
    ]
    assert await store.run(ListLocks()) == [
        GroupCount(name="l", jobs_count=2, stats={"doing": 1, "todo": 1})
    ]
    one = [GroupCount(name="b", jobs_count=1, stats={"doing": 1})]
    assert await store.run(ListTasks(queue="Q", task="b", status=Status.DOING, lock="l")) == one
    assert await store.run(ListTasks(queue="nothing")) == []


async def test_cancel_a_waiting_job(store: JobStore) -> None:
    plain, aborted, deleted = await store.run(DeferJobs([Job(task_name="t") for _ in range(3)]))
    assert await store.run(CancelJob(plain))
    assert await store.run(CancelJob(aborted, abort=True))
    assert await store.run(CancelJob(deleted, delete_job=True))
    assert not await store.run(CancelJob(plain))
    assert not await store.run(CancelJob(deleted))
    assert await types(store, plain) == ["deferred", "cancelled"]
    assert await types(store, aborted) == ["deferred", "abort_requested", "cancelled"]
    assert await store.run(GetJobStatus(plain)) is Status.CANCELLED
    assert [job.abort_requested for job in await store.run(ListJobs())] == [False, True]


async def test_cancel_a_running_job(store: JobStore, worker_id: int) -> None:
    job_id = await running(store, worker_id)
    assert not await store.run(CancelJob(job_id))
    assert not await store.run(CancelJob(job_id, delete_job=True))
    assert await store.run(CancelJob(job_id, abort=True))
    assert await store.run(CancelJob(job_id, abort=True))
    assert await store.run(GetJobStatus(job_id)) is Status.DOING
    assert (await types(store, job_id))[2:] == ["abort_requested", "abort_requested"]


async def test_no_such_job(store: JobStore) -> None:
    assert not await store.run(CancelJob(12345, abort=True))
    for verb in (
        GetJobStatus(12345),
        RetryJob(job_id=12345),
        FinishJob(12345, Status.FAILED),
    ):
        with pytest.raises(JobNotFound):
            await store.run(verb)
    assert await store.run(ListEvents(12345)) == []


async def test_retry_a_failed_job(store: JobStore, worker_id: int) -> None:
    job_id = await running(store, worker_id, lock="l")
    done = Completion(job_id=job_id, attempts=0, status=Status.FAILED)
    await store.run(FinishJobs(worker_id, [done]))
    await store.run(RetryJob(job_id=job_id, retry_at=FUTURE, priority=3, queue="q", lock="m"))
    [job] = await store.run(ListJobs())
    assert (job.status, job.attempts, job.scheduled_at) == ("todo", 2, FUTURE)
    assert (job.priority, job.queue, job.lock) == (3, "q", "m")
    assert (await types(store, job_id))[-2:] == ["scheduled", "retried"]
    with pytest.raises(JobNotFound):
        await store.run(RetryJob(job_id=job_id))


async def test_retry_a_running_job(store: JobStore, worker_id: int) -> None:
    job_id = await running(store, worker_id)
    await store.run(RetryJob(job_id=job_id))
    assert (await types(store, job_id))[-1] == "deferred_for_retry"
    await store.run(FetchJobs(worker_id, None, 1))
    await store.run(CancelJob(job_id, abort=True))
    await store.run(RetryJob(job_id=job_id))
    [job] = await store.run(ListJobs())
    assert (job.status, job.abort_requested, job.attempts) == ("failed", True, 1)
    # And once failed so, it cannot wait again: the flag stays set.
    with pytest.raises(ConnectorException):
        await store.run(RetryJob(job_id=job_id))
    assert await store.run(ListJobs()) == [job]


async def test_retry_while_another_waits_with_its_queueing_lock(
    store: JobStore, worker_id: int
) -> None:
    job_id = await running(store, worker_id, queueing_lock="q")
    await store.run(DeferJobs([Job(task_name="t", queueing_lock="q")]))
    with pytest.raises(AlreadyEnqueued):
        await store.run(RetryJob(job_id=job_id))
    assert await store.run(GetJobStatus(job_id)) is Status.DOING


@pytest.mark.parametrize("values", [{"queue": "x" * 41}, {"priority": 2**31}, {"lock": "\x00"}])
async def test_retry_with_what_no_column_holds(
    store: JobStore, worker_id: int, values: dict[str, Any]
) -> None:
    job_id = await running(store, worker_id)
    with pytest.raises(InvalidOption):
        await store.run(RetryJob(job_id=job_id, **values))


async def test_finish_by_hand(store: JobStore, worker_id: int) -> None:
    held = await running(store, worker_id)
    waiting, deleted = await store.run(DeferJobs([Job(task_name="t"), Job(task_name="t")]))
    await store.run(FinishJob(held, Status.SUCCEEDED))
    await store.run(FinishJob(waiting, Status.FAILED))
    await store.run(FinishJob(deleted, Status.ABORTED, delete_job=True))
    assert [(job.status, job.attempts) for job in await store.run(ListJobs())] == [
        ("succeeded", 1),
        ("failed", 0),
    ]
    assert (await types(store, held))[-1] == "succeeded"
    assert (await types(store, waiting))[-1] == "cancelled"
    with pytest.raises(JobNotFound):
        await store.run(FinishJob(held, Status.FAILED))
    with pytest.raises(InvalidOption):
        await store.run(FinishJob(held, Status.TODO))


async def test_stalled_jobs(store: JobStore, worker_id: int) -> None:
    job_id = await running(store, worker_id, queue="q", task_name="x")

    async def stalled(**filters: Any) -> list[int | None]:
        return [job.id for job in await store.run(ListStalledJobs(**filters))]

    assert await stalled() == []
    assert await stalled(seconds_since_heartbeat=-10) == [job_id]
    assert await stalled(nb_seconds=1000) == []
    assert await stalled(nb_seconds=-10) == [job_id]
    assert await stalled(nb_seconds=-10, queue="q", task_name="x") == [job_id]
    assert await stalled(nb_seconds=-10, queue="other") == []
    assert await stalled(seconds_since_heartbeat=-10, task_name="other") == []


async def test_old_jobs(store: JobStore, worker_id: int) -> None:
    ids = [await running(store, worker_id, queue=queue) for queue in "aab"]
    for job_id in ids:
        await store.run(FinishJob(job_id, Status.SUCCEEDED))
    await running(store, worker_id)
    ended = [Status.SUCCEEDED, Status.FAILED]

    async def deleted(**said: Any) -> Deleted:
        given: dict[str, Any] = {"nb_hours": -1, "statuses": ended, **said}
        return await store.run(DeleteOldJobs(**given))

    assert await deleted(nb_hours=1) == Deleted(0)
    assert await deleted(statuses=[Status.FAILED]) == Deleted(0)
    assert await deleted(only_count=True) == Deleted(3)
    assert await deleted(queue="b", after_id=ids[2]) == Deleted(0)
    assert await deleted(queue="b") == Deleted(1)
    assert await deleted(limit=1, only_count=True) == Deleted(1, walked_to=ids[0])
    assert await deleted(limit=1) == Deleted(1, walked_to=ids[0])
    assert await deleted(limit=1, after_id=ids[0]) == Deleted(1, walked_to=ids[1])
    assert await deleted(after_id=ids[1]) == Deleted(0)
    assert [job.status for job in await store.run(ListJobs())] == ["doing"]
    assert await store.run(ListEvents(ids[0])) == []
