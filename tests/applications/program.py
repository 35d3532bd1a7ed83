"""One of the example applications as a process, on a database of its own, and what becomes of its jobs."""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg

from tests.cli.processes import ROOT, Process
from tests.waiting import PATIENCE, wait_until

EXAMPLES = ROOT / "docs" / "examples"
#: What uvicorn and aiohttp say when they listen, and what those say that are without.
THEIRS, OURS = "(Press CTRL+C to quit)", "(Ctrl-C stops it)"
_ADDRESS = re.compile(r"127\.0\.0\.1:([1-9]\d*)\s")


class Program:
    """Processes that are started as the head of an example says, in the examples' directory.

    Args:
        conninfo: Their database.
    """

    def __init__(self, conninfo: str) -> None:
        self.conninfo = conninfo
        self.database = psycopg.connect(conninfo, autocommit=True)
        self._processes: list[Process] = []
        self._port = 0

    def close(self) -> None:
        """Kill what still runs."""
        for process in self._processes:
            process.kill()
        self.database.close()

    # -- processes --------------------------------------------------------------------------------

    def start(self, *command: str, cwd: Path = EXAMPLES) -> Process:
        """Start Python with these arguments."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("TRIO_QUEUE_", "PROCRASTINATE_", "PG"))
        }
        environment = {
            **kept,
            "DATABASE_URL": self.conninfo,
            "PORT": "0",
            "PYTHONPATH": str(ROOT),
        }
        process = Process.start([sys.executable, *command], environment, cwd=cwd)
        self._processes.append(process)
        return process

    def serve(self, command: Sequence[str], ready: str = THEIRS) -> Process:
        """Start a server on a free port, and wait until it says where it listens.

        Args:
            command: As for `start`.
            ready: What follows on the address.
        """
        process = self.start(*command)
        found = _ADDRESS.search(process.wait_said(ready))
        assert found is not None, process.said
        self._port = int(found[1])
        return process

    # -- requests ---------------------------------------------------------------------------------

    def ask(self, target: str, body: bytes | None = None) -> tuple[int, dict[str, Any]]:
        """Send a request, a POST where there is a body. Returns the status and the JSON of the answer."""
        request = urllib.request.Request(f"http://127.0.0.1:{self._port}{target}", data=body)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code, _json(refused.read())

    def connect(self) -> socket.socket:
        """Connect to the server, and say nothing."""
        return socket.create_connection(("127.0.0.1", self._port), timeout=PATIENCE)

    def say(self, line: str) -> str:
        """Send a line, and return the line that is answered."""
        with self.connect() as connection, connection.makefile("rw") as file:
            file.write(f"{line}\n")
            file.flush()
            return file.readline().strip()

    # -- jobs -------------------------------------------------------------------------------------

    def rows(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        return self.database.execute(query.encode(), parameters).fetchall()

    def jobs(self) -> list[tuple[str, Any]]:
        """The status and the arguments of every job, in order."""
        return self.rows("SELECT status::text, args FROM procrastinate_jobs ORDER BY id")

    def statuses(self) -> list[str]:
        """The status of every job, in order."""
        return [status for status, _ in self.jobs()]

    def wait_status(self, job_id: int, status: str) -> None:
        """Wait until a job's row has this status."""
        query = "SELECT status::text FROM procrastinate_jobs WHERE id = %s"
        wait_until(
            lambda: self.rows(query, job_id) == [(status,)],
            f"job {job_id} to be {status}",
            2 * PATIENCE,
        )

    def is_gone(self, process: Process) -> None:
        """Nobody is left of a process that has ended, and no worker has a row."""
        try:
            os.killpg(process.popen.pid, 0)
        except ProcessLookupError:
            pass
        else:
            raise AssertionError("it has left a process behind")
        assert self.rows("SELECT id FROM procrastinate_workers") == []


def _json(body: bytes) -> dict[str, Any]:
    try:
        answer: dict[str, Any] = json.loads(body)
    except ValueError:
        return {"error": body.decode()}
    return answer
