"""The list is whole: each of the 24 faults has one test, under its number, in this directory."""

from __future__ import annotations

import ast
import re
from pathlib import Path


def numbered_tests() -> list[tuple[int, ast.AsyncFunctionDef | ast.FunctionDef]]:
    """The tests here whose names begin with a number."""
    return [
        (int(match[1]), node)
        for path in Path(__file__).parent.glob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, (ast.AsyncFunctionDef, ast.FunctionDef))
        and (match := re.match(r"test_(\d+)_", node.name))
    ]


def test_each_fault_has_one_test() -> None:
    assert sorted(number for number, _ in numbered_tests()) == list(range(1, 25))


def test_each_test_says_what_the_original_does() -> None:
    silent = [
        node.name
        for _, node in numbered_tests()
        if not (ast.get_docstring(node) or "").startswith("The original")
    ]
    assert silent == []
