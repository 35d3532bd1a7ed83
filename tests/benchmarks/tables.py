"""Measure the hot statements as the tables grow: `nox -s tables`, `-- --scale 0.02` for a quick look.

Each statement runs many times in a transaction that is rolled back, so that the table stays as it is;
the server says what it took and how many pages it touched. The pages do not depend on what else the
machine does. Every table has Procrastinate's own functions too, taken over by ours: its fetch of one
job stands beside our claim of a hundred.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import psycopg
from psycopg.types.json import Jsonb

from tests.benchmarks.peers import Bench
from tests.benchmarks.table_shapes import QUEUE, SHAPES, Connection, Filling
from trio_queue import schema
from trio_queue._storage.queries import query
from trio_queue._worker.pace import CLAIM_BYTES

#: So many jobs are claimed, finished and deferred at once.
BATCH = 100
#: Runs before the first that counts: plans are made and pages read.
WARM_UP = 3

SETTINGS: dict[str, str | int] = {
    "shared_buffers": "2GB",
    "maintenance_work_mem": "1GB",
    "max_wal_size": "8GB",
    "jit": "off",
}

STOCK = "SELECT * FROM procrastinate_fetch_job_v2(%(queues)s::varchar[], %(worker_id)s)"
#: What the statements are given, beside the queues and the worker: a batch of one task's jobs, outcomes without more to say.
GIVEN: dict[str, Any] = {
    "limit": BATCH,
    "turn": None,
    "max_bytes": CLAIM_BYTES,
    "task_names": ["t"],
    "args": Jsonb([{"number": 1}] * BATCH),
    **dict.fromkeys(("priorities", "locks", "queueing_locks", "scheduled_at")),
    **dict.fromkeys(
        ("retries", "retry_at", "retry_in", "if_abort_requested", "deletes", "reasons")
    ),
}


@attrs.frozen
class Cost:
    """What one run of a statement took."""

    ms: float
    pages: float


@attrs.define
class Table:
    """A filled database, and a worker registered in it."""

    connection: Connection
    worker: int
    runs: int

    def explain(self, text: str, parameters: dict[str, Any]) -> Cost:
        found = self.connection.execute(
            f"EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) {text}".encode(), parameters
        ).fetchone()
        assert found is not None
        plan = found[0][0]
        pages = plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"]
        return Cost(plan["Execution Time"], pages)

    def measured(
        self,
        text: str,
        queues: Sequence[str] | None,
        *,
        before: int = 0,
        ends: bool = False,
        hours: float | None = None,
    ) -> Cost:
        """The medians of many runs, each undone.

        Args:
            text: The statement.
            queues: Those that are asked for.
            before: So many jobs are claimed before it, in the same transaction.
            ends: It ends those.
            hours: It deletes what is older, a thousand at most.
        """
        costs: list[Cost] = []
        given = {**GIVEN, "queues": queues, "worker_id": self.worker}
        if hours is not None:
            given |= {"statuses": ["succeeded"], "nb_hours": hours, "queue": None, "limit": 1000}
            given |= {"after_id": None, "only_count": False}
        for _ in range(WARM_UP + self.runs):
            with self.connection.transaction(force_rollback=True):
                claimed = self._claimed({**given, "limit": before}) if before else {}
                if ends:
                    given |= claimed
                costs.append(self.explain(text, given))
        costs = costs[WARM_UP:]
        return Cost(
            statistics.median(cost.ms for cost in costs),
            statistics.median(cost.pages for cost in costs),
        )

    def _claimed(self, given: dict[str, Any]) -> dict[str, Any]:
        """Claim, and what says that they all succeeded."""
        rows = self.connection.execute(query("fetch_jobs").encode(), given).fetchall()
        ids = [row[0] for row in rows if row[0] is not None]
        return {
            "job_ids": ids,
            "attempts": [0] * len(ids),
            "statuses": ["succeeded"] * len(ids),
        }


#: The name of what is measured, and how.
MEASURES: dict[str, Callable[[Table], Cost]] = {
    # One after the other, as a worker claims; the first one by itself is below.
    "claim 100": lambda table: table.measured(query("fetch_jobs"), None, before=1),
    "claim 100, one queue": lambda table: table.measured(query("fetch_jobs"), [QUEUE], before=1),
    "finish 100": lambda table: table.measured(query("finish_jobs"), None, before=BATCH, ends=True),
    "defer 100": lambda table: table.measured(query("defer_jobs"), [QUEUE]),
    "claim 100, the first": lambda table: table.measured(query("fetch_jobs"), None),
    "eligible": lambda table: table.measured(query("has_eligible_job"), None),
    "prune, a bite of 1,000": lambda table: table.measured(
        query("delete_old_jobs"), None, hours=240
    ),
    "prune, nothing old": lambda table: table.measured(query("delete_old_jobs"), None, hours=480),
    "stock fetch of 1": lambda table: table.measured(STOCK, None),
    "stock fetch of 1, one queue": lambda table: table.measured(STOCK, [QUEUE]),
}


@contextmanager
def opened(bench: Bench, scale: float) -> Generator[Filling]:
    """A database as Procrastinate makes it, taken over by us; dropped afterwards."""
    conninfo = bench.database(ours=False)
    with psycopg.connect(conninfo, autocommit=True) as connection:
        schema.apply(connection)
        name = connection.info.dbname
        connection.execute("SET session_replication_role = replica")
        yield Filling(connection, conninfo, scale)
    with psycopg.connect(bench.server.conninfo(), autocommit=True) as admin:
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


def look(filling: Filling, runs: int) -> dict[str, Cost]:
    """Measure everything on a table as it is now, on a connection of its own."""
    with psycopg.connect(filling.conninfo, autocommit=True) as connection:
        found = connection.execute(
            "SELECT trio_queue_register_worker_v1('bench', 'host', 1, '0', NULL, 100, 'running')"
        ).fetchone()
        assert found is not None
        table = Table(connection, found[0], runs)
        return {name: run(table) for name, run in MEASURES.items()}


def bytes_of_a_job(filling: Filling) -> dict[str, float]:
    """What a job takes on disk in each table, the indexes included."""
    return {
        str(name): size / jobs
        for name, size, jobs in filling.connection.execute(
            "SELECT t::text, pg_total_relation_size(t), (SELECT count(*) FROM procrastinate_jobs)"
            " FROM unnest(ARRAY['procrastinate_jobs', 'procrastinate_events']::regclass[]) t"
        ).fetchall()
    }


def tell(figures: dict[str, dict[str, Cost]], goals: dict[str, float]) -> None:
    """Print a line for each table: milliseconds, how many times the first table's, pages; then what missed its goal."""
    base = next(iter(figures.values()))
    print("| " + " | ".join(["", *MEASURES]) + " |")
    print("| --- |" + " --- |" * len(MEASURES))
    for state, costs in figures.items():
        cells = [
            f"{cost.ms:.2f} ({cost.ms / base[name].ms:.1f} x; {cost.pages:,.0f})"
            for name, cost in costs.items()
        ]
        print("| " + " | ".join([state, *cells]) + " |")
    for state, costs in figures.items():
        for name in ("claim 100", "claim 100, one queue"):
            times = costs[name].ms / base[name].ms
            if times > goals[state]:
                print(f"missed: {state}: {name}: {times:.1f} x, the goal is {goals[state]:g} x")


