"""`trio-queue embedded`, as a process; and commands that start the embedded server by themselves."""

from __future__ import annotations

import os
import re
import shlex
import signal
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.waiting import wait_for_unlock, wait_until
from trio_queue.embedded import directories, server
from trio_queue.embedded.locks import SUPERVISOR_LOCK, USERS_LOCK

if TYPE_CHECKING:
    from collections.abc import Callable

    from click.testing import Result

    from tests.cli.processes import Process


def conninfo_told(text: str) -> str:
    (line,) = re.findall(r"export TRIO_QUEUE_DATABASE_URL=(.*)", text)
    return shlex.split(line)[0]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_tells_how_to_reach_it_and_ends_by_a_signal(
    start: Callable[..., Process], number: signal.Signals
) -> None:
    process = start("embedded", "--ephemeral", "--tcp")
    process.wait_said("export TRIO_QUEUE_DATABASE_URL=")
    process.wait_said("\n", 5)
    assert "psql" in process.said
    directory = re.findall(r"PostgreSQL runs in (\S+) ", process.said)[0]
    with closing(psycopg.connect(conninfo_told(process.said))) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
        process.send(number)
        assert process.wait_end() == 0, process.said
    wait_for_unlock(Path(directory) / SUPERVISOR_LOCK)
    assert not Path(directory).exists()


def test_it_ends_with_an_error_when_the_server_dies(start: Callable[..., Process]) -> None:
    process = start("embedded", "--ephemeral")
    process.wait_said("export TRIO_QUEUE_DATABASE_URL=")
    process.wait_said("\n", 5)
    with closing(psycopg.connect(conninfo_told(process.said), autocommit=True)) as connection:
        row = connection.execute("SELECT pg_read_file('postmaster.pid')").fetchone()
        assert row is not None
        postmaster = int(row[0].split()[0])
    os.kill(postmaster, signal.SIGINT)  # a fast shutdown
    assert process.wait_end() == 1
    assert "has ended by itself" in process.said


def test_a_signal_while_it_starts(start: Callable[..., Process], server_directory: Path) -> None:
    """Nothing half-made stays, whenever the signal comes: here, as soon as its directory is there."""
    process = start("embedded", "--directory", str(server_directory))
    wait_until((server_directory / USERS_LOCK).exists, "the directory")
    process.send(signal.SIGTERM)
    assert process.wait_end() == 0, process.said
    wait_for_unlock(server_directory / SUPERVISOR_LOCK)
    assert not list((server_directory).glob("*unfinished*"))


def test_commands_without_an_app_use_the_embedded_server(
    run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, server_directory: Path
) -> None:
    for module in (directories, server):
        monkeypatch.setattr(module, "default_directory", lambda: server_directory)
    assert run("schema", "--check").exit_code == 1
    assert run("schema", "--apply").exit_code == 0
    assert run("defer", "--unknown", "t").stdout == "1\n"
    assert run("jobs", "cancel", "1").exit_code == 0
    assert "t" in run("jobs", "list", "--status", "cancelled").stdout
    # A probe that starts an empty server, and finds it healthy, would be worse than none.
    assert run("healthchecks").exit_code == 1
    wait_for_unlock(server_directory / SUPERVISOR_LOCK)


def test_no_programs_of_a_server(
    run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, server_directory: Path
) -> None:
    monkeypatch.setenv("TRIO_QUEUE_POSTGRES_BINARIES", str(server_directory.parent))
    for module in (directories, server):
        monkeypatch.setattr(module, "default_directory", lambda: server_directory)
    for command in (["jobs", "list"], ["demo"], ["embedded"]):
        result = run(*command)
        assert result.exit_code == 1
        assert result.stderr.startswith("Error: ")
        assert "TRIO_QUEUE_POSTGRES_BINARIES" in result.stderr
        assert "Traceback" not in result.output
