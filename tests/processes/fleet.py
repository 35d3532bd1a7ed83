"""Worker processes on one database, and what became of the jobs: rows, events, the jobs' own diary."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import psycopg
from psycopg.types.json import Jsonb

from tests.cli.processes import Process
from tests.processes.tasks import DIARY, GATE, PLACE
from tests.waiting import wait_until

APP = "tests.processes.tasks:app"
DATABASE = "TRIO_QUEUE_DATABASE_URL"

#: Seconds. Soon over; and a worker, or its server, that stands still for one of them is not taken for dead.
LEASE = 3.0
SHORT_LEASE = ("--update-heartbeat-interval", "0.1", "--stalled-worker-timeout", f"{LEASE:g}")
#: The interval alone: how often such a worker looks for the jobs of dead ones; its own lease is long.
LOOKS_OFTEN = ("--update-heartbeat-interval", "0.1", "--stalled-worker-timeout", "3600")


@attrs.frozen
class Entry:
    """A line of the diary: what happened to which job in which process."""

    word: str
    job_id: int
    pid: int


class Fleet:
    """Worker processes on one database.

    Args:
        conninfo: The database.
        place: A directory for the jobs' diary and their gate.
    """

    def __init__(self, conninfo: str, place: Path) -> None:
        self.conninfo = conninfo
        self._place = place
        self._processes: list[Process] = []
        self.database = self._connect()

    def _connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self.conninfo, autocommit=True, application_name="the test itself")

    def reconnect(self) -> None:
        """Connect the test itself anew, where its server was another process."""
        self.database.close()
        self.database = self._connect()

    def close(self) -> None:
        """Kill what still runs."""
        for process in self._processes:
            process.kill()
        self.database.close()

    # -- processes --------------------------------------------------------------------------------

    def spawn(
        self, *command: str, conninfo: str | None = None, terminal: bool = False, **more: str
    ) -> Process:
        """Start Python with these arguments, where the App finds its database, diary and gate."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("TRIO_QUEUE_", "PROCRASTINATE_", "PG"))
        }
        environment = {
            **kept,
            DATABASE: self.conninfo if conninfo is None else conninfo,
            PLACE: str(self._place),
            **more,
        }
        process = Process.start([sys.executable, *command], environment, terminal=terminal)
        self._processes.append(process)
        return process

    def start(
        self, *options: str, app: str = APP, module: str = "trio_queue", **more: Any
    ) -> Process:
        """Start a worker by the command line; it may not have begun to fetch yet."""
        return self.spawn("-m", module, "-a", app, "worker", *options, **more)

    def start_with_clock(self, seconds: float, *options: str) -> Process:
        """Start a worker whose clock is so many seconds ahead."""
        command = ("-m", "tests.processes.shifted_clock", str(seconds))
        return self.spawn(*command, "-a", APP, "worker", *options)

    def started(self, *options: str, **more: Any) -> Process:
        """Start a worker, and wait until it fetches."""
        worker = self.start(*options, **more)
        worker.wait_said("Starting worker")
        return worker

    # -- jobs -------------------------------------------------------------------------------------

    def defer(
        self,
        task: str,
        *,
        queue: str = "default",
        lock: str | None = None,
        scheduled_in: float | None = None,
        **arguments: Any,
    ) -> int:
        """Defer a job as anybody's client would. Returns its id."""
        job_id: int = self.value(
            "INSERT INTO procrastinate_jobs (queue_name, task_name, lock, args, scheduled_at)"
            " VALUES (%s, %s, %s, %s, now() + make_interval(secs => %s)) RETURNING id",
            queue,
            task,
            lock,
            Jsonb(arguments),
            scheduled_in,
        )
        return job_id

    def open_gate(self) -> None:
        """Let the jobs end that wait for it."""
        (self._place / GATE).touch()

    # -- what became of them ----------------------------------------------------------------------

    def rows(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        return self.database.execute(query.encode(), parameters).fetchall()

    def value(self, query: str, *parameters: Any) -> Any:
        return self.rows(query, *parameters)[0][0]

    def row(self, job_id: int) -> tuple[str, int]:
        """A job's status and attempts."""
        [(status, attempts)] = self.rows(
            "SELECT status::text, attempts FROM procrastinate_jobs WHERE id = %s", job_id
        )
        return status, attempts

    def events(self, job_id: int) -> list[str]:
        """What happened to a job, in order, with the reason if any; not that it waits for a moment."""
        return [
            kind if reason is None else f"{kind}: {reason}"
            for kind, reason in self.rows(
                "SELECT e.type::text, d.reason FROM procrastinate_events e"
                " LEFT JOIN trio_queue_event_details d ON d.event_id = e.id"
                " WHERE e.job_id = %s AND e.type <> 'scheduled' ORDER BY e.id",
                job_id,
            )
        ]

    def owner(self, job_id: int) -> int | None:
        """The process whose job it is, as its worker's row says."""
        pid: int | None = self.value(
            "SELECT (SELECT w.pid FROM trio_queue_workers w WHERE w.worker_id = j.worker_id)"
            " FROM procrastinate_jobs j WHERE j.id = %s",
            job_id,
        )
        return pid

    def workers(self) -> list[tuple[Any, ...]]:
        """The name and the process of each worker that has a row."""
        return self.rows(
            "SELECT o.name, o.pid FROM procrastinate_workers w"
            " JOIN trio_queue_workers o ON o.worker_id = w.id ORDER BY w.id"
        )

    def stages(self) -> list[str]:
        """The stage of each worker that has a row, as the row shows it: a little later than it is."""
        return [
            row[0] for row in self.rows("SELECT stage FROM trio_queue_workers ORDER BY worker_id")
        ]

    def diary(self, job_id: int | None = None) -> list[Entry]:
        """What the jobs told: of one, or of all."""
        path = self._place / DIARY
        lines = path.read_text().splitlines() if path.exists() else []
        entries = [
            Entry(word, int(job), int(pid)) for word, job, pid in (line.split() for line in lines)
        ]
        return [entry for entry in entries if job_id in {None, entry.job_id}]

    def told(self, job_id: int) -> list[str]:
        """What a job told, without where."""
        return [entry.word for entry in self.diary(job_id)]

    # -- waiting ----------------------------------------------------------------------------------

    def wait_told(self, job_id: int, word: str, times: int = 1) -> Entry:
        """Wait until a job has told something so often. Returns the last one."""
        wait_until(lambda: self.told(job_id).count(word) >= times, f"job {job_id} to tell {word!r}")
        return [entry for entry in self.diary(job_id) if entry.word == word][times - 1]

    def wait_status(self, job_id: int, status: str) -> None:
        """Wait until a job's row has this status."""
        wait_until(lambda: self.row(job_id)[0] == status, f"job {job_id} to be {status}")

    def wait_stage(self, stage: str) -> None:
        """Wait until a worker's row shows this stage."""
        wait_until(lambda: stage in self.stages(), f"a worker to be {stage}")

    def wait_seconds_since_start(self, job_id: int, seconds: float) -> None:
        """Wait until a job was started so long ago, by the server's clock."""
        wait_until(
            lambda: self.value(
                "SELECT clock_timestamp() - max(at) > make_interval(secs => %s)"
                " FROM procrastinate_events WHERE job_id = %s AND type = 'started'",
                seconds,
                job_id,
            ),
            f"job {job_id} to be {seconds} s old",
        )

    def is_quiet(self) -> None:
        """No worker has a row, and no job is `doing`."""
        assert self.workers() == []
        assert self.rows("SELECT id FROM procrastinate_jobs WHERE status = 'doing'") == []


def ended_by(processes: Sequence[Process], signal_number: Any) -> list[int]:
    """Send processes a signal. Returns their exit codes."""
    for process in processes:
        process.send(signal_number)
    return [process.wait_end() for process in processes]
