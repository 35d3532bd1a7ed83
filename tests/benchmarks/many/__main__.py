"""Measure many workers, many jobs and the start: `python -m tests.benchmarks.many`.

Of ours alone, in one run; a few minutes. Nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
from pathlib import Path

import attrs

from tests.benchmarks.many import idle, large, processes, running, starting
from tests.benchmarks.many.costs import Run
from tests.benchmarks.peers import Bench


@attrs.frozen
class Measure:
    """Something that is measured."""

    unit: str
    run: Run


MEASURES = {
    "processes, throughput": Measure("jobs/s", processes.throughput()),
    "processes, waits for locks": Measure("waits longer than 1 ms", processes.waits()),
    "processes, shares": Measure("% of an even share", processes.shares()),
    "idle without LISTEN": Measure("see each", idle.alone()),
    "idle, 50 workers behind a pooler": Measure("see each", idle.behind_a_pooler()),
    "10,000 jobs that wait": Measure("see each", running.waiting()),
    "1,000 queues": Measure("ms", large.many_queues()),
    "jobs of 1 MB": Measure("see each", large.large_jobs()),
    "start": Measure("s", starting.start()),
}


def main() -> None:
    """Run the rounds, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", nargs="*", choices=sorted(MEASURES), default=list(MEASURES))
    parser.add_argument("--json", type=Path, help="write the figures there too")
    arguments = parser.parse_args()
    figures: dict[str, dict[str, list[float]]] = {}
    with Bench.opened() as bench:
        for number in range(arguments.rounds):
            for name in arguments.only:
                for peer, figure in MEASURES[name].run(bench):
                    figures.setdefault(name, {}).setdefault(peer, []).append(figure)
                    print(f"round {number + 1}: {name}: {peer}: {figure:,.4g}", file=sys.stderr)
    for name, peers in figures.items():
        print(f"\n{name} ({MEASURES[name].unit})")
        for peer, values in peers.items():
            spread = f"({min(values):,.4g} to {max(values):,.4g})"
            print(f"  {peer:48} {statistics.median(values):12,.4g}   {spread}")
    if arguments.json:
        about = {"python": platform.python_version(), "cores": os.cpu_count()}
        arguments.json.write_text(json.dumps({"about": about, **figures}, indent=1))


if __name__ == "__main__":
    main()
