"""The store that every test of the port runs against: in memory, behind a FaultyStore, PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TypeAlias

import pytest

from trio_queue._storage.parameters import Parameters
from trio_queue._storage.store import PostgresJobStore
from trio_queue.jobs import Status
from trio_queue.store import JobStore
from trio_queue.testing import FaultyStore, InMemoryConnector
from trio_queue.verbs import Finished, FinishJobs, RegisterWorker

OpenStore: TypeAlias = Callable[[], AbstractAsyncContextManager[JobStore]]


@asynccontextmanager
async def _memory() -> AsyncGenerator[JobStore]:
    async with InMemoryConnector().open_store() as store:
        yield store


@asynccontextmanager
async def _faulty() -> AsyncGenerator[JobStore]:
    async with InMemoryConnector().open_store() as store:
        yield FaultyStore(store)


@pytest.fixture(params=["memory", "faulty", "postgres"])
def open_store(request: pytest.FixtureRequest) -> OpenStore:
    """Opens a fresh store of each kind."""
    if request.param == "memory":
        return _memory
    if request.param == "faulty":
        return _faulty
    conninfo: str = request.getfixturevalue("queue_database")
    return lambda: PostgresJobStore(Parameters(conninfo, {}))


@pytest.fixture
async def store(open_store: OpenStore) -> AsyncGenerator[JobStore]:
    """A fresh store of each kind."""
    async with open_store() as opened:
        yield opened


@pytest.fixture
async def worker_id(store: JobStore) -> int:
    """A worker that is registered."""
    return await store.run(registration())


def registration(**changes: object) -> RegisterWorker:
    """How a worker registers, in tests."""
    values = {
        "worker_name": "bee",
        "host": "hive",
        "pid": 12,
        "version": "1.0",
        "queues": ["a", "b"],
        "concurrency": 3,
        "stage": "running",
        **changes,
    }
    return RegisterWorker(**values)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # by name, for brevity


async def finished(store: JobStore, verb: FinishJobs) -> list[Finished]:
    """Write what became of jobs; what each row is then. The answer tells of no other than is needed for that."""
    answer = await store.run(verb)
    assert {each.job_id for each in answer} <= {each.job_id for each in verb.completions}
    assert all((each.job_id, each.status) not in _meant(verb) for each in answer)
    return [Finished(job_id, status) for job_id, status in verb.statuses(answer).items()]


def _meant(verb: FinishJobs) -> set[tuple[int, Status]]:
    return {(each.job_id, each.status) for each in verb.completions}
