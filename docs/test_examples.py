"""Every example of the documentation runs, page by page, as a reader would paste it into one module.

Python blocks run in order, in a module named `myapp`; an `output` block is what the one before it prints; a page that asks for DATABASE_URL gets a fresh
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
from sybil import Example, Sybil
from sybil.parsers.myst import CodeBlockParser, PythonCodeBlockParser
from sybil.typing import Parser

DOCS = Path(__file__).parent
PAGES = [
    page
    for page in (DOCS.parent / "README.md", *sorted(DOCS.rglob("*.md")))
    if "_build" not in page.parts
]
#: Run by tests/applications; their heads say how they are started.
APPLICATIONS = sorted((DOCS / "examples").glob("*.py"))
#: Code that may hold commands: fenced (a unit of systemd and a container file too), indented, inline.
CODE = re.compile(r"^```[a-z]*\n(.*?)^```|^    (.*?)$|`([^`\n]+)`", re.DOTALL | re.MULTILINE)
TRIO_QUEUE = re.compile(r"(?:^|[\s/])trio-queue\s+([-\w].*)")
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
    capsys: pytest.CaptureFixture[str],
) -> None:
    if DATABASE in page.read_text():
        monkeypatch.setenv(DATABASE, request.getfixturevalue("queue_database"))
    printed = ""

    def compare(example: Example) -> None:
        assert printed == example.parsed, f"{page}:{example.line}"

    parsers: list[Parser] = [PythonCodeBlockParser(), CodeBlockParser("output", compare)]
    document = Sybil(parsers=parsers).parse(page)
    document.namespace = vars(myapp)
    for example in document.examples():
        example.evaluate()
        printed = capsys.readouterr().out


def shell_lines(page: Path) -> Iterator[list[str]]:
    """The arguments of every call of `trio-queue` on a page."""
    for found in CODE.finditer(page.read_text()):
        code = next(group for group in found.groups() if group is not None)
        # A container file's list is a command line too.
        for line in re.sub(r'",? ?"?', " ", code).splitlines():
            if called := TRIO_QUEUE.search(line.replace("[ ", "")):
                words = re.split(r" && | > ", called[1])[0]
                yield shlex.split(words.rstrip(" ]"), comments=True)


@pytest.mark.parametrize(
    ("page", "arguments"),
    [
        pytest.param(page, arguments, id=f"{page_id(page)}: {' '.join(arguments)}")
        for page in (*PAGES, *APPLICATIONS)
        if page.name != "command-line.md"
        for arguments in shell_lines(page)
    ],
)
def test_commands_and_options_exist(page: Path, arguments: list[str]) -> None:
    del page
    check_command_line(arguments)


@pytest.mark.parametrize(
    "wrong", ["wrker", "worker --nope", "jobs lst", "--app=a jobs list --nope", "schema --aply"]
)
def test_wrong_commands_and_options_are_found(wrong: str) -> None:
    with pytest.raises(AssertionError):
        check_command_line(wrong.split())


def check_command_line(arguments: list[str]) -> None:
    """Each option is one of a command on the way; where a command can stand, there is none unknown."""
    command: click.Command = importlib.import_module("trio_queue._cli").cli
    known: set[str] = set()
    rest = list(arguments)
    while True:
        context = click.Context(command)
        for parameter in command.get_params(context):
            known |= {*parameter.opts, *parameter.secondary_opts}
        if not isinstance(command, click.Group) or not rest:
            break
        word = rest.pop(0)
        if not word.startswith("-"):
            found = command.get_command(context, word)
            assert found is not None, f"{arguments}: there is no command {word!r}"
            command = found
    unknown = {word.split("=")[0] for word in arguments if word.startswith("-")} - known
    assert not unknown, f"{arguments}: there is no {unknown}, but {sorted(known)}"
