"""Latency: from before a defer to the begin of the job's body, and until its row is `succeeded`.

An idle worker and whoever defers share a loop, each with connections of its own. That a row is
`succeeded` is heard by a listener in a thread, over a trigger that the measurement adds to the
tables of either side.

The next job is deferred `PAUSE` after that: by then either worker is idle again. At once, it would
meet the claim that a worker makes when a job has ended. Procrastinate drops a notification that
comes during a claim, and the job waits for its next poll, 5 s at most: so this is a measure of its
own.
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
JOBS, JOBS_AT_ONCE = 500, 100
#: Seconds.
PAUSE = 0.01
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

    def figures(self, what: str, peer: str) -> Iterator[Figure]:
        """The percentiles, in milliseconds."""
        for end, moments in (("its begin", self.begun), ("succeeded", self.succeeded)):
            pairs = zip(moments, self.deferred, strict=True)
            took = [1_000 * (moment - deferred) for moment, deferred in pairs][WARM:]
            cuts = statistics.quantiles(took, n=100, method="inclusive")
            for percentile in PERCENTILES:
                measure = f"{what}, defer to {end}, p{percentile}"
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

    task: Callable[[Any], Any] = app.task(name="timed", queue=QUEUE)

    @task
    async def timed(number: int) -> None:
        del number
        times.begun.append(time.perf_counter())

    return app.configure_task("timed", queue=QUEUE)


@attrs.frozen
class _Work:
    """Jobs to defer one after the other."""

    jobs: int
    #: Seconds between the end of one and the next.
    pause: float
    times: Times = attrs.field(factory=Times)

    async def defer(
        self,
        deferrer: Any,
        succeeded: Callable[[], Awaitable[object]],
        sleep: Callable[[float], Awaitable[object]],
    ) -> None:
        for number in range(self.jobs + WARM):
            self.times.deferred.append(time.perf_counter())
            await deferrer.defer_async(number=number)
            await succeeded()
            if self.pause:
                await sleep(self.pause)


def _on_trio(conninfo: str, work: _Work) -> None:
    async def main() -> None:
        app = our_app(conninfo)
        deferrer = _timed(app, work.times)
        succeeded = trio.Semaphore(0)
        token = trio.lowlevel.current_trio_token()
        work.times.tell = lambda: token.run_sync_soon(succeeded.release)
        async with app.open_async(), trio.open_nursery() as nursery:
            worker = app.worker(queues=[QUEUE], concurrency=10, install_signal_handlers=False)
            await nursery.start(worker.run)
            await work.defer(deferrer, succeeded.acquire, trio.sleep)
            worker.stop()

    trio.run(main)


def _on_asyncio(conninfo: str, work: _Work, make: Callable[[str], Any]) -> None:
    async def main() -> None:
        app = make(conninfo)
        deferrer = _timed(app, work.times)
        succeeded = asyncio.Semaphore(0)
        loop = asyncio.get_running_loop()

        def tell() -> None:
            loop.call_soon_threadsafe(succeeded.release)

        work.times.tell = tell
        async with app.open_async():
            worker = asyncio.create_task(
                app.run_worker_async(queues=[QUEUE], concurrency=10, install_signal_handlers=False)
            )
            await work.defer(deferrer, succeeded.acquire, asyncio.sleep)
            worker.cancel()
            await asyncio.gather(worker, return_exceptions=True)

    asyncio.run(main())


PEERS: dict[str, Callable[[str, _Work], None]] = {
    OURS: _on_trio,
    ON_ASYNCIO: lambda conninfo, work: _on_asyncio(conninfo, work, our_app),
    BASE: lambda conninfo, work: _on_asyncio(conninfo, work, stock_app),
}


def latency(bench: Bench) -> Iterator[Figure]:
    """Percentiles over some hundred jobs, each deferred to an idle worker."""
    yield from _measured(bench, "latency", bench.some(JOBS), PAUSE)


def latency_at_once(bench: Bench) -> Iterator[Figure]:
    """Percentiles over a hundred jobs, each deferred at the moment when the last one has ended."""
    yield from _measured(bench, "latency at once", bench.some(JOBS_AT_ONCE), 0.0)


def _measured(bench: Bench, what: str, jobs: int, pause: float) -> Iterator[Figure]:
    for name, run in bench.in_turn(PEERS):
        work = _Work(jobs, pause)
        with (
            bench.fresh_database(ours=name != BASE) as conninfo,
            _heard(conninfo, work.times),
            bench.cost(),
        ):
            run(conninfo, work)
        yield from work.times.figures(what, name)
