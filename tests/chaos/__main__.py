"""`python -m tests.chaos --seed 1 --faults 1000 --minutes 12`; or `--look FOLDER` to check again."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.chaos.check import Findings
from tests.chaos.plan import draw_plan
from tests.chaos.run import Options, look, run


def main() -> int:
    """Run or look; 1 when a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="the plan of faults, and the jobs")
    parser.add_argument("--faults", type=int, default=1000, help="how many")
    parser.add_argument("--minutes", type=float, default=15.0, help="over how long a time")
    parser.add_argument("--folder", type=Path, help="an empty folder for all that is written")
    parser.add_argument("--look", type=Path, metavar="FOLDER", help="check a run's folder again")
    given = parser.parse_args()
    if given.look is not None:
        return _tell(given.look, look(given.look))
    folder = given.folder or Path(tempfile.mkdtemp(prefix="trio-queue-chaos-"))
    _say(f"seed {given.seed}; everything is kept in {folder}")
    findings = run(
        Options(
            folder=folder,
            seed=given.seed,
            plan=draw_plan(given.seed, given.faults, given.minutes * 60),
            command=f"python -m tests.chaos --seed {given.seed} --faults {given.faults} "
            f"--minutes {given.minutes:g}",
        ),
        _say,
    )
    return _tell(folder, findings)


def _tell(folder: Path, findings: Findings) -> int:
    _say((folder / "report.md").read_text())
    for violation in findings.violations[:50]:
        _say(str(violation))
    if findings.violations:
        _say(f"{len(findings.violations)} promises were broken; look into {folder}")
        return 1
    _say("every promise was kept")
    return 0


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
