"""Bringing databases to this version: empty ones, Procrastinate's, half-way ones, and by two at once."""

from __future__ import annotations

import pathlib
import subprocess
import sys
import threading
from typing import Any

import psycopg
import pytest

from tests.fix_schemas import apply_stock_migrations, apply_stock_schema
from tests.sql.table import (
    Connection,
    column,
    connect,
    fetch,
    finish,
    insert,
    register,
    rows,
    value,
)
from tests.sql.test_workers import delete_old
from trio_queue import schema
from trio_queue._storage.connector import PsycopgConnector
from trio_queue._storage.sync_connector import SyncPsycopgConnector
from trio_queue.exceptions import SchemaError
from trio_queue.schema import MIGRATIONS, SchemaKind, SchemaManager

NAMES = tuple(migration.name for migration in MIGRATIONS)


def state(connection: Connection) -> schema.SchemaState:
    return schema.read_state(rows(connection, schema.STATE_QUERY))


def test_an_empty_database_gets_everything_once(database: str) -> None:
    with connect(database) as connection:
        assert state(connection).kind is SchemaKind.ABSENT
        assert schema.apply(connection) == NAMES
        assert state(connection) == schema.SchemaState(SchemaKind.CURRENT)
        assert column(connection, "SELECT name FROM trio_queue_migrations ORDER BY name") == list(
            NAMES
        )
        assert schema.apply(connection) == ()


def test_the_schema_as_text_is_the_same(database: str) -> None:
    with psycopg.connect(database) as one_transaction:
        one_transaction.execute(schema.get_schema().encode())
    with connect(database) as connection:
        assert state(connection).kind is SchemaKind.CURRENT


def test_a_database_in_use_is_taken_over_with_all_that_is_in_it(stock: Connection) -> None:
    waiting, running, ended = [insert(stock) for _ in range(3)]
    foreign = value(stock, "SELECT procrastinate_register_worker_v1()")
    stock.execute(
        "UPDATE procrastinate_jobs SET status = 'doing', worker_id = %s WHERE id > %s",
        [foreign, waiting],
    )
    stock.execute("UPDATE procrastinate_jobs SET status = 'succeeded' WHERE id = %s", [ended])
    before = rows(stock, "SELECT * FROM procrastinate_jobs ORDER BY id")
    assert state(stock).kind is SchemaKind.PROCRASTINATE
    assert schema.apply(stock) == NAMES
    assert state(stock).kind is SchemaKind.CURRENT
    assert rows(stock, "SELECT * FROM procrastinate_jobs ORDER BY id") == before
    worker = register(stock)
    assert fetch(stock, worker) == [waiting]
    assert finish(stock, worker, [waiting]) == ["succeeded"]
    value(stock, "SELECT procrastinate_finish_job_v1(%s, 'succeeded', false)::text", [running])


@pytest.mark.parametrize("done", range(len(NAMES)))
@pytest.mark.parametrize("times", [1, 2])
def test_one_that_stopped_half_way_goes_on(stock: Connection, done: int, times: int) -> None:
    for migration in MIGRATIONS[:done]:
        for _ in range(times):
            for statement in migration.statements:
                stock.execute(statement.encode())
            stock.execute(migration.record.encode())
    expected = SchemaKind.INCOMPLETE if done else SchemaKind.PROCRASTINATE
    assert state(stock).kind is expected
    # Old code on the schema of any moment: Procrastinate's client may be at work.
    made = value(
        stock,
        "SELECT procrastinate_defer_jobs_v1(ARRAY[('q', 't', 0, NULL, NULL, '{}', NULL)::procrastinate_job_to_defer_v1])",
    )[0]
    worker = value(stock, "SELECT procrastinate_register_worker_v1()")
    assert value(stock, "SELECT id FROM procrastinate_fetch_job_v2(NULL, %s)", [worker]) == made
    value(stock, "SELECT procrastinate_finish_job_v1(%s, 'failed', false)::text", [made])
    assert schema.apply(stock) == NAMES[done:]
    assert state(stock).kind is SchemaKind.CURRENT


