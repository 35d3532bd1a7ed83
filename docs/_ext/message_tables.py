"""Tables of what a user is told: the actions of the log, the exceptions."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

from docutils.nodes import Node
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.pycode import ModuleAnalyzer
from tables import TableDirective

from trio_queue import exceptions, log
from trio_queue.log import Action


class LogActionsTable(TableDirective):
    """Every action that is logged somewhere, with the comment that stands beside it in the code."""

    def run(self) -> list[Node]:
        comments = ModuleAnalyzer.for_module("trio_queue.log").find_attr_docs()
        rows: list[tuple[str, str]] = []
        # Some names are there for Procrastinate's users only; what nothing logs is not shown.
        source = "\n".join(path.read_text() for path in Path(log.__file__).parent.rglob("*.py"))
        for action in Action:
            if not re.search(rf"\bAction\.{action.name}\b", source):
                continue
            comment = comments.get(("Action", action.name))
            if not comment:
                raise ExtensionError(f"log.Action.{action.name} has no comment that explains it")
            rows.append((f"`{action.value}`", " ".join(comment).strip()))
        return [self.table(["Action", "Logged when"], rows, [35, 65])]


class ExceptionsTable(TableDirective):
    """Every exception, with its default message."""

    def run(self) -> list[Node]:
        rows: list[tuple[str, str, str]] = []
        for name, error in inspect.getmembers(exceptions, inspect.isclass):
            if error.__name__ != name or error.__module__ != exceptions.__name__:
                continue
            bases = ", ".join(f"`{base.__name__}`" for base in error.__bases__)
            rows.append((f"`{name}`", bases, inspect.cleandoc(error.__doc__ or "")))
        return [self.table(["Exception", "Is a", "Says"], rows, [25, 22, 53])]


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("log-actions", LogActionsTable)
    app.add_directive("exceptions-table", ExceptionsTable)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
