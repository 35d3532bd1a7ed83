"""Defer: in batches, one after the other, by ten tasks at once; from Trio, asyncio and sync code."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import psycopg
import trio

from tests.benchmarks.figures import BASE, FLOOR, ON_ASYNCIO, OURS, SYNC, Figure
from tests.benchmarks.peers import NO_SYNC, QUEUE, Bench, Cost, our_app, stock_app
from trio_queue._storage.queries import QUERIES
from trio_queue.types import JSONDict

Batches = list[list[JSONDict]]
#: Measures what the block inside of an opened app takes, and tells it afterwards.
Way = Callable[[Bench, str, Any], Cost]

STOCK_SYNC = f"{BASE}, sync"
#: Batches of so many jobs, and how many of them.
SIZES = {10: 300, 100: 150, 1_000: 30, 10_000: 5}
TASKS = 10


def _batches(size: int, count: int) -> Batches:
    return [[{"number": n} for n in range(i * size, (i + 1) * size)] for i in range(count)]


# -- who defers -----------------------------------------------------------------------------------


async def _in_batches(bench: Bench, app: Any, batches: Batches) -> Cost:
    async with app.open_async():
        deferrer = app.configure_task("noop", queue=QUEUE)
        await deferrer.batch_defer_async({"number": 0})  # connections are there
        with bench.cost() as cost:
            for batch in batches:
                await deferrer.batch_defer_async(*batch)
    return cost


async def _singly(bench: Bench, app: Any, count: int) -> Cost:
    async with app.open_async():
        deferrer = app.configure_task("noop", queue=QUEUE)
        await deferrer.defer_async(number=0)
        with bench.cost() as cost:
            for number in range(count):
                await deferrer.defer_async(number=number)
    return cost


async def _by_tasks_on_trio(bench: Bench, app: Any, count: int) -> Cost:
    async with app.open_async():
        deferrer = app.configure_task("noop", queue=QUEUE)

        async def some() -> None:
            for number in range(count // TASKS):
                await deferrer.defer_async(number=number)

        async def all_of_them() -> None:
            async with trio.open_nursery() as nursery:
                for _ in range(TASKS):
                    nursery.start_soon(some)

        await all_of_them()  # ten connections are there
        with bench.cost() as cost:
            await all_of_them()
    return cost


async def _by_tasks_on_asyncio(bench: Bench, app: Any, count: int) -> Cost:
    async with app.open_async():
        deferrer = app.configure_task("noop", queue=QUEUE)

        async def some() -> None:
            for number in range(count // TASKS):
                await deferrer.defer_async(number=number)

        await asyncio.gather(*[some() for _ in range(TASKS)])
        with bench.cost() as cost:
            await asyncio.gather(*[some() for _ in range(TASKS)])
    return cost


def _singly_sync(bench: Bench, app: Any, count: int) -> Cost:
    with app.open():
        deferrer = app.configure_task("noop", queue=QUEUE)
        deferrer.defer(number=0)
        with bench.cost() as cost:
            for number in range(count):
                deferrer.defer(number=number)
    return cost


# -- the floors: sync psycopg, and parameters that are there --------------------------------------


def _floor_in_batches(bench: Bench, conninfo: str, batches: Batches) -> Cost:
    text = QUERIES["defer_jobs"].text.encode()
    columns = dict.fromkeys(QUERIES["defer_jobs"].parameters)
    shared = {"queues": [QUEUE], "task_names": ["noop"], "priorities": [0]}
    given = [{**columns, **shared, "args": json.dumps(batch)} for batch in batches]
    with psycopg.connect(conninfo, autocommit=True) as connection:
        with bench.cost() as cost:
            for parameters in given:
                connection.execute(text, parameters, prepare=True)
        found = connection.execute("SELECT count(*) FROM procrastinate_jobs").fetchone()
    assert found == (sum(map(len, batches)),)
    return cost


def _floor_singly(bench: Bench, conninfo: str, statement: bytes, count: int) -> Cost:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("CREATE TABLE bare (args jsonb)")
        with bench.cost() as cost:
            for number in range(count):
                connection.execute(statement, [json.dumps({"number": number})], prepare=True)
    return cost


#: A row with its event and its notification; and any commit at all.
_INSERT = (
    b"INSERT INTO procrastinate_jobs (queue_name, task_name, args) VALUES ('bench', 'noop', %s)"
)
_ANY = b"INSERT INTO bare VALUES (%s)"


# -- what is measured -----------------------------------------------------------------------------


def _async_peers(
    on_trio: Callable[[Bench, Any, Any], Awaitable[Cost]],
    on_asyncio: Callable[[Bench, Any, Any], Any],
) -> dict[str, Way]:
    return {
        OURS: lambda bench, conninfo, work: trio.run(on_trio, bench, our_app(conninfo), work),
        ON_ASYNCIO: lambda bench, conninfo, work: asyncio.run(
            on_asyncio(bench, our_app(conninfo), work)
        ),
        BASE: lambda bench, conninfo, work: asyncio.run(
            on_asyncio(bench, stock_app(conninfo), work)
        ),
    }


def batches(size: int) -> Callable[[Bench], Iterator[Figure]]:
    """Jobs per second deferred in batches of this size."""

    def run(bench: Bench) -> Iterator[Figure]:
        work = _batches(size, bench.some(SIZES[size], 2))
        peers = {**_async_peers(_in_batches, _in_batches), FLOOR: _floor_in_batches}
        for name, way in bench.in_turn(peers):
            with bench.fresh_database(ours=name != BASE) as conninfo:
                cost = way(bench, conninfo, work)
            yield from cost.figures(f"defer, batches of {size:,}", name, sum(map(len, work)))

    return run


def singly(bench: Bench) -> Iterator[Figure]:
    """Jobs per second deferred one after the other: one commit each."""
    peers: dict[str, Way] = {
        **_async_peers(_singly, _singly),
        SYNC: lambda bench, conninfo, work: _singly_sync(bench, our_app(conninfo), work),
        STOCK_SYNC: lambda bench, conninfo, work: _singly_sync(
            bench, stock_app(conninfo, sync=True), work
        ),
        FLOOR: lambda bench, conninfo, work: _floor_singly(bench, conninfo, _INSERT, work),
        "floor, any commit": lambda bench, conninfo, work: _floor_singly(
            bench, conninfo, _ANY, work
        ),
    }
    jobs = bench.some(2_000)
    for commits in ("", NO_SYNC):
        what = "defer, one by one" + (", synchronous_commit=off" if commits else "")
        for name, way in bench.in_turn(peers):
            with bench.fresh_database(ours=not name.startswith(BASE)) as conninfo:
                cost = way(bench, conninfo + commits, jobs)
            yield from cost.figures(what, name, jobs)


def by_tasks(bench: Bench) -> Iterator[Figure]:
    """Jobs per second deferred one by one, by ten tasks of one program at once."""
    jobs = bench.some(4_000)
    peers = _async_peers(_by_tasks_on_trio, _by_tasks_on_asyncio)
    for name, way in bench.in_turn(peers):
        with bench.fresh_database(ours=name != BASE) as conninfo:
            cost = way(bench, conninfo, jobs)
        yield from cost.figures(f"defer, {TASKS} tasks at once", name, jobs)
