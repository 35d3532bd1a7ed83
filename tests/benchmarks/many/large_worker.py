"""Runs what waits, in a process of its own: `python -m tests.benchmarks.many.large_worker CONNINFO CONCURRENCY`."""

from __future__ import annotations

import json
import sys
import time

import trio_queue
from tests.benchmarks.many.costs import memory_of, peak_memory


def main(conninfo: str, concurrency: int) -> None:
    """Run it, and print what it took."""
    app = trio_queue.App(connector=trio_queue.PsycopgConnector(conninfo=conninfo))

    @app.task(name="noop", queue="bench")
    async def noop(text: str) -> None:
        pass

    before, began = memory_of(), time.perf_counter()
    app.run_worker(queues=["bench"], concurrency=concurrency, wait=False)
    seconds = time.perf_counter() - began
    peak = peak_memory() - before
    print(json.dumps({"s": seconds, "peak MiB above the start": peak / 1024}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
