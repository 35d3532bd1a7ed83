"""The pictures on the page about performance are those of its figures."""

from __future__ import annotations

import re
from pathlib import Path

from tests.benchmarks.plots import draw

STATIC = Path(__file__).parent / "_static"
PAGE = Path(__file__).parent / "performance.md"


def test_each_picture_is_drawn_from_the_figures(tmp_path: Path) -> None:
    drawn = draw(STATIC / "performance.json", tmp_path)
    shown = re.findall(r"\(_static/(performance-\w+\.svg)\)", PAGE.read_text())
    assert sorted(path.name for path in drawn) == sorted(shown)
    for path in drawn:
        committed = (STATIC / path.name).read_text()
        # Coordinates depend on matplotlib's version; what is said, and how much is drawn, do not.
        for what in (r"<text[^>]*>([^<]*)</text>", r"<use |<path "):
            assert re.findall(what, path.read_text()) == re.findall(what, committed), path.name


def test_a_picture_has_no_background_and_no_date(tmp_path: Path) -> None:
    for path in draw(STATIC / "performance.json", tmp_path):
        text = path.read_text()
        assert "#ffffff" not in text.lower()
        assert "<dc:date>" not in text
