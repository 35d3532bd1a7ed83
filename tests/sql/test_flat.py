"""The hot statements touch no more pages than on a plain table, whatever the table is full of.

The tables are those of the benchmark (`nox -s tables`), smaller. Each in two states: tended, as autovacuum
leaves it, and untended: analysed, and every statement planned, while it was empty, and never since.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from tests.benchmarks.table_shapes import QUEUE, SHAPES, Filling
from tests.benchmarks.tables import GIVEN
from tests.fix_postgres import PostgresServer
from tests.fix_schemas import SCALE
from tests.sql.table import Connection, column, connect, fetch, register, value
from tests.sql.test_plans import plans, scans
from trio_queue._storage.queries import query

#: Times the benchmark's sizes, for 10,000 to 20,000 jobs or so.
SMALL = {
    "finished": 0.002,
    "waiting": 0.004,
    "future": 0.02,
    "queues": 0.02,
    "locks": 0.02,
    "deep-unlocked": 0.1,
    "deep-locks": 0.1,
    "deep-many": 0.1,
    "future-due": 0.05,
}
STATEMENTS = ("claim", "finish", "eligible", "defer")


def pages(connection: Connection, text: str, parameters: Any) -> int:
    """How many pages a statement touches, all that it fires included."""
    found = value(connection, f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {text}", parameters)
    plan = found[0]["Plan"]
    touched: int = plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
    return touched


def costs(connection: Connection, worker: int, queues: Sequence[str] | None) -> dict[str, int]:
    """The pages that each hot statement touches; nothing stays of what they do."""
    given = {**GIVEN, "queues": queues, "worker_id": worker}
    found: dict[str, int] = {}
    for _ in range(2):  # the first time in a session reads the catalogs, too
        with connection.transaction(force_rollback=True):
            found["claim"] = pages(connection, query("fetch_jobs"), given)
            ids = column(connection, "SELECT id FROM procrastinate_jobs WHERE status = 'doing'")
            given |= {"job_ids": ids, "attempts": [0] * len(ids)}
            given["statuses"] = ["succeeded"] * len(ids)
            found["finish"] = pages(connection, query("finish_jobs"), given)
        with connection.transaction(force_rollback=True):
            found["eligible"] = pages(connection, query("has_eligible_job"), given)
            found["defer"] = pages(connection, query("defer_jobs"), {**given, "queues": [QUEUE]})
    return found


def prepare(connection: Connection, *, is_tended: bool) -> int:
    """A worker; untended, every statement is planned while the table is empty."""
    worker = register(connection)
    if not is_tended:
        connection.execute("ALTER TABLE procrastinate_jobs SET (autovacuum_enabled = false)")
        connection.execute("VACUUM ANALYZE")
        for queues in (None, [QUEUE]):
            costs(connection, worker, queues)
    return worker


def fill(name: str, conninfo: str, *, scale: float, is_tended: bool) -> Iterator[str]:
    """Fill the table of a shape; yields its states."""
    with connect(conninfo) as filler:
        filler.execute("SET session_replication_role = replica")
        yield from SHAPES[name].fill(Filling(filler, conninfo, scale, is_tended))


@pytest.fixture(scope="session")
def plain(postgres_server: PostgresServer, queue_template: str) -> dict[str, int]:
    """What each statement touches on the plain table."""
    conninfo = postgres_server.conninfo(postgres_server.create_database(queue_template))
    with connect(conninfo) as connection:
        worker = prepare(connection, is_tended=True)
        (_,) = fill("plain", conninfo, scale=1, is_tended=True)
        return costs(connection, worker, [QUEUE])


def test_what_a_snapshot_holds_is_stepped_over_once_and_no_more_after_it(
    queue_database: str, connection: Connection, plain: dict[str, int]
) -> None:
    worker = prepare(connection, is_tended=True)
    held, closed, vacuumed = (
        costs(connection, worker, [QUEUE])
        for _ in fill("churned", queue_database, scale=0.005, is_tended=True)
    )
    came_and_went = 20 * 500
    for statement in ("claim", "eligible"):
        # Of some forty of them on a page, each page once; not the rows of each, nor for each job.
        assert held[statement] < 2 * plain[statement] + came_and_went / 20
        assert closed[statement] < 2 * plain[statement] + came_and_went / 100
    assert {s: n for s, n in vacuumed.items() if n > 2 * plain[s]} == {}


@pytest.mark.parametrize("is_tended", [True, False], ids=["tended", "untended"])
@pytest.mark.parametrize("name", SMALL)
def test_it_is_flat(
    queue_database: str,
    connection: Connection,
    plain: dict[str, int],
    name: str,
    is_tended: bool,  # from parametrize
) -> None:
    worker = prepare(connection, is_tended=is_tended)
    (_,) = fill(name, queue_database, scale=SMALL[name] * SCALE, is_tended=is_tended)
    for queues in (None, [QUEUE]):
        found = costs(connection, worker, queues)
        times = {statement: found[statement] / plain[statement] for statement in STATEMENTS}
        # Two probes for each lock, however many there are: whether it is free, and whose turn it is.
        goal = max(SHAPES[name].goal, 2.5 if name == "locks" else 2)
        goals = dict.fromkeys(STATEMENTS, 2.0) | {"claim": goal}
        assert {s: t for s, t in times.items() if t > goals[s]} == {}
        with plans(connection) as told, connection.transaction(force_rollback=True):
            assert fetch(connection, worker, 100, queues)
        read = {scan for scan in scans(told) if scan[1] == "procrastinate_jobs"}
        assert not [
            scan for scan in read if scan[0] != "Index Scan" and "Index Only" not in scan[0]
        ]
