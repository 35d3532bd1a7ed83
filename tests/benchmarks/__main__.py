"""Measure trio_queue, Procrastinate and the floor in one run, interleaved: `nox -s bench`.

Prints medians of rounds, their spread, and ratios. A figure of one machine at one time says little, a
ratio within a run says something. Nothing else should run meanwhile: the load is told at the end.
"""

from __future__ import annotations

import argparse
import fnmatch
import itertools
import sys
from collections.abc import Iterable
from pathlib import Path

from tests.benchmarks import machine
from tests.benchmarks.figures import Figures
from tests.benchmarks.measures import MEASURES, measure
from tests.benchmarks.peers import Bench


def main(arguments: list[str] | None = None) -> None:
    """Run the rounds, print the table."""
    parser = argparse.ArgumentParser(prog="nox -s bench --", description=__doc__)
    parser.add_argument("--rounds", type=_positive, help="how many; by default 5, 1 with --quick")
    parser.add_argument(
        "--only",
        nargs="+",
        default=["*"],
        metavar="NAME",
        help=f"only these, * stands for anything: {', '.join(MEASURES)}",
    )
    parser.add_argument(
        "--quick", action="store_true", help="of everything a little, to see that it runs"
    )
    parser.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help="write the figures there too; other measures that the file has stay",
    )
    parser.add_argument(
        "--plots", type=Path, metavar="FOLDER", help="draw them into this folder, with --json"
    )
    given = parser.parse_args(arguments)
    names = chosen(given.only)
    if not names:
        parser.error(f"no measure is called {' or '.join(given.only)}")
    if given.plots and not given.json:
        parser.error("--plots draws what --json FILE has: give both")
    figures = run(names, rounds=given.rounds or (1 if given.quick else 5), quick=given.quick)
    print("\n".join(figures.table()))
    print_about(figures)
    if given.json:
        all_figures = Figures.read(given.json) if given.json.exists() else Figures()
        all_figures.replace(figures)
        all_figures.write(given.json)
    if given.plots:
        from tests.benchmarks.plots import draw

        draw(given.json, given.plots)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("give 1 or more")
    return number


def chosen(patterns: Iterable[str]) -> list[str]:
    """The measures that one of the patterns names, in their own order."""
    patterns = list(patterns)
    return [name for name in MEASURES if any(fnmatch.fnmatch(name, each) for each in patterns)]


def run(names: list[str], *, rounds: int, quick: bool = False) -> Figures:
    """Measure these so many times, one after the other within each round."""
    figures = Figures()
    with Bench.opened(quick=quick) as bench:
        about = machine.about(bench.server.conninfo())
        about["load_before"] = machine.load()
        for bench.round, name in itertools.product(range(rounds), names):
            for figure in measure(bench, name):
                figures.add(figure)
                value = f"{figure.value:,.3g} {figure.unit}"
                print(
                    f"round {bench.round + 1}: {figure.measure}: {figure.peer}: {value}",
                    file=sys.stderr,
                )
        about |= {"load_after": machine.load(), "rounds": rounds, "quick": quick}
        figures.runs.append({"measures": list(figures.measures), **about})
    return figures


def print_about(figures: Figures) -> None:
    """Say what was not kept constant."""
    for about in figures.runs:
        print("\nNot kept constant, so read ratios within this run, not the figures of two runs:")
        for name, value in about.items():
            if name != "measures":
                print(f"  {name}: {value}")


if __name__ == "__main__":
    main()