def test_a_database_without_the_leases_gets_them(connection: Connection) -> None:
    """One that an older version of ours made."""
    [leases] = [name for name in NAMES if name.endswith("_leases")]
    before = NAMES[NAMES.index(leases) - 1]
    for function in ("trio_queue_adopt_jobs_v1", "trio_queue_adopt_orphans_v1"):
        connection.execute(f"DROP FUNCTION {function}".encode())
    later = NAMES[NAMES.index(leases) :]
    connection.execute("DELETE FROM trio_queue_migrations WHERE name = ANY (%s)", [list(later)])
    connection.execute(f"COMMENT ON TABLE trio_queue_migrations IS '{before}'".encode())
    assert state(connection).kind is SchemaKind.INCOMPLETE
    assert schema.apply(connection) == later
    assert state(connection).kind is SchemaKind.CURRENT


def test_a_database_of_the_version_before_deletes_old_jobs(connection: Connection) -> None:
    """Its function for that takes other parameters: this version's has another name."""
    for signature in column(
        connection,
        "SELECT oid::regprocedure::text FROM pg_proc WHERE proname ^@ 'trio_queue_delete_old_jobs'",
    ):
        connection.execute(f"DROP FUNCTION {signature}".encode())
    connection.execute(
        "CREATE FUNCTION trio_queue_delete_old_jobs_v1(text[], double precision, text, int)"
        " RETURNS int LANGUAGE sql AS 'SELECT 0'"
    )
    connection.execute("DELETE FROM trio_queue_migrations WHERE name >= '00.01.00_12'")
    connection.execute("COMMENT ON TABLE trio_queue_migrations IS '00.01.00_11_pre_claim'")
    schema.apply(connection)
    assert state(connection) == schema.SchemaState(SchemaKind.CURRENT)
    insert(connection)
    assert delete_old(connection) == 0
    # The check asks by name: there it would find neither of two functions, whatever is applied.
    connection.execute("DROP INDEX trio_queue_rank_idx")
    schema.apply(connection)
    assert state(connection) == schema.SchemaState(SchemaKind.CURRENT)


def test_each_name_stands_for_one_function(connection: Connection) -> None:
    """The check asks by name, and finds none where there are two."""
    names = column(connection, "SELECT proname FROM pg_proc WHERE proname ^@ 'trio_queue_'")
    assert len(names) == len(set(names))


def test_an_index_that_was_interrupted_is_built_again(stock: Connection) -> None:
    stock.execute("CREATE INDEX trio_queue_due_idx ON procrastinate_jobs (id)")
    stock.execute(
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'trio_queue_due_idx'::regclass"
    )
    schema.apply(stock)
    assert state(stock).kind is SchemaKind.CURRENT
    assert "scheduled_at" in value(
        stock, "SELECT indexdef FROM pg_indexes WHERE indexname = 'trio_queue_due_idx'"
    )


@pytest.mark.parametrize(
    ("breakage", "missing"),
    [
        ("DROP FUNCTION trio_queue_defer_jobs_v1", "trio_queue_defer_jobs_v1"),
        ("DROP INDEX trio_queue_lock_idx", "trio_queue_lock_idx"),
        (
            "DROP TRIGGER trio_queue_workers_deleted_v1 ON procrastinate_workers",
            "trio_queue_workers_deleted_v1",
        ),
        (
            (
                "CREATE OR REPLACE TRIGGER trio_queue_events_job_exists_v1 AFTER INSERT ON procrastinate_events"
                " FOR EACH ROW EXECUTE FUNCTION procrastinate_trigger_function_scheduled_events_v1()"
            ),
            "trio_queue_events_job_exists_v1",
        ),
        (
            "ALTER TABLE procrastinate_jobs DISABLE TRIGGER procrastinate_trigger_delete_jobs_v1",
            "procrastinate_trigger_delete_jobs_v1",
        ),
    ],
)
def test_what_was_removed_is_named_and_mended(
    connection: Connection, breakage: str, missing: str
) -> None:
    connection.execute(breakage.encode())
    found = state(connection)
    assert found == schema.SchemaState(SchemaKind.BROKEN, (missing,))
    assert missing in schema.describe(found)
    assert schema.apply(connection) == NAMES
    assert state(connection).kind is SchemaKind.CURRENT


