"""A worker over the store in memory, with faults on order, and what its tests say again and again."""

from __future__ import annotations

import contextlib
import datetime
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

import pytest
import trio

from trio_queue import App
from trio_queue.completion import Completion
from trio_queue.exceptions import ConnectorException
from trio_queue.management import CancelJob
from trio_queue.store import JobStore
from trio_queue.testing import FaultyStore, InMemoryConnector, InMemoryJobStore
from trio_queue.verbs import AdoptOrphans, FinishJobs, RegisterWorker, UnregisterWorker
from trio_queue.worker import Stage, Worker

if TYPE_CHECKING:
    from collections.abc import Awaitable


REFUSED = ConnectorException("no row can hold that")


class FaultyConnector(InMemoryConnector):
    """A database in memory whose worker's store does what `store` was told."""

    def __init__(self, *, clock: Callable[[], datetime.datetime] | None = None) -> None:
        super().__init__(clock=clock)
        self.store = FaultyStore(InMemoryJobStore(self.database))
        #: Raised when the store is opened, or when it is closed.
        self.open_error: BaseException | None = None
        self.close_error: BaseException | None = None
        #: What was opened and closed, in order.
        self.history: list[str] = []

    async def open_async(self, pool: Any = None) -> None:
        await super().open_async(pool)
        self.history.append("app opened")

    async def close_async(self) -> None:
        await super().close_async()
        self.history.append("app closed")

    def open_store(self) -> AbstractAsyncContextManager[JobStore]:
        return self._faulty_store()

    @contextlib.asynccontextmanager
    async def _faulty_store(self) -> AsyncGenerator[JobStore]:
        if self.open_error is not None:
            raise self.open_error
        async with super().open_store():
            self.history.append("store opened")
            try:
                yield self.wrapped()
            finally:
                self.history.append("store closed")
        if self.close_error is not None:
            raise self.close_error

    def wrapped(self) -> JobStore:
        """What the worker gets as its store."""
        return self.store

    def status(self, job_id: int) -> str:
        """The status of a job's row."""
        return self.jobs[job_id]["status"]

    @property
    def statuses(self) -> list[str]:
        """The status of every row, by id."""
        return [self.status(job_id) for job_id in sorted(self.jobs)]

    def event_types(self, job_id: int) -> list[str]:
        """What happened to a job, in order."""
        return [event.type for event in self.events[job_id]]

    @property
    def is_listened_to(self) -> bool:
        """Whether a worker hears what happens here."""
        return bool(self.database._listeners)  # pyright: ignore[reportPrivateUsage]  # nothing else tells

    def has_orphan(self) -> bool:
        """Whether a row is `doing` under no worker that has a row."""
        workers = self.database.tables.workers
        return any(
            row["status"] == "doing" and row["worker_id"] not in workers
            for row in self.jobs.values()
        )

    def refuse(self, is_refused: Callable[[Completion], bool], error: Exception = REFUSED) -> None:
        """The database refuses to write such outcomes, now and always."""
        run = self.database.run

        def run_or_refuse(verb: Any) -> Any:
            if isinstance(verb, FinishJobs) and any(map(is_refused, verb.completions)):
                raise error
            return run(verb)

        self.database.run = run_or_refuse  # type: ignore[method-assign]  # of this one

    def say(self, verb: CancelJob) -> bool:
        """What somebody else says to the database."""
        return self.database.run(verb)


@contextlib.asynccontextmanager
async def working(app: App, **options: Any) -> AsyncGenerator[Worker]:
    """A worker that runs while the block lasts, and then drains; aborts where the block raised."""
    options.setdefault("install_signal_handlers", False)
    worker = Worker(app, **options)
    async with trio.open_nursery() as nursery:
        await nursery.start(worker.run)
        try:
            yield worker
        except BaseException:
            worker.abort()
            raise
        worker.stop()


async def work(app: App, **options: Any) -> Worker:
    """Run a worker until no job is left."""
    options.setdefault("install_signal_handlers", False)
    worker = Worker(app, wait=False, **options)
    await worker.run()
    return worker


def stage_of(worker: Worker) -> Stage:
    """Its stage, as a call: a type checker takes a property's value for lasting."""
    return worker.stage


@contextlib.asynccontextmanager
async def ran(worker: Worker) -> AsyncGenerator[list[BaseException | None]]:
    """Run a worker beside the block; the list tells, after the block, what `run()` raised."""
    told: list[BaseException | None] = []

    async def run() -> None:
        try:
            await worker.run()
        except Exception as error:  # noqa: BLE001 - it is what the test wants to know
            told.append(error)
        except (KeyboardInterrupt, SystemExit) as error:
            told.append(error)
        else:
            told.append(None)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        yield told


async def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until something holds, a scheduler's turn at a time; not for what takes time."""
    for _ in range(1_000):
        if condition():
            return
        await trio.lowlevel.checkpoint()
    raise AssertionError("it does not come to hold")


class ThreadGate:
    """Where a sync job waits, in its thread, until a test lets it go on."""

    def __init__(self) -> None:
        self._entered = threading.Semaphore(0)
        self._open = threading.Event()

    def wait(self) -> None:
        """From the job: say that it is here, and wait."""
        self._entered.release()
        assert self._open.wait(30), "the test has forgotten this thread"

    def open(self) -> None:
        """Let every job go on."""
        self._open.set()

    async def wait_entered(self) -> None:
        """From the test: wait until one more job waits here."""
        # Its own thread, not abandoned: by the end of a test nothing waits here any more.
        entered = await trio.to_thread.run_sync(lambda: self._entered.acquire(timeout=30))
        assert entered, "no job has come here"


def rescue_elsewhere(connector: FaultyConnector) -> None:
    """What another worker does that takes every worker for dead, and their jobs over."""
    database = connector.database
    dead = list(database.tables.workers)
    another = database.run(
        RegisterWorker(
            worker_name="another",
            host="elsewhere",
            pid=1,
            version="0",
            queues=["another"],
            concurrency=1,
            stage="running",
        )
    )
    for worker_id in dead:
        database.run(UnregisterWorker(worker_id))
    database.run(AdoptOrphans(another, 30.0, 100))


@pytest.fixture
def gate() -> Iterator[ThreadGate]:
    """A gate for sync jobs, open by the end of the test whatever happens."""
    gate = ThreadGate()
    yield gate
    gate.open()


@pytest.fixture
def connector() -> FaultyConnector:
    """A database in memory, with faults on order."""
    return FaultyConnector()


@pytest.fixture
def app(connector: FaultyConnector) -> App:
    """An App on that database."""
    return App(connector=connector)


@pytest.fixture
def store(connector: FaultyConnector) -> FaultyStore:
    """Where faults are ordered."""
    return connector.store


class Steps:
    """A job that waits for the test: it says that it started, and ends when it is let."""

    def __init__(self) -> None:
        self.started = trio.Event()
        self.may_end = trio.Event()

    async def __call__(self) -> None:
        self.started.set()
        await self.may_end.wait()


async def asleep(seconds: float, then: Callable[[], object]) -> None:
    """Do something so many seconds later."""
    await trio.sleep(seconds)
    then()


async def outcome_of(awaitable: Awaitable[object]) -> BaseException | None:
    """What awaiting this raises, if anything."""
    try:
        await awaitable
    except BaseException as error:
        if isinstance(error, trio.Cancelled):
            raise
        return error
    return None
