"""Tables and single figures of the benchmarks, from the file that `nox -s bench -- --json` wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from docutils.nodes import Node
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxRole
from tables import TableDirective

from tests.benchmarks.figures import BASE, Figures, Summary, shown

SOURCE = Path(__file__).parents[1] / "_static" / "performance.json"


def told(found: Summary, *, ratio: bool) -> str:
    """A cell: the median, its spread, and how it compares."""
    value = f"{shown(found.median)} ({shown(found.least)} to {shown(found.most)})"
    return f"**{shown(found.ratio)} x**, {value}" if ratio and found.ratio is not None else value


class FiguresTable(TableDirective):
    """Measures, one a row, against peers, one a column: `{figures}` with the peers as its argument.

    The body has a row a line: `what the row is called = measure`.
    """

    required_arguments = 1
    final_argument_whitespace = True
    has_content = True
    option_spec: ClassVar = {"first": directives.unchanged}

    def run(self) -> list[Node]:
        self.env.note_dependency(str(SOURCE))
        figures = Figures.read(SOURCE)
        peers = [peer.strip() for peer in self.arguments[0].split("|")]
        lines = [line.rpartition(" = ") for line in self.content]
        units = {figures.units[measure] for _, _, measure in lines}
        rows: list[list[str]] = []
        for said, _, measure in lines:
            unit = "" if len(units) == 1 else f" ({figures.units[measure]})"
            cells = [f"{said}{unit}"]
            for peer in peers:
                there = peer in figures.measures[measure]
                cells.append(
                    told(figures.summary(measure, peer), ratio=peer != BASE) if there else ""
                )
            rows.append(cells)
        width = 70 // len(peers)
        first = self.options.get("first", "")
        if len(units) == 1:
            first += f" ({units.pop()})"
        head = [first, *peers]
        return [self.table(head, rows, [30, *([width] * len(peers))])]


class StepsTable(TableDirective):
    """Every peer of one measure, one a row: `{figures-of} measure`."""

    required_arguments = 1
    final_argument_whitespace = True
    option_spec: ClassVar = {"first": directives.unchanged}

    def run(self) -> list[Node]:
        self.env.note_dependency(str(SOURCE))
        figures = Figures.read(SOURCE)
        measure = self.arguments[0]
        rows = [
            [peer, told(figures.summary(measure, peer), ratio=False)]
            for peer in figures.measures[measure]
        ]
        return [self.table([self.options.get("first", ""), figures.units[measure]], rows, [60, 40])]


class FigureRole(SphinxRole):
    """One median, in a sentence: `` {figure}`measure | peer` ``; `| x` after it gives the ratio."""

    def run(self) -> tuple[list[Node], list[nodes.system_message]]:
        self.env.note_dependency(str(SOURCE))
        figures = Figures.read(SOURCE)
        measure, peer, *what = (part.strip() for part in self.text.split("|"))
        found = figures.summary(measure, peer)
        value = found.ratio if what == ["x"] else found.median
        assert value is not None, f"{measure}: {BASE} was not measured beside {peer}"
        return [nodes.Text(shown(value))], []


class MachineTable(TableDirective):
    """The runs that the figures are from, and what they did not keep constant."""

    option_spec: ClassVar = {}

    def run(self) -> list[Node]:
        self.env.note_dependency(str(SOURCE))
        rows: list[list[str]] = []
        for run in Figures.read(SOURCE).runs:
            names = {measure.split(",")[0].split(":")[0] for measure in run["measures"]}
            load = f"{run['load_before'][0]} → {run['load_after'][0]}"
            rows.append([", ".join(sorted(names)), str(run["rounds"]), load, run["date"]])
        return [self.table(["Measures", "Rounds", "Load", "Date"], rows, [52, 12, 18, 18])]


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("figures", FiguresTable)
    app.add_directive("figures-of", StepsTable)
    app.add_directive("figures-runs", MachineTable)
    app.add_role("figure", FigureRole())
    return {"parallel_read_safe": True, "parallel_write_safe": True}
