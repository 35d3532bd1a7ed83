"""Figures of a run: kept by measure and peer, told as medians, spread and ratios, written as JSON.

The file is `{measure: {peer: [a figure for each round]}}`, and beside the measures `"about"`: the
unit of each, and the runs that the figures are from.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

#: What ratios are of.
BASE = "procrastinate"
OURS, ON_ASYNCIO, SYNC, FLOOR = "trio_queue", "trio_queue, asyncio", "trio_queue, sync", "floor"


@attrs.frozen
class Figure:
    """One value of one peer in one round."""

    measure: str
    unit: str
    peer: str
    value: float


@attrs.frozen
class Summary:
    """The figures of a peer, in short."""

    median: float
    least: float
    most: float
    #: The median, in medians of `BASE`; None: it was not measured beside it.
    ratio: float | None

    @classmethod
    def of(cls, values: Iterable[float], base: Iterable[float] | None) -> Summary:
        """Sum up rounds."""
        rounds = list(values)
        median = statistics.median(rounds)
        other = statistics.median(base) if base else 0.0
        return cls(median, min(rounds), max(rounds), median / other if other else None)


@attrs.define
class Figures:
    """All figures, of one run or of several."""

    measures: dict[str, dict[str, list[float]]] = attrs.field(factory=dict[str, Any])
    units: dict[str, str] = attrs.field(factory=dict[str, str])
    #: What each run did not keep constant; see `machine.about`.
    runs: list[dict[str, Any]] = attrs.field(factory=list[dict[str, Any]])

    def add(self, figure: Figure) -> None:
        """Take a figure."""
        peers = self.measures.setdefault(figure.measure, {})
        peers.setdefault(figure.peer, []).append(figure.value)
        self.units[figure.measure] = figure.unit

    def replace(self, newer: Figures) -> None:
        """Take the measures of another run instead of those of the same name."""
        self.measures |= newer.measures
        self.units |= newer.units
        self.runs = [run for run in self.runs if not _is_replaced(run, newer)] + newer.runs

    def summary(self, measure: str, peer: str) -> Summary:
        """Sum up what a peer did. Raises KeyError where it was not measured."""
        peers = self.measures[measure]
        return Summary.of(peers[peer], peers.get(BASE))

    def table(self) -> Iterator[str]:
        """The lines of a table for people."""
        for measure, peers in self.measures.items():
            yield ""
            yield f"{measure} ({self.units[measure]})"
            width = max(map(len, peers))
            for peer in peers:
                found = self.summary(measure, peer)
                ratio = "" if found.ratio is None else f"{found.ratio:8.2f} x {BASE}"
                spread = f"({shown(found.least)} .. {shown(found.most)})"
                yield f"  {peer:{width}} {shown(found.median):>10}  {spread:24} {ratio}".rstrip()

    def write(self, path: Path) -> None:
        """Write the file. Its folder must be there."""
        about = {"units": self.units, "runs": self.runs}
        path.write_text(json.dumps({"about": about, **rounded(self.measures)}, indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Figures:
        """Read what `write` wrote."""
        measures = json.loads(path.read_text())
        about = measures.pop("about")
        return cls(measures, about.get("units", {}), about.get("runs", []))


def _is_replaced(run: Mapping[str, Any], newer: Figures) -> bool:
    return set(run.get("measures", ())) <= set(newer.measures)


def rounded(measures: Mapping[str, Mapping[str, list[float]]]) -> dict[str, Any]:
    """The measures with four digits a figure: more would tell of the machine's weather."""
    return {
        measure: {peer: [_digits(value) for value in values] for peer, values in peers.items()}
        for measure, peers in measures.items()
    }


def _digits(value: float, digits: int = 4) -> float:
    if not value:
        return 0.0
    return round(value, digits - 1 - math.floor(math.log10(abs(value))))


def shown(value: float) -> str:
    """A figure for people: three digits, and none of the zeros before them lost."""
    value = _digits(value, 3)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
