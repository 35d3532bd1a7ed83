"""Draw figures for the documentation: `python -m tests.benchmarks.plots results.json docs/_static/`.

Needs matplotlib (the dependency group `bench`). The pictures have no background, and a grey that can
be read on a light and on a dark page.
"""

from __future__ import annotations

import argparse
import importlib
import re
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from tests.benchmarks.figures import BASE, FLOOR, ON_ASYNCIO, OURS, Figures
from tests.benchmarks.steps import WHOLE

#: matplotlib's, whose own types are half unknown.
Axes: TypeAlias = Any

GREY = "#808890"
COLOURS = {OURS: "#2f81f7", ON_ASYNCIO: "#2da44e", BASE: "#d9622b", FLOOR: GREY}
#: Of peers that have none of their own.
MORE_COLOURS = ("#8250df", "#bf8700", "#cf222e", "#1b7c83")
STYLE = {
    "figure.figsize": (7.0, 4.0),
    "font.size": 10,
    "font.family": "sans-serif",
    # Text stays text: the browser's font, and found by a search.
    "svg.fonttype": "none",
    # The same figures make the same file.
    "svg.hashsalt": "trio_queue",
    "axes.edgecolor": GREY,
    "axes.labelcolor": GREY,
    "axes.titlecolor": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": GREY,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "grid.color": GREY,
    "grid.alpha": 0.25,
    "axes.grid": True,
    "legend.frameon": False,
    "savefig.transparent": True,
}
PERCENTILE = re.compile(r"latency, defer to its begin, p(\d+)")
CONCURRENCY = re.compile(r"drain, concurrency ([\d,]+)")
#: What `tests.benchmarks.tables` calls its measures, before the name of the table.
CLAIMS = {
    "claim 100: ": "trio_queue, a claim of 100 jobs",
    "stock fetch of 1: ": "procrastinate, a fetch of 1 job",
}


def _by_number(figures: Figures, pattern: re.Pattern[str]) -> dict[str, dict[float, str]]:
    """Measures whose name is the pattern's, by peer and by the number in the name."""
    found: dict[str, dict[float, str]] = {}
    for measure, peers in figures.measures.items():
        if matched := pattern.fullmatch(measure):
            number = float(matched[1].replace(",", ""))
            for peer in peers:
                found.setdefault(peer, {})[number] = measure
    return found


def _line(axes: Axes, figures: Figures, peer: str, points: Mapping[float, str]) -> None:
    numbers = sorted(points)
    told = [figures.summary(points[number], peer) for number in numbers]
    colour = COLOURS.get(peer, MORE_COLOURS[len(peer) % len(MORE_COLOURS)])
    style = "--" if peer.startswith(FLOOR) else "-"
    medians = [each.median for each in told]
    axes.plot(numbers, medians, style, marker="o", markersize=4, color=colour, label=peer)
    least, most = [each.least for each in told], [each.most for each in told]
    axes.fill_between(numbers, least, most, color=colour, alpha=0.18, linewidth=0)


def throughput(axes: Axes, figures: Figures) -> bool:
    """Jobs per second against the concurrency."""
    peers = _by_number(figures, CONCURRENCY)
    for peer, points in peers.items():
        _line(axes, figures, peer, points)
    axes.set(xscale="log", yscale="log", xlabel="concurrency (jobs)", ylabel="drained (jobs/s)")
    return bool(peers)


def latency(axes: Axes, figures: Figures) -> bool:
    """Percentiles of the time from a defer to the begin of the job."""
    peers = _by_number(figures, PERCENTILE)
    for peer, points in peers.items():
        percentiles = sorted(points)
        told = [figures.summary(points[percentile], peer) for percentile in percentiles]
        colour = COLOURS.get(peer, GREY)
        axes.plot([each.median for each in told], percentiles, "-o", color=colour, label=peer, ms=4)
        least, most = [each.least for each in told], [each.most for each in told]
        axes.fill_betweenx(percentiles, least, most, color=colour, alpha=0.18, linewidth=0)
    axes.set(xlabel="from the defer to the job's begin (ms)", ylabel="jobs (%)", xscale="log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")
    return bool(peers)


def steps(axes: Axes, figures: Figures) -> bool:
    """Microseconds of a job's way through the worker."""
    names = [name for name in figures.measures.get(WHOLE, {}) if not name.startswith("(")]
    told = [figures.summary(WHOLE, name) for name in names]
    colours = [GREY if name in names[-2:] else COLOURS[OURS] for name in names]
    medians = [each.median for each in told]
    spread = [
        [each.median - each.least for each in told],
        [each.most - each.median for each in told],
    ]
    axes.barh(names, medians, xerr=spread, color=colours, ecolor=GREY, height=0.7)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set(xlabel="CPU of the worker's process for each job (µs)")
    return bool(names)


def tables(axes: Axes, figures: Figures) -> bool:
    """What a claim takes on tables of many kinds, beside Procrastinate's of one job."""
    for offset, (measure, label) in enumerate(CLAIMS.items()):
        states = [
            name.removeprefix(measure) for name in figures.measures if name.startswith(measure)
        ]
        medians = [statistics.median(figures.measures[measure + state]["ms"]) for state in states]
        places = [place + 0.4 * offset for place in range(len(states))]
        colour = COLOURS[BASE if offset else OURS]
        axes.barh(places, medians, height=0.38, color=colour, label=label)
        if states and not offset:
            axes.set_yticks([place + 0.2 for place in places], states)
            axes.figure.set_figheight(1.5 + 0.45 * len(states))
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set(xlabel="time of the statement (ms)", xscale="log")
    axes.xaxis.set_major_formatter("{x:g}")
    return bool(axes.patches)


PICTURES: dict[str, Callable[[Axes, Figures], bool]] = {
    "throughput": throughput,
    "latency": latency,
    "steps": steps,
    "tables": tables,
}


def draw(source: Path, folder: Path) -> list[Path]:
    """Draw what the file has figures for.

    Returns:
        The files that were written.
    """
    # Imported here: only who draws needs it.
    matplotlib: Any = importlib.import_module("matplotlib")
    picture_of: Any = importlib.import_module("matplotlib.figure").Figure
    figures, written = Figures.read(source), list[Path]()
    for name, fill in PICTURES.items():
        with matplotlib.rc_context(STYLE):
            picture = picture_of(layout="constrained")
            axes = picture.add_subplot()
            if not fill(axes, figures):
                continue
            if len(axes.get_legend_handles_labels()[1]) > 1:
                axes.legend()
            path = folder / f"performance-{name}.svg"
            picture.savefig(path, metadata={"Date": None, "Creator": None})
            written.append(path)
    return written


def main() -> None:
    """Draw from the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.plots", description=__doc__)
    parser.add_argument("source", type=Path, help="what `nox -s bench -- --json` wrote")
    parser.add_argument("folder", type=Path, help="where the pictures go")
    given = parser.parse_args()
    for path in draw(given.source, given.folder):
        print(path)


if __name__ == "__main__":
    main()