def test_a_newer_one_serves_as_long_as_nothing_is_missing(connection: Connection) -> None:
    connection.execute("COMMENT ON TABLE trio_queue_migrations IS '99.00.00_01_pre_future'")
    assert state(connection).kind is SchemaKind.NEWER
    assert state(connection).is_usable
    assert schema.apply(connection) == ()
    connection.execute("DROP FUNCTION trio_queue_update_stage_v1")
    assert not state(connection).is_usable


def test_one_of_an_older_procrastinate_is_refused(stock: Connection) -> None:
    stock.execute("DROP FUNCTION procrastinate_retry_job_v2")
    assert state(stock).kind is SchemaKind.OLD_PROCRASTINATE
    with pytest.raises(SchemaError, match=r"3\.10"):
        schema.apply(stock)
    assert state(stock).kind is SchemaKind.OLD_PROCRASTINATE


def test_one_of_an_unknown_procrastinate_is_refused(stock: Connection) -> None:
    # As a newer version would: another trigger, under the next number.
    stock.execute(
        "CREATE TRIGGER procrastinate_trigger_status_events_update_v2 AFTER UPDATE OF status ON procrastinate_jobs"
        " FOR EACH ROW EXECUTE FUNCTION procrastinate_trigger_function_status_events_update_v1()"
    )
    assert state(stock) == schema.SchemaState(
        SchemaKind.UNKNOWN_PROCRASTINATE, ("procrastinate_trigger_status_events_update_v2",)
    )
    with pytest.raises(SchemaError, match=r"events_update_v2.*a newer trio_queue"):
        schema.apply(stock)
    assert not schema_objects(stock)


def test_one_that_is_halfway_through_its_own_migrations_is_refused(database: str) -> None:
    apply_stock_migrations(database, without="_50_post_")
    with connect(database) as connection:
        assert state(connection).kind is SchemaKind.OLD_PROCRASTINATE
        with pytest.raises(SchemaError, match=r"up to 3\.10 \(those named `post` too\)"):
            schema.apply(connection)
        assert not schema_objects(connection)


def test_triggers_of_the_users_own_are_none_of_our_business(stock: Connection) -> None:
    stock.execute(
        "CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'"
    )
    stock.execute(
        "CREATE TRIGGER audit AFTER INSERT ON procrastinate_jobs FOR EACH ROW EXECUTE FUNCTION audit()"
    )
    schema.apply(stock)
    assert state(stock).kind is SchemaKind.CURRENT


def schema_objects(connection: Connection) -> list[object]:
    """What of ours is in the database."""
    return column(connection, "SELECT relname FROM pg_class WHERE relname ^@ 'trio_queue_'")


def test_what_a_database_lacks_is_said_with_the_command_that_mends_it(stock: Connection) -> None:
    for kind in SchemaKind:
        told = schema.describe(schema.SchemaState(kind, ("something",)))
        usable = kind in {SchemaKind.CURRENT, SchemaKind.NEWER}
        assert (schema.__name__ and "trio-queue schema --apply" in told) is not usable
    with pytest.raises(SchemaError, match="the database at here: Procrastinate made its tables"):
        schema.check_usable(rows(stock, schema.STATE_QUERY), "here")


def test_a_connection_in_a_transaction_is_refused(database: str) -> None:
    with psycopg.connect(database) as connection, pytest.raises(ValueError, match="autocommit"):
        schema.apply(connection)


