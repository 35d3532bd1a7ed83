"""Ten thousand jobs that wait, in a process of its own: `python -m tests.benchmarks.many.holder CONNINFO COUNT HOST END`.

HOST is trio or asyncio: where the jobs run. END is drain (the jobs return, the worker has been told to stop) or abort. Prints
what it took, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable

import attrs
import trio

import trio_queue
from tests.benchmarks.many.costs import memory_of, peak_memory


@attrs.define
class _Held:
    count: int
    began: int = 0
    all_began: Callable[[], None] = lambda: None

    def one_began(self) -> None:
        self.began += 1
        if self.began == self.count:
            self.all_began()


def _app(conninfo: str, held: _Held, wait: Callable[[], Awaitable[object]]) -> trio_queue.App:
    app = trio_queue.App(connector=trio_queue.PsycopgConnector(conninfo=conninfo))

    @app.task(name="noop", queue="bench")
    async def noop(number: int) -> None:
        held.one_began()
        await wait()

    return app


def _tell(memory: float, claimed: float, ended: float, count: int) -> None:
    figures = {
        "KiB of memory a job": (memory_of() - memory) / count,
        "s until all had begun": claimed,
        "s until all had ended": ended,
        "peak MiB": peak_memory() / 1024,
    }
    print(json.dumps(figures), flush=True)


async def on_trio(conninfo: str, held: _Held, *, drains: bool) -> None:
    """Hold them on Trio."""
    gate, full = trio.Event(), trio.Event()
    held.all_began = full.set
    app = _app(conninfo, held, gate.wait)
    worker = app.worker(queues=["bench"], concurrency=held.count, install_signal_handlers=False)
    memory, began = memory_of(), time.perf_counter()
    async with trio.open_nursery() as nursery:
        await nursery.start(worker.run)
        await full.wait()
        claimed = time.perf_counter()
        held_memory = memory_of() - memory
        if drains:
            worker.stop()
            gate.set()
        else:
            worker.abort()
    _tell(memory_of() - held_memory, claimed - began, time.perf_counter() - claimed, held.count)


async def on_asyncio(conninfo: str, held: _Held, *, drains: bool) -> None:
    """Hold them on asyncio, the worker inside that loop."""
    gate, full = asyncio.Event(), asyncio.Event()
    held.all_began = full.set
    app = _app(conninfo, held, gate.wait)
    async with app.open_async():
        memory, began = memory_of(), time.perf_counter()
        worker = asyncio.create_task(
            app.run_worker_async(
                queues=["bench"],
                concurrency=held.count,
                install_signal_handlers=False,
                shutdown_graceful_timeout=None if drains else 0.0,
            )
        )
        await full.wait()
        claimed = time.perf_counter()
        held_memory = memory_of() - memory
        worker.cancel()
        if drains:
            gate.set()
        await asyncio.gather(worker, return_exceptions=True)
    _tell(memory_of() - held_memory, claimed - began, time.perf_counter() - claimed, held.count)


def main() -> None:
    """Hold as many as asked for."""
    conninfo, count, host, end = sys.argv[1:]
    held = _Held(int(count))
    if host == "trio":

        async def run() -> None:
            await on_trio(conninfo, held, drains=end == "drain")

        trio.run(run)
    else:
        asyncio.run(on_asyncio(conninfo, held, drains=end == "drain"))


if __name__ == "__main__":
    main()
