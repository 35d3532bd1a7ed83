"""The reference of the command line, from the commands themselves."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from inspect import cleandoc
from typing import Any

import click
from docutils.nodes import Node
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


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


class CommandLine(SphinxDirective):
    """A section for each command."""

    def run(self) -> list[Node]:
        sections = "\n\n".join(section(typed, command) for typed, command in commands(root()))
        return self.parse_text_to_nodes(sections, allow_section_headings=True)


def section(typed: str, command: click.Command) -> str:
    """What a command does, how it is typed, and its options, as Markdown."""
    usage = " ".join([typed, *command.collect_usage_pieces(click.Context(command))])
    text = cleandoc(command.help or "").split("\f")[0].replace("\b\n", "")
    rows = [row for parameter in command.params if (row := option_row(parameter))]
    table = "\n".join(["| Option | Meaning |", "| --- | --- |", *rows]) if rows else ""
    return f"## `{typed}`\n\n```text\n{usage}\n```\n\n{text}\n\n{table}"


def option_row(parameter: click.Parameter) -> str | None:
    """A row of the table; None: it is not an option that is shown."""
    if not isinstance(parameter, click.Option) or parameter.hidden:
        return None
    names = ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))
    value = parameter.make_metavar(click.Context(click.Command(None)))
    if not (parameter.is_flag or parameter.count):
        names += f" `{value}`"
    return f"| {escape(names)} | {escape(parameter.help or '')} |"


def escape(text: str) -> str:
    """Text for a cell."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;").replace("[env", "\\[env")


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("command-line", CommandLine)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
