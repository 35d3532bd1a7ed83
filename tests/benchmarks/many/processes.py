"""Workers beside each other: real processes drain one database, and whether one waits for another."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from tests.benchmarks.many.costs import Run, postmaster_of, server_cpu
from tests.benchmarks.peers import Bench
from tests.waiting import wait_until

JOBS = 50_000
COUNTS = (1, 2, 4, 8)
CONCURRENCY = 100
#: One job in ten has one of so many locks.
LOCKS = 500
ROOT = Path(__file__).parents[3]


@contextmanager
def workers(conninfo: str, count: int) -> Generator[list[subprocess.Popen[bytes]]]:
    """So many worker processes that listen; stopped, and their end awaited, with the block."""
    command = [sys.executable, "-m", "tests.benchmarks.many.worker", conninfo, str(CONCURRENCY)]
    started = [subprocess.Popen(command, cwd=ROOT) for _ in range(count)]
    try:
        with psycopg.connect(conninfo, autocommit=True) as connection:
            wait_until(
                lambda: _listening(connection) == count, "the workers", patience=60 + 10 * count
            )
        yield started
    finally:
        for process in started:
            process.send_signal(signal.SIGTERM)
        for process in started:
            process.wait()


def _listening(connection: psycopg.Connection) -> int:
    row = connection.execute(
        "SELECT count(*) FROM trio_queue_workers WHERE stage = 'running'"
    ).fetchone()
    assert row is not None
    return int(row[0])


def _fill(connection: psycopg.Connection) -> None:
    connection.execute(
        "INSERT INTO procrastinate_jobs (queue_name, task_name, args, lock)"
        " SELECT 'bench', 'noop', jsonb_build_object('number', n),"
        "        CASE WHEN n %% 10 = 0 THEN 'lock ' || n %% %s END FROM generate_series(1, %s) n",
        [LOCKS * 10, JOBS],
    )


def _drain(conninfo: str, count: int) -> tuple[float, dict[int, int]]:
    """Seconds until every job has ended, and how many each worker ran."""
    with workers(conninfo, count), psycopg.connect(conninfo, autocommit=True) as connection:
        _fill(connection)
        began = time.perf_counter()
        wait_until(lambda: not _left(connection), "the jobs", patience=300)
        seconds = time.perf_counter() - began
        # No job twice: one beginning and one end each.
        told = connection.execute(
            "SELECT type::text, count(*), count(DISTINCT job_id) FROM procrastinate_events"
            " WHERE type IN ('started', 'succeeded') GROUP BY type ORDER BY type"
        ).fetchall()
        assert told == [("started", JOBS, JOBS), ("succeeded", JOBS, JOBS)], told
        ran = connection.execute(
            "SELECT worker_id, count(*) FROM procrastinate_jobs GROUP BY worker_id"
        ).fetchall()
    return seconds, dict(ran)


def _left(connection: psycopg.Connection) -> bool:
    return (
        connection.execute(
            "SELECT FROM procrastinate_jobs WHERE status IN ('todo', 'doing') LIMIT 1"
        ).fetchone()
        is not None
    )


def throughput() -> Run:
    """Jobs per second of so many workers, from the commit of the jobs to the last one's end."""

    def run(bench: Bench) -> Iterator[tuple[str, float]]:
        postmaster = postmaster_of(bench.server.conninfo())
        for count in COUNTS:
            conninfo = bench.database(ours=True)
            before = server_cpu(postmaster)
            seconds, _ = _drain(conninfo, count)
            yield f"{count} workers", JOBS / seconds
            used = server_cpu(postmaster) - before
            yield (
                f"{count} workers, server's µs of CPU a job, deferring included",
                used / JOBS * 1e6,
            )

    return run


def shares() -> Run:
    """What the worker that ran the fewest jobs, and the one that ran the most, had of an even share."""

    def run(bench: Bench) -> Iterator[tuple[str, float]]:
        for count in COUNTS[1:]:
            _, ran = _drain(bench.database(ours=True), count)
            every = [*ran.values(), *[0] * (count - len(ran))]
            yield f"{count} workers, the least", min(every) * count / JOBS * 100
            yield f"{count} workers, the most", max(every) * count / JOBS * 100

    return run


_ENTRY = re.compile(r"\n(?=\S+ \S+ \S+ \[\d+\] LOG:)")
_WAIT = re.compile(r"still waiting for (\w+) on (\w+)")


def _kind(entry: str) -> str | None:
    """Who waited for what, of an entry of the server's log; None where nobody did."""
    found = _WAIT.search(entry)
    if found is None:
        return None
    mode, what = found.groups()
    if what != "transaction":
        return f"{mode} on {what}"
    if 'relation "trio_queue_workers"' in entry:
        return "for the worker's own row"
    # The statement that writes outcomes has the name in a comment.
    return (
        "a claim" if "PL/pgSQL function trio_queue_fetch_jobs" in entry else "a write of outcomes"
    )


def waits() -> Run:
    """How often one waited longer than a millisecond for a lock of another, by what it waited for."""

    def run(bench: Bench) -> Iterator[tuple[str, float]]:
        with psycopg.connect(bench.server.conninfo(), autocommit=True) as admin:
            (folder,) = admin.execute("SHOW data_directory").fetchone() or ("",)
            log = Path(f"{folder}.log")
            for setting in ("log_lock_waits = on", "deadlock_timeout = '1ms'"):
                admin.execute(f"ALTER SYSTEM SET {setting}".encode())
            admin.execute("SELECT pg_reload_conf()")
            try:
                for count in COUNTS:
                    begin = log.stat().st_size
                    _drain(bench.database(ours=True), count)
                    with log.open() as file:
                        file.seek(begin)
                        said = file.read()
                    found = Counter(filter(None, map(_kind, _ENTRY.split(said))))
                    yield f"{count} workers, a claim", found.pop("a claim", 0)
                    for kind, number in sorted(found.items()):
                        yield f"{count} workers, {kind}", number
            finally:
                for name in ("log_lock_waits", "deadlock_timeout"):
                    admin.execute(f"ALTER SYSTEM RESET {name}".encode())
                admin.execute("SELECT pg_reload_conf()")

    return run
