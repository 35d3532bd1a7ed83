"""What a job costs the worker's process, step by step, each measured alone with the real objects.

Their sum stands beside what a whole drain costs. What is between the two is what the steps leave out:
waking tasks, waiting for the socket, the collector of garbage, the heartbeat.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, cast

import attrs
import trio

from tests.benchmarks.figures import Figure
from tests.benchmarks.peers import QUEUE, Bench, check_succeeded, fill, our_app, registration
from trio_queue import App
from trio_queue._storage.rows import JOB_COLUMNS, fetched_from_rows
from trio_queue._worker.complete import Completer
from trio_queue._worker.run import Runner
from trio_queue._worker.running import RunningJob, RunningJobs
from trio_queue.jobs import Job
from trio_queue.store import JobStore
from trio_queue.tasks import AnyTask
from trio_queue.verbs import FetchJobs, FinishJobs
from trio_queue.worker import Worker

#: Jobs in a claim and in a write, as a drain of a hundred at once has them.
BATCH = 500
BATCHES = 10
WHOLE = "a job's path"


class _Stopwatch:
    """CPU of this process, by step."""

    def __init__(self) -> None:
        self.steps: dict[str, float] = {}

    async def time(self, step: str, work: Callable[[], Awaitable[Any]]) -> Any:
        began = time.process_time()
        result = await work()
        self.steps[step] = self.steps.get(step, 0.0) + time.process_time() - began
        return result


@attrs.define
class _Scene:
    """The objects of a worker that does not run: its jobs are handed through them by hand."""

    worker: Worker
    task: AnyTask
    ended: list[RunningJob] = attrs.field(factory=list[RunningJob])

    @classmethod
    def of(cls, app: App) -> _Scene:
        return cls(app.worker(queues=[QUEUE], concurrency=BATCH), app.tasks["noop"])

    def runner(self, running: RunningJobs) -> Runner:
        """A runner that hands its outcomes to us."""

        class Keeps:
            add = self.ended.append

        return Runner(
            app=self.worker.app,
            options=self.worker.options,
            caller=self.worker._caller(),  # pyright: ignore[reportPrivateUsage] - its parts are what is measured
            completer=cast("Completer", Keeps()),
            running=running,
            shutdown=self.worker._shutdown,  # pyright: ignore[reportPrivateUsage] - likewise
            supervisor=self.worker._supervisor,  # pyright: ignore[reportPrivateUsage] - likewise
        )


def _taken(jobs: Sequence[Job], worker_id: int) -> tuple[RunningJobs, list[RunningJob]]:
    table = RunningJobs(len(jobs))
    table.start_with(_not_at_all)
    running = [RunningJob(job, worker_id, claimed_at=0.0) for job in jobs]
    for each in running:
        table.add(each)
    return table, running


def _not_at_all(running: RunningJob) -> None:
    """Start nothing: what a task costs is another step."""


async def _nothing() -> None:
    pass


async def _spawn(count: int) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(_nothing)


async def _enter_scopes(count: int) -> None:
    for _ in range(count):
        with trio.CancelScope(shield=True):
            await trio.lowlevel.checkpoint_if_cancelled()


async def _path(
    store: JobStore, scene: _Scene, worker_id: int, watch: _Stopwatch, bench: Bench
) -> None:
    """One batch, from the claim to the last row."""
    fetch = FetchJobs(worker_id, [QUEUE], BATCH)
    jobs = (await watch.time("claim: send, receive, decode", lambda: store.run(fetch))).jobs
    rows = [_row(job) for job in jobs]
    await watch.time("(of it) a Job of each row", _sync(lambda: fetched_from_rows(rows)))
    table, running = await watch.time("take into the table", _sync(lambda: _taken(jobs, worker_id)))
    await watch.time("spawn a Trio task", lambda: _spawn(len(jobs)))

    await watch.time("enter a shielded scope", lambda: _enter_scopes(len(jobs)))
    # On jobs of its own: a body begins once.
    _, others = _taken(jobs, worker_id)
    runner = scene.runner(table)
    caller = scene.worker._caller()  # pyright: ignore[reportPrivateUsage] - its parts are what is measured
    way = caller.way_of(scene.task)

    async def call() -> None:
        for each in others:
            await caller.call(way, each, runner._context)  # pyright: ignore[reportPrivateUsage] - likewise

    await watch.time("call the body", call)

    async def contexts() -> None:
        for each in others:
            runner._context(each)  # pyright: ignore[reportPrivateUsage] - likewise

    await watch.time("(where it is taken) the context", contexts)

    async def run() -> None:
        for each in running:
            await runner.run(way, each)

    await watch.time("run", run)
    await _complete(store, scene, table, watch, bench)


async def _complete(
    store: JobStore, scene: _Scene, table: RunningJobs, watch: _Stopwatch, bench: Bench
) -> None:
    ended, reporter = list(scene.ended), scene.worker._reporter  # pyright: ignore[reportPrivateUsage] - likewise
    scene.ended.clear()
    finish = FinishJobs(ended[0].worker_id, [each.completion for each in ended if each.completion])
    await watch.time("complete: send, receive", lambda: store.run(finish))

    async def report() -> None:
        reporter.ended(ended, {})

    async def begin() -> None:
        for each in ended:
            reporter.began(each)

    await watch.time("log, nobody listens", report)
    with bench.logging_at_info():
        await watch.time("(at INFO, to a file) log", begin)
        await watch.time("(at INFO, to a file) log", report)
    await watch.time("let go", _sync(lambda: table.let_go(ended)))


def _sync(work: Callable[[], Any]) -> Callable[[], Awaitable[Any]]:
    async def call() -> Any:
        return work()

    return call


def _row(job: Job) -> tuple[Any, ...]:
    fields = {"queue_name": "queue", "args": "task_kwargs"}
    return tuple(getattr(job, fields.get(column, column)) for column in JOB_COLUMNS)


async def _measure(bench: Bench, conninfo: str, batches: int) -> dict[str, float]:
    app, watch = our_app(conninfo), _Stopwatch()
    scene = _Scene.of(app)
    async with app.open_async(), app.connector.open_store() as store:
        worker_id = await store.run(registration(BATCH))
        for number in range(batches + 1):
            await _path(store, scene, worker_id, watch, bench)
            if not number:
                watch.steps.clear()  # the first one prepares its statements
    return {step: 1e6 * seconds / (BATCH * batches) for step, seconds in watch.steps.items()}


def steps(bench: Bench) -> Iterator[Figure]:
    """Microseconds of CPU in the worker's process for each step of a job; and for a drain's whole."""
    batches = bench.some(BATCHES, 1)
    jobs = BATCH * (batches + 1)
    with bench.fresh_database() as conninfo:
        fill(conninfo, jobs)
        gc.collect()
        gc.disable()  # or one step or the other, by chance, has the collector's time too
        try:
            found = trio.run(_measure, bench, conninfo, batches)
        finally:
            gc.enable()
        check_succeeded(conninfo, jobs)
    # `run` enters the scope and calls the body, which are steps of their own.
    inner = found["enter a shielded scope"] + found["call the body"]
    ordered = {
        "outcome, completion, hand on" if step == "run" else step: max(
            0.0, value - inner if step == "run" else value
        )
        for step, value in found.items()
    }
    for step, value in ordered.items():
        yield Figure(WHOLE, "µs of CPU", step, value)
    whole = sum(value for step, value in ordered.items() if not step.startswith("("))
    yield Figure(WHOLE, "µs of CPU", "sum of the steps", whole)
    with bench.fresh_database() as conninfo:
        jobs = bench.some(40_000)
        fill(conninfo, jobs)
        with bench.cost() as cost:
            our_app(conninfo).run_worker(wait=False, concurrency=100, queues=[QUEUE])
    yield Figure(WHOLE, "µs of CPU", "a drain, measured", 1e6 * cost.client_cpu / jobs)