@pytest.mark.parametrize("made_by", ["nobody", "procrastinate"])
def test_two_processes_at_once(database: str, made_by: str) -> None:
    if made_by == "procrastinate":
        apply_stock_schema(database)
    program = (
        "import psycopg, sys; from trio_queue import schema\n"
        "with psycopg.connect(sys.argv[1], autocommit=True) as c: sys.stdin.readline(); print(len(schema.apply(c)))"
    )
    command = [sys.executable, "-c", program, database]
    root = pathlib.Path(__file__).parents[2]
    processes = [
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root
        )
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("now\n")
        process.stdin.flush()
    answers = [process.communicate()[0].strip() for process in processes]
    assert sorted(answers) == sorted(["0", "0", str(len(NAMES))])
    with connect(database) as connection:
        assert state(connection).kind is SchemaKind.CURRENT


def test_tables_that_are_never_free_are_told_of(stock: Connection, stock_database: str) -> None:
    stock.execute("SET lock_timeout = '30s'")
    (triggers,) = [m for m in MIGRATIONS if m.name.endswith("_pre_triggers")]
    hurried = triggers.text.replace("1..100", "1..2").replace("attempt = 100", "attempt = 2")
    with psycopg.connect(stock_database) as other:
        other.execute("SELECT 1 FROM procrastinate_jobs")
        stock.execute(MIGRATIONS[0].text.encode())
        stock.execute(MIGRATIONS[2].text.encode())
        with pytest.raises(psycopg.errors.LockNotAvailable, match="never free") as caught:
            stock.execute(hurried.encode())
        assert "idle in transaction" in (caught.value.diag.message_hint or "")
    assert value(stock, "SHOW lock_timeout") == "30s"
    assert schema.apply(stock)


def test_under_load_it_finds_its_moment(stock: Connection, stock_database: str) -> None:
    stop, errors, done = threading.Event(), list[BaseException](), list[int]()

    def work() -> None:
        try:
            with connect(stock_database) as connection:
                worker = value(connection, "SELECT procrastinate_register_worker_v1()")
                while not stop.is_set():
                    insert(connection)
                    claimed = value(
                        connection,
                        "SELECT (f).id FROM procrastinate_fetch_job_v2(NULL, %s) f",
                        [worker],
                    )
                    if claimed is not None:
                        value(
                            connection,
                            "SELECT procrastinate_finish_job_v1(%s, 'succeeded', false)::text",
                            [claimed],
                        )
                        done.append(claimed)
        except BaseException as error:  # noqa: BLE001  # told to the test
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        schema.apply(stock)
        count = len(done)
        while len(done) < count + 20 and not errors:
            value(stock, "SELECT 1")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    if errors:
        raise errors[0]
    assert state(stock).kind is SchemaKind.CURRENT
    ended = column(
        stock,
        "SELECT array_agg(type::text ORDER BY id) FROM procrastinate_events WHERE job_id IN"
        " (SELECT id FROM procrastinate_jobs WHERE status = 'succeeded') GROUP BY job_id",
    )
    assert ended
    assert all(events == ["deferred", "started", "succeeded"] for events in ended)


# -- the face -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [PsycopgConnector, SyncPsycopgConnector])
def test_a_manager_applies_and_checks_on_a_connector_that_is_not_open(
    database: str, kind: Any
) -> None:
    manager = SchemaManager(kind(conninfo=database))
    assert manager.check().kind is SchemaKind.ABSENT
    manager.apply_schema()
    assert manager.check().kind is SchemaKind.CURRENT


async def test_under_trio_too(database: str) -> None:
    manager = SchemaManager(PsycopgConnector(conninfo=database))
    await manager.apply_schema_async()
    assert (await manager.check_async()).kind is SchemaKind.CURRENT


def test_a_manager_of_memory_has_nothing_to_do() -> None:
    from trio_queue._storage.memory_connector import InMemoryConnector

    manager = SchemaManager(InMemoryConnector())
    manager.apply_schema()
    assert manager.check().is_usable


def test_the_migrations_are_files_that_sort_by_name() -> None:
    path = pathlib.Path(SchemaManager.get_migrations_path())
    assert [file.stem for file in sorted(path.glob("*.sql"))] == list(NAMES)
    assert SchemaManager.get_schema() == schema.get_schema()
