"""What a user of pytest-asyncio writes: run in a session of its own by test_pytest_asyncio.py, never in ours."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import os
from collections.abc import AsyncGenerator

import pytest
import pytest_asyncio

import trio_queue
from trio_queue.jobs import Status

app = trio_queue.App(
    connector=trio_queue.PsycopgConnector(conninfo=os.environ["DATABASE_URL"], min_size=1)
)
loops: dict[str, asyncio.AbstractEventLoop] = {}
greeted: dict[str, asyncio.Event] = collections.defaultdict(asyncio.Event)


@app.task(name="greet")
async def greet(name: str) -> None:
    await asyncio.sleep(0)
    loops[name] = asyncio.get_running_loop()
    greeted[name].set()


@pytest_asyncio.fixture
async def queue() -> AsyncGenerator[trio_queue.App]:
    async with app.open_async():
        yield app


@pytest_asyncio.fixture
async def worker(queue: trio_queue.App) -> AsyncGenerator[asyncio.Task[None]]:
    worker = asyncio.create_task(queue.run_worker_async(install_signal_handlers=False))
    yield worker
    worker.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await worker
    assert [job.status for job in await queue.job_manager.list_jobs_async(status="doing")] == []


@pytest.mark.asyncio
@pytest.mark.parametrize("name", ["Ada", "Grace"])
async def test_a_worker_runs_what_was_deferred(queue: trio_queue.App, name: str) -> None:
    """Twice: each test has a loop of its own, and the App is opened for each."""
    job_id = await greet.defer_async(name=name)
    await queue.run_worker_async(wait=False, install_signal_handlers=False)
    assert loops[name] is asyncio.get_running_loop()
    assert await queue.job_manager.get_job_status_async(job_id) is Status.SUCCEEDED


@pytest.mark.asyncio
@pytest.mark.parametrize("name", ["Edsger", "Barbara"])
async def test_beside_a_worker(worker: asyncio.Task[None], name: str) -> None:
    await greet.defer_async(name=name)
    await asyncio.wait_for(greeted[name].wait(), 15)
    assert not worker.done()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_worker() -> AsyncGenerator[asyncio.Task[None]]:
    async with app.open_async():
        worker = asyncio.create_task(app.run_worker_async(install_signal_handlers=False))
        yield worker
        worker.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await worker


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("name", ["Alan", "Katherine"])
async def test_beside_a_worker_for_several_tests(
    shared_worker: asyncio.Task[None], name: str
) -> None:
    """In the loop that they share."""
    await greet.defer_async(name=name)
    await asyncio.wait_for(greeted[name].wait(), 15)
    assert shared_worker.get_loop() is loops[name]
