"""Tables made by directives, from cells written in the page's own markup."""

from __future__ import annotations

from collections.abc import Sequence

from docutils import nodes
from sphinx.util.docutils import SphinxDirective


class TableDirective(SphinxDirective):
    """A directive whose answer is a table."""

    def table(
        self, head: Sequence[str], rows: Sequence[Sequence[str]], widths: Sequence[int]
    ) -> nodes.table:
        """A table of these cells, each of them Markdown (or reStructuredText, in such a page)."""
        classes = ["colwidths-given", *(["many-columns"] if len(widths) > 3 else [])]
        table = nodes.table(classes=classes)
        group = nodes.tgroup(cols=len(widths))
        group += [nodes.colspec(colwidth=width) for width in widths]
        header = nodes.thead()
        header += self._row(head)
        body = nodes.tbody()
        body += [self._row(cells) for cells in rows]
        group += [header, body]
        table += group
        self.set_source_info(table)
        return table

    def _row(self, cells: Sequence[str]) -> nodes.row:
        row = nodes.row()
        for cell in cells:
            entry = nodes.entry()
            entry += self.parse_text_to_nodes(cell) if cell else []
            row += entry
        return row
