"""Bugs to plant in the worker: each breaks a promise of the contract, as some job queue did.

A mutation replaces text in the source of one function. Where the text is not there any more it
fails, and somebody has to say how the same bug looks in the new code.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
from collections.abc import Generator
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import attrs

from tests.model.script import Script


@attrs.frozen
class Mutation:
    """One planted bug."""

    #: What is wrong with the worker that has it.
    name: str
    #: Below `trio_queue`, and a function or method there.
    module: str
    function: str
    old: str
    new: str
    #: What brings it to light.
    script: Script


@contextlib.contextmanager
def planted(mutation: Mutation) -> Generator[None]:
    """The worker has this bug while the block lasts.

    Raises:
        AssertionError: The text to be replaced is not there, or more than once.
    """
    module = importlib.import_module(f"trio_queue.{mutation.module}")
    function = _function(module, mutation.function)
    source, first = inspect.getsourcelines(function)
    text = "".join(source)
    assert text.count(mutation.old) == 1, (
        f"{mutation.name}: {mutation.function} has changed, say anew how to plant it"
    )
    file = inspect.getsourcefile(function)
    assert file is not None
    lines = Path(file).read_text(encoding="utf-8").splitlines(keepends=True)
    lines[first - 1 : first - 1 + len(source)] = [text.replace(mutation.old, mutation.new)]
    # The whole module is compiled, for its `__future__` and its nesting; one function is taken.
    code = _code(compile("".join(lines), file, "exec"), mutation.function)
    original = function.__code__
    function.__code__ = code
    try:
        yield
    finally:
        function.__code__ = original


def _function(module: Any, name: str) -> FunctionType:
    found = module
    for part in name.split("."):
        found = getattr(found, part)
    if isinstance(found, property):
        found = found.fget
    assert callable(found)
    found = inspect.unwrap(found)
    assert isinstance(found, FunctionType)
    return found


def _code(within: CodeType, name: str) -> CodeType:
    inner, _, rest = name.partition(".")
    [found] = [
        each for each in within.co_consts if isinstance(each, CodeType) and each.co_name == inner
    ]
    return _code(found, rest) if rest else found
