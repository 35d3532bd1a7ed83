"""The migration guide lists every difference from Procrastinate, and nothing that is none."""

from __future__ import annotations

import fnmatch
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.beside.comparing import api_differences, command_line_differences

ROOT = Path(__file__).parents[2]
DEVIATIONS: dict[str, list[dict[str, Any]]] = tomllib.loads(
    (ROOT / "docs" / "howto" / "deviations.toml").read_text()
)


def unlisted(differences: list[str], names: list[str]) -> list[str]:
    """Differences that no name, or more than one, stands for."""
    return [
        each for each in differences if sum(fnmatch.fnmatchcase(each, name) for name in names) != 1
    ]


def needless(differences: list[str], names: list[str]) -> list[str]:
    """Names that stand for nothing."""
    return [name for name in names if not fnmatch.filter(differences, name)]


@pytest.mark.parametrize(
    ("table", "compare"),
    [("api", api_differences), ("command_line", command_line_differences)],
)
def test_every_difference_is_listed_and_only_those(
    table: str, compare: Callable[[], Iterator[str]]
) -> None:
    differences = list(compare())
    assert len(differences) > 10
    names = [name for entry in DEVIATIONS[table] for name in entry["names"]]
    assert unlisted(differences, names) == []
    assert needless(differences, names) == []


def test_what_is_not_listed_or_not_there_is_found() -> None:
    assert unlisted(["A.b: new", "A.c: new"], ["A.b: new"]) == ["A.c: new"]
    assert unlisted(["A.b: new"], ["A.b: new", "A.*"]) == ["A.b: new"]
    assert needless(["A.b: new"], ["A.b: new", "A.c*"]) == ["A.c*"]


@pytest.mark.parametrize(
    "entry",
    [entry for table in ("behaviour", "database") for entry in DEVIATIONS[table]],
    ids=lambda entry: entry["proved_by"].rpartition("::")[2],
)
def test_every_other_deviation_is_shown_by_a_test(entry: dict[str, Any]) -> None:
    path, _, name = entry["proved_by"].partition("::")
    assert f"def {name}(" in (ROOT / path).read_text()


@pytest.mark.parametrize("table", sorted(DEVIATIONS))
def test_every_entry_says_what_and_why(table: str) -> None:
    for entry in DEVIATIONS[table]:
        assert set(entry) in ({"names", "why"}, {"what", "why", "proved_by"}), entry
        assert entry["why"].endswith(".")
