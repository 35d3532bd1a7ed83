"""Latency: from before a defer to the begin of the job's body, and until its row is `succeeded`.

An idle worker and whoever defers share a loop, each with connections of its own. The next job is
deferred when the row of the last one is `succeeded`: nothing sleeps. That is heard by a listener in
a thread, over a trigger that the measurement adds to the tables of either side.
"""

from __future__ import annotations

import asyncio
import statistics
import threading
import time
from collections.abc import Awaitable, Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any

import attrs
import psycopg
import trio

from tests.benchmarks.figures import BASE, ON_ASYNCIO, OURS, Figure
from tests.benchmarks.peers import QUEUE, Bench, our_app, stock_app

PERCENTILES = (5, 25, 50, 75, 90, 95, 99)
JOBS = 500
#: Not counted: plans and prepared statements come with the first ones.
WARM = 30

_TRIGGER = """
CREATE FUNCTION bench_tell() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN PERFORM pg_notify('bench_succeeded', new.id::text); RETURN NULL; END $$;
CREATE TRIGGER bench_succeeded AFTER UPDATE ON procrastinate_jobs FOR EACH ROW
WHEN (old.status <> new.status AND new.status = 'succeeded') EXECUTE FUNCTION bench_tell();
"""


@attrs.define
class Times:
    """Moments of jobs one after the other, by `time.perf_counter`."""

    deferred: list[float] = attrs.field(factory=list[float])
    begun: list[float] = attrs.field(factory=list[float])
    succeeded: list[float] = attrs.field(factory=list[float])
    #: Called in the listener's thread at each job that succeeded.
    tell: Callable[[], None] = lambda: None

    def figures(self, peer: str) -> Iterator[Figure]:
        """The percentiles, in milliseconds."""
        for what, moments in (("its begin", self.begun), ("succeeded", self.succeeded)):
            pairs = zip(moments, self.deferred, strict=True)
            took = [1_000 * (moment - deferred) for moment, deferred in pairs][WARM:]
            cuts = statistics.quantiles(took, n=100, method="inclusive")
            for percentile in PERCENTILES:
                measure = f"latency, defer to {what}, p{percentile}"
                yield Figure(measure, "ms", peer, cuts[percentile - 1])


@contextmanager
def _heard(conninfo: str, times: Times) -> Generator[None]:
    """A thread takes the times of jobs that succeed."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(_TRIGGER)
        connection.execute("LISTEN bench_succeeded")

        def hear() -> None:
            for notification in connection.notifies():
                if notification.payload == "end":
                    return
                times.succeeded.append(time.perf_counter())
                times.tell()

        thread = threading.Thread(target=hear)
        thread.start()
        try:
            yield
        finally:
            with psycopg.connect(conninfo, autocommit=True) as other:
                other.execute("NOTIFY bench_succeeded, 'end'")
            thread.join()


def _timed(app: Any, times: Times) -> Any:
    """A deferrer for a task that takes the time; its module differs by App only."""

    @app.task(name="timed", queue=QUEUE)
    async def timed(number: int) -> None:
        del number
        times.begun.append(time.perf_counter())

    return app.configure_task("timed", queue=QUEUE)


async def _defer(
    jobs: int, deferrer: Any, times: Times, wait: Callable[[], Awaitable[object]]
) -> None:
    for number in range(jobs + WARM):
        times.deferred.append(time.perf_counter())
        await deferrer.defer_async(number=number)
        await wait()


def _on_trio(conninfo: str, jobs: int, times: Times) -> None:
    async def main() -> None:
        app = our_app(conninfo)
        deferrer = _timed(app, times)
        succeeded = trio.Semaphore(0)
        token = trio.lowlevel.current_trio_token()
        times.tell = lambda: token.run_sync_soon(succeeded.release)
        async with app.open_async(), trio.open_nursery() as nursery:
            worker = app.worker(queues=[QUEUE], concurrency=10, install_signal_handlers=False)
            await nursery.start(worker.run)
            await _defer(jobs, deferrer, times, succeeded.acquire)
            worker.stop()

    trio.run(main)


def _on_asyncio(conninfo: str, jobs: int, times: Times, make: Callable[[str], Any]) -> None:
    async def main() -> None:
        app = make(conninfo)
        deferrer = _timed(app, times)
        succeeded = asyncio.Semaphore(0)
        loop = asyncio.get_running_loop()
        times.tell = lambda: loop.call_soon_threadsafe(succeeded.release) and None
        async with app.open_async():
            worker = asyncio.create_task(
                app.run_worker_async(queues=[QUEUE], concurrency=10, install_signal_handlers=False)
            )
            await _defer(jobs, deferrer, times, succeeded.acquire)
            worker.cancel()
            await asyncio.gather(worker, return_exceptions=True)

    asyncio.run(main())


PEERS: dict[str, Callable[[str, int, Times], None]] = {
    OURS: _on_trio,
    ON_ASYNCIO: lambda conninfo, jobs, times: _on_asyncio(conninfo, jobs, times, our_app),
    BASE: lambda conninfo, jobs, times: _on_asyncio(conninfo, jobs, times, stock_app),
}


def latency(bench: Bench) -> Iterator[Figure]:
    """Percentiles over some hundred jobs."""
    for name, run in bench.in_turn(PEERS):
        times = Times()
        with (
            bench.database(ours=name != BASE) as conninfo,
            _heard(conninfo, times),
            bench.cost(),
        ):
            run(conninfo, bench.some(JOBS), times)
        yield from times.figures(name)
