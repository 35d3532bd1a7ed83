"""Back to Procrastinate: what we added is gone, what its client relies on is there, and every job stays."""

from __future__ import annotations

import asyncio
from typing import Any

import procrastinate
import psycopg
import pytest
from click.testing import CliRunner

import trio_queue
from tests.sql.table import Connection, connect, fetch, finish, insert, register, rows, value
from tests.sql.test_catalog import (
    COLUMNS,
    CONSTRAINTS,
    FUNCTIONS,
    INDEXES,
    TRIGGERS,
    TYPES,
    in_other_words,
)
from trio_queue import schema
from trio_queue._cli import cli
from trio_queue.exceptions import SchemaError
from trio_queue.schema import SchemaKind, SchemaManager

FOREIGN_KEYS = """
SELECT conname, conrelid::regclass::text, pg_get_constraintdef(oid), convalidated FROM pg_constraint
 WHERE contype = 'f' ORDER BY conname
"""
BODIES = "SELECT proname, pg_get_functiondef(oid) FROM pg_proc WHERE proname ^@ 'procrastinate_' ORDER BY proname"
#: Of whatever kind.
OURS = """
SELECT relname FROM pg_class WHERE relname ^@ 'trio_queue_' UNION ALL SELECT proname FROM pg_proc WHERE proname ^@ 'trio_queue_'
UNION ALL SELECT tgname FROM pg_trigger WHERE tgname ^@ 'trio_queue_' UNION ALL SELECT typname FROM pg_type WHERE typname ^@ 'trio_queue_'
"""
JOBS = "SELECT to_jsonb(j) - 'worker_id' FROM procrastinate_jobs j ORDER BY id"
EVENTS = "SELECT * FROM procrastinate_events ORDER BY id"
CATALOG = [TYPES, COLUMNS, FUNCTIONS, BODIES, CONSTRAINTS, INDEXES, TRIGGERS, FOREIGN_KEYS]


def live(connection: Connection) -> None:
    """Jobs of every kind, and workers of ours that died, that left, and one of Procrastinate's that works."""
    for status in ("todo", "succeeded", "failed", "cancelled", "aborted"):
        insert(connection, status=status, lock=f"lock {status}")
    for number in range(10):
        insert(connection, scheduled_at="2020-01-01 00:00+00" if number % 2 else None)
    left, dead = register(connection), register(connection)
    taken = fetch(connection, left, 4)
    # Two end, two go back to their queue and keep its id.
    finish(connection, left, taken[:2])
    finish(connection, left, taken[2:], "todo", retries=[True, True], retry_at=[None, None])
    connection.execute("DELETE FROM procrastinate_workers WHERE id = %s", [left])
    connection.execute(
        "UPDATE procrastinate_jobs SET scheduled_at = now() + interval '1 hour' WHERE id = %s",
        [taken[3]],
    )
    assert fetch(connection, dead, 2)
    connection.execute(
        "UPDATE procrastinate_workers SET last_heartbeat = now() - interval '61 s' WHERE id = %s",
        [dead],
    )
    stock = value(connection, "SELECT worker_id FROM procrastinate_register_worker_v1()")
    assert rows(connection, "SELECT * FROM procrastinate_fetch_job_v2(NULL, %s)", [stock])
    job = value(connection, "SELECT min(id) FROM procrastinate_jobs")
    connection.execute(
        "INSERT INTO procrastinate_periodic_defers (task_name, periodic_id, defer_timestamp, job_id)"
        " VALUES ('t', '', 1, %s)",
        [job],
    )


def test_a_database_taken_over_is_as_it_was(stock: Connection) -> None:
    expected = [rows(stock, query) for query in CATALOG]
    assert all(expected)
    schema.apply(stock)
    live(stock)
    assert rows(stock, OURS)
    before = rows(stock, JOBS), rows(stock, EVENTS)
    schema.restore_procrastinate(stock)
    assert rows(stock, OURS) == []
    assert [rows(stock, query) for query in CATALOG] == expected
    assert (rows(stock, JOBS), rows(stock, EVENTS)) == before
    # Only the ids of workers that are gone were cleared.
    assert rows(
        stock, "SELECT status::text, worker_id FROM procrastinate_jobs WHERE worker_id IS NOT NULL"
    ) == [("doing", 2), ("doing", 2), ("doing", 3)]


def test_a_database_of_ours_becomes_one_of_procrastinates(
    connection: Connection, stock: Connection
) -> None:
    live(connection)
    before = rows(connection, JOBS), rows(connection, EVENTS)
    schema.restore_procrastinate(connection)
    assert rows(connection, OURS) == []
    for query in (TYPES, COLUMNS, FUNCTIONS, CONSTRAINTS, INDEXES, FOREIGN_KEYS):
        assert rows(connection, query) == rows(stock, query)
    # Its two triggers that we never touch have conditions in words of ours.
    assert in_other_words(connection, stock) == set()
    assert (rows(connection, JOBS), rows(connection, EVENTS)) == before


def test_its_client_goes_on(connection: Connection, queue_database: str) -> None:
    live(connection)
    schema.restore_procrastinate(connection)
    app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=queue_database))
    done: list[int] = []

    @app.task(name="note", queue="new")
    async def note(number: int) -> None:
        done.append(number)

    async def main() -> None:
        async with app.open_async():
            await note.batch_defer_async({"number": 1}, {"number": 2})
            await app.run_worker_async(queues=["new"], wait=False, delete_jobs="always")
            for job in await app.job_manager.list_jobs_async(status="todo"):
                assert job.id is not None
                await app.job_manager.cancel_job_by_id_async(job.id, delete_job=True)

    asyncio.run(main())
    assert done == [1, 2]
    # The foreign keys do what they say.
    connection.execute("DELETE FROM procrastinate_jobs")
    assert rows(connection, EVENTS) == []
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        insert(connection, worker_id=99)


