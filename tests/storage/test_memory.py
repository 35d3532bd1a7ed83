"""What is the in-memory connector's own: its clock, its rows, its colours, its threads."""

from __future__ import annotations

import asyncio
import datetime
import threading
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.conformance.conftest import registration
from trio_queue.exceptions import AlreadyEnqueued
from trio_queue.jobs import Job
from trio_queue.management import ListJobs
from trio_queue.store import JobInserted
from trio_queue.testing import FaultyStore, InMemoryConnector, InMemoryDatabase, InMemoryJobStore
from trio_queue.verbs import AdoptOrphans, DeferJobs, FetchJobs, UpdateHeartbeat

HOUR = datetime.timedelta(hours=1)


async def test_schedules_pass_in_fake_time(autojump_clock: MockClock) -> None:
    connector = InMemoryConnector()
    begin = connector.now()
    job = Job(task_name="t", scheduled_at=begin + HOUR)
    async with connector.open_store() as store:
        worker_id = await store.run(registration())
        await store.run(DeferJobs([job]))
        await trio.sleep(3599)
        assert (await store.run(FetchJobs(worker_id, None, 1))).jobs == []
        await trio.sleep(1)
        [claimed] = (await store.run(FetchJobs(worker_id, None, 1))).jobs
        assert claimed.scheduled_at == connector.now()


async def test_a_thread_sees_the_same_fake_time(autojump_clock: MockClock) -> None:
    connector = InMemoryConnector()
    begin = connector.now()
    await trio.sleep(3600)
    assert await trio.to_thread.run_sync(connector.now) == begin + HOUR


async def test_heartbeats_pass_in_fake_time(autojump_clock: MockClock) -> None:
    connector = InMemoryConnector()
    async with connector.open_store() as store:
        worker_id = await store.run(registration())
        async with store.keep_alive(worker_id, 10):
            await trio.sleep(15)
        worker = connector.database.tables.workers[worker_id]
        assert connector.now() - worker.last_heartbeat == datetime.timedelta(seconds=5)
        # And end with the block.
        await trio.sleep(100)
        assert connector.now() - worker.last_heartbeat == datetime.timedelta(seconds=105)


def test_time_never_jumps_back() -> None:
    connector = InMemoryConnector()

    async def sleep() -> None:
        connector.now()
        await trio.sleep(3600)

    begin = connector.now()
    trio.run(sleep, clock=MockClock(autojump_threshold=0))
    between = connector.now()
    assert between >= begin + HOUR
    trio.run(sleep, clock=MockClock(autojump_threshold=0))
    assert connector.now() >= between + HOUR


def test_a_clock_of_ones_own() -> None:
    moment = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)
    connector = InMemoryConnector(clock=lambda: moment)
    connector.run(DeferJobs([Job(task_name="t")]))
    assert connector.now() == connector.events[1][0].at == moment


def test_a_clock_that_is_set_back_holds_no_dead_workers_jobs() -> None:
    moment = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)
    passed = datetime.timedelta(hours=2)
    connector = InMemoryConnector(clock=lambda: moment + passed)
    [job_id] = connector.run(DeferJobs([Job(task_name="t")]))
    dead = connector.run(registration())
    connector.run(FetchJobs(dead, None, 1))
    passed = datetime.timedelta()
    me = connector.run(registration())
    assert connector.run(AdoptOrphans(me, 30.0, 1)) == []
    passed = datetime.timedelta(seconds=31)
    [orphan] = connector.run(AdoptOrphans(me, 30.0, 1))
    assert orphan.job.id == job_id


def test_rows_as_dictionaries_and_reset() -> None:
    connector = InMemoryConnector()
    connector.run(DeferJobs([Job(task_name="t", task_kwargs={"a": 1}, queue="q")]))
    assert connector.jobs == {
        1: {
            "id": 1,
            "queue_name": "q",
            "task_name": "t",
            "priority": 0,
            "lock": None,
            "queueing_lock": None,
            "args": {"a": 1},
            "status": "todo",
            "scheduled_at": None,
            "attempts": 0,
            "abort_requested": False,
            "worker_id": None,
        }
    }
    connector.reset()
    assert connector.jobs == {}
    assert connector.run(DeferJobs([Job(task_name="t")])) == [1]


