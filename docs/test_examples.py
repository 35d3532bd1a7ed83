"""Every example of the documentation runs, page by page, as a reader would paste it into one module.

Python blocks run in order, in a module named `myapp`; a page that asks for DATABASE_URL gets a fresh
database with the queue's tables. Lines of shell blocks that call `trio-queue` are checked against its
commands and options. A block is left out by no mark whatsoever: what cannot run is not written as
`python`.
"""

from __future__ import annotations

import importlib
import re
import shlex
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from sybil import Sybil
from sybil.parsers.myst import PythonCodeBlockParser

DOCS = Path(__file__).parent
PAGES = [
    page
    for page in (DOCS.parent / "README.md", *sorted(DOCS.rglob("*.md")))
    if "_build" not in page.parts
]
#: Other places of commands: a unit of systemd, a container file.
TRIO_QUEUE = re.compile(r"(?:^|[\s/])trio-queue\s+(.*)")
#: Needs the database's tables.
DATABASE = "DATABASE_URL"


def page_id(page: Path) -> str:
    return str(page.relative_to(DOCS.parent))


@pytest.fixture
def myapp(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """The module that a page's examples are pasted into."""
    module = types.ModuleType("myapp")
    monkeypatch.setitem(sys.modules, "myapp", module)
    return module


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_examples_run(
    page: Path,
    myapp: types.ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    if DATABASE in page.read_text():
        monkeypatch.setenv(DATABASE, request.getfixturevalue("queue_database"))
    document = Sybil(parsers=[PythonCodeBlockParser()]).parse(page)
    document.namespace = vars(myapp)
    for example in document.examples():
        example.evaluate()


def shell_lines(page: Path) -> Iterator[list[str]]:
    """The arguments of every call of `trio-queue` on a page, also in units and container files."""
    fenced = re.findall(r"^```[a-z]*\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    for block in fenced:
        for line in block.replace("\\\n", " ").splitlines():
            if found := TRIO_QUEUE.search(line.removeprefix("$ ")):
                yield shlex.split(found[1].split(" && ")[0], comments=True)


@pytest.mark.parametrize(
    ("page", "arguments"),
    [
        pytest.param(page, arguments, id=f"{page_id(page)}: {' '.join(arguments)}")
        for page in PAGES
        if page.name != "command-line.md"
        for arguments in shell_lines(page)
    ],
)
def test_commands_and_options_exist(page: Path, arguments: list[str]) -> None:
    del page
    command: click.Command = importlib.import_module("trio_queue._cli").cli
    known: set[str] = set()
    rest = list(arguments)
    while True:
        context = click.Context(command)
        for parameter in command.get_params(context):
            known |= {*parameter.opts, *parameter.secondary_opts}
        options = [word.split("=")[0] for word in rest if word.startswith("-")]
        if not isinstance(command, click.Group):
            break
        names = [word for word in rest if command.get_command(context, word)]
        if not names:
            break
        found = command.get_command(context, names[0])
        assert found is not None
        command = found
        rest = rest[rest.index(names[0]) + 1 :]
    unknown = [word for word in options if word not in known]
    assert not unknown, f"{arguments}: there is no {unknown}, but {sorted(known)}"
    if rest == arguments:
        assert not [word for word in arguments if not word.startswith("-")], (
            f"{arguments}: there is no such command"
        )
