"""The start: of the command line, of the library, of a worker until it listens."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg

from tests.benchmarks.many.costs import Run
from tests.benchmarks.peers import Bench
from tests.waiting import wait_until

ROOT = Path(__file__).parents[3]
TRIES = 7
APP = "tests.benchmarks.many.started:app"
COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import trio_queue": ["-c", "import trio_queue"],
    "from trio_queue import App, PsycopgConnector, Worker": [
        "-c",
        "from trio_queue import App, PsycopgConnector, Worker",
    ],
    "trio-queue --help": ["-m", "trio_queue", "--help"],
    "trio-queue worker --help": ["-m", "trio_queue", "worker", "--help"],
}


def _cost(command: list[str]) -> tuple[float, float]:
    """Seconds of CPU and of the wall, of the best of several."""
    found: list[tuple[float, float]] = []
    for _ in range(TRIES):
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run([sys.executable, *command], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        found.append((cpu, time.perf_counter() - began))
    return min(cpu for cpu, _ in found), min(wall for _, wall in found)


def _until_it_listens(conninfo: str) -> float:
    command = [sys.executable, "-m", "trio_queue", f"--app={APP}", f"--database={conninfo}"]
    with psycopg.connect(conninfo, autocommit=True) as connection:
        began = time.perf_counter()
        process = subprocess.Popen(
            [*command, "-q", "worker"], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}
        )
        try:
            wait_until(
                lambda: (
                    connection.execute(
                        "SELECT FROM trio_queue_workers WHERE stage = 'running'"
                    ).fetchone()
                    is not None
                ),
                "the worker",
            )
            return time.perf_counter() - began
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def start() -> Run:
    """Each, the best of seven."""

    def run(bench: Bench) -> Iterator[tuple[str, float]]:
        for name, command in COMMANDS.items():
            cpu, wall = _cost(command)
            yield f"{name}: CPU", cpu
            yield f"{name}: wall", wall
        conninfo = bench.database(ours=True)
        yield (
            "trio-queue worker, until it listens: wall",
            min(_until_it_listens(conninfo) for _ in range(TRIES)),
        )

    return run
