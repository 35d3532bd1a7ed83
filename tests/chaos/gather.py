"""Collects what happened: from the database into files, and from the files into a History."""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg

from tests.chaos.history import (
    Change,
    Event,
    Hearing,
    History,
    NotWritten,
    Process,
    Row,
    Written,
)
from tests.chaos.journal import read_deferrals, read_lines, read_runs

_QUERIES = {
    "rows": """
        SELECT id, task_name AS task, status::text, attempts, lock, queueing_lock,
               coalesce(args ->> 'token', 'moment ' || (args ->> 'timestamp')) AS token
          FROM procrastinate_jobs ORDER BY id""",
    "events": """
        SELECT e.id, e.job_id, e.type::text, coalesce(extract(epoch FROM e.at), 0)::float8 AS at,
               d.reason
          FROM procrastinate_events e LEFT JOIN trio_queue_event_details d ON d.event_id = e.id
         ORDER BY e.id""",
    "changes": """
        SELECT number, job_id, extract(epoch FROM at)::float8 AS at, before, after, attempts,
               worker_id
          FROM chaos_changes ORDER BY number""",
    "workers": "SELECT * FROM trio_queue_workers ORDER BY worker_id",
    "orphans": "SELECT * FROM trio_queue_orphans ORDER BY job_id",
    "version": "SELECT version() AS version",
}


def save_database(conninfo: str, folder: Path) -> None:
    """Write everything that the database tells into a file."""
    told: dict[str, list[dict[str, Any]]] = {}
    with psycopg.connect(conninfo, autocommit=True) as connection:
        for name, query in _QUERIES.items():
            cursor = connection.execute(query.encode())
            columns = [column.name for column in cursor.description or ()]
            told[name] = [dict(zip(columns, row, strict=True)) for row in cursor]
    (folder / "database.json").write_text(json.dumps(told, default=str, indent=0))


def read_history(folder: Path) -> History:
    """Read what happened from a run's folder."""
    told = json.loads((folder / "database.json").read_text())
    lines = [line for path in _files(folder, "journals") for line in read_lines(path)]
    logs = {path.stem: read_lines(path) for path in _files(folder, "logs")}
    return History(
        rows=tuple(Row(**row) for row in told["rows"]),
        events=tuple(Event(**event) for event in told["events"]),
        changes=tuple(Change(**change) for change in told["changes"]),
        runs=tuple(read_runs(lines)),
        processes=tuple(
            _process(line, logs.get(line["name"], []))
            for line in read_lines(folder / "processes.jsonl")
        ),
        hearings=tuple(
            heard for name, log in logs.items() for line in log for heard in _hearings(name, line)
        ),
        not_written=tuple(
            NotWritten(process=name, job_id=line["job"]["id"], at=_moment(line))
            for name, log in logs.items()
            for line in log
            if line.get("action") == "outcome_not_written"
        ),
        written=tuple(
            Written(process=name, job_id=line["job_id"], status=line["status"])
            for name, log in logs.items()
            for line in log
            if line.get("action") in {"job_aborted", "job_error"}
        ),
        deferrals=tuple(read_deferrals(lines)),
        complaints=tuple(_complaints(folder, told, logs)),
    )


def _files(folder: Path, kind: str) -> Sequence[Path]:
    return sorted((folder / kind).glob("*.jsonl"))


def _process(line: dict[str, Any], log: list[dict[str, Any]]) -> Process:
    ids = {
        worker_id
        for record in log
        for worker_id in (record.get("worker_id"), record.get("worker", {}).get("worker_id"))
        if worker_id is not None
    }
    actions = {record.get("action") for record in log}
    ended = [record["error"] for record in log if record.get("action") == "ended"]
    return Process(
        name=line["name"],
        is_worker=line["is_worker"],
        ended=line["ended"],
        status=line["status"],
        asks=line["asks"],
        asked=line.get("asked", 0.0 if line["asks"] else None),
        doomed=line["doomed"],
        started=min(
            (_moment(record) for record in log if record.get("action") == "start_worker"),
            default=None,
        ),
        had_stopped="stop_worker" in actions,
        worker_ids=frozenset(ids),
        error=ended[0] if ended else None,
    )


def _hearings(process: str, line: dict[str, Any]) -> list[Hearing]:
    if line.get("action") != "lease_lost":
        return []
    # One line for a worker's row, with all the jobs that are lost with it, or one for a job.
    jobs = line["lost_jobs"] if "lost_jobs" in line else [line["job"]["id"]]
    return [Hearing(process=process, at=_moment(line), job_ids=frozenset(jobs))]


def _moment(line: dict[str, Any]) -> float:
    """When a line was logged, cut to milliseconds."""
    return datetime.datetime.fromisoformat(line["timestamp"]).timestamp()


def _complaints(
    folder: Path, told: dict[str, Any], logs: dict[str, list[dict[str, Any]]]
) -> list[str]:
    found = [f"{len(told[what])} {what} left" for what in ("workers", "orphans") if told[what]]
    for name, log in logs.items():
        found += [
            f"{name}: {line['message']}"
            for line in log
            if line.get("action") in {"service_failed", "retry_strategy_error", "task_not_found"}
            or (line["level"] in {"error", "critical"} and not line.get("action"))
        ]
    for path in sorted((folder / "errors").glob("*.txt")):
        if text := path.read_text(errors="replace").strip():
            found.append(f"{path.stem} wrote to stderr: {text[-2000:]}")
    said = folder / "complaints.txt"
    return found + (said.read_text().splitlines() if said.exists() else [])
