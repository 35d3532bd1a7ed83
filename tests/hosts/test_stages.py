"""Each ask in each stage, by what asyncio has for it: the contract's table, cell by cell.

With jobs that are asyncio tasks, in memory and on PostgreSQL, in asyncio's loop and uvloop's.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from tests.faults_of_the_original.bench import FaultyPsycopgConnector
from tests.fix_worker import FaultyConnector
from tests.hosts.application import (
    RunLoop,
    eventually,
    needs_uvloop,
    on_both_loops,
    run_in_asyncio,
    run_in_uvloop,
    the_worker,
    within_patience,
)
from tests.waiting import PATIENCE
from trio_queue import App, JobContext
from trio_queue._loops.guest import open_guest
from trio_queue.verbs import FetchJobs, RegisterWorker
from trio_queue.worker import Stage, Worker

Connector = FaultyConnector | FaultyPsycopgConnector


class OnPurposeError(Exception):
    """What a part of the worker raises."""


class NothingError(Exception):
    """Nothing was raised."""


@attrs.frozen
class Cell:
    """What is done, one thing after the other, each with the stage that the worker then has and keeps.

    What has no stage beside it only begins something that takes time.
    """

    name: str
    does: str
    #: What `run_worker_async` raises.
    raises: type[BaseException] = NothingError
    #: The status of each row.
    ends: tuple[str, ...] = ("succeeded",)
    #: What jobs there are; the first is awaited.
    jobs: tuple[str, ...] = ("hold",)
    #: The stage that it is in when all that begins.
    in_stage: Stage = Stage.RUNNING
    options: dict[str, Any] = attrs.field(factory=dict[str, Any])


ABORTED = ("aborted",)
CANCELLED = asyncio.CancelledError

CELLS = [
    # -- STARTING
    *(
        Cell(
            f"{ask}, starting",
            f"{ask}:stopped",
            CANCELLED if ask == "cancel" else NothingError,
            ends=("todo",),
            in_stage=Stage.STARTING,
        )
        for ask in ("stop", "abort", "SIGINT", "SIGTERM", "cancel")
    ),
    # -- RUNNING
    Cell("stop", "stop:draining returns:stopped"),
    Cell("abort", "abort:aborting cleans:stopped", ends=ABORTED),
    Cell("SIGINT", "SIGINT:draining returns:stopped"),
    Cell("SIGTERM", "SIGTERM:draining returns:stopped"),
    Cell("cancel", "cancel:draining returns:stopped", CANCELLED),
    Cell("cancel, idle", "cancel:stopped", CANCELLED, ends=(), jobs=()),
    Cell("SIGTERM, idle", "SIGTERM:stopped", ends=(), jobs=()),
    Cell("no job left", "returns:stopped", options={"wait": False}),
    Cell(
        "no job left, and a deadline that nobody asked for",
        "nothing:running returns:stopped",
        options={"wait": False, "shutdown_graceful_timeout": 0},
    ),
    Cell(
        "cancel, without waiting for jobs",
        "cancel:draining returns:stopped",
        CANCELLED,
        options={"wait": False},
    ),
    Cell(
        "a part of it fails",
        "fail:draining returns:stopped",
        OnPurposeError,
        ends=("succeeded", "todo"),
        options={"concurrency": 2},
    ),
    Cell(
        "a job exits",
        "exit:aborting cleans:stopped",
        SystemExit,
        ends=("aborted", "failed"),
        jobs=("hold", "exit"),
        options={"concurrency": 2},
    ),
    # -- DRAINING
    Cell("stop, stop", "stop:draining stop:draining returns:stopped"),
    Cell("stop, cancel", "stop:draining cancel:draining returns:stopped", CANCELLED),
    Cell("stop, SIGTERM", "stop:draining SIGTERM:draining returns:stopped"),
    Cell("cancel, stop", "cancel:draining stop:draining returns:stopped", CANCELLED),
    Cell(
        "stop, cancel, SIGTERM",
        "stop:draining cancel:draining SIGTERM:aborting cleans:stopped",
        CANCELLED,
        ABORTED,
    ),
    Cell("stop, abort", "stop:draining abort:aborting cleans:stopped", ends=ABORTED),
    Cell("cancel, abort", "cancel:draining abort:aborting cleans:stopped", CANCELLED, ends=ABORTED),
    Cell(
        "cancel, cancel", "cancel:draining cancel:aborting cleans:stopped", CANCELLED, ends=ABORTED
    ),
    Cell(
        "cancel, SIGINT", "cancel:draining SIGINT:aborting cleans:stopped", CANCELLED, ends=ABORTED
    ),
    Cell(
        "SIGINT, cancel", "SIGINT:draining cancel:aborting cleans:stopped", CANCELLED, ends=ABORTED
    ),
    Cell("SIGTERM, SIGTERM", "SIGTERM:draining SIGTERM:aborting cleans:stopped", ends=ABORTED),
    *(
        Cell(
            f"{ask}, deadline",
            f"{ask} deadline:aborting cleans:stopped",
            CANCELLED if ask == "cancel" else NothingError,
            ends=ABORTED,
            options={"shutdown_graceful_timeout": 0.02},
        )
        for ask in ("stop", "cancel", "SIGTERM")
    ),
    Cell(
        "cancel, a deadline of zero",
        "cancel:aborting cleans:stopped",
        CANCELLED,
        ends=ABORTED,
        options={"shutdown_graceful_timeout": 0},
    ),
    Cell(
        "cancel, and a deadline far off",
        "cancel:draining returns:stopped",
        CANCELLED,
        options={"shutdown_graceful_timeout": 3600},
    ),
    Cell(
        "cancel, a job exits",
        "cancel:draining exit:aborting cleans:stopped",
        SystemExit,
        ends=("aborted", "failed"),
        jobs=("hold", "exit"),
        options={"concurrency": 2},
    ),
    Cell(
        "cancel, a job in a thread",
        "cancel:draining cancel:aborting returns:stopped",
        CANCELLED,
        jobs=("thread",),
    ),
    # -- ABORTING
    *(
        Cell(
            f"cancel, cancel, {ask}",
            f"cancel:draining cancel:aborting {ask}:aborting cleans:stopped",
            CANCELLED,
            ends=ABORTED,
        )
        for ask in ("stop", "abort", "SIGTERM", "cancel")
    ),
    Cell(
        "SIGTERM three times, which leaves only where it was said",
        "SIGTERM:draining SIGTERM:aborting SIGTERM:aborting cleans:stopped",
        ends=ABORTED,
    ),
]


class Desk:
    """An App with jobs that a test holds, its worker's task, and who asks it to stop."""

    def __init__(self, connector: Connector) -> None:
        self.app = App(connector=connector, worker_defaults={"install_signal_handlers": False})
        self._store = connector.store
        self.made = the_worker(self.app)
        self.began = asyncio.Event()
        self._gate, self._thread_gate = asyncio.Event(), threading.Event()
        self._exits, self._cleans = asyncio.Event(), asyncio.Event()
        #: What `run_worker_async` raised, where that would end the loop.
        self.exit: SystemExit | None = None
        #: What the jobs saw.
        self.reasons: list[str] = []

        @self.app.task(name="hold", pass_context=True)
        async def hold(context: JobContext) -> None:
            self.began.set()
            try:
                await self._gate.wait()
            except asyncio.CancelledError:
                self.reasons.append(str(context.should_abort()))
                await self._cleans.wait()
                raise

        @self.app.task(name="thread")
        def thread() -> None:
            loop.call_soon_threadsafe(self.began.set)
            assert self._thread_gate.wait(PATIENCE)

        loop = asyncio.get_running_loop()

        @self.app.task(name="exit")
        async def exit_() -> None:
            await self._exits.wait()
            raise SystemExit(3)

    @property
    def worker(self) -> Worker:
        [worker] = self.made
        return worker

    async def start(self, cell: Cell) -> asyncio.Task[None]:
        """Defer the jobs, and begin to run a worker until it has the stage that the cell is of."""
        async with self.app.open_async():
            for job in cell.jobs:
                await self.app.configure_task(job).defer_async()
        hung = self._store.hang(RegisterWorker) if cell.in_stage is Stage.STARTING else None
        handlers = {"install_signal_handlers": "SIG" in cell.does}
        task = asyncio.create_task(self._run(**{**handlers, **cell.options}))
        if hung is not None:
            async with open_guest() as guest:
                await within_patience(guest.run_trio(hung.wait_hit), task)
        elif cell.jobs:
            await within_patience(self.began.wait(), task)
        await eventually(lambda: bool(self.made), "the worker")
        await eventually(lambda: self.worker.stage is cell.in_stage, str(cell.in_stage))
        return task

    async def _run(self, **options: Any) -> None:
        try:
            await self.app.run_worker_async(**options)
        except SystemExit as error:  # out of a task it would end the loop
            self.exit = error

    def let_go(self) -> None:
        """Let everything end that waits."""
        for event in (self._gate, self._thread_gate, self._cleans):
            event.set()
        self._store.clear()

    async def raised(self, task: asyncio.Task[None]) -> None:
        """Raise what `run_worker_async` has raised, or that it was nothing."""
        await task
        raise self.exit or NothingError

    async def do(self, what: str, task: asyncio.Task[None]) -> None:
        """One of the things that a cell has."""
        match what:
            case "stop" | "abort":
                ask: Callable[[], None] = getattr(self.worker, what)
                ask()
            case "cancel":
                task.cancel()
            case "SIGINT" | "SIGTERM":
                signal.raise_signal(signal.Signals[what])
            case "returns":
                self._gate.set()
                self._thread_gate.set()
            case "cleans":
                self._cleans.set()
            case "exit":
                self._exits.set()
            case "fail":
                self._store.fail(FetchJobs, error=OnPurposeError, transient=False)
                await self.app.configure_task("hold").defer_async()
            case "deadline" | "nothing":
                pass
            case _:
                raise AssertionError(what)

    async def keeps(self, stage: Stage, task: asyncio.Task[None]) -> None:
        """Wait until the worker has this stage, and has it still when all that was asked is heard."""
        await eventually(lambda: self.worker.stage is stage, f"{stage}, not {self.worker.stage}")
        if stage is Stage.STOPPED:
            await asyncio.wait([task], timeout=PATIENCE)
            assert task.done()
            return
        async with open_guest() as guest:
            await guest.run_trio(trio.testing.wait_all_tasks_blocked)
        assert self.worker.stage is stage
        assert not task.done()


