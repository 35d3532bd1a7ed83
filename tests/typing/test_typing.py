"""The types that users see, as mypy and pyright see them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


Checker = Callable[[list[Path]], set[tuple[str, int]]]


def lines_of_mypy(files: list[Path]) -> set[tuple[str, int]]:
    """The lines of these files that mypy, with this project's settings, calls wrong."""
    done = run("mypy", "--no-error-summary", *map(str, files))
    found = re.findall(r"^(.+?):(\d+): error: ", done.stdout, re.MULTILINE)
    names = {file.name for file in files}
    return {(Path(file).name, int(line)) for file, line in found if Path(file).name in names}


def lines_of_pyright(files: list[Path]) -> set[tuple[str, int]]:
    """The lines of these files that pyright, as it is by default, calls wrong."""
    done = run("pyright", "--outputjson", "--pythonpath", sys.executable, *map(str, files))
    return {
        (Path(each["file"]).name, each["range"]["start"]["line"] + 1)
        for each in json.loads(done.stdout)["generalDiagnostics"]
        if each["severity"] == "error"
    }


def run(*command: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode in {0, 1}, done.stderr
    return done


@pytest.mark.parametrize("check", [lines_of_mypy, lines_of_pyright])
def test_wrong_uses_are_errors_and_right_ones_are_not(check: Checker, tmp_path: Path) -> None:
    # No Python file in the repository: the checks of the project would find it full of errors.
    bad = tmp_path / "bad.py"
    bad.write_text((HERE / "bad.txt").read_text())
    expected = {
        ("bad.py", number)
        for number, line in enumerate(bad.read_text().splitlines(), 1)
        if line.endswith("# error")
    }
    assert len(expected) > 10
    assert check([HERE / "good.py", bad]) == expected
