"""Run the command line: in this process, or as processes of its own."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result

from tests.cli.processes import Process
from tests.waiting import wait_for_unlock
from trio_queue._cli import cli
from trio_queue.embedded.locks import SUPERVISOR_LOCK

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
def start_python() -> Iterator[Callable[..., Process]]:
    """Start Python as a process; whatever still runs at the end is killed."""
    processes: list[Process] = []

    def start(*arguments: str, env: dict[str, str] | None = None, **options: Any) -> Process:
        process = Process.start(
            [sys.executable, *arguments],
            {**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
            **options,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()


@pytest.fixture
def start(start_python: Callable[..., Process]) -> Callable[..., Process]:
    """Start a command line as a process; see `start_python`."""
    return partial(start_python, "-m", "trio_queue")


@pytest.fixture
def on_queue(queue_database: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A database with the queue's tables, named by the environment."""
    monkeypatch.setenv("TRIO_QUEUE_DATABASE_URL", queue_database)
    return queue_database


@pytest.fixture
def server_directory() -> Iterator[Path]:
    """A place for an embedded server: run by root, its account must be able to reach it."""
    parent = Path(tempfile.mkdtemp(prefix="trio-queue-cli-"))
    parent.chmod(0o755)
    yield parent / "data"
    wait_for_unlock(parent / "data" / SUPERVISOR_LOCK)
    shutil.rmtree(parent)
