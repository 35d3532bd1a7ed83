"""A worker in a process of its own: `python -m tests.benchmarks.many.worker CONNINFO CONCURRENCY`, until SIGTERM."""

from __future__ import annotations

import sys

import trio_queue


def main(conninfo: str, concurrency: int) -> None:
    """Work until told to stop."""
    app = trio_queue.App(connector=trio_queue.PsycopgConnector(conninfo=conninfo))

    @app.task(name="noop", queue="bench")
    async def noop(number: int) -> None:
        pass

    app.run_worker(queues=["bench"], concurrency=concurrency)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
