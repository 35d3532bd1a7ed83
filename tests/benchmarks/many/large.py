"""A thousand queues on one worker; jobs of a megabyte."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import psycopg
import trio

import trio_queue
from tests.benchmarks.many.costs import Run
from tests.benchmarks.peers import Bench
from trio_queue.store import JobStore
from trio_queue.verbs import FetchJobs, RegisterWorker

QUEUES = [f"queue {number}" for number in range(1_000)]
ROOT = Path(__file__).parents[3]


def _registration(queues: list[str] | None) -> RegisterWorker:
    return RegisterWorker(
        worker_name="bench",
        host="here",
        pid=1,
        version="0",
        queues=queues,
        concurrency=100,
        stage="running",
    )


@attrs.define
class _Claimer:
    """Claims as a worker does, and takes the time."""

    store: JobStore
    queues: list[str] | None
    worker_id: int
    turn: int = 0

    async def claim(self) -> float:
        self.turn += 1
        began = time.perf_counter()
        await self.store.run(FetchJobs(self.worker_id, self.queues, 100, self.turn))
        return (time.perf_counter() - began) * 1000

    async def median(self) -> float:
        # The first ones plan, and fill caches.
        return statistics.median([await self.claim() for _ in range(12)][2:])


async def _claims(conninfo: str) -> dict[str, float]:
    """Milliseconds of what one worker says to the database, by how many queues it names."""
    figures: dict[str, float] = {}
    connector = trio_queue.PsycopgConnector(conninfo=conninfo)
    for said, queues in (("every queue", None), ("one", QUEUES[:1]), ("1,000 by name", QUEUES)):
        async with connector.open_store() as store:
            claimer = _Claimer(store, queues, await store.run(_registration(queues)))
            began = time.perf_counter()
            async with store.listen(queues):
                figures[f"{said}: LISTEN"] = (time.perf_counter() - began) * 1000
            _defer_everywhere(conninfo)
            figures[f"{said}: a claim of 100"] = await claimer.median()
            _take_all(conninfo)
            figures[f"{said}: an empty claim"] = await claimer.median()
    return figures


def _defer_everywhere(conninfo: str) -> None:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO procrastinate_jobs (queue_name, task_name)"
            " SELECT 'queue ' || n % 1000, 'noop' FROM generate_series(1, 20000) n"
        )
        connection.execute(
            "INSERT INTO procrastinate_jobs (queue_name, task_name)"
            " SELECT 'queue 0', 'noop' FROM generate_series(1, 2000) n"
        )
        connection.execute("ANALYZE")


def _take_all(conninfo: str) -> None:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("DELETE FROM procrastinate_jobs")
        connection.execute("VACUUM ANALYZE")


def many_queues() -> Run:
    """Claims and LISTEN, where the worker names no queue, one, and a thousand."""

    def run(bench: Bench) -> Iterator[tuple[str, float]]:
        yield from trio.run(_claims, bench.database(ours=True)).items()

    return run


#: Bytes of arguments.
MEGABYTE = "x" * 1_000_000


async def _defer(conninfo: str, count: int) -> float:
    app = trio_queue.App(connector=trio_queue.PsycopgConnector(conninfo=conninfo))
    async with app.open_async():
        deferrer = app.configure_task("noop", queue="bench")
        began = time.perf_counter()
        await deferrer.batch_defer_async(*[{"text": MEGABYTE} for _ in range(count)])
        return time.perf_counter() - began


def _fill(conninfo: str, small: int, big: int) -> None:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO procrastinate_jobs (queue_name, task_name, args)"
            " SELECT 'bench', 'noop', '{\"text\": \"\"}'::jsonb FROM generate_series(1, %s)",
            [small],
        )
        connection.execute(
            "INSERT INTO procrastinate_jobs (queue_name, task_name, args)"
            " SELECT 'bench', 'noop', jsonb_build_object('text', %s::text) FROM generate_series(1, %s)",
            [MEGABYTE, big],
        )


def _worker(conninfo: str, *arguments: str) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.benchmarks.many.large_worker", conninfo, *arguments]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def large_jobs() -> Run:
    """Deferred up to 300 at once; and run by a worker whose pace was that of small ones a moment ago."""
    cases: dict[str, Callable[[], tuple[int, int]]] = {
        "600 alone": lambda: (0, 600),
        "600 after 20,000 small ones": lambda: (20_000, 600),
    }

    def run(bench: Bench) -> Iterator[tuple[str, float]]:
        for count in (50, 200, 300):
            seconds = trio.run(_defer, bench.database(ours=True), count)
            yield f"defer {count} in a batch, s", seconds
        for case, numbers in cases.items():
            for concurrency in (1, 10, 100):
                conninfo = bench.database(ours=True)
                _fill(conninfo, *numbers())
                for what, figure in _worker(conninfo, str(concurrency)).items():
                    yield f"{case}, concurrency {concurrency}: {what}", figure

    return run
