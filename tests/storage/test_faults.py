"""A store with faults does what it was ordered, and nothing else."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.conformance.conftest import registration
from trio_queue.exceptions import ConnectorException
from trio_queue.jobs import Job
from trio_queue.management import CheckConnection, ListJobs
from trio_queue.store import JobInserted, Missed
from trio_queue.testing import FaultError, FaultyStore, InMemoryConnector, InMemoryJobStore
from trio_queue.verbs import DeferJobs

JOB = DeferJobs([Job(task_name="t")])


@pytest.fixture
def connector() -> InMemoryConnector:
    return InMemoryConnector()


@pytest.fixture
def store(connector: InMemoryConnector) -> FaultyStore:
    return FaultyStore(InMemoryJobStore(connector.database))


async def test_fails_before(store: FaultyStore, connector: InMemoryConnector) -> None:
    fault = store.fail(DeferJobs, times=2, skip=1)
    assert await store.run(JOB) == [1]
    for hits in (1, 2):
        with pytest.raises(FaultError) as caught:
            await store.run(JOB)
        assert store.is_transient(caught.value)
        assert fault.hits == hits
        assert await store.run(CheckConnection())
    assert len(connector.jobs) == 1
    assert await store.run(JOB) == [2]
    assert store.calls.count("defer_jobs") == 4


async def test_loses_the_answer(store: FaultyStore, connector: InMemoryConnector) -> None:
    store.lose_answer("defer_jobs", error=ConnectorException("cut"), transient=False)
    with pytest.raises(ConnectorException, match="cut") as caught:
        await store.run(JOB)
    assert not store.is_transient(caught.value)
    assert len(connector.jobs) == 1


@pytest.mark.parametrize("after", [False, True])
async def test_hangs(
    store: FaultyStore,
    connector: InMemoryConnector,
    autojump_clock: MockClock,
    after: bool,
) -> None:
    fault = store.hang(DeferJobs, after=after, times=2)
    with trio.move_on_after(1000) as scope:
        await store.run(JOB)
    assert scope.cancelled_caught
    assert len(connector.jobs) == after
    answers: list[list[int]] = []

    async def run() -> None:
        answers.append(await store.run(JOB))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await wait_all_tasks_blocked()
        assert answers == []
        fault.release()
    assert len(answers) == 1
    await fault.wait_hit()
    await store.run(JOB)


async def test_is_slow(store: FaultyStore, autojump_clock: MockClock) -> None:
    fault = store.delay(seconds=5)
    begin = trio.current_time()
    await store.run(JOB)
    await store.run(ListJobs())
    assert trio.current_time() - begin == 10
    store.clear()
    await store.run(JOB)
    assert trio.current_time() - begin == 10
    assert fault.hits == 2


async def test_the_blocks(store: FaultyStore) -> None:
    worker_id = await store.run(registration())
    store.fail("listen")
    store.lose_answer("keep_alive")
    with pytest.raises(FaultError):
        async with store.listen(None):
            pass
    with pytest.raises(FaultError):
        async with store.keep_alive(worker_id, 1):
            pass
    async with store.listen(None) as notifications, store.keep_alive(worker_id, 1000) as heartbeat:
        store.say_missed()
        assert await notifications.wait() == [Missed()]
        await store.run(JOB)
        assert await notifications.wait() == [JobInserted()]
        store.lose_lease()
        await heartbeat.wait_lost()
        heartbeat.renew(worker_id)
        with trio.move_on_after(0) as scope:
            await heartbeat.wait_lost()
        assert scope.cancelled_caught


async def test_any_exception_may_be_ordered(store: FaultyStore) -> None:
    store.fail(error=KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        await store.run(JOB)
