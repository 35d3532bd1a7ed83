"""What a stop takes: aborts, a user's abort while draining, an idle stop, and what a drain asks of the database."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager

import procrastinate
import psycopg
import trio

import trio_queue
from tests.benchmarks.figures import BASE, OURS, Figure
from tests.benchmarks.idle import WATCHED, idle_figures, idling
from tests.benchmarks.peers import QUEUE, SETTLING, Bench
from tests.waiting import eventually


def _our_app(conninfo: str, began: list[None]) -> trio_queue.App:
    app = trio_queue.App(
        connector=trio_queue.PsycopgConnector(conninfo=conninfo),
        worker_defaults={"install_signal_handlers": False, "queues": [QUEUE]},
    )

    @app.task(name="wait", queue=QUEUE)
    async def wait() -> None:
        began.append(None)
        await trio.sleep_forever()

    return app


def _defer(conninfo: str, count: int) -> None:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO procrastinate_jobs (queue_name, task_name)"
            " SELECT %s, 'wait' FROM generate_series(1, %s)",
            [QUEUE, count],
        )


def _count(conninfo: str, status: str) -> int:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        found = connection.execute(
            "SELECT count(*) FROM procrastinate_jobs WHERE status::text = %s", [status]
        ).fetchone()
    assert found is not None
    return int(found[0])


@asynccontextmanager
async def _holding(conninfo: str, jobs: int) -> AsyncGenerator[trio_queue.Worker]:
    """A worker that runs so many jobs that wait; aborted after the block."""
    _defer(conninfo, jobs)
    began: list[None] = []
    worker = _our_app(conninfo, began).worker(concurrency=max(jobs, 1))
    async with trio.open_nursery() as nursery:
        await nursery.start(worker.run)
        # Not only claimed: what has not begun is given back.
        await eventually(lambda: len(began) == jobs, "the jobs to run")
        yield worker
        worker.abort()


def abort_all(bench: Bench) -> Iterator[Figure]:
    """Seconds from the abort of a thousand waiting jobs to the worker's end, every row written."""
    jobs = bench.some(1_000)

    async def ours(conninfo: str) -> float:
        async with _holding(conninfo, jobs) as worker:
            began = time.perf_counter()
            worker.abort()
        return time.perf_counter() - began

    async def stock(conninfo: str) -> float:
        app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=conninfo))

        @app.task(name="wait", queue=QUEUE)
        async def wait() -> None:
            await asyncio.Event().wait()

        async with app.open_async():
            # Not by two cancels: the second one abandons the jobs.
            worker = asyncio.create_task(
                app.run_worker_async(
                    concurrency=jobs, install_signal_handlers=False, shutdown_graceful_timeout=0
                )
            )
            while await asyncio.to_thread(_count, conninfo, "doing") < jobs:  # noqa: ASYNC110 - a row signals nothing
                await asyncio.sleep(0.05)
            began = time.perf_counter()
            worker.cancel()
            await asyncio.gather(worker, return_exceptions=True)
            return time.perf_counter() - began

    with bench.fresh_database() as conninfo:
        yield Figure("stop, 1,000 jobs aborted", "s", OURS, trio.run(ours, conninfo))
        assert _count(conninfo, "aborted") == jobs
    with bench.fresh_database(ours=False) as conninfo:
        _defer(conninfo, jobs)
        yield Figure("stop, 1,000 jobs aborted", "s", BASE, asyncio.run(stock(conninfo)))


def user_abort(bench: Bench) -> Iterator[Figure]:
    """Seconds from a user's request to abort a job, while its worker drains, to its row."""

    async def ours(conninfo: str) -> float:
        async with _holding(conninfo, 2) as worker:
            worker.stop()
            async with _our_app(conninfo, []).open_async() as app:
                began = time.perf_counter()
                await app.job_manager.cancel_job_by_id_async(1, abort=True)
                await eventually(lambda: _count(conninfo, "aborted") == 1, "the abort")
                return time.perf_counter() - began

    with bench.fresh_database() as conninfo:
        yield Figure("a user's abort while draining", "s", OURS, trio.run(ours, conninfo))


def idle_stop(bench: Bench) -> Iterator[Figure]:
    """Seconds from `stop()` to the end of a worker that runs nothing."""

    async def ours(conninfo: str) -> float:
        async with _holding(conninfo, 0) as worker:
            began = time.perf_counter()
            worker.stop()
        return time.perf_counter() - began

    with bench.fresh_database() as conninfo:
        yield Figure("stop, nothing runs", "s", OURS, trio.run(ours, conninfo))


def draining(bench: Bench) -> Iterator[Figure]:
    """What a worker asks of the database while it drains, and while it only runs a job."""
    settling, seconds = (0.1, 0.5) if bench.quick else (SETTLING, WATCHED)

    async def ours(conninfo: str, drains: bool) -> list[tuple[str, float]]:
        async with _holding(conninfo, 1) as worker:
            if drains:
                worker.stop()
            await trio.sleep(settling)
            with idling(bench, conninfo, seconds) as told:
                await trio.sleep(seconds)
        return told

    for drains in (True, False):
        with bench.fresh_database() as conninfo:
            what = "draining, one job runs" if drains else "one job runs"
            yield from idle_figures(what, OURS, trio.run(ours, conninfo, drains))
