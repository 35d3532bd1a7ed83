"""Batches in parts: what a part holds, and that all parts are one transaction, whoever defers them."""

from __future__ import annotations

import asyncio
import functools
import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from tests.colours import run_in_asyncio, run_in_trio
from tests.fix_pooler import Pooled
from tests.pg.helpers import cancelled_at
from trio_queue import App, PsycopgConnector
from trio_queue._pg.connection import TrioConnection
from trio_queue._storage import batches
from trio_queue._storage.encoding import encode_batch
from trio_queue._storage.statements import statement_of
from trio_queue.exceptions import AlreadyEnqueued, ConnectorException, InvalidArguments
from trio_queue.jobs import Batch, Job
from trio_queue.verbs import DeferJobs

#: Of each part in these tests; a batch of 80 has four.
PART = 20
JOB = Job(task_name="task", queue="q", priority=3, lock="l")
Arguments = list[dict[str, Any]]
#: Defers over a connection of the connector's; tells the ids.
Defer = Callable[[str, Arguments], list[int]]


@pytest.fixture
def in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "MAX_JOBS", PART)


def an_app(conninfo: str, **options: Any) -> App:
    app = App(connector=PsycopgConnector(conninfo=conninfo, **options))

    @app.task(name="task", queue="q", priority=3, lock="l")
    async def task(**_arguments: Any) -> None:
        pass

    return app


def _in_a_loop(
    run: Callable[[Callable[[], Awaitable[Any]]], Any], conninfo: str, arguments: Arguments
) -> list[int]:
    app = an_app(conninfo)

    async def defer() -> list[int]:
        async with app.open_async():
            return await app.tasks["task"].batch_defer_async(*arguments)

    ids: list[int] = run(defer)
    return ids


def _in_sync_code(conninfo: str, arguments: Arguments) -> list[int]:
    app = an_app(conninfo)
    with app.open():
        return app.tasks["task"].batch_defer(*arguments)


def _by_client_cursors(conninfo: str, arguments: Arguments) -> list[int]:
    """Of a pool whose user chose them because a pooler cannot bind on the server."""
    app = an_app(conninfo, kwargs={"cursor_factory": psycopg.ClientCursor})
    with app.open():
        return app.tasks["task"].batch_defer(*arguments)


def _different_jobs(conninfo: str, arguments: Arguments) -> list[int]:
    app = an_app(conninfo)
    jobs = [JOB.evolve(task_kwargs=one, priority=3) for one in arguments]
    with app.open():
        return [job.id or 0 for job in app.job_manager.batch_defer_jobs(jobs)]


COLOURS: dict[str, Defer] = {
    "trio": functools.partial(_in_a_loop, run_in_trio),
    "asyncio": functools.partial(_in_a_loop, run_in_asyncio),
    "sync": _in_sync_code,
    "client cursors": _by_client_cursors,
    "different jobs": _different_jobs,
}
in_each_colour = pytest.mark.parametrize("defer", COLOURS.values(), ids=COLOURS.keys())


def rows(conninfo: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(conninfo) as connection:
        return connection.execute(
            "SELECT id, args, queue_name, priority, lock, xmin::text FROM procrastinate_jobs ORDER BY id"
        ).fetchall()


def numbers(count: int) -> Arguments:
    return [{"number": number} for number in range(count)]


# -- what a part holds ----------------------------------------------------------------------------


@given(
    sizes=st.lists(st.integers(0, 300), max_size=80),
    most=st.integers(1, 30),
    room=st.integers(1, 1000),
)
def test_the_parts_are_the_batch(sizes: list[int], most: int, room: int) -> None:
    arguments: Arguments = [{"text": "x" * size} for size in sizes]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "MAX_JOBS", most)
        patch.setattr(batches, "MAX_SIZE", room)
        parts = list(batches.parts_of(Batch(JOB, arguments), None))
    found: Arguments = []
    for jobs, parameters in parts:
        document = parameters["args"]
        assert json.loads(document) == [job.task_kwargs for job in jobs]
        found += json.loads(document)
        assert len(jobs) <= 1.5 * most
        # Beside the brackets, and a comma between what was encoded apart.
        assert len(jobs) == 1 or len(document) <= room + 2 + len(jobs)
        assert parameters["queues"] == ["q"]
    assert found == arguments
    assert len(parts) == 1 or all(jobs for jobs, _ in parts)


@pytest.mark.parametrize(("count", "parts"), [(0, 1), (1, 1), (3000, 1), (3001, 2), (10_000, 5)])
def test_a_small_batch_is_one_part(count: int, parts: int) -> None:
    assert len(list(batches.parts_of(Batch(JOB, numbers(count)), None))) == parts


