"""The store that every test of the port runs against: in memory, behind a FaultyStore, PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TypeAlias

import pytest

from trio_queue._storage.parameters import Parameters
from trio_queue._storage.store import PostgresJobStore
from trio_queue.store import JobStore, RegisterWorker
from trio_queue.testing import FaultyStore, InMemoryConnector

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
