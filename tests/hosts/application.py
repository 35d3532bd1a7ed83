"""An asyncio application with a worker inside, on a real database, and what its tests need."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
from collections.abc import Callable, Coroutine, Generator
from typing import Any, TypeVar

import psycopg
import pytest

from tests.waiting import PATIENCE
from trio_queue import App, JobContext, PsycopgConnector
from trio_queue.worker import Worker

T = TypeVar("T")

RunLoop = Callable[[Coroutine[Any, Any, T]], T]


def run_in_asyncio(main: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(main)


def run_in_uvloop(main: Coroutine[Any, Any, T]) -> T:
    import uvloop

    return uvloop.run(main)


needs_uvloop = pytest.mark.skipif(
    importlib.util.find_spec("uvloop") is None, reason="uvloop has no wheel for this platform"
)
on_both_loops = pytest.mark.parametrize(
    "run",
    [
        pytest.param(run_in_asyncio, id="asyncio"),
        pytest.param(run_in_uvloop, id="uvloop", marks=needs_uvloop),
    ],
)


class Application:
    """An App with jobs that a test holds. It is made outside of any loop, as applications do.

    Args:
        conninfo: Its database.
        **options: Of the App.
    """

    def __init__(self, conninfo: str, **options: Any) -> None:
        self.connector = PsycopgConnector(conninfo=conninfo, min_size=1)
        self.app = App(
            connector=self.connector,
            worker_defaults={"install_signal_handlers": False, "fetch_job_polling_interval": 3600},
            **options,
        )
        self.database = psycopg.connect(conninfo, autocommit=True)
        #: What the jobs did, in order.
        self.saw: list[str] = []
        self.began = asyncio.Event()
        #: How many jobs have begun that hold. A row is `doing` a little earlier.
        self.holding = 0
        self.gate = asyncio.Event()

        @self.app.task(name="short")
        async def short() -> None:
            await asyncio.sleep(0)
            self.saw.append("short")

        @self.app.task(name="hold", pass_context=True)
        async def hold(context: JobContext) -> None:
            self.holding += 1
            self.began.set()
            try:
                await self.gate.wait()
                self.saw.append("returned")
            except asyncio.CancelledError:
                self.saw.append(f"cancelled: {context.should_abort()}")
                raise

    def close(self) -> None:
        self.database.close()

    def defer(self, task: str) -> int:
        """Defer a job as anybody's client would, over the test's own connection."""
        row = self.database.execute(
            "INSERT INTO procrastinate_jobs (queue_name, task_name, args)"
            " VALUES ('default', %s, '{}') RETURNING id",
            [task],
        ).fetchone()
        assert row is not None
        return int(row[0])

    @property
    def statuses(self) -> list[str]:
        """The status of every row, by id."""
        return [
            row[0]
            for row in self.database.execute(
                "SELECT status::text FROM procrastinate_jobs ORDER BY id"
            )
        ]

    @property
    def stages(self) -> list[str]:
        """What each worker that has a row is doing."""
        return [
            row[0] for row in self.database.execute("SELECT stage::text FROM trio_queue_workers")
        ]

    @property
    def workers(self) -> int:
        """How many workers have a row."""
        return self.database.execute("SELECT id FROM procrastinate_workers").rowcount

    async def start(self, **options: Any) -> asyncio.Task[None]:
        """Run a worker in a task, and wait until a job that it holds has begun."""
        task = asyncio.create_task(self.app.run_worker_async(**options))
        await within_patience(self.began.wait(), task)
        return task

    async def reach(self, stage: str, count: int = 1) -> None:
        """Wait until so many workers show a stage in their rows."""
        await eventually(
            lambda: (
                self.database.execute(
                    "SELECT worker_id FROM trio_queue_workers WHERE stage = %s", [stage]
                ).rowcount
                == count
            ),
            f"{count} workers that are {stage}",
        )


async def within_patience(wait: Coroutine[Any, Any, Any], worker: asyncio.Task[None]) -> None:
    """Await what a worker does; fail with the worker, or rather than hang."""
    waiting = asyncio.ensure_future(wait)
    await asyncio.wait([waiting, worker], timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
    if worker.done():
        waiting.cancel()
        worker.result()
    assert waiting.done(), "waited in vain"


async def eventually(condition: Callable[[], bool], what: str) -> None:
    """Wait for something that nothing signals, such as a row."""
    for _ in range(int(PATIENCE / 0.005)):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError(f"waited in vain for {what}")


@contextlib.contextmanager
def cancelled() -> Generator[None]:
    """What is awaited inside raises CancelledError."""
    with pytest.raises(asyncio.CancelledError):
        yield


def the_worker(app: App) -> list[Worker]:
    """The workers that an App makes, as they are made."""
    made: list[Worker] = []
    make = app.worker

    def note(**options: Any) -> Worker:
        made.append(make(**options))
        return made[-1]

    app.worker = note  # type: ignore[method-assign]  # run_worker_async makes them by this
    return made
