"""Deferring: what is inserted, refused, and never half done."""

from __future__ import annotations

import datetime
from typing import Any

import pytest

from trio_queue.exceptions import AlreadyEnqueued, InvalidArguments, InvalidOption
from trio_queue.jobs import Job, Status
from trio_queue.management import CancelJob, ListEvents, ListJobs
from trio_queue.store import JobStore
from trio_queue.verbs import DeferJobs, DeferPeriodicJob

SOON = datetime.datetime(2100, 1, 1, tzinfo=datetime.UTC)


async def test_ids_come_in_the_order_of_the_jobs(store: JobStore) -> None:
    jobs = [Job(task_name=f"task{number}", priority=-number) for number in range(20)]
    ids = await store.run(DeferJobs(jobs))
    assert ids == sorted(ids)
    stored = await store.run(ListJobs())
    assert [(job.id, job.task_name) for job in stored] == [
        (job_id, job.task_name) for job_id, job in zip(ids, jobs, strict=True)
    ]


async def test_every_column_comes_back(store: JobStore) -> None:
    job = Job(
        task_name="añ:b",
        queue='qüeue "x" % \' \n',
        priority=-7,
        lock="lock %s",
        queueing_lock="queueing 'lock'",
        task_kwargs={"a": [1, 2.5, None, {"b": "ü😀"}], "c": True},
        scheduled_at=SOON,
    )
    [job_id] = await store.run(DeferJobs([job]))
    [stored] = await store.run(ListJobs(id=job_id))
    assert stored == job.evolve(id=job_id, status="todo")


async def test_events_of_a_deferred_job(store: JobStore) -> None:
    [plain, later] = await store.run(
        DeferJobs([Job(task_name="t"), Job(task_name="t", scheduled_at=SOON)])
    )
    assert [event.type for event in await store.run(ListEvents(plain))] == ["deferred"]
    events = await store.run(ListEvents(later))
    assert [event.type for event in events] == ["scheduled", "deferred"]
    assert events[0].at == SOON


async def test_no_job_is_no_statement_that_fails(store: JobStore) -> None:
    assert await store.run(DeferJobs([])) == []


async def test_a_batch_is_inserted_whole_or_not_at_all(store: JobStore) -> None:
    await store.run(DeferJobs([Job(task_name="t", queueing_lock="q (x)=(y)")]))
    with pytest.raises(AlreadyEnqueued, match=r"'q \(x\)=\(y\)'") as caught:
        await store.run(
            DeferJobs([Job(task_name="u"), Job(task_name="v", queueing_lock="q (x)=(y)")])
        )
    assert caught.value.queueing_locks == (None, "q (x)=(y)")
    assert [job.task_name for job in await store.run(ListJobs())] == ["t"]


async def test_one_queueing_lock_twice_in_a_batch(store: JobStore) -> None:
    with pytest.raises(AlreadyEnqueued):
        await store.run(DeferJobs([Job(task_name="t", queueing_lock="q") for _ in range(2)]))
    assert await store.run(ListJobs()) == []


async def test_ids_are_never_used_twice(store: JobStore) -> None:
    [first] = await store.run(DeferJobs([Job(task_name="t", queueing_lock="q")]))
    with pytest.raises(AlreadyEnqueued):
        await store.run(DeferJobs([Job(task_name="t", queueing_lock="q")]))
    assert await store.run(CancelJob(first, delete_job=True))
    [third] = await store.run(DeferJobs([Job(task_name="t", queueing_lock="q")]))
    assert third == first + 2