def test_small_jobs_are_not_encoded_one_by_one() -> None:
    encoded: list[int] = []
    batch = Batch(JOB, numbers(2000))
    with pytest.MonkeyPatch.context() as patch:

        def note(jobs: Batch, dumps: Any) -> str:
            encoded.append(len(jobs))
            return encode_batch(jobs, dumps)

        patch.setattr(batches, "encode_batch", note)
        list(batches.parts_of(batch, None))
    assert encoded == [16, 256, 1728]


def test_large_jobs_are_encoded_twice_at_first_only() -> None:
    """And never many more of them than a part holds: memory is what a part is for."""
    encoded: list[int] = []
    batch = Batch(JOB, [{"text": "x" * 100} for _ in range(50)])
    with pytest.MonkeyPatch.context() as patch:

        def note(jobs: Batch, dumps: Any) -> str:
            encoded.append(len(jobs))
            return encode_batch(jobs, dumps)

        patch.setattr(batches, "MAX_SIZE", 250)
        patch.setattr(batches, "encode_batch", note)
        assert len(list(batches.parts_of(batch, None))) == 25
    assert encoded[:4] == [16, 8, 4, 2]
    assert set(encoded[4:]) == {2}


def test_what_cannot_be_stored_is_told_before_anything_is_sent_where_it_is_in_the_first_part() -> (
    None
):
    with pytest.raises(InvalidArguments, match=r"argument 'a' of task 'task'"):
        statement_of(DeferJobs(Batch(JOB, [{"a": float("nan")}])), None)


# -- one transaction ------------------------------------------------------------------------------


@pytest.mark.usefixtures("in_parts")
@in_each_colour
def test_all_parts_are_one_transaction(queue_database: str, defer: Defer) -> None:
    arguments = numbers(4 * PART)
    ids = defer(queue_database, arguments)
    found = rows(queue_database)
    assert [row[0] for row in found] == ids == sorted(set(ids))
    assert [row[1] for row in found] == arguments
    assert {row[2:5] for row in found} == {("q", 3, "l")}
    assert len({row[5] for row in found}) == 1


@pytest.mark.usefixtures("in_parts")
@in_each_colour
def test_arguments_of_the_third_part_that_cannot_be_stored(
    queue_database: str, defer: Defer
) -> None:
    arguments = numbers(4 * PART)
    arguments[2 * PART + 3]["number"] = float("nan")
    with pytest.raises(InvalidArguments, match=r"argument 'number' of task 'task'"):
        defer(queue_database, arguments)
    assert rows(queue_database) == []


@pytest.mark.usefixtures("in_parts")
@in_each_colour
def test_a_third_part_that_the_server_refuses(
    queue_database: str, defer: Defer, caplog: pytest.LogCaptureFixture
) -> None:
    with psycopg.connect(queue_database) as connection:
        connection.execute("ALTER TABLE procrastinate_jobs ADD CHECK (args->>'number' <> '43')")
    with pytest.raises(ConnectorException, match=r"defer_jobs failed at .* check constraint"):
        defer(queue_database, numbers(4 * PART))
    assert rows(queue_database) == []
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.usefixtures("in_parts")
@pytest.mark.parametrize("run", [run_in_trio, run_in_asyncio])
def test_one_queueing_lock_for_all_is_told_as_ever(
    queue_database: str, run: Callable[[Callable[[], Awaitable[Any]]], Any]
) -> None:
    app = an_app(queue_database)

    async def main() -> None:
        async with app.open_async():
            deferrer = app.configure_task("task", queueing_lock="taken")
            await deferrer.batch_defer_async(*numbers(4 * PART))

    with pytest.raises(AlreadyEnqueued, match="'taken'") as caught:
        run(main)
    assert caught.value.queueing_locks == ("taken",) * 4 * PART
    assert rows(queue_database) == []


@pytest.mark.usefixtures("in_parts")
def test_one_queueing_lock_in_the_first_part_and_in_the_last(queue_database: str) -> None:
    app = an_app(queue_database)
    locks = ["taken" if number % 79 == 0 else None for number in range(4 * PART)]
    with app.open(), pytest.raises(AlreadyEnqueued, match="'taken'") as caught:
        app.job_manager.batch_defer_jobs([JOB.evolve(queueing_lock=lock) for lock in locks])
    assert caught.value.queueing_locks == tuple(locks)
    assert rows(queue_database) == []


@pytest.mark.usefixtures("in_parts")
def test_jobs_that_psycopg_has_to_write_in_the_last_part(queue_database: str) -> None:
    class Name(str):
        """Whatever a user takes for a string."""

        __slots__ = ()

    queues = ["q"] * (4 * PART - 1) + [Name("other")]
    app = an_app(queue_database)
    with app.open():
        app.job_manager.batch_defer_jobs([JOB.evolve(queue=queue) for queue in queues])
    assert [row[2] for row in rows(queue_database)] == queues


