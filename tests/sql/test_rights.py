"""Which rights the role of a program and its workers needs: those that the guides name, and no more."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg
import pytest

from tests.sql.table import Connection, fetch, finish, insert, register, rows

GRANTS = """
CREATE ROLE program;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO program;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO program
"""


@pytest.fixture
def program(connection: Connection) -> Iterator[Connection]:
    """A connection that may take such a role. The role belongs to the whole server: it is rolled back."""
    connection.execute("BEGIN")
    connection.execute(GRANTS.encode())
    yield connection
    connection.execute("ROLLBACK")


def act_as_program(connection: Connection) -> None:
    connection.execute("SET LOCAL ROLE program")


def test_what_a_role_needs(program: Connection) -> None:
    act_as_program(program)
    job_id = insert(program)
    worker = register(program)
    assert fetch(program, worker) == [job_id]
    assert finish(program, worker, [job_id]) == ["succeeded"]
    program.execute("DELETE FROM procrastinate_jobs")
    program.execute("DELETE FROM procrastinate_workers")
    assert rows(program, "SELECT * FROM procrastinate_events") == []


def delete_jobs(connection: Connection) -> None:
    connection.execute("DELETE FROM procrastinate_jobs")


def claim(connection: Connection) -> None:
    fetch(connection, 1)


@pytest.mark.parametrize(
    ("right", "act"),
    [
        ("DELETE ON procrastinate_events", delete_jobs),
        ("UPDATE ON procrastinate_workers", claim),
    ],
)
def test_what_a_foreign_key_would_not_need(
    program: Connection, right: str, act: Callable[[Connection], None]
) -> None:
    insert(program)
    register(program)
    program.execute(f"REVOKE {right} FROM program".encode())
    act_as_program(program)
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match=right.rsplit(maxsplit=1)[-1]):
        act(program)
