"""Tables of what is another here than in Procrastinate, from the file that a test holds against both."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, ClassVar

from docutils.nodes import Node
from sphinx.application import Sphinx
from tables import TableDirective

SOURCE = Path(__file__).parents[1] / "howto" / "deviations.toml"


class DeviationsTable(TableDirective):
    """One of the file's tables."""

    required_arguments = 1
    option_spec: ClassVar = {}

    def run(self) -> list[Node]:
        self.env.note_dependency(str(SOURCE))
        entries = tomllib.loads(SOURCE.read_text())[self.arguments[0]]
        rows = [(told(entry), entry["why"]) for entry in entries]
        return [self.table(["What", "Why"], rows, [55, 45])]


def told(entry: dict[str, Any]) -> str:
    """What the entry is about: in words, or by the names that the comparison gives."""
    if "what" in entry:
        return entry["what"]
    # Where a name stands for several, `[!e]` only leaves out those that another entry names.
    names = (name.replace("[!e]", "").replace(".__init__", "") for name in entry["names"])
    return ", ".join(f"`{name}`" for name in names)


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("deviations", DeviationsTable)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
