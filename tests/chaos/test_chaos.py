"""A few seconds of chaos; the whole of it is `nox -s chaos`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tests.chaos.plan import Fault, Kind
from tests.chaos.run import Options, look, run

#: When each begins, in seconds, and how long it lasts.
FAULTS = (
    (0.0, Kind.PRUNE, 0.0),
    (0.2, Kind.CUT, 0.0),
    (0.4, Kind.SUSPEND, 1.4),
    (0.8, Kind.ABORT_JOB, 0.0),
    (1.0, Kind.CUT_BEFORE_ANSWER, 0.0),
    (1.2, Kind.TERMINATE_BACKEND, 0.0),
    (1.5, Kind.KILL, 0.0),
    (2.0, Kind.TERMINATE_TWICE, 0.1),
    (2.2, Kind.CRASH_SERVER, 0.0),
)


def test_a_few_faults_break_no_promise(tmp_path: Path) -> None:
    plan = [
        Fault(number=number, at=at, kind=kind, target=number * 0.4 % 1, lasts=lasts)
        for number, (at, kind, lasts) in enumerate(FAULTS)
    ]
    said: list[str] = []
    findings = run(
        Options(folder=tmp_path, seed=1, plan=plan, command="a test", backlog=30), said.append
    )
    told = (tmp_path / "report.md").read_text()
    assert findings.violations == (), told
    assert "| faults | 9 |" in told
    for _, kind, _ in FAULTS:
        assert f"| {kind.value} | 1 |" in told
    # Two deaths at least, a lost lease, retries: something did run again.
    assert sum(findings.accounts.values()) > 0
    # Whoever looks again later finds the same.
    assert look(tmp_path) == findings
    assert Counter(said).total() == 2
