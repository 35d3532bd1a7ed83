"""Benches on a real server, and one whose statements can be made to fail, hang or lose their answers."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from tests.faults_of_the_original.bench import FaultyBench
from tests.fix_worker import gate
from tests.worker_on_postgres.conftest import bench, wired

__all__ = ["bench", "faulty", "gate", "wired"]


@pytest.fixture(autouse=True)
def _jobs_in_asyncio(jobs_in_asyncio: None) -> None:
    """Under an asyncio host, jobs are its tasks."""


@pytest.fixture
async def faulty(queue_database: str) -> AsyncGenerator[FaultyBench]:
    """An application on a database of its own, with faults on order."""
    bench = FaultyBench(queue_database, queue_database)
    yield bench
    bench.close()
