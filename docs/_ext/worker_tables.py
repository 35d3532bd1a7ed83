"""Tables about a worker, from the code that decides: its options, its stages, what becomes of a job."""

from __future__ import annotations

from enum import Enum
from typing import Any

import attrs
from docutils.nodes import Node
from sphinx.application import Sphinx
from tables import TableDirective
from worker_rows import outcome_table, stage_table

from trio_queue._worker.options import Options


class WorkerOptionsTable(TableDirective):
    """Every option of a worker."""

    def run(self) -> list[Node]:
        rows = [
            (f"`{field.name}`", f"`{shown(field.default)}`", field.metadata["help"])
            for field in attrs.fields(Options)
        ]
        return [self.table(["Option", "Default", "Meaning"], rows, [28, 12, 60])]


class StageTable(TableDirective):
    """What each event does in each stage."""

    def run(self) -> list[Node]:
        return [self.table(*stage_table(), [13, 25, 12, 12, 13, 13, 12])]


class OutcomeTable(TableDirective):
    """What is written for a job."""

    def run(self) -> list[Node]:
        return [self.table(*outcome_table(), [22, 13, 13, 13, 13, 13, 13])]


def shown(default: Any) -> str:
    """A default as a user writes it."""
    if isinstance(default, Enum):
        return repr(default.value)
    return repr(int(default) if isinstance(default, float) and default.is_integer() else default)


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("worker-options", WorkerOptionsTable)
    app.add_directive("stage-table", StageTable)
    app.add_directive("outcome-table", OutcomeTable)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