@pytest.mark.usefixtures("in_parts")
async def test_after_an_error_the_same_connection_defers(queue_database: str) -> None:
    app = an_app(queue_database, max_size=1)
    async with app.open_async():
        task = app.tasks["task"]
        for _ in range(2):
            with pytest.raises(AlreadyEnqueued):
                await task.configure(queueing_lock="one").batch_defer_async(*numbers(4 * PART))
            assert len(await task.batch_defer_async(*numbers(4 * PART))) == 4 * PART
        with psycopg.connect(queue_database) as connection:
            sessions = connection.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
                "AND backend_type = 'client backend'"
            ).fetchone()
    assert sessions == (2,)


@pytest.mark.usefixtures("in_parts")
async def test_a_cancel_at_any_step_leaves_all_or_nothing(queue_database: str) -> None:
    app = an_app(queue_database, max_size=1)
    ends: list[bool] = []
    async with app.open_async():
        for step in range(1, 16):
            ids: list[int] = []
            with cancelled_at(step, resuming=bool(step % 2)) as cancel:
                ids = await app.tasks["task"].batch_defer_async(*numbers(4 * PART))
            assert ids or cancel.scope.cancelled_caught
            found = [row[0] for row in rows(queue_database)]
            assert found == ids
            with psycopg.connect(queue_database) as connection:
                connection.execute("TRUNCATE procrastinate_jobs CASCADE")
            ends.append(bool(ids))
    assert not ends[0]
    assert ends[-1]


@pytest.mark.usefixtures("in_parts")
def test_one_notification_a_queue_and_part_all_at_the_commit(queue_database: str) -> None:
    with psycopg.connect(queue_database, autocommit=True) as listener:
        listener.execute("LISTEN procrastinate_any_queue_v1")
        ids = _in_sync_code(queue_database, numbers(4 * PART))
        told = [json.loads(heard.payload) for heard in listener.notifies(timeout=30, stop_after=4)]
    assert [one["job_id"] for one in told] == ids[PART - 1 :: PART]


# -- the caller's own transaction -----------------------------------------------------------------


@pytest.mark.usefixtures("in_parts")
@pytest.mark.parametrize("autocommit", [True, False])
@pytest.mark.parametrize("colour", ["sync", "asyncio", "trio"])
def test_on_the_callers_connection(queue_database: str, colour: str, autocommit: bool) -> None:
    """A batch that is refused leaves his transaction as it was; one that is not is part of it."""
    app = an_app("host=nowhere.invalid")
    good, bad = numbers(4 * PART), numbers(4 * PART)
    bad[-1]["number"] = float("nan")

    async def use(connection: Any) -> None:
        deferrer = app.configure_task("task", connection=connection)
        async with connection.transaction():
            with pytest.raises(InvalidArguments):
                await deferrer.batch_defer_async(*bad)
            assert len(await deferrer.batch_defer_async(*good)) == 4 * PART
            assert rows(queue_database) == []
        with pytest.raises(InvalidArguments):
            await deferrer.batch_defer_async(*bad)
        await connection.commit()
        await connection.close()

    async def on_asyncio() -> None:
        await use(await psycopg.AsyncConnection.connect(queue_database, autocommit=autocommit))

    async def on_trio() -> None:
        await use(await TrioConnection.connect(queue_database, autocommit=autocommit))

    if colour == "trio":
        trio.run(on_trio)
    elif colour == "asyncio":
        asyncio.run(on_asyncio())
    else:
        with psycopg.connect(queue_database, autocommit=autocommit) as connection:
            deferrer = app.configure_task("task", connection=connection)
            with connection.transaction():
                with pytest.raises(InvalidArguments):
                    deferrer.batch_defer(*bad)
                assert len(deferrer.batch_defer(*good)) == 4 * PART
                assert rows(queue_database) == []
            with pytest.raises(InvalidArguments):
                deferrer.batch_defer(*bad)
    assert len(rows(queue_database)) == 4 * PART


# -- behind a pooler --------------------------------------------------------------------------------


@pytest.mark.usefixtures("in_parts")
@pytest.mark.parametrize("colour", ["trio", "asyncio", "sync"])
def test_behind_a_pooler_in_transaction_mode(pooled: Pooled, colour: str) -> None:
    """Also where several at once share its two connections."""
    defer = COLOURS[colour]
    app = an_app(pooled.conninfo)
    bad = numbers(4 * PART)
    bad[-1]["number"] = float("nan")
    ids = defer(pooled.conninfo, numbers(4 * PART))
    with pytest.raises(InvalidArguments):
        defer(pooled.conninfo, bad)
    assert [row[0] for row in rows(pooled.direct)] == ids

    async def several() -> None:
        async with app.open_async(), trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(app.tasks["task"].batch_defer_async, *numbers(4 * PART))

    trio.run(several)
    found = rows(pooled.direct)
    assert len(found) == 6 * 4 * PART
    assert len({row[5] for row in found}) == 6