def main() -> None:
    """Fill the tables one after the other, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="times the sizes that are named")
    parser.add_argument("--runs", type=int, default=21, help="of each statement; the median counts")
    parser.add_argument("--only", nargs="*", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--json", type=Path, help="write the figures there too")
    arguments = parser.parse_args()
    figures: dict[str, dict[str, Cost]] = {}
    goals: dict[str, float] = {}
    sizes: dict[str, float] = {}
    with Bench.opened(SETTINGS) as bench:
        with psycopg.connect(bench.server.conninfo()) as connection:
            version = connection.info.server_version
        for name in dict.fromkeys(["plain", *arguments.only]):
            with opened(bench, arguments.scale) as filling:
                began = time.perf_counter()
                for state in SHAPES[name].fill(filling):
                    filled = time.perf_counter() - began
                    figures[state] = look(filling, arguments.runs)
                    goals[state] = SHAPES[name].goal
                    if name == "finished":
                        sizes = bytes_of_a_job(filling)
                    print(f"{state}: filled in {filled:.0f} s: {figures[state]}", file=sys.stderr)
    tell(figures, goals)
    print(f"bytes of a finished job, its events and all indexes: {sizes}")
    if arguments.json:
        written = {
            f"{measure}: {state}": {
                "ms": [costs[measure].ms],
                "pages": [costs[measure].pages],
            }
            for state, costs in figures.items()
            for measure in MEASURES
        }
        about = {
            "scale": arguments.scale,
            "runs": arguments.runs,
            "server_version": version,
            "settings": SETTINGS,
            "bytes of a finished job": sizes,
            "not kept constant": "what else the machine does; the order of the tables",
        }
        arguments.json.write_text(json.dumps({"about": about, **written}, indent=1))


if __name__ == "__main__":
    main()
