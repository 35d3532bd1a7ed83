"""What it costs to have it: an idle worker, opening and closing, the start of the command line."""

from __future__ import annotations

import asyncio
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any, cast

import psycopg
import trio
from psycopg.conninfo import conninfo_to_dict

from tests.benchmarks.figures import BASE, ON_ASYNCIO, OURS, Figure
from tests.benchmarks.peers import QUEUE, SETTLING, Bench, our_app, stock_app
from trio_queue._loops.guest import open_guest

#: Seconds that it is measured: three heartbeats, six polls.
WATCHED = 30


@contextmanager
def idling(bench: Bench, conninfo: str, seconds: float) -> Generator[list[tuple[str, float]]]:
    """Measure what a block of so many seconds costs; the list tells it after the block."""

    def usage() -> tuple[float, int]:
        used = resource.getrusage(resource.RUSAGE_SELF)
        return used.ru_utime + used.ru_stime, used.ru_nvcsw

    database = conninfo_to_dict(conninfo)["dbname"]
    # From another database: what measures is not counted.
    with psycopg.connect(bench.server.conninfo(), autocommit=True) as connection:

        def transactions() -> int:
            row = connection.execute(
                "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = %s",
                [database],
            ).fetchone()
            assert row is not None
            return int(row[0])

        before, (cpu, switches) = transactions(), usage()
        told: list[tuple[str, float]] = []
        yield told
        cpu_after, switches_after = usage()
        told += [
            ("transactions", (transactions() - before) / seconds),
            ("wake-ups", (switches_after - switches) / seconds),
            ("CPU", 1_000 * (cpu_after - cpu) / seconds),
        ]


def idle_figures(what: str, peer: str, told: list[tuple[str, float]]) -> Iterator[Figure]:
    """What `idling` told, as figures."""
    for counted, value in told:
        unit = "ms/s" if counted == "CPU" else "1/s"
        yield Figure(f"{what}: {counted}", unit, peer, value)


def idle(bench: Bench) -> Iterator[Figure]:
    """A worker that has nothing to do, per second."""
    settling, seconds = (0.1, 0.5) if bench.quick else (SETTLING, WATCHED)

    async def on_trio(conninfo: str) -> list[tuple[str, float]]:
        app = our_app(conninfo)
        async with trio.open_nursery() as nursery:
            worker = app.worker(queues=[QUEUE], install_signal_handlers=False)
            await nursery.start(worker.run)
            await trio.sleep(settling)
            with idling(bench, conninfo, seconds) as told:
                await trio.sleep(seconds)
            worker.stop()
        return told

    async def on_asyncio(app: Any, conninfo: str) -> list[tuple[str, float]]:
        async with app.open_async():
            worker = asyncio.create_task(
                app.run_worker_async(queues=[QUEUE], install_signal_handlers=False)
            )
            await asyncio.sleep(settling)
            with _turns_of_loop(seconds) as turns, idling(bench, conninfo, seconds) as told:
                await asyncio.sleep(seconds)
            worker.cancel()
            await asyncio.gather(worker, return_exceptions=True)
        return told + turns

    def run_on_asyncio(make: Callable[[str], Any], conninfo: str) -> list[tuple[str, float]]:
        return asyncio.run(on_asyncio(make(conninfo), conninfo))

    peers: dict[str, Callable[[str], list[tuple[str, float]]]] = {
        OURS: lambda conninfo: trio.run(on_trio, conninfo),
        ON_ASYNCIO: lambda conninfo: run_on_asyncio(our_app, conninfo),
        BASE: lambda conninfo: run_on_asyncio(stock_app, conninfo),
    }
    for name, run in bench.in_turn(peers):
        with bench.fresh_database(ours=name != BASE) as conninfo:
            yield from idle_figures("idle", name, run(conninfo))


@contextmanager
def _turns_of_loop(seconds: float) -> Generator[list[tuple[str, float]]]:
    """Count the turns of the running asyncio loop; the list tells it after the block.

    Each is a wake-up: a turn without a wait before it is not idle.
    """
    # Nothing public counts turns.
    selector = cast("Any", asyncio.get_running_loop())._selector
    turns = 0
    select = selector.select

    def counted(timeout: float | None = None) -> Any:
        nonlocal turns
        turns += 1
        return select(timeout)

    selector.select = counted
    told: list[tuple[str, float]] = []
    try:
        yield told
    finally:
        selector.select = select
    told.append(("turns of the host's loop", turns / seconds))


def opening(bench: Bench) -> Iterator[Figure]:
    """What a worker costs that finds nothing to do, and the facade without any."""

    async def facade() -> None:
        for _ in range(times):
            async with open_guest() as guest:
                await guest.run_trio(trio.lowlevel.checkpoint)

    times = bench.some(20, 2)
    asyncio.run(facade())  # everything is imported
    with bench.cost() as cost:
        asyncio.run(facade())
    yield Figure("open and close the facade", "ms", ON_ASYNCIO, 1_000 * cost.seconds / times)

    def on_trio(conninfo: str) -> None:
        our_app(conninfo).run_worker(wait=False, queues=[QUEUE])

    def on_asyncio(conninfo: str) -> None:
        asyncio.run(our_app(conninfo).run_worker_async(wait=False, queues=[QUEUE]))

    def stock(conninfo: str) -> None:
        stock_app(conninfo).run_worker(wait=False, queues=[QUEUE])

    peers = {OURS: on_trio, ON_ASYNCIO: on_asyncio, BASE: stock}
    for name, run in bench.in_turn(peers):
        with bench.fresh_database(ours=name != BASE) as conninfo:
            run(conninfo)
            with bench.cost() as cost:
                for _ in range(times):
                    run(conninfo)
        yield Figure("a worker's whole life, no job", "ms", name, 1_000 * cost.seconds / times)


def command_line(bench: Bench) -> Iterator[Figure]:
    """Seconds until the command line has told its help: everything that it imports."""
    del bench
    for arguments in (["--help"], ["worker", "--help"]):
        for name, module in ((OURS, "trio_queue"), (BASE, "procrastinate")):
            command = [sys.executable, "-m", module, *arguments]
            began = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            seconds = time.perf_counter() - began
            yield Figure(f"command line, {' '.join(arguments)}", "s", name, seconds)
