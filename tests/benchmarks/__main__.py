"""Measure trio_queue, Procrastinate and the server's floor in one run, interleaved: `nox -s bench`.

Prints medians of rounds and ratios; a figure of one machine at one time says little, a ratio
within a run says something. Nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

from tests.benchmarks.measures import MEASURES, measure
from tests.benchmarks.peers import Bench


def main() -> None:
    """Run the rounds, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", choices=sorted(MEASURES), default=sorted(MEASURES))
    parser.add_argument("--json", type=Path, help="write the figures there too")
    arguments = parser.parse_args()
    figures: dict[str, dict[str, list[float]]] = {}
    with Bench.opened() as bench:
        for number in range(arguments.rounds):
            for name in arguments.only:
                for peer, figure in measure(bench, name):
                    figures.setdefault(name, {}).setdefault(peer, []).append(figure)
                    print(f"round {number + 1}: {name}: {peer}: {figure:,.3g}", file=sys.stderr)
    for name, peers in figures.items():
        print(f"\n{name} ({MEASURES[name].unit})")
        base = statistics.median(peers["procrastinate"]) if "procrastinate" in peers else None
        for peer, values in peers.items():
            median = statistics.median(values)
            ratio = f"{median / base:8.2f} x procrastinate" if base else ""
            spread = f"{min(values):,.4g} to {max(values):,.4g}"
            print(f"  {peer:24} {median:12,.4g}   ({spread}) {ratio}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
