"""A worker under asyncio.Runner: one loop that is run several times, and its end."""

from __future__ import annotations

import asyncio
import signal

import pytest

from tests.hosts.application import Application
from tests.waiting import PATIENCE


def test_a_worker_goes_on_from_one_run_to_the_next(application: Application) -> None:
    """Between them the loop stands still, and so does the worker."""

    async def begin() -> asyncio.Task[None]:
        await application.app.open_async()
        await application.app.configure_task("hold").defer_async()
        return await application.start()

    async def end(worker: asyncio.Task[None]) -> None:
        application.gate.set()
        worker.cancel()
        with pytest.raises(asyncio.CancelledError):
            await worker
        await application.app.close_async()

    with asyncio.Runner() as runner:
        worker = runner.run(begin())
        assert application.statuses == ["doing"]
        runner.run(end(worker))
        assert application.saw == ["returned"]
        assert application.statuses == ["succeeded"]
        # Another worker in the same loop.
        application.defer("short")
        runner.run(application.app.run_worker_async(wait=False))
    assert application.statuses == ["succeeded", "succeeded"]


def test_the_end_of_the_runner_drains(application: Application) -> None:
    async def begin() -> None:
        application.defer("hold")
        await application.start()
        asyncio.get_running_loop().call_later(0.05, application.gate.set)

    with asyncio.Runner() as runner:
        runner.run(begin())
        assert application.statuses == ["doing"]
    assert application.saw == ["returned"]
    assert application.statuses == ["succeeded"]
    assert application.workers == 0


def test_ctrl_c_drains_and_is_raised_by_the_runner(application: Application) -> None:
    async def press() -> None:
        await asyncio.wait_for(application.began.wait(), PATIENCE)
        signal.raise_signal(signal.SIGINT)
        await application.reach("draining")
        application.gate.set()

    async def main() -> None:
        pressing = asyncio.create_task(press())
        try:
            async with asyncio.TaskGroup() as tasks:
                # The Runner cancels this task; its group cancels the worker.
                tasks.create_task(application.app.run_worker_async())
        finally:
            assert application.saw == ["returned"]
            await pressing

    application.defer("hold")
    with asyncio.Runner() as runner, pytest.raises(KeyboardInterrupt):
        runner.run(main())
    assert application.saw == ["returned"]
    assert application.statuses == ["succeeded"]
