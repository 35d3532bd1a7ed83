"""The diagram of a worker's stages, drawn from the table in `trio_queue/_worker/shutdown.py`."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Any

from docutils import nodes
from docutils.nodes import Node
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from worker_rows import label

from trio_queue._worker.shutdown import TRANSITIONS, Event, Stage

ROW, WIDTH, HEIGHT = 105, 130, 40
#: The middle of the boxes, and how far apart the lanes are on which arrows pass over stages.
MIDDLE, LANE = 400, 100
HEAD = (
    '<defs><marker id="head" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="9" markerHeight="9" '
    'orient="auto"><path class="head" d="M0,0 L8,4 L0,8 z"/></marker></defs>'
)


def edges() -> dict[tuple[Stage, Stage], list[Event]]:
    """What leads from one stage to another, in the order of the stages."""
    found: dict[tuple[Stage, Stage], list[Event]] = {}
    for before, events in TRANSITIONS.items():
        for event, after in events.items():
            if after is not before:
                found.setdefault((before, after), []).append(event)
    return found


def draw() -> str:
    """The diagram as SVG; its colours are the theme's."""
    rows = {stage: index for index, stage in enumerate(Stage)}
    height = (len(rows) - 1) * ROW + HEIGHT + 2
    size = f'viewBox="0 0 640 {height}" width="640" height="{height}"'
    parts = [
        f'<svg class="stages" {size} role="img" aria-label="The stages of a worker">',
        HEAD,
    ]
    # The shortest way round goes nearest to the boxes.
    jumps = sorted(
        (edge for edge in edges() if rows[edge[1]] - rows[edge[0]] > 1),
        key=lambda edge: (rows[edge[1]] - rows[edge[0]], rows[edge[0]]),
    )
    for (before, after), events in edges().items():
        top, bottom = rows[before] * ROW, rows[after] * ROW
        if (before, after) in jumps:
            lane = MIDDLE - WIDTH // 2 - LANE * (jumps.index((before, after)) + 0.6)
            parts += _jump(lane, top + HEIGHT / 2, bottom + HEIGHT / 2, events)
        else:
            parts += _step(top + HEIGHT, bottom, events)
    for stage, row in rows.items():
        parts.append(
            f'<rect class="stage" x="{MIDDLE - WIDTH // 2}" y="{row * ROW + 1}" '
            f'width="{WIDTH}" height="{HEIGHT}" rx="8"/>'
            f'<text class="name" text-anchor="middle" x="{MIDDLE}" y="{row * ROW + 26}">'
            f"{stage.name}</text>"
        )
    return "".join([*parts, "</svg>"])


def _step(top: float, bottom: float, events: list[Event]) -> Iterator[str]:
    yield f'<path class="edge" marker-end="url(#head)" d="M{MIDDLE},{top} V{bottom}"/>'
    yield _label(MIDDLE + 12, (top + bottom) / 2, events, "start")


def _jump(lane: float, top: float, bottom: float, events: list[Event]) -> Iterator[str]:
    edge = MIDDLE - WIDTH // 2
    # Arrows that leave or reach one box do not lie on each other.
    start, end = top + 4, bottom - 4
    yield (
        f'<path class="edge" marker-end="url(#head)" d="M{edge},{start} H{lane + 12} '
        f'Q{lane},{start} {lane},{start + 12} V{end - 12} Q{lane},{end} {lane + 12},{end} H{edge}"/>'
    )
    # Above the middle, where no arrow of another lane begins.
    yield _label(lane, start + 0.28 * (end - start), events, "middle")


def _label(x: float, y: float, events: list[Event], anchor: str) -> str:
    first = y + 4 - 15 * (len(events) - 1) / 2
    lines = "".join(
        f'<tspan x="{x}" y="{first + 15 * index}">{escape(label(event))}</tspan>'
        for index, event in enumerate(events)
    )
    return f'<text class="label" text-anchor="{anchor}">{lines}</text>'


class StageDiagram(SphinxDirective):
    """The diagram, in the page."""

    def run(self) -> list[Node]:
        return [nodes.raw("", draw(), format="html")]


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("stage-diagram", StageDiagram)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
