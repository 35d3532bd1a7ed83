"""Answers on stdout: tables on a terminal, plain columns in a pipe, or JSON lines."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import attrs
import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from trio_queue.jobs import Event, Job, WorkerInfo
from trio_queue.utils import duration

R = TypeVar("R")

STATUS_STYLES = {
    "todo": "cyan",
    "doing": "yellow",
    "succeeded": "green",
    "failed": "bold red",
    "cancelled": "dim",
    "aborted": "magenta",
}


def make_console() -> Console:
    """The console of stdout. In a pipe it is as wide as the text, which is never cut or folded."""
    console = Console(highlight=False, emoji=False, markup=False)
    if not console.is_terminal:
        console = Console(highlight=False, emoji=False, markup=False, width=10_000, soft_wrap=True)
    return console


def make_table(console: Console, *columns: str) -> Table:
    """An empty table for this console, with these columns."""
    table = Table(
        box=box.SIMPLE_HEAD if console.is_terminal else None,
        pad_edge=False,
        header_style="bold",
    )
    for column in columns:
        right = column in {"id", "attempts", "priority", "jobs", "running", "attempt", "worker"}
        table.add_column(column, justify="right" if right else "left")
    return table


def show_jobs(
    jobs: Sequence[Job],
    *,
    as_json: bool,
    started: Mapping[int | None, datetime.datetime | None] | None = None,
) -> None:
    """List jobs.

    Args:
        jobs: The jobs.
        as_json: Whether as lines of JSON.
        started: When those that run began, by id, where that is to be shown.
    """
    began = started or {}
    if as_json:
        more = {"started_at"} if started is not None else set[str]()
        _show_json(job.log_context() | {key: began.get(job.id) for key in more} for job in jobs)
        return
    told: list[tuple[str, Callable[[Job], str]]] = [
        ("started", lambda job: moment(began.get(job.id))),
        ("priority", lambda job: str(job.priority) if job.priority else ""),
        ("lock", lambda job: job.lock or ""),
        ("queueing lock", lambda job: job.queueing_lock or ""),
        ("scheduled at", lambda job: moment(job.scheduled_at)),
    ]
    extra = _worth_a_column(told, jobs)
    console = make_console()
    table = make_table(
        console,
        "id",
        "status",
        "queue",
        "task",
        "arguments",
        "attempts",
        *(name for name, _ in extra),
    )
    for job in jobs:
        table.add_row(
            str(job.id),
            status_text(job.status, abort_requested=job.abort_requested),
            plain(job.queue),
            plain(job.task_name),
            plain(json.dumps(job.task_kwargs, ensure_ascii=False, default=repr)),
            str(job.attempts),
            *(plain(tell(job)) for _, tell in extra),
        )
    console.print(table)


def show_job(job: Job, events: Sequence[Event], *, as_json: bool) -> None:
    """Show one job, and what happened to it."""
    if as_json:
        _show_json([job.log_context() | {"events": [_event_json(event) for event in events]}])
        return
    console = make_console()
    facts = Table(box=None, pad_edge=False, show_header=False)
    facts.add_column(style="bold")
    facts.add_column()
    facts.add_row("job", str(job.id))
    facts.add_row("status", status_text(job.status, abort_requested=job.abort_requested))
    for name, value in (
        ("task", job.task_name),
        ("arguments", json.dumps(job.task_kwargs, ensure_ascii=False, default=repr)),
        ("queue", job.queue),
        ("priority", str(job.priority)),
        ("lock", job.lock),
        ("queueing lock", job.queueing_lock),
        ("scheduled at", moment(job.scheduled_at)),
        ("attempts", str(job.attempts)),
        ("worker", None if job.worker_id is None else str(job.worker_id)),
    ):
        if value:
            facts.add_row(name, plain(value))
    console.print(facts)
    console.print()
    told: list[tuple[str, Callable[[Event], str]]] = [
        ("attempt", lambda event: "" if event.attempt is None else str(event.attempt)),
        ("worker", lambda event: "" if event.worker_id is None else str(event.worker_id)),
        ("reason", lambda event: event.reason or ""),
    ]
    extra = _worth_a_column(told, events)
    table = make_table(console, "when", "event", *(name for name, _ in extra))
    for event in events:
        cells = (plain(tell(event)) for _, tell in extra)
        table.add_row(moment(event.at), event.type, *cells)
    console.print(table)


def show_workers(workers: Sequence[WorkerInfo], *, stalled_after: float, as_json: bool) -> None:
    """List workers.

    Args:
        workers: The workers.
        stalled_after: One not heard of for so many seconds is taken for dead.
        as_json: Whether as lines of JSON.
    """
    if as_json:
        _show_json(
            attrs.asdict(worker)
            | {"is_foreign": worker.is_foreign, "is_stalled": _is_stalled(worker, stalled_after)}
            for worker in workers
        )
        return
    if not workers:
        click.echo("No worker is registered.", err=True)
        return
    console = make_console()
    table = make_table(
        console,
        "id",
        "name",
        "host",
        "pid",
        "version",
        "queues",
        "stage",
        "since",
        "running",
        "heard of",
    )
    for worker in workers:
        table.add_row(
            str(worker.id),
            plain(worker.name or ""),
            plain(worker.host or ""),
            str(worker.pid or ""),
            plain("Procrastinate" if worker.is_foreign else worker.version or ""),
            plain(", ".join(worker.queues) if worker.queues is not None else _all_queues(worker)),
            worker.stage or "",
            moment(worker.since),
            f"{worker.running}/{worker.concurrency}" if worker.concurrency else str(worker.running),
            _heard_of(worker, stalled_after),
        )
    console.print(table)


def _is_stalled(worker: WorkerInfo, stalled_after: float) -> bool:
    return worker.seconds_since_heartbeat > stalled_after


def _heard_of(worker: WorkerInfo, stalled_after: float) -> Text:
    told = f"{duration(worker.seconds_since_heartbeat)} ago"
    if not _is_stalled(worker, stalled_after):
        return Text(told)
    # A worker of Procrastinate's that drains is silent, too.
    verdict = "dead, or it drains" if worker.is_foreign else "dead"
    return Text(f"{told}: {verdict}", style="bold red")


def _worth_a_column(
    columns: Iterable[tuple[str, Callable[[R], str]]], rows: Sequence[R]
) -> list[tuple[str, Callable[[R], str]]]:
    """The columns that have something to tell of some row."""
    return [(name, tell) for name, tell in columns if any(tell(row) for row in rows)]


def _all_queues(worker: WorkerInfo) -> str:
    return "" if worker.is_foreign else "all"  # of Procrastinate's workers it is not known


def moment(value: datetime.datetime | None) -> str:
    """A moment in local time, as people read it."""
    return "" if value is None else f"{value.astimezone():%Y-%m-%d %H:%M:%S}"


def status_text(status: str | None, *, abort_requested: bool = False) -> Text:
    """A status in its colour."""
    told = status or ""
    text = Text(told, style=STATUS_STYLES.get(told, ""))
    if abort_requested and told == "doing":
        text.append(" (abort requested)")
    return text


def plain(text: str) -> Text:
    """Somebody's text as it is: no markup in it, no control characters that move the cursor."""
    return Text("".join(each if each.isprintable() else repr(each)[1:-1] for each in text))


def _show_json(values: Iterable[dict[str, Any]]) -> None:
    for value in values:
        click.echo(json.dumps(value, default=_encode, ensure_ascii=False))


def _encode(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime.datetime) else repr(value)


def _event_json(event: Event) -> dict[str, Any]:
    told = {"type": event.type, "at": event.at, "worker_id": event.worker_id}
    return told | {"attempt": event.attempt, "reason": event.reason}
