"""The reference of the command line, from the commands themselves."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from inspect import cleandoc
from typing import Any

import click
from docutils.nodes import Node
from sphinx.application import Sphinx
from tables import TableDirective


def root() -> click.Group:
    """The `trio-queue` command."""
    main = import_module("trio_queue._cli").cli
    assert isinstance(main, click.Group), "trio_queue._cli.cli is a click group"
    return main


def commands(group: click.Group, prefix: str = "trio-queue") -> Iterator[tuple[str, click.Command]]:
    """Every command, with what one types; the groups first."""
    context = click.Context(group)
    yield prefix, group
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command is None or command.hidden:
            continue
        if isinstance(command, click.Group):
            yield from commands(command, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}", command


class CommandLine(TableDirective):
    """A section for each command."""

    def run(self) -> list[Node]:
        found: list[Node] = []
        for typed, command in commands(root()):
            text = cleandoc(command.help or "").split("\f")[0].replace("\b\n", "")
            usage = " ".join([typed, *command.collect_usage_pieces(click.Context(command))])
            found += self.parse_text_to_nodes(
                f"## `{typed}`\n\n```text\n{usage}\n```\n\n{text}\n", allow_section_headings=True
            )
            rows = [row for each in command.params if (row := self._row_of(each))]
            if rows:
                target = found[-1] if found else None
                table = self.table(["Option", "Meaning"], rows, [40, 60])
                if target is not None and target.tagname == "section":
                    target += table  # type: ignore[operator]
                else:
                    found.append(table)
        return found

    @staticmethod
    def _row_of(parameter: click.Parameter) -> tuple[str, str] | None:
        if not isinstance(parameter, click.Option) or parameter.hidden:
            return None
        names = ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))
        told = parameter.help or ""
        variables = parameter.envvar or ()
        for variable in [variables] if isinstance(variables, str) else variables:
            told += f" (`{variable}`)"
        return names, told


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("command-line", CommandLine)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
