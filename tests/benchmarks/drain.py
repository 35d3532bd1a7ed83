"""Drain: jobs per second of a worker with `wait=False`, from its start to its end; and their CPU."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from typing import Any

import attrs
import trio

from tests.benchmarks import floor
from tests.benchmarks.figures import BASE, FLOOR, ON_ASYNCIO, OURS, Figure
from tests.benchmarks.peers import NO_SYNC, QUEUE, Bench, check_succeeded, fill, our_app, stock_app

#: Enough for a second each, at the pace of the peer.
OUR_JOBS = {1: 20_000, 10: 30_000, 100: 40_000, 1_000: 40_000}
STOCK_JOBS = 1_200


@attrs.frozen
class Peer:
    """Somebody who drains a queue."""

    #: Drains the database with this conninfo.
    drain: Callable[[str, int], None]
    #: Whose tables.
    ours: bool = True


def _on_trio(conninfo: str, concurrency: int, **options: Any) -> None:
    app = our_app(conninfo)
    given: dict[str, Any] = {"concurrency": concurrency, "queues": [QUEUE], **options}
    app.run_worker(wait=False, **given)


def _on_asyncio(conninfo: str, concurrency: int) -> None:
    app = our_app(conninfo)
    asyncio.run(app.run_worker_async(wait=False, concurrency=concurrency, queues=[QUEUE]))


def _stock(conninfo: str, concurrency: int) -> None:
    app = stock_app(conninfo)
    app.run_worker(wait=False, concurrency=concurrency, queues=[QUEUE])


def _floor(conninfo: str, concurrency: int) -> None:
    trio.run(floor.drain, conninfo, concurrency)


PEERS = {
    OURS: Peer(_on_trio),
    ON_ASYNCIO: Peer(_on_asyncio),
    BASE: Peer(_stock, ours=False),
    FLOOR: Peer(_floor),
}


def _drained(
    bench: Bench, what: str, name: str, peer: Peer, concurrency: int, *, logged: bool = False
) -> Iterator[Figure]:
    jobs = bench.some(OUR_JOBS[concurrency] if peer.ours else STOCK_JOBS)
    with bench.fresh_database(ours=peer.ours) as conninfo:
        fill(conninfo, jobs)
        with bench.logging_at_info() if logged else nullcontext(), bench.cost() as cost:
            peer.drain(conninfo, concurrency)
        check_succeeded(conninfo, jobs)
    yield from cost.figures(what, name, jobs)


def drain(concurrency: int) -> Callable[[Bench], Iterator[Figure]]:
    """All peers, with the log as it is by default, and with INFO written to a file."""

    def run(bench: Bench) -> Iterator[Figure]:
        what = f"drain, concurrency {concurrency:,}"
        for name, peer in bench.in_turn(PEERS):
            yield from _drained(bench, what, name, peer, concurrency)
            with_log = f"{what}, log at INFO"
            yield from _drained(bench, with_log, name, peer, concurrency, logged=True)

    return run


#: What a user may set, each alone; to be seen beside "as shipped".
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "as shipped": {},
    "prefetch=0": {"prefetch": 0},
    "prefetch=100": {"prefetch": 100},
    "prefetch=400": {"prefetch": 400},
    "prefetch=4000": {"prefetch": 4_000},
    "delete_jobs='successful'": {"delete_jobs": "successful"},
    "listen_notify=False": {"listen_notify": False},
    "queues=None": {"queues": None},
}


def settings(concurrency: int = 100) -> Callable[[Bench], Iterator[Figure]]:
    """Our own worker with one setting changed; the pace at which it drains."""

    def run(bench: Bench) -> Iterator[Figure]:
        what = f"drain, concurrency {concurrency}, settings"
        for name, options in bench.in_turn({**SETTINGS, "synchronous_commit=off": {}}):
            jobs = bench.some(OUR_JOBS[concurrency])
            with bench.fresh_database() as conninfo:
                fill(conninfo, jobs)
                address = conninfo + NO_SYNC if name == "synchronous_commit=off" else conninfo
                with bench.cost() as cost:
                    _on_trio(address, concurrency, **options)
            yield Figure(what, "jobs/s", name, jobs / cost.seconds)

    return run


#: Of jobs that wait, so many at each concurrency.
WAITING_JOBS = {1: 100, 10: 1_000, 100: 8_000, 1_000: 20_000}
WAIT = 0.01


def waiting(bench: Bench) -> Iterator[Figure]:
    """Our own worker on jobs that wait for something else, 10 ms each, as most jobs do."""
    what = "drain, jobs that wait 10 ms"
    for concurrency, many in WAITING_JOBS.items():
        jobs = bench.some(many)
        with bench.fresh_database() as conninfo:
            fill(conninfo, jobs, task="wait")
            app = our_app(conninfo)

            @app.task(name="wait")
            async def wait(number: int) -> None:
                del number
                await trio.sleep(WAIT)

            with bench.cost() as cost:
                app.run_worker(wait=False, concurrency=concurrency, queues=[QUEUE])
        yield Figure(what, "jobs/s", f"concurrency={concurrency}", jobs / cost.seconds)
