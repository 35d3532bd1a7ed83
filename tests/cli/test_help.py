"""`--help` teaches, everywhere; and it is quick because it imports next to nothing."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import attrs
import pytest

from trio_queue import __version__
from trio_queue._cli import MODULES
from trio_queue._worker.options import Options

if TYPE_CHECKING:
    from collections.abc import Callable

    from click.testing import Result

JOBS = ["list", "show", "retry", "cancel", "abort"]


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_lists_every_command(run: Callable[..., Result], option: str) -> None:
    result = run(option)
    assert result.exit_code == 0
    for name, (_, told) in MODULES.items():
        assert name in result.stdout
        assert told in result.stdout
    assert "Exit codes:" in result.stdout
    assert "TRIO_QUEUE_DATABASE_URL" in result.stdout


@pytest.mark.parametrize("command", [*MODULES, *(f"jobs {name}" for name in JOBS)])
def test_help_of_each_command(run: Callable[..., Result], command: str) -> None:
    result = run(*command.split(), "--help")
    assert result.exit_code == 0
    assert f"Usage: trio-queue {command}" in result.stdout
    if command in MODULES:
        assert "Exit codes:" in result.stdout


def test_the_worker_s_help_has_every_option_of_a_worker(run: Callable[..., Result]) -> None:
    text = " ".join(run("worker", "--help").stdout.split())
    not_from_text = {
        "additional_context",
        "install_signal_handlers",
        "exit_on_third_signal",
        "task_middleware",
        "worker_middleware",
    }
    for field in attrs.fields(Options):
        name = f"--{field.name.replace('_', '-')}"
        assert (name in text) is (field.name not in not_from_text), name
    assert "--one-shot" in text
    assert "[default: 5]" in text


def test_version(run: Callable[..., Result]) -> None:
    assert run("--version").stdout == f"trio-queue, version {__version__}\n"
    assert run("-V").stdout == f"trio-queue, version {__version__}\n"


#: What takes long to import: each of these costs more than all that `--help` needs.
HEAVY = {
    *("asyncio", "psycopg", "psycopg_pool", "rich", "ssl", "trio", "trio_asyncio"),
    *("trio_queue.app", "trio_queue.schema", "trio_queue.verbs", "trio_queue.worker"),
}


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["jobs", "list", "--help"]])
def test_help_imports_no_driver_no_loop_and_no_tables_of_a_terminal(arguments: list[str]) -> None:
    program = (
        "import sys; from trio_queue._cli import cli\n"
        f"cli({arguments}, standalone_mode=False)\n"
        f"print(sorted({HEAVY} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_python_m_is_the_same() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "trio_queue", "--version"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout == f"trio-queue, version {__version__}\n"
