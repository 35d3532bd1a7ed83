"""Every row of every table of docs/how-a-worker-stops.md has a test that names it, and no test names another.

A row is named by its heading and its first cell: `@pytest.mark.promise("What asks for it / worker.stop()")`.
The tests are found in the source, so that it does not matter which of them run.
"""

from __future__ import annotations

import ast
import importlib.util
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeAlias, cast

import attrs
import pytest

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "how-a-worker-stops.md"
GENERATED = TESTS.parent / "docs" / "_ext" / "worker_rows.py"

#: A heading; a row of a table; the fence of a generated table.
HEADING = re.compile(r"## (.+)")
ROW = re.compile(r"\| (.*) \|")
RULE = re.compile(r"\| --- \|.*")
CELL_END = re.compile(r"\s+\|")
FENCE = re.compile(r"```\{(.+-table)\}")

Rows: TypeAlias = list[Sequence[str]]


def generated_rows(directive: str) -> Rows:
    """The rows that the page gets from the code."""
    spec = importlib.util.spec_from_file_location("worker_rows", GENERATED)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return cast("tuple[Sequence[str], Rows]", module.TABLES[directive]())[1]


def plain(cell: str) -> str:
    """A cell as a test names it: without the marks of code and emphasis."""
    return cell.replace("`", "").replace("**", "").strip()


def promised(text: str) -> Iterator[str]:
    """The names of the rows of every table of a page."""
    heading, is_body = "", False
    for line in text.splitlines():
        if found := HEADING.fullmatch(line):
            heading = found[1]
        elif found := FENCE.fullmatch(line):
            for row in generated_rows(found[1]):
                yield f"{heading} / {plain(row[0])}"
        elif RULE.match(line):
            is_body = True
        elif not (found := ROW.fullmatch(line)):
            is_body = False
        elif is_body:
            yield f"{heading} / {plain(CELL_END.split(found[1])[0])}"


@attrs.frozen
class Naming:
    """A test that names a row."""

    row: str
    test: str


def named(folder: Path) -> Iterator[Naming]:
    """What the tests of a folder name."""
    for path in sorted(folder.rglob("*.py")):
        source = path.read_text()
        if "mark.promise" in source:
            yield from named_in(source, str(path.relative_to(folder)))


def named_in(source: str, path: str) -> Iterator[Naming]:
    """What the tests of a file name. Raises AssertionError where something else is marked."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            where = f"{path}:{node.lineno} {node.name}"
            for row in rows_of(node):
                is_collected = Path(path).name.startswith("test_")
                assert is_collected, f"{where}: pytest does not collect this file"
                assert node.name.startswith(("test_", "Test")), f"{where} is no test"
                yield Naming(row, where)


def rows_of(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> Iterator[str]:
    """What the decorators of a test name."""
    for decorator in node.decorator_list:
        match decorator:
            case ast.Call(func=ast.Attribute(attr="promise"), args=arguments):
                yield from (str(ast.literal_eval(argument)) for argument in arguments)
            case _:
                pass


ROWS = list(promised(PAGE.read_text()))


def test_each_row_has_a_name_of_its_own() -> None:
    assert [row for row, times in Counter(ROWS).items() if times > 1] == []
    assert all(row.split(" / ")[1] for row in ROWS)


def test_written_and_generated_tables_are_read() -> None:
    for row in (
        "What is promised / 1",
        "What asks for it / worker.stop()",
        "The stages as a table / first ask",
        "What becomes of a job / raises KeyboardInterrupt or SystemExit",
    ):
        assert row in ROWS
    # However the page is written: each of its tables begins with such a line.
    text = PAGE.read_text()
    tables = [line for line in text.splitlines() if RULE.match(line) or FENCE.fullmatch(line)]
    assert len({row.split(" / ")[0] for row in ROWS}) == len(tables)


def test_every_row_has_a_test() -> None:
    tested = {naming.row for naming in named(TESTS)}
    assert [row for row in ROWS if row not in tested] == []


def test_no_test_names_a_row_that_is_not_there() -> None:
    assert [naming for naming in named(TESTS) if naming.row not in ROWS] == []


def test_what_is_marked_is_a_test() -> None:
    source = '@pytest.mark.promise("a / b", "a / c")\nasync def {}() -> None: ...'
    found = list(named_in(source.format("test_it"), "test_x.py"))
    assert [naming.row for naming in found] == ["a / b", "a / c"]
    for name, path in (("helper", "test_x.py"), ("test_it", "helpers.py")):
        with pytest.raises(AssertionError):
            list(named_in(source.format(name), path))


def test_tables_are_read_as_they_are_written() -> None:
    page = (
        "# P\n\n## H\n\n| a | b |\n| --- | --- |\n| `x` | y |\n| **z** `w` | |\n\n| no | rule |\n"
    )
    assert list(promised(page)) == ["H / x", "H / z w"]
