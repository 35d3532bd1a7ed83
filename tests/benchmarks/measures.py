"""What is measured: drain, defer, idle; each peer does the same work on a database of its own."""

from __future__ import annotations

import asyncio
import time
import warnings
from collections.abc import Callable, Iterator

import attrs
import procrastinate
import psycopg
import trio

import trio_queue
from tests.benchmarks import stopping
from tests.benchmarks.peers import SETTLING, Bench, idling
from trio_queue.types import JSONDict


def _our_app(conninfo: str) -> trio_queue.App:
    app = trio_queue.App(connector=trio_queue.PsycopgConnector(conninfo=conninfo))

    @app.task(name="noop", queue="bench")
    async def noop(number: int) -> None:
        pass

    return app


def _stock_app(conninfo: str) -> procrastinate.App:
    app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=conninfo))

    @app.task(name="noop", queue="bench")
    async def noop(number: int) -> None:
        pass

    return app


def _fill(conninfo: str, count: int) -> None:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO procrastinate_jobs (queue_name, task_name, args)"
            " SELECT 'bench', 'noop', jsonb_build_object('number', n) FROM generate_series(1, %s) n",
            [count],
        )
        connection.execute("VACUUM ANALYZE")


def _all_succeeded(conninfo: str, count: int) -> None:
    with psycopg.connect(conninfo) as connection:
        done = connection.execute(
            "SELECT count(*) FROM procrastinate_jobs WHERE status = 'succeeded'"
        ).fetchone()
    assert done == (count,), f"{done} of {count} jobs succeeded"


def drain(
    concurrency: int, ours: int, stock: int
) -> Callable[[Bench], Iterator[tuple[str, float]]]:
    """Jobs per second of a worker with `wait=False`, from its start to its end."""

    def run(bench: Bench) -> Iterator[tuple[str, float]]:
        conninfo = bench.database(ours=True)
        _fill(conninfo, ours)
        app = _our_app(conninfo)
        began = time.perf_counter()
        app.run_worker(wait=False, concurrency=concurrency, queues=["bench"])
        yield "trio_queue", ours / (time.perf_counter() - began)
        _all_succeeded(conninfo, ours)

        conninfo = bench.database(ours=False)
        _fill(conninfo, stock)
        stock_app = _stock_app(conninfo)
        began = time.perf_counter()
        stock_app.run_worker(wait=False, concurrency=concurrency, queues=["bench"])
        yield "procrastinate", stock / (time.perf_counter() - began)
        _all_succeeded(conninfo, stock)

    return run


def batch_defer(
    count: int = 20_000, size: int = 1_000
) -> Callable[[Bench], Iterator[tuple[str, float]]]:
    """Jobs per second deferred in batches."""
    batches: list[list[JSONDict]] = [
        [{"number": n} for n in range(i, i + size)] for i in range(0, count, size)
    ]

    async def on_trio(app: trio_queue.App) -> float:
        async with app.open_async():
            deferrer = app.configure_task("noop", queue="bench")
            began = time.perf_counter()
            for batch in batches:
                await deferrer.batch_defer_async(*batch)
            return count / (time.perf_counter() - began)

    async def on_asyncio(app: procrastinate.App | trio_queue.App) -> float:
        async with app.open_async():
            deferrer = app.configure_task("noop", queue="bench")
            began = time.perf_counter()
            for batch in batches:
                await deferrer.batch_defer_async(*batch)
            return count / (time.perf_counter() - began)

    def run(bench: Bench) -> Iterator[tuple[str, float]]:
        yield "trio_queue", trio.run(on_trio, _our_app(bench.database(ours=True)))
        yield "trio_queue, asyncio", asyncio.run(on_asyncio(_our_app(bench.database(ours=True))))
        yield "procrastinate", asyncio.run(on_asyncio(_stock_app(bench.database(ours=False))))

    return run


def defer_singly(count: int = 2_000) -> Callable[[Bench], Iterator[tuple[str, float]]]:
    """Jobs per second deferred one after the other."""

    async def on_trio(app: trio_queue.App) -> float:
        async with app.open_async():
            deferrer = app.configure_task("noop", queue="bench")
            began = time.perf_counter()
            for number in range(count):
                await deferrer.defer_async(number=number)
            return count / (time.perf_counter() - began)

    async def on_asyncio(app: procrastinate.App) -> float:
        async with app.open_async():
            deferrer = app.configure_task("noop", queue="bench")
            began = time.perf_counter()
            for number in range(count):
                await deferrer.defer_async(number=number)
            return count / (time.perf_counter() - began)

    def run(bench: Bench) -> Iterator[tuple[str, float]]:
        yield "trio_queue", trio.run(on_trio, _our_app(bench.database(ours=True)))
        yield "procrastinate", asyncio.run(on_asyncio(_stock_app(bench.database(ours=False))))

    return run


def idle(seconds: float = 30.0) -> Callable[[Bench], Iterator[tuple[str, float]]]:
    """Transactions per second of a worker that has nothing to do; prints wake-ups and CPU beside it."""

    async def ours(app: trio_queue.App, bench: Bench, conninfo: str) -> float:
        async with trio.open_nursery() as nursery:
            await nursery.start(app.worker(queues=["bench"]).run)
            await trio.sleep(SETTLING)
            with idling("trio_queue", bench, conninfo, seconds) as result:
                await trio.sleep(seconds)
            nursery.cancel_scope.cancel()
        return result[0]

    async def stock(app: procrastinate.App, bench: Bench, conninfo: str) -> float:
        async with app.open_async():
            worker = asyncio.create_task(
                app.run_worker_async(queues=["bench"], install_signal_handlers=False)
            )
            await asyncio.sleep(SETTLING)
            with idling("procrastinate", bench, conninfo, seconds) as result:
                await asyncio.sleep(seconds)
            worker.cancel()
            await asyncio.gather(worker, return_exceptions=True)
        return result[0]

    def run(bench: Bench) -> Iterator[tuple[str, float]]:
        conninfo = bench.database(ours=True)
        yield "trio_queue", trio.run(ours, _our_app(conninfo), bench, conninfo)
        conninfo = bench.database(ours=False)
        yield "procrastinate", asyncio.run(stock(_stock_app(conninfo), bench, conninfo))

    return run


@attrs.frozen
class Measure:
    """Something that is measured."""

    unit: str
    run: Callable[[Bench], Iterator[tuple[str, float]]]


MEASURES = {
    "drain, concurrency 1": Measure("jobs/s", drain(1, 2_000, 1_000)),
    "drain, concurrency 10": Measure("jobs/s", drain(10, 20_000, 1_500)),
    "drain, concurrency 100": Measure("jobs/s", drain(100, 50_000, 1_500)),
    "batch defer": Measure("jobs/s", batch_defer()),
    "defer one by one": Measure("jobs/s", defer_singly()),
    "idle": Measure("transactions/s", idle()),
    "abort 1,000 jobs": Measure("s", stopping.abort_all()),
    "a user's abort while draining": Measure("s", stopping.user_abort()),
    "stop, nothing runs": Measure("s", stopping.idle_stop()),
    "draining": Measure("transactions/s", stopping.draining()),
}


def measure(bench: Bench, name: str) -> Iterator[tuple[str, float]]:
    """Measure one thing once, for every peer."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield from MEASURES[name].run(bench)
