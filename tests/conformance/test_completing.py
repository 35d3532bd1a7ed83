"""What becomes of a row when a run has ended: fenced, in batches, never half done."""

from __future__ import annotations

import datetime
from typing import Any

import pytest

from tests.conformance.conftest import finished, registration
from trio_queue.completion import Completion
from trio_queue.jobs import Job, Status
from trio_queue.management import CancelJob, ListEvents, ListJobs
from trio_queue.retry import RetryDecision
from trio_queue.store import JobStore
from trio_queue.verbs import (
    DeferJobs,
    FetchJobs,
    Finished,
    FinishJobs,
    ReleaseJobs,
    UnregisterWorker,
)

FUTURE = datetime.datetime(2100, 1, 1, tzinfo=datetime.UTC)


async def claimed(store: JobStore, worker_id: int, *jobs: Job) -> list[int]:
    """The ids of these jobs, now run by this worker."""
    await store.run(DeferJobs(jobs or [Job(task_name="t")]))
    return [job.id or 0 for job in (await store.run(FetchJobs(worker_id, None, 100))).jobs]


async def row(store: JobStore, job_id: int) -> Job:
    [job] = await store.run(ListJobs(id=job_id))
    return job


async def events(store: JobStore, job_id: int) -> list[str]:
    """The types of the events since the job was started."""
    types = [event.type for event in await store.run(ListEvents(job_id))]
    return types[types.index("started") + 1 :]


def completion(job_id: int, status: Status = Status.SUCCEEDED, **values: Any) -> Completion:
    values.setdefault("attempts", 0)
    return Completion(job_id=job_id, status=status, **values)


@pytest.mark.parametrize("status", [Status.SUCCEEDED, Status.FAILED, Status.ABORTED])
async def test_an_end(store: JobStore, worker_id: int, status: Status) -> None:
    [job_id] = await claimed(store, worker_id)
    await store.run(CancelJob(job_id, abort=True))
    answer = await finished(store, FinishJobs(worker_id, [completion(job_id, status)]))
    assert answer == [Finished(job_id, status)]
    job = await row(store, job_id)
    assert (job.status, job.attempts, job.abort_requested) == (status.value, 1, False)
    assert job.worker_id == worker_id
    assert await events(store, job_id) == ["abort_requested", status.value]


async def test_nothing_to_write(store: JobStore, worker_id: int) -> None:
    assert await finished(store, FinishJobs(worker_id, [])) == []


async def test_many_at_once_are_answered_in_their_order(store: JobStore, worker_id: int) -> None:
    ids = await claimed(store, worker_id, *(Job(task_name="t") for _ in range(9)))
    done = [
        completion(job_id, Status.FAILED if job_id % 2 else Status.SUCCEEDED)
        for job_id in reversed(ids)
    ]
    answer = await finished(store, FinishJobs(worker_id, done))
    assert answer == [Finished(one.job_id, one.status) for one in done]


@pytest.mark.promise("Leases and fences / an outcome is written for a job that is another's by now")
@pytest.mark.parametrize("kind", ["attempts", "worker", "gone", "ended otherwise"])
async def test_a_run_that_is_somebody_elses(store: JobStore, worker_id: int, kind: str) -> None:
    [job_id, other] = await claimed(store, worker_id, Job(task_name="t"), Job(task_name="t"))
    holder = worker_id
    attempts = 0
    if kind == "attempts":
        attempts = 3
    elif kind == "worker":
        holder = await store.run(registration())
    elif kind == "gone":
        await store.run(UnregisterWorker(worker_id))
    else:
        await store.run(FinishJobs(worker_id, [completion(job_id, Status.FAILED)]))
    before = await row(store, job_id)
    for status in (Status.SUCCEEDED, Status.TODO):
        for delete in {False, status is Status.SUCCEEDED}:
            done = completion(job_id, status, attempts=attempts, delete=delete)
            assert await finished(store, FinishJobs(holder, [done])) == [Finished(job_id, None)]
    assert await row(store, job_id) == before
    if kind == "ended otherwise":
        # The fence of one does not hold back another.
        batch = [completion(job_id), completion(other)]
        assert await finished(store, FinishJobs(worker_id, batch)) == [
            Finished(job_id, None),
            Finished(other, Status.SUCCEEDED),
        ]