def test_arguments_are_copies() -> None:
    connector = InMemoryConnector()
    given: dict[str, Any] = {"a": [1, {"b": 2}]}
    connector.run(DeferJobs([Job(task_name="t", task_kwargs=given)]))
    given["a"].append(3)
    [job] = connector.run(ListJobs())
    assert job.task_kwargs == {"a": [1, {"b": 2}]}
    job.task_kwargs["a"] = None
    assert connector.jobs[1]["args"] == {"a": [1, {"b": 2}]}


def test_every_colour() -> None:
    connector = InMemoryConnector()
    job = DeferJobs([Job(task_name="t")])

    async def use() -> list[int]:
        await connector.open_async()
        assert connector.is_open()
        ids = await connector.run_async(job, object())
        await connector.close_async()
        return ids

    assert connector.run(job) == [1]
    assert asyncio.run(use()) == [2]
    assert trio.run(use) == [3]
    assert not connector.is_open()
    connector.open()
    assert connector.is_open()
    connector.close()
    assert not connector.is_open()


def test_threads_do_not_meet() -> None:
    connector = InMemoryConnector()
    refused: list[AlreadyEnqueued] = []

    def defer() -> None:
        for _ in range(200):
            try:
                connector.run(
                    DeferJobs([Job(task_name="t"), Job(task_name="t", queueing_lock="q")])
                )
            except AlreadyEnqueued as error:
                refused.append(error)

    threads = [threading.Thread(target=defer) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 799
    assert len(connector.jobs) == 2


async def test_a_thread_wakes_a_listener() -> None:
    connector = InMemoryConnector()
    async with connector.open_store() as store, store.listen(["q"]) as notifications:
        await trio.to_thread.run_sync(
            connector.run, DeferJobs([Job(task_name="t", queue="q"), Job(task_name="t")])
        )
        assert await notifications.wait() == [JobInserted()]


async def test_a_cancelled_verb_has_done_nothing() -> None:
    database = InMemoryDatabase()
    connector = InMemoryConnector()
    with trio.CancelScope() as scope:
        scope.cancel()
        await connector.run_async(DeferJobs([Job(task_name="t")]))
    assert scope.cancelled_caught
    assert connector.jobs == {}
    assert database.run(UpdateHeartbeat(1)) is False


def test_a_failing_verb_undoes_all_that_it_did() -> None:
    connector = InMemoryConnector()
    connector.run(DeferJobs([Job(task_name="t", queueing_lock="q")]))
    before = {**connector.jobs}, {**connector.events}
    with pytest.raises(AlreadyEnqueued):
        connector.run(DeferJobs([Job(task_name="u"), Job(task_name="t", queueing_lock="q")]))
    assert (connector.jobs, connector.events) == before


async def test_a_heartbeat_ends_the_process_without_its_row() -> None:
    database = InMemoryDatabase()
    ended: list[int] = []
    database.end_process = ended.append
    store = InMemoryJobStore(database)
    worker_id = await store.run(registration())
    [job_id] = await store.run(DeferJobs([Job(task_name="t")]))
    await store.run(FetchJobs(worker_id, None, 1))
    async with FaultyStore(store).keep_alive(worker_id, 10) as heartbeat:
        heartbeat.exit_process(130)
    assert ended == [130]
    assert [orphan.job_id for orphan in database.tables.orphans] == [job_id]


async def test_a_process_ends_although_its_row_cannot_be_deleted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    database = InMemoryDatabase()
    ended: list[int] = []
    database.end_process = ended.append
    monkeypatch.setattr(database, "tables", None)
    async with InMemoryJobStore(database).keep_alive(1, 10) as heartbeat:
        heartbeat.exit_process(143)
    assert ended == [143]
