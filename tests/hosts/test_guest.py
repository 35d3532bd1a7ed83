"""A worker inside asyncio.run, Trio a guest of its loop: what the asyncio facade will stand on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import outcome
import trio

from trio_queue import App, JobContext
from trio_queue.testing import InMemoryConnector
from trio_queue.worker import Stage, Worker


def as_guest(afn: Callable[[], Awaitable[None]]) -> asyncio.Future[outcome.Outcome[None]]:
    """Run a Trio function as a guest of the running loop; done when its whole run is."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[outcome.Outcome[None]] = loop.create_future()
    trio.lowlevel.start_guest_run(
        afn,
        done_callback=done.set_result,
        run_sync_soon_threadsafe=loop.call_soon_threadsafe,
        run_sync_soon_not_threadsafe=loop.call_soon,
        host_uses_signal_set_wakeup_fd=True,
    )
    return done


class Application:
    """An App with one job that waits to be told to end, and says how it ended."""

    def __init__(self) -> None:
        self.app = App(connector=InMemoryConnector())
        self.began = asyncio.Event()
        self.end = trio.Event()
        self.saw: list[str] = []

        @self.app.task(name="wait", pass_context=True)
        async def wait(context: JobContext) -> None:
            self.began.set()
            try:
                await self.end.wait()
                self.saw.append("returned")
            except trio.Cancelled:
                self.saw.append(f"cancelled, {context.should_abort()}")
                raise

        self.wait = wait

    @property
    def status(self) -> str:
        """The job's status in the database."""
        connector = self.app.connector
        assert isinstance(connector, InMemoryConnector)
        return str(connector.jobs[1]["status"])


def ask(worker: Worker) -> None:
    """What the cancel of the facade's task is."""
    shutdown = worker._shutdown  # pyright: ignore[reportPrivateUsage] - the facade is yet to come
    shutdown.ask("Task.cancel()")


def in_asyncio(main: Callable[[Application], Coroutine[Any, Any, None]]) -> None:
    """Run an application in a loop of its own."""
    asyncio.run(main(Application()))


def test_a_worker_runs_as_a_guest_of_asyncio_until_no_job_is_left() -> None:
    async def main(application: Application) -> None:
        application.end.set()
        async with application.app.open_async():
            await application.wait.defer_async()
            worker = Worker(application.app, wait=False, install_signal_handlers=False)
            (await as_guest(worker.run)).unwrap()
        assert application.saw == ["returned"]
        assert application.status == "succeeded"

    in_asyncio(main)


def test_asked_once_it_drains() -> None:
    async def main(application: Application) -> None:
        async with application.app.open_async():
            await application.wait.defer_async()
            worker = Worker(application.app, install_signal_handlers=False)
            ended = as_guest(worker.run)
            await application.began.wait()
            ask(worker)
            while worker.stage is not Stage.DRAINING:  # noqa: ASYNC110 - not an asyncio.Event
                await asyncio.sleep(0)
            assert not ended.done()
            application.end.set()
            (await ended).unwrap()
        assert application.saw == ["returned"]
        assert application.status == "succeeded"

    in_asyncio(main)


def test_asked_twice_it_aborts() -> None:
    async def main(application: Application) -> None:
        async with application.app.open_async():
            await application.wait.defer_async()
            worker = Worker(application.app, install_signal_handlers=False)
            ended = as_guest(worker.run)
            await application.began.wait()
            ask(worker)
            ask(worker)
            (await ended).unwrap()
        assert application.saw == ["cancelled, AbortReason.SHUTDOWN"]
        assert application.status == "aborted"

    in_asyncio(main)
