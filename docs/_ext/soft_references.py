"""A name in single backticks is a link where these pages describe it, else plain code.

Docstrings are read in terminals and editors first: they carry no roles, only backticks.
"""

from __future__ import annotations

from typing import Any

from docutils import nodes
from docutils.nodes import Element, Node, system_message
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.domains.python import PythonDomain
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxRole
from sphinx.util.nodes import make_refnode

PACKAGE = "trio_queue"


class Soft(SphinxRole):
    """The default role."""

    def run(self) -> tuple[list[Node], list[system_message]]:
        literal = nodes.literal(self.rawtext, self.text, classes=["py"])
        reference = addnodes.pending_xref(
            "",
            literal,
            refdomain="",  # nobody else resolves it, and nobody warns of it
            reftype="soft",
            reftarget=self.text.removesuffix("()"),
            refdoc=self.env.docname,
            **{"py:class": self.env.ref_context.get("py:class") or ""},
        )
        return [reference], []


def find(domain: PythonDomain, target: str, within: str) -> str | None:
    """The full name of what is meant; None: it is not described, or it could be several things."""
    for candidate in (f"{within}.{target}", target, f"{PACKAGE}.{target}"):
        if candidate in domain.objects:
            return candidate
    # A word in lower case is more often a parameter than somebody's attribute.
    if target.islower() and "." not in target:
        return None
    found = [name for name in domain.objects if name.endswith(f".{target}")]
    return found[0] if len(found) == 1 else None


def resolve(
    app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, content: Element
) -> Element | None:
    """Make it a link, or leave the code."""
    if node["reftype"] != "soft":
        return None
    domain = env.domains.python_domain
    name = find(domain, node["reftarget"], node["py:class"])
    if name is None:
        return content
    entry = domain.objects[name]
    return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, [content], name)


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_role("soft", Soft())
    app.connect("missing-reference", resolve)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
