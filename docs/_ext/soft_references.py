"""A name in single backticks is a link where these pages describe it, else plain code.

Docstrings are read in terminals and editors first: they carry no roles, only backticks.
"""

from __future__ import annotations

from typing import Any

from docutils import nodes
from docutils.nodes import Element, Node, system_message
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxRole

MARK = "trio_queue_soft"


class Soft(SphinxRole):
    """The default role."""

    def run(self) -> tuple[list[Node], list[system_message]]:
        target = self.text.removesuffix("()").removeprefix("trio_queue.")
        literal = nodes.literal(self.rawtext, self.text, classes=["py"])
        if not target.replace(".", "").replace("_", "").isalnum():
            return [literal], []
        reference = addnodes.pending_xref(
            "",
            literal,
            refdomain="py",
            reftype="obj",
            reftarget=target,
            refexplicit=False,
            refspecific=True,
            refdoc=self.env.docname,
            **{MARK: True},
        )
        reference["py:module"] = self.env.ref_context.get("py:module")
        reference["py:class"] = self.env.ref_context.get("py:class")
        return [reference], []


def leave_as_code(
    _app: Sphinx, _env: BuildEnvironment, node: addnodes.pending_xref, content: Element
) -> Element | None:
    """Nothing of this name is described here: plain code, and no warning."""
    return content if node.get(MARK) else None


def be_quiet(_app: Sphinx, domain: Any, node: addnodes.pending_xref) -> bool | None:
    """Several things have this name, or none: that is no mistake."""
    return True if node.get(MARK) else None


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_role("soft", Soft())
    app.connect("missing-reference", leave_as_code)
    app.connect("warn-missing-reference", be_quiet)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