async def test_a_queueing_lock_is_free_once_its_job_does_not_wait(store: JobStore) -> None:
    [first] = await store.run(DeferJobs([Job(task_name="t", queueing_lock="q")]))
    await store.run(CancelJob(first))
    await store.run(DeferJobs([Job(task_name="t", queueing_lock="q")]))


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (float("nan"), "nan"),
        (float("inf"), "inf"),
        ("a\x00b", "NUL"),
        ("\ud800", "surrogate"),
        ({"deep": [1, "\udfff"]}, r"argument \"x\['deep'\]\[1\]\""),
        ({"key\x00": 1}, "NUL"),
        (datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC), "datetime"),
    ],
)
async def test_arguments_that_cannot_be_stored(store: JobStore, value: Any, told: str) -> None:
    jobs = [Job(task_name="fine"), Job(task_name="the_task", task_kwargs={"a": 1, "x": value})]
    with pytest.raises(InvalidArguments, match=told) as caught:
        await store.run(DeferJobs(jobs))
    assert "'the_task'" in str(caught.value)
    assert "x" in str(caught.value)
    assert await store.run(ListJobs()) == []


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (1e16, "1" + "0" * 16),
        (1.5e300, "15" + "0" * 299),
        (1e-7, "1e-07"),
        (-0.0, "0.0"),
        (1.0, "1.0"),
        (10**30, "1" + "0" * 30),
        ("\\u0000", r"'\\u0000'"),
        ("😀", "'😀'"),
        ({"bb": 1, "a": 2, "": 3}, "{'': 3, 'a': 2, 'bb': 1}"),
        ({"ä": 1, "bb": 2, "z": 3}, "{'z': 3, 'bb': 2, 'ä': 1}"),
        ([], "[]"),
        ({}, "{}"),
    ],
)
async def test_arguments_come_back_as_the_server_keeps_them(
    store: JobStore, value: Any, told: str
) -> None:
    [job_id] = await store.run(DeferJobs([Job(task_name="t", task_kwargs={"zz": 1, "v": value})]))
    [job] = await store.run(ListJobs(id=job_id))
    kept = job.task_kwargs["v"]
    # Compared as text: 1 and 1.0 are equal, and so are dictionaries in another order.
    assert repr(kept) == told
    assert list(job.task_kwargs) == ["v", "zz"]


@pytest.mark.parametrize(
    "changes",
    [
        {"task_name": "x" * 129},
        {"queue": "x" * 41},
        {"queue": "ü" * 21},
        {"queue": "a\x00"},
        {"task_name": "a\x00"},
        {"lock": "a\x00"},
        {"queueing_lock": "\ud800"},
        {"priority": 2**31},
    ],
)
async def test_values_that_no_column_holds(store: JobStore, changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption):
        await store.run(DeferJobs([Job(task_name="t").evolve(**changes)]))
    assert await store.run(ListJobs()) == []


async def test_the_longest_names(store: JobStore) -> None:
    job = Job(task_name="x" * 128, queue="ü" * 20, lock="l" * 500, priority=2**31 - 1)
    await store.run(DeferJobs([job]))


async def test_a_periodic_job_is_deferred_once_for_its_moment(store: JobStore) -> None:
    job = Job(task_name="t", task_kwargs={"timestamp": 5}, lock="l", queue="q", priority=4)
    job_id = await store.run(DeferPeriodicJob(job, "", 5))
    assert job_id is not None
    assert await store.run(DeferPeriodicJob(job, "", 5)) is None
    assert await store.run(DeferPeriodicJob(job, "other", 5)) is not None
    assert await store.run(DeferPeriodicJob(job, "", 6)) is not None
    [stored] = await store.run(ListJobs(id=job_id))
    assert stored == job.evolve(id=job_id, status="todo")


async def test_a_periodic_moment_is_not_taken_by_a_job_that_was_refused(store: JobStore) -> None:
    job = Job(task_name="t", queueing_lock="q")
    [waiting] = await store.run(DeferJobs([job]))
    with pytest.raises(AlreadyEnqueued):
        await store.run(DeferPeriodicJob(job, "", 5))
    await store.run(CancelJob(waiting))
    assert await store.run(DeferPeriodicJob(job, "", 5)) is not None


async def test_a_periodic_moment_stays_taken_when_its_job_is_deleted(store: JobStore) -> None:
    job_id = await store.run(DeferPeriodicJob(Job(task_name="t"), "", 5))
    assert job_id is not None
    assert await store.run(CancelJob(job_id, delete_job=True))
    assert await store.run(DeferPeriodicJob(Job(task_name="t"), "", 5)) is None
    assert await store.run(ListJobs(status=Status.TODO)) == []


async def test_a_periodic_moment_stays_taken_when_a_later_one_is(store: JobStore) -> None:
    async def ask(moment: int) -> int | None:
        return await store.run(DeferPeriodicJob(Job(task_name="t"), "", moment))

    assert None not in [await ask(1000), await ask(1120)]
    # A worker that was cut off comes late, with what another has long deferred.
    assert await ask(1000) is None
    # One that nobody has deferred is caught up with.
    assert await ask(1060) is not None
    assert await ask(1060) is None
    assert await store.run(DeferPeriodicJob(Job(task_name="t"), "other", 1000)) is not None


async def test_periodic_moments_are_remembered_for_an_hour_before_the_latest(
    store: JobStore,
) -> None:
    async def ask(moment: int) -> int | None:
        return await store.run(DeferPeriodicJob(Job(task_name="t"), "", moment))

    assert None not in [await ask(1000), await ask(1001), await ask(4601)]
    assert await ask(1000) is None  # forgotten: it may have been deferred
    assert await ask(1001) is None
    assert await ask(1002) is not None