@pytest.mark.promise("When the database is away / a write whose answer is lost")
@pytest.mark.parametrize(
    "values",
    [
        {"status": Status.SUCCEEDED},
        {"status": Status.FAILED, "reason": "shutdown"},
        {"status": Status.SUCCEEDED, "delete": True},
        {"status": Status.TODO},
        {"status": Status.TODO, "retry": RetryDecision()},
    ],
)
async def test_a_write_that_arrived_before(
    store: JobStore, worker_id: int, values: dict[str, Any]
) -> None:
    [job_id] = await claimed(store, worker_id)
    verb = FinishJobs(worker_id, [completion(job_id, **values)])
    written = [Finished(job_id, values["status"])]
    assert await finished(store, verb) == written
    before = await store.run(ListJobs()), await store.run(ListEvents(job_id))
    assert await finished(store, verb) == written
    assert (await store.run(ListJobs()), await store.run(ListEvents(job_id))) == before


async def test_a_retry(store: JobStore, worker_id: int) -> None:
    [job_id] = await claimed(store, worker_id, Job(task_name="t", lock="l"))
    retry = RetryDecision(retry_at=FUTURE, priority=7, queue="other", lock="m")
    done = completion(job_id, Status.TODO, retry=retry, reason="shutdown")
    assert await finished(store, FinishJobs(worker_id, [done])) == [Finished(job_id, Status.TODO)]
    job = await row(store, job_id)
    assert (job.status, job.attempts, job.scheduled_at) == ("todo", 1, FUTURE)
    assert (job.priority, job.queue, job.lock) == (7, "other", "m")
    assert await events(store, job_id) == ["scheduled", "deferred_for_retry"]
    event = (await store.run(ListEvents(job_id)))[-1]
    assert (event.reason, event.worker_id, event.attempt) == ("shutdown", worker_id, 0)


@pytest.mark.parametrize("seconds", [0, 5, 10**9, 10**15])
async def test_a_retry_after_a_delay(store: JobStore, worker_id: int, seconds: int) -> None:
    [job_id] = await claimed(store, worker_id)
    done = completion(job_id, Status.TODO, retry=RetryDecision(retry_in={"seconds": seconds}))
    await store.run(FinishJobs(worker_id, [done]))
    job = await row(store, job_id)
    assert job.scheduled_at is not None
    [scheduled] = [e for e in await store.run(ListEvents(job_id)) if e.type == "scheduled"]
    written = (await store.run(ListEvents(job_id)))[-1].at
    assert scheduled.at == job.scheduled_at
    assert written is not None
    if seconds < 10**10:
        assert job.scheduled_at - written == datetime.timedelta(seconds=seconds)
    else:
        assert job.scheduled_at.year == 9999


async def test_a_retry_at_once(store: JobStore, worker_id: int) -> None:
    [job_id] = await claimed(
        store,
        worker_id,
        Job(task_name="t", scheduled_at=datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)),
    )
    done = completion(job_id, Status.TODO, retry=RetryDecision())
    await store.run(FinishJobs(worker_id, [done]))
    assert (await row(store, job_id)).scheduled_at is None
    [again] = (await store.run(FetchJobs(worker_id, None, 9))).jobs
    assert (again.id, again.attempts) == (job_id, 1)


async def test_given_back_as_it_was(store: JobStore, worker_id: int) -> None:
    moment = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)
    [job_id] = await claimed(store, worker_id, Job(task_name="t", scheduled_at=moment))
    before = await row(store, job_id)
    await store.run(FinishJobs(worker_id, [completion(job_id, Status.TODO)]))
    assert await row(store, job_id) == before.evolve(status="todo")


