"""Ten thousand jobs that run at once in one worker, and wait: their memory, and how they end."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg

from tests.benchmarks.many.costs import Run
from tests.benchmarks.peers import Bench

JOBS = 10_000
ROOT = Path(__file__).parents[3]


def fill(conninfo: str, count: int) -> None:
    """Defer so many."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO procrastinate_jobs (queue_name, task_name, args)"
            " SELECT 'bench', 'noop', jsonb_build_object('number', n) FROM generate_series(1, %s) n",
            [count],
        )


def waiting() -> Run:
    """What they take, on Trio and on asyncio, drained and aborted."""

    def run(bench: Bench) -> Iterator[tuple[str, float]]:
        for host in ("trio", "asyncio"):
            for end, status in (("drain", "succeeded"), ("abort", "aborted")):
                conninfo = bench.database(ours=True)
                fill(conninfo, JOBS)
                command = [sys.executable, "-m", "tests.benchmarks.many.holder"]
                done = subprocess.run(
                    [*command, conninfo, str(JOBS), host, end],
                    cwd=ROOT,
                    check=True,
                    capture_output=True,
                    text=True,
                )
                with psycopg.connect(conninfo) as connection:
                    ended = connection.execute(
                        "SELECT count(*) FROM procrastinate_jobs WHERE status::text = %s", [status]
                    ).fetchone()
                assert ended == (JOBS,), ended
                for what, figure in json.loads(done.stdout).items():
                    yield f"{host}, {end}: {what}", figure

    return run