async def play(connector: Connector, cell: Cell) -> None:
    desk = Desk(connector)
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    try:
        task = await desk.start(cell)
        for step in cell.does.split():
            what, _, stage = step.partition(":")
            await desk.do(what, task)
            if stage:
                await desk.keeps(Stage(stage), task)
    finally:
        desk.let_go()  # a test that failed waits for nobody
    with pytest.raises(cell.raises):
        await desk.raised(task)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert not trio.lowlevel.in_trio_run()
    assert not desk.app.connector.is_open()
    assert desk.reasons == ["AbortReason.SHUTDOWN"] * cell.ends.count("aborted")
    async with desk.app.open_async():
        jobs = await desk.app.job_manager.list_jobs_async()
        assert tuple(job.status for job in jobs) == cell.ends
        assert list(await desk.app.job_manager.list_workers_async()) == []


@on_both_loops
@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_in_memory(run: RunLoop[None], cell: Cell) -> None:
    run(play(FaultyConnector(), cell))


def on_postgres() -> Iterator[Any]:
    """Each cell in each loop where all is tried inside of asyncio; by default a few of them."""
    for number, cell in enumerate(CELLS):
        for place, name, run, marks in (
            (0, "asyncio", run_in_asyncio, []),
            (2, "uvloop", run_in_uvloop, [needs_uvloop]),
        ):
            more = [] if number % 4 == place else [pytest.mark.only_in_asyncio]
            yield pytest.param(cell, run, id=f"{cell.name}-{name}", marks=[*marks, *more])


@pytest.mark.parametrize(("cell", "run"), list(on_postgres()))
def test_on_postgres(run: RunLoop[None], cell: Cell, queue_database: str) -> None:
    run(play(FaultyPsycopgConnector(queue_database), cell))
