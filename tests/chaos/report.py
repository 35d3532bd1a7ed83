"""The table at the end, in Markdown."""

from __future__ import annotations

import json
import platform
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import attrs
import psycopg
import trio

import trio_queue
from tests.chaos.accounts import Account, Until
from tests.chaos.check import Findings, Overlap
from tests.chaos.history import History
from tests.chaos.plan import Kind


@attrs.frozen(kw_only=True)
class Setting:
    """What was run."""

    command: str
    seed: int
    faults: Counter[Kind]
    #: From the first process to the end of the last, in seconds.
    duration: float
    server: str


def report(setting: Setting, history: History, findings: Findings) -> str:
    """All of it, as a Markdown page's tables."""
    promises = Counter(violation.promise for violation in findings.violations)
    tables = [
        _table(
            ("The run", ""),
            [
                ("command", f"`{setting.command}`"),
                ("seed", setting.seed),
                ("duration", f"{setting.duration / 60:.1f} minutes"),
                ("versions", _versions(setting.server)),
                ("faults", setting.faults.total()),
                ("worker processes", sum(each.is_worker for each in history.processes)),
            ],
        ),
        _table(
            ("Fault", "times"),
            [(kind.value, setting.faults[kind]) for kind in Kind if setting.faults[kind]],
        ),
        _table(
            ("Jobs", ""),
            [
                ("deferred", len(history.rows)),
                *((f"… {status}", count) for status, count in _statuses(history)),
                ("runs", len(history.runs)),
                ("… that a death cut off", sum(run.ended is None for run in history.runs)),
            ],
        ),
        _table(
            ("Jobs that ran again, or that a rescue ended", "times"),
            [(account.value, findings.accounts[account]) for account in Account],
        ),
        _table(
            ("Two runs of a lock at once", "times", "longest"),
            [
                (until.value, len(those), _longest(those))
                for until in Until
                for those in [[each for each in findings.overlaps if each.until is until]]
            ],
        ),
        _table(
            ("After a death a job was without a worker", "median", "longest"),
            [
                ("until it was rescued", *_spread(wait.rescued for wait in findings.waits)),
                (
                    "… of which another worker was up",
                    *_spread(wait.attended for wait in findings.waits),
                ),
                (
                    "until it was claimed again, its wait in the queue included",
                    *_spread(wait.again for wait in findings.waits if wait.again is not None),
                ),
            ],
        ),
        _table(
            ("Promises broken", "times"),
            [
                (name, promises[key])
                for key, name in {
                    "lost": "jobs lost, or ended as they must not",
                    "doubled": "outcomes or jobs doubled",
                    "events": "changes without their event, or in another order",
                    "claims": "runs without a claim, or two of one claim",
                    "outcome": "outcomes that are not what the body did",
                    "again": "runs again that nothing accounts for",
                    "overlap": "two runs of a lock at once that a lost lease does not explain",
                    "processes": "workers that did not end as asked, or broke",
                }.items()
            ],
        ),
    ]
    return "\n\n".join(tables) + "\n"


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] + ["--:"] * (len(head) - 1), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)


def _statuses(history: History) -> list[tuple[str, int]]:
    return sorted(Counter(row.status for row in history.rows).items())


def _longest(overlaps: Iterable[Overlap]) -> str:
    return _spread(overlap.seconds for overlap in overlaps)[1]


def _spread(seconds: Iterable[float]) -> tuple[str, str]:
    known = list(seconds) or [0.0]
    return f"{statistics.median(known):.1f} s", f"{max(known):.1f} s"


def _versions(server: str) -> str:
    return (
        f"trio_queue {trio_queue.__version__}, Python {platform.python_version()}, "
        f"Trio {trio.__version__}, psycopg {psycopg.__version__}, {server}"
    )


def server_version(folder: Path) -> str:
    """The server's name and version, from a run's folder."""
    told: str = json.loads((folder / "database.json").read_text())["version"][0]["version"]
    return " ".join(told.split()[:2])
