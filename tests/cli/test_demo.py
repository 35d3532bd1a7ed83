"""`trio-queue demo`, as it is seen: as a process, on a terminal and elsewhere."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from tests.cli.long_demo import LONG_REPORTS
from tests.embedded.fake_programs import make_programs
from tests.waiting import wait_for_unlock, wait_until
from trio_queue._cli.demo import example_code
from trio_queue.embedded.binaries import BINARIES_VARIABLE
from trio_queue.embedded.locks import SUPERVISOR_LOCK, USERS_LOCK

if TYPE_CHECKING:
    from collections.abc import Callable

    from click.testing import Result

    from tests.cli.processes import Process

ROOT = Path(__file__).parents[2]
#: What is printed before the program that one would write.
HEADING = "What you would write:\n"


def jobs_of(run: Callable[..., Result], conninfo: str, *filters: str) -> list[dict[str, Any]]:
    result = run("--database", conninfo, "jobs", "list", "--json", "--limit", "9999", *filters)
    return [json.loads(line) for line in result.stdout.splitlines()]


def run_printed_commands(said: str) -> list[subprocess.CompletedProcess[str]]:
    """Run each command that the demo prints, as if it were pasted."""
    block = said.partition("Look closer:\n")[2].partition("\n\n")[0]
    commands = [line.strip() for line in block.splitlines()]
    assert commands
    assert all(command.startswith("trio-queue ") for command in commands)
    return [
        subprocess.run(
            [sys.executable, "-m", "trio_queue", *shlex.split(command)[1:]],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        )
        for command in commands
    ]


def test_every_kind_of_job_ends_as_it_should(
    start: Callable[..., Process], run: Callable[..., Result], database: str
) -> None:
    demo = start("demo", "--database", database)
    assert demo.wait_end() == 0, demo.said
    jobs = jobs_of(run, database)
    ended: dict[tuple[str, str], int] = {}
    for job in jobs:
        key = (job["task_name"].removeprefix("demo:"), job["status"])
        ended[key] = ended.get(key, 0) + 1
    assert ended.pop(("tick", "succeeded")) >= 1
    ended.pop(("tick", "todo"), None)
    assert ended == {
        ("greet", "succeeded"): 120,
        ("checksum", "succeeded"): 60,
        ("report", "succeeded"): 6,
        ("transfer", "succeeded"): 36,
        ("announce", "succeeded"): 45,
        ("flaky", "succeeded"): 20,
        ("hopeless", "failed"): 5,
        ("reminder", "succeeded"): 1,
    }
    assert all(job["attempts"] == 2 for job in jobs if job["task_name"] == "demo:flaky")
    assert "(--database)" in demo.said
    assert "made, as by `trio-queue schema --apply`" in demo.said
    assert "Traceback" not in demo.said
    assert "\x1b" not in demo.said
    for done in run_printed_commands(demo.said):
        assert "demo:hopeless" in done.stdout


def test_on_a_database_of_the_environment_it_touches_its_own_queue_only(
    start: Callable[..., Process], run: Callable[..., Result], on_queue: str
) -> None:
    run("defer", "--unknown", "somebody.else")
    demo = start("demo", env={"DATABASE_URL": on_queue})
    assert demo.wait_end() == 0, demo.said
    assert "(TRIO_QUEUE_DATABASE_URL)" in demo.said
    assert "there already" in demo.said
    assert "somebody.else" not in demo.said
    (other,) = jobs_of(run, on_queue, "--queue", "default")
    assert other["status"] == "todo"
    first = {job["id"] for job in jobs_of(run, on_queue, "--queue", "demo")}
    # A second demo begins anew, whatever the first one left.
    again = start("demo")
    assert again.wait_end() == 0, again.said
    second = {job["id"] for job in jobs_of(run, on_queue, "--queue", "demo")}
    assert len(second) >= 293
    assert not first & second


def test_tables_that_somebody_uses_are_not_changed_unasked(
    run: Callable[..., Result], on_queue: str
) -> None:
    with psycopg.connect(on_queue, autocommit=True) as connection:
        connection.execute("COMMENT ON TABLE trio_queue_migrations IS '00.00.01_01_pre_old'")
    result = run("demo")
    assert result.exit_code == 1
    assert (
        "TRIO_QUEUE_DATABASE_URL names a database with tables that somebody uses" in result.stderr
    )
    assert run("schema", "--check").exit_code == 1


@pytest.fixture
def start_long(start_python: Callable[..., Process]) -> Callable[..., Process]:
    """Start a demo that ends only when it is asked to, however late that is."""
    return partial(start_python, "-m", "tests.cli.long_demo")


def test_on_a_terminal_it_moves_and_ctrl_c_shows_the_drain(
    start_long: Callable[..., Process], run: Callable[..., Result], on_queue: str
) -> None:
    demo = start_long("demo", terminal=True)
    demo.wait_said("Ctrl-C stops the worker", times=3)
    demo.send(signal.SIGINT)
    assert demo.wait_end() == 0, demo.said
    assert "Draining: it fetches no more jobs" in demo.said
    assert "jobs still wait" in demo.said
    assert "What became of them:" in demo.said
    assert "\x1b[?25h" in demo.said, "the cursor is shown again"
    statuses = {job["status"] for job in jobs_of(run, on_queue)}
    assert "doing" not in statuses
    assert "todo" in statuses
    # The jobs that it left are removed by the next demo: they would run in the place of its own.
    assert json.loads(run("workers", "--json").stdout or "null") is None


def test_a_second_ctrl_c_aborts(
    start_long: Callable[..., Process], run: Callable[..., Result], on_queue: str
) -> None:
    demo = start_long("--log-level", "info", "demo", env={LONG_REPORTS: "1"})
    demo.wait_said("Starting job demo:report")
    demo.send(signal.SIGINT)
    demo.wait_said("Draining: ")
    demo.send(signal.SIGINT)
    assert demo.wait_end() == 0, demo.said
    assert "Aborting: " in demo.said
    statuses = {job["status"] for job in jobs_of(run, on_queue)}
    assert "aborted" in statuses
    assert "doing" not in statuses


def test_another_demo_on_the_same_database_is_refused(
    start_long: Callable[..., Process], run: Callable[..., Result], on_queue: str
) -> None:
    demo = start_long("demo")
    demo.wait_said("succeeded", times=2)
    second = run("demo")
    assert second.exit_code == 1
    assert "another demo is under way" in second.stderr
    demo.send(signal.SIGTERM)
    assert demo.wait_end() == 0, demo.said


def test_a_demo_that_was_killed_does_not_hinder_the_next(
    start: Callable[..., Process], run: Callable[..., Result], on_queue: str
) -> None:
    demo = start("demo")
    demo.wait_said("succeeded", times=2)
    demo.send(signal.SIGKILL)
    demo.wait_end()
    again = start("demo")
    assert again.wait_end() == 0, again.said
    assert "doing" not in {job["status"] for job in jobs_of(run, on_queue)}


EMBEDDED_AT = """
import sys
from pathlib import Path
from trio_queue.embedded import directories, server
where = Path(sys.argv.pop(1))
directories.default_directory = server.default_directory = lambda: where
from trio_queue._cli import main
main()
"""


@pytest.mark.parametrize("number", [None, signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_embedded_server_is_gone_however_the_demo_ends(
    start_python: Callable[..., Process], server_directory: Path, number: signal.Signals | None
) -> None:
    demo = start_python("-c", EMBEDDED_AT, str(server_directory), "demo")
    demo.wait_said(" 0 failed")
    if number is not None:
        demo.send(number)
    code = demo.wait_end()
    assert code == (-signal.SIGKILL if number is signal.SIGKILL else 0), demo.said
    assert "(the embedded server)" in demo.said
    wait_for_unlock(server_directory / SUPERVISOR_LOCK)
    left = [
        path
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if str(server_directory).encode() in read_cmdline(path)
    ]
    assert not left


def test_ctrl_c_while_the_embedded_server_starts(
    start_python: Callable[..., Process], server_directory: Path
) -> None:
    # However late the signal comes, it is not ready by then.
    hanging = make_programs(server_directory.parent, "sleep 1000")
    demo = start_python(
        *("-c", EMBEDDED_AT, str(server_directory), "demo"), env={BINARIES_VARIABLE: str(hanging)}
    )
    wait_until((server_directory / USERS_LOCK).exists, "the directory")
    demo.send(signal.SIGINT)
    assert demo.wait_end() == 130, demo.said
    assert demo.said == "Interrupted.\n"
    wait_for_unlock(server_directory / SUPERVISOR_LOCK)


def read_cmdline(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def printed_code(said: str) -> str:
    block = said.partition(HEADING)[2].partition("\nSave it:")[0]
    return "\n".join(line[4:] for line in block.splitlines()).strip() + "\n"


def test_the_code_that_it_prints_is_the_code_that_is_tested(
    start: Callable[..., Process], run: Callable[..., Result], on_queue: str
) -> None:
    code = run("demo", "--code").stdout
    assert code == example_code(embedded=False)
    demo = start("demo")
    demo.wait_said("What you would write:")
    demo.wait_end()
    assert printed_code(demo.said) == code
    assert run("demo", "--code", env={"TRIO_QUEUE_DATABASE_URL": ""}).stdout == example_code(
        embedded=True
    )


def test_the_code_runs_as_it_is_on_a_server(
    start_python: Callable[..., Process], run: Callable[..., Result], database: str, tmp_path: Path
) -> None:
    (tmp_path / "hello.py").write_text(example_code(embedded=False))
    hello = start_python("hello.py", cwd=tmp_path, env={"TRIO_QUEUE_DATABASE_URL": database})
    assert hello.wait_end() == 0, hello.said
    assert sorted(hello.said.splitlines()) == ["Hello, Ada!", "Hello, Barbara!", "Hello, Grace!"]
    assert {job["status"] for job in jobs_of(run, database)} == {"succeeded"}


def test_the_code_runs_as_it_is_on_the_embedded_server(
    start_python: Callable[..., Process], tmp_path: Path, server_directory: Path
) -> None:
    # Only where the data live is another place: a test must not touch the user's own.
    (tmp_path / "sitecustomize.py").write_text(
        "from pathlib import Path\n"
        "from trio_queue.embedded import directories, server\n"
        f"where = Path({str(server_directory)!r})\n"
        "directories.default_directory = server.default_directory = lambda: where\n"
    )
    (tmp_path / "hello.py").write_text(example_code(embedded=True))
    hello = start_python(
        "hello.py", cwd=tmp_path, env={"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    )
    assert hello.wait_end() == 0, hello.said
    assert sorted(hello.said.splitlines()) == ["Hello, Ada!", "Hello, Barbara!", "Hello, Grace!"]
    wait_for_unlock(server_directory / SUPERVISOR_LOCK)


def test_the_code_is_short() -> None:
    for embedded in (True, False):
        code = example_code(embedded=embedded)
        assert "noqa" not in code
        assert sum(bool(line.strip()) for line in code.splitlines()) <= 24
