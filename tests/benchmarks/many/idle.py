"""Workers that have nothing to do and hear nothing: what their polls cost."""

from __future__ import annotations

import time
from collections.abc import Iterator

import trio
from psycopg.conninfo import conninfo_to_dict, make_conninfo

import trio_queue
from tests.benchmarks.many.costs import (
    Run,
    postmaster_of,
    server_cpu,
    transactions,
)
from tests.benchmarks.peers import SETTLING, Bench
from tests.fix_pooler import pooling

SECONDS = 30.0
WORKERS = 50


async def _idle(conninfo: str, server: str, count: int, interval: float) -> list[float]:
    """Of so many workers in this process: transactions a second, then ms of CPU a second of ours and of the server's."""
    app = trio_queue.App(connector=trio_queue.PsycopgConnector(conninfo=conninfo))
    postmaster = postmaster_of(server)
    async with app.open_async(), trio.open_nursery() as nursery:
        for number in range(count):
            worker = app.worker(
                queues=["bench"],
                name=f"worker {number}",
                listen_notify=False,
                install_signal_handlers=False,
                fetch_job_polling_interval=interval,
            )
            await nursery.start(worker.run)
        await trio.sleep(SETTLING)
        before = transactions(conninfo, server), time.process_time(), server_cpu(postmaster)
        await trio.sleep(SECONDS)
        after = transactions(conninfo, server), time.process_time(), server_cpu(postmaster)
        nursery.cancel_scope.cancel()
    told, ours, servers = (later - earlier for earlier, later in zip(before, after, strict=True))
    return [told / SECONDS, ours / SECONDS * 1000, servers / SECONDS * 1000]


_TOLD = ("transactions/s", "ms of CPU/s", "the server's ms of CPU/s")


def alone() -> Run:
    """One worker that polls every five seconds, by default, and one that does it every half second."""

    def run(bench: Bench) -> Iterator[tuple[str, float]]:
        for interval in (5.0, 0.5):
            conninfo = bench.database(ours=True)
            figures = trio.run(_idle, conninfo, bench.server.conninfo(), 1, interval)
            for what, figure in zip(_TOLD, figures, strict=True):
                yield f"every {interval:g} s: {what}", figure

    return run


def behind_a_pooler() -> Run:
    """Fifty workers that share five connections to the server, and how soon each of them finds a job."""

    def run(bench: Bench) -> Iterator[tuple[str, float]]:
        for interval in (5.0, 1.0):
            conninfo = bench.database(ours=True)
            name = conninfo_to_dict(conninfo)["dbname"]
            with pooling(bench.server.conninfo(), 5) as through:
                pooled = make_conninfo(through, dbname=name)
                figures = trio.run(_idle, pooled, bench.server.conninfo(), WORKERS, interval)
            for what, figure in zip(_TOLD, figures, strict=True):
                yield f"every {interval:g} s: {what}", figure

    return run
