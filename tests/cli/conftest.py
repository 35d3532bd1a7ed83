"""Run the command line: in this process, or as processes of its own."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result

from tests.cli.processes import Process
from trio_queue._cli import cli

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

APP = "tests.cli.application:app"
ROOT = Path(__file__).parents[2]
#: Where the tests' own server comes from stays as it is.
KEPT = "TRIO_QUEUE_POSTGRES_BINARIES"


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing in the environment names a database, an App or an option."""
    for name in list(os.environ):
        ours = name.startswith(("TRIO_QUEUE_", "PROCRASTINATE_", "PG")) or name == "DATABASE_URL"
        if ours and name != KEPT:
            monkeypatch.delenv(name)


@pytest.fixture
def run() -> Callable[..., Result]:
    """Run a command line in this process."""

    def run(*arguments: str, env: dict[str, str] | None = None) -> Result:
        return CliRunner().invoke(cli, arguments, env=env, prog_name="trio-queue")

    return run


@pytest.fixture
def start() -> Iterator[Callable[..., Process]]:
    """Start a command line as a process; whatever still runs at the end is killed."""
    processes: list[Process] = []

    def start(*arguments: str, env: dict[str, str] | None = None, **options: Any) -> Process:
        process = Process.start(
            [sys.executable, "-m", "trio_queue", *arguments],
            {**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
            **options,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()


@pytest.fixture
def on_queue(queue_database: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A database with the queue's tables, named by the environment."""
    monkeypatch.setenv("TRIO_QUEUE_DATABASE_URL", queue_database)
    return queue_database