@pytest.mark.parametrize("retry", [None, RetryDecision(queue="other", retry_at=FUTURE)])
@pytest.mark.parametrize("end", [Status.ABORTED, Status.FAILED])
async def test_given_back_after_a_user_asked_for_its_abort(
    store: JobStore, worker_id: int, retry: RetryDecision | None, end: Status
) -> None:
    [job_id] = await claimed(store, worker_id)
    await store.run(CancelJob(job_id, abort=True))
    done = completion(job_id, Status.TODO, retry=retry, if_abort_requested=end)
    assert await finished(store, FinishJobs(worker_id, [done])) == [Finished(job_id, end)]
    job = await row(store, job_id)
    assert (job.status, job.abort_requested, job.queue) == (end.value, False, "default")
    assert job.attempts == (1 if retry else 0)
    assert job.scheduled_at is None


@pytest.mark.promise("What happened to a job / another job waits with the queueing lock …")
@pytest.mark.parametrize("retry", [None, RetryDecision()])
async def test_given_back_while_another_waits_with_its_queueing_lock(
    store: JobStore, worker_id: int, retry: RetryDecision | None
) -> None:
    [held, fine] = await claimed(
        store, worker_id, Job(task_name="t", queueing_lock="q"), Job(task_name="u")
    )
    await store.run(DeferJobs([Job(task_name="t", queueing_lock="q")]))
    batch = [
        completion(held, Status.TODO, retry=retry, reason="shutdown"),
        completion(fine, Status.TODO),
    ]
    assert await finished(store, FinishJobs(worker_id, batch)) == [
        Finished(held, Status.CANCELLED),
        Finished(fine, Status.TODO),
    ]
    assert (await row(store, held)).attempts == (1 if retry else 0)
    assert await events(store, held) == ["cancelled"]
    event = (await store.run(ListEvents(held)))[-1]
    assert event.reason == 'shutdown; another job waits with the queueing lock "q"'
    assert (event.worker_id, event.attempt) == (worker_id, 0)


async def test_two_of_one_queueing_lock_given_back_together(
    store: JobStore, worker_id: int
) -> None:
    [first] = await claimed(store, worker_id, Job(task_name="t", queueing_lock="q"))
    [second] = await claimed(store, worker_id, Job(task_name="t", queueing_lock="q"))
    batch = [completion(second, Status.TODO), completion(first, Status.TODO)]
    assert await finished(store, FinishJobs(worker_id, batch)) == [
        Finished(second, Status.TODO),
        Finished(first, Status.CANCELLED),
    ]


async def test_deleted_instead(store: JobStore, worker_id: int) -> None:
    [job_id] = await claimed(store, worker_id)
    done = completion(job_id, delete=True)
    assert await finished(store, FinishJobs(worker_id, [done])) == [
        Finished(job_id, Status.SUCCEEDED)
    ]
    assert await store.run(ListJobs()) == []
    assert await store.run(ListEvents(job_id)) == []


async def test_release(store: JobStore, worker_id: int) -> None:
    ids = await claimed(
        store,
        worker_id,
        Job(task_name="kept"),
        Job(task_name="released", lock="l"),
        Job(task_name="aborted"),
        Job(task_name="cancelled", queueing_lock="q"),
    )
    kept, released, aborted, cancelled = ids
    await store.run(CancelJob(aborted, abort=True))
    await store.run(DeferJobs([Job(task_name="waiting", queueing_lock="q")]))
    other = await store.run(registration())
    assert await store.run(ReleaseJobs(other, [])) == []
    assert await store.run(ReleaseJobs(worker_id, [kept, 12345])) == [
        Finished(released, Status.TODO),
        Finished(aborted, Status.ABORTED),
        Finished(cancelled, Status.CANCELLED),
    ]
    assert [job.attempts for job in await store.run(ListJobs())] == [0] * 5
    assert (await row(store, kept)).status == "doing"
    assert await store.run(ReleaseJobs(worker_id, [kept])) == []
    assert await store.run(ReleaseJobs(worker_id, [])) == [Finished(kept, Status.TODO)]
