"""Why a row is what it is: the reason stands beside the event, on every store."""

from __future__ import annotations

import pytest

from tests.conformance.conftest import finished, registration
from trio_queue.completion import NOT_BEGUN, RELEASED, WORKER_DIED, Completion
from trio_queue.jobs import Event, Job, Status
from trio_queue.management import CancelJob, ListEvents
from trio_queue.retry import RetryDecision
from trio_queue.store import JobStore
from trio_queue.verbs import (
    AdoptOrphans,
    DeferJobs,
    FetchJobs,
    FinishJobs,
    ReleaseJobs,
    UnregisterWorker,
)

#: The statuses that a run may end with, and whether it is to be retried.
ENDS = [
    (Status.SUCCEEDED, None),
    (Status.FAILED, None),
    (Status.ABORTED, None),
    (Status.TODO, None),
    (Status.TODO, RetryDecision()),
]


async def claimed(store: JobStore, worker_id: int, *, queueing_lock: str | None = None) -> int:
    """The id of a job that this worker runs."""
    await store.run(DeferJobs([Job(task_name="t", queueing_lock=queueing_lock)]))
    [job] = (await store.run(FetchJobs(worker_id, None, 1))).jobs
    assert job.id is not None
    return job.id


async def last_event(store: JobStore, job_id: int) -> Event:
    return (await store.run(ListEvents(job_id)))[-1]


@pytest.mark.parametrize(("status", "retry"), ENDS)
async def test_a_reason_stands_beside_the_event_with_worker_and_attempt(
    store: JobStore, worker_id: int, status: Status, retry: RetryDecision | None
) -> None:
    job_id = await claimed(store, worker_id)
    done = Completion(job_id=job_id, attempts=0, status=status, retry=retry, reason="why")
    await store.run(FinishJobs(worker_id, [done]))
    event = await last_event(store, job_id)
    assert (event.worker_id, event.attempt, event.reason) == (worker_id, 0, "why")


@pytest.mark.parametrize(("status", "retry"), ENDS)
async def test_where_there_is_no_reason_nothing_is_written(
    store: JobStore, worker_id: int, status: Status, retry: RetryDecision | None
) -> None:
    job_id = await claimed(store, worker_id)
    done = Completion(job_id=job_id, attempts=0, status=status, retry=retry)
    await store.run(FinishJobs(worker_id, [done]))
    event = await last_event(store, job_id)
    assert (event.worker_id, event.attempt, event.reason) == (None, None, None)


@pytest.mark.parametrize(
    ("reason", "told"),
    [(None, "user_request"), ("shutdown", "shutdown; user_request")],
)
@pytest.mark.parametrize("retry", [None, RetryDecision()])
async def test_a_users_request_that_ends_a_job_that_was_to_wait_again_is_named(
    store: JobStore, worker_id: int, reason: str | None, told: str, retry: RetryDecision | None
) -> None:
    job_id, other = await claimed(store, worker_id), await claimed(store, worker_id)
    await store.run(CancelJob(job_id, abort=True))
    batch = [
        Completion(job_id=each, attempts=0, status=Status.TODO, retry=retry, reason=reason)
        for each in (other, job_id)
    ]
    await store.run(FinishJobs(worker_id, batch))
    event = await last_event(store, job_id)
    assert (event.type, event.reason) == ("aborted", told)
    event = await last_event(store, other)
    assert (event.type, event.reason) == ("deferred_for_retry", reason)


@pytest.mark.promise("What happened to a job / released")
async def test_a_release_says_so(store: JobStore, worker_id: int) -> None:
    ids = [
        await claimed(store, worker_id),
        await claimed(store, worker_id),
        await claimed(store, worker_id, queueing_lock="q"),
    ]
    await store.run(CancelJob(ids[1], abort=True))
    await store.run(DeferJobs([Job(task_name="t", queueing_lock="q")]))
    await store.run(ReleaseJobs(worker_id, []))
    events = [await last_event(store, job_id) for job_id in ids]
    assert [(event.type, event.reason) for event in events] == [
        ("deferred_for_retry", RELEASED),
        ("aborted", f"{RELEASED}; user_request"),
        ("cancelled", f'{RELEASED}; another job waits with the queueing lock "q"'),
    ]
    assert {(event.worker_id, event.attempt) for event in events} == {(worker_id, 0)}


@pytest.mark.parametrize("reason", [NOT_BEGUN, WORKER_DIED])
async def test_a_deploy_or_a_death_does_not_undo_a_users_cancel(
    store: JobStore, worker_id: int, reason: str
) -> None:
    job_id = await claimed(store, worker_id)
    await store.run(CancelJob(job_id, abort=True))
    if reason == WORKER_DIED:
        await store.run(UnregisterWorker(worker_id))
        worker_id = await store.run(registration())
        [orphan] = await store.run(AdoptOrphans(worker_id, 30.0, 9))
        assert orphan.job.abort_requested
    retry = RetryDecision() if reason == WORKER_DIED else None
    done = Completion(job_id=job_id, attempts=0, status=Status.TODO, retry=retry, reason=reason)
    [answer] = await finished(store, FinishJobs(worker_id, [done]))
    assert answer.status is Status.ABORTED
    assert (await store.run(FetchJobs(worker_id, None, 9))).jobs == []
    assert (await last_event(store, job_id)).reason == f"{reason}; user_request"
