"""What is measured, by name. Each measure gives figures of every peer that it compares."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator

from tests.benchmarks import defer, drain, idle, latency, steps, stopping
from tests.benchmarks.figures import Figure
from tests.benchmarks.peers import Bench

Run = Callable[[Bench], Iterator[Figure]]

MEASURES: dict[str, Run] = {
    "drain-1": drain.drain(1),
    "drain-10": drain.drain(10),
    "drain-100": drain.drain(100),
    "drain-1000": drain.drain(1_000),
    "settings": drain.settings(),
    "settings-waiting": drain.waiting,
    "defer-batches-10": defer.batches(10),
    "defer-batches-100": defer.batches(100),
    "defer-batches-1000": defer.batches(1_000),
    "defer-batches-10000": defer.batches(10_000),
    "defer-singly": defer.singly,
    "defer-tasks": defer.by_tasks,
    "latency": latency.latency,
    "latency-at-once": latency.latency_at_once,
    "steps": steps.steps,
    "open": idle.opening,
    "command-line": idle.command_line,
    "idle": idle.idle,
    "stop-aborts": stopping.abort_all,
    "stop-user-abort": stopping.user_abort,
    "stop-idle": stopping.idle_stop,
    "stop-draining": stopping.draining,
}


def measure(bench: Bench, name: str) -> Iterator[Figure]:
    """Measure one thing once, for every peer."""
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # a peer's own, on a newer Python: no figure depends on it
        yield from MEASURES[name](bench)