def test_and_back_again(stock: Connection) -> None:
    schema.apply(stock)
    schema.restore_procrastinate(stock)
    assert schema.apply(stock) == tuple(each.name for each in schema.MIGRATIONS)
    assert kind_of(stock) is SchemaKind.CURRENT


def test_it_is_refused_while_a_worker_of_ours_lives(connection: Connection) -> None:
    worker = register(connection)
    insert(connection)
    assert fetch(connection, worker)
    for stale in ("5 s", "59 s"):
        connection.execute(
            "UPDATE procrastinate_workers SET last_heartbeat = now() - %s::interval", [stale]
        )
        with pytest.raises(SchemaError, match=rf"alive.*worker {worker} \(host, process 1\).*Stop"):
            schema.restore_procrastinate(connection)
    assert kind_of(connection) is SchemaKind.CURRENT
    connection.execute("UPDATE procrastinate_workers SET last_heartbeat = now() - interval '2 min'")
    schema.restore_procrastinate(connection)
    # As Procrastinate leaves the job of a dead worker.
    assert rows(connection, "SELECT status::text, worker_id FROM procrastinate_jobs") == [
        ("doing", worker)
    ]


def test_one_that_stopped_half_way_goes_on(connection: Connection, stock: Connection) -> None:
    live(connection)
    walk = schema.restore_steps()
    assert isinstance(next(walk), schema.Run)
    connection.execute(schema.get_restoring_sql().encode())
    assert kind_of(connection) is SchemaKind.PROCRASTINATE
    assert rows(connection, FOREIGN_KEYS) != rows(stock, FOREIGN_KEYS)
    schema.restore_procrastinate(connection)
    assert rows(connection, FOREIGN_KEYS) == rows(stock, FOREIGN_KEYS)


def test_what_should_not_be_there_does_not_stop_it(connection: Connection) -> None:
    connection.execute("SET session_replication_role = replica")  # no trigger objects
    connection.execute("INSERT INTO procrastinate_events (job_id, type) VALUES (99, 'deferred')")
    connection.execute(
        "INSERT INTO procrastinate_periodic_defers (task_name, periodic_id, defer_timestamp, job_id)"
        " VALUES ('t', '', 1, 99)"
    )
    connection.execute("RESET session_replication_role")
    schema.restore_procrastinate(connection)
    assert rows(connection, EVENTS) == []
    assert rows(connection, "SELECT job_id FROM procrastinate_periodic_defers") == [(None,)]


def test_a_database_of_procrastinates_is_left_alone(stock: Connection) -> None:
    expected = [rows(stock, query) for query in CATALOG]
    schema.restore_procrastinate(stock)
    assert [rows(stock, query) for query in CATALOG] == expected


def test_where_there_is_nothing_to_give_back(database: str) -> None:
    with connect(database) as connection, pytest.raises(SchemaError, match="no tables"):
        schema.restore_procrastinate(connection)


def test_a_newer_schema_is_left_to_the_newer_version(connection: Connection) -> None:
    connection.execute("COMMENT ON TABLE trio_queue_migrations IS '99.00.00_01_pre_future'")
    with pytest.raises(SchemaError, match="with that one"):
        schema.restore_procrastinate(connection)
    assert kind_of(connection) is SchemaKind.NEWER


def test_tables_that_are_never_free_are_told_of(
    connection: Connection, queue_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = schema.get_restoring_sql().replace("1..100", "1..2").replace("= 100", "= 2")
    monkeypatch.setattr(schema, "get_restoring_sql", lambda: text)
    with connect(queue_database) as holder, holder.transaction():
        holder.execute("SELECT count(*) FROM procrastinate_jobs")
        with pytest.raises(SchemaError, match="pg_stat_activity"):
            schema.restore_procrastinate(connection)
    assert kind_of(connection) is SchemaKind.CURRENT


def test_a_worker_of_ours_says_what_has_to_be_done(queue_database: str) -> None:
    app = trio_queue.App(connector=trio_queue.PsycopgConnector(conninfo=queue_database))
    app.schema_manager.restore_procrastinate()
    with pytest.raises(SchemaError, match=r"Procrastinate made its tables.*schema --apply"):
        app.run_worker(wait=False, install_signal_handlers=False)


async def test_under_trio(queue_database: str) -> None:
    manager = SchemaManager(trio_queue.PsycopgConnector(conninfo=queue_database))
    await manager.restore_procrastinate_async()
    assert (await manager.check_async()).kind is SchemaKind.PROCRASTINATE


def test_by_the_command_line(queue_database: str) -> None:
    def run(*arguments: str) -> Any:
        return CliRunner().invoke(cli, ["--database", queue_database, "schema", *arguments])

    done = run("--restore-procrastinate")
    assert done.exit_code == 0, done.output
    assert "as Procrastinate makes them" in done.output
    assert run("--check").exit_code == 1
    assert run("--apply").exit_code == 0


def kind_of(connection: Connection) -> SchemaKind:
    return schema.read_state(rows(connection, schema.STATE_QUERY)).kind
