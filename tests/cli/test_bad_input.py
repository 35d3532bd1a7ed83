"""What a user gets wrong: one clear error each, no traceback, and an exit code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.cli.conftest import APP

if TYPE_CHECKING:
    from collections.abc import Callable

    from click.testing import Result


def refused(result: Result, code: int, *told: str) -> str:
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    lines = result.stderr.splitlines()
    # What ends a worker is a record of its log.
    assert sum(line.startswith("Error: ") or " ERROR   " in line for line in lines) == 1, lines
    for text in told:
        assert text in result.stderr
    return result.stderr


def test_a_conninfo_that_is_none(run: Callable[..., Result]) -> None:
    refused(run("--database", "what is this", "jobs", "list"), 1, "--database", "postgresql://")
    env = {"DATABASE_URL": "mysql://user:confidential@host/name"}
    stderr = refused(run("jobs", "list", env=env), 1, "DATABASE_URL is not", "mysql://")
    assert "confidential" not in stderr
    own = run("-a", "tests.cli.application:unreadable", "jobs", "list")
    refused(own, 1, "conninfo", "postgresql://")


def test_a_server_that_is_not_there(run: Callable[..., Result]) -> None:
    conninfo = "host=127.0.0.1 port=1 password=confidential"
    for command in (["jobs", "list"], ["-a", APP, "worker"], ["schema"], ["demo"]):
        stderr = refused(
            run("--database", conninfo, *command), 1, "127.0.0.1", "1", "trio-queue[embedded]"
        )
        assert "confidential" not in stderr
        assert stderr.count("pip install") == 1


@pytest.mark.parametrize(
    "command",
    [
        ["jobs", "list"],
        ["jobs", "show", "1"],
        ["workers"],
        ["schema", "--check"],
        ["healthchecks"],
        ["defer", "--unknown", "task"],
        ["--app", APP, "worker"],
    ],
)
def test_no_schema(run: Callable[..., Result], database: str, command: list[str]) -> None:
    refused(run("--database", database, *command), 1, "run `trio-queue schema --apply`")


def test_a_schema_of_another_version(run: Callable[..., Result], on_queue: str) -> None:
    with psycopg.connect(on_queue, autocommit=True) as connection:
        connection.execute("COMMENT ON TABLE trio_queue_migrations IS '00.00.01_01_pre_old'")
    for command in (["jobs", "list"], ["--app", APP, "worker"], ["healthchecks"]):
        refused(run(*command), 1, "migrations", "trio-queue schema --apply")


@pytest.mark.parametrize("action", ["--apply", "--restore-procrastinate"])
def test_a_user_who_may_not_change_the_tables(
    run: Callable[..., Result], database: str, queue_database: str, action: str
) -> None:
    asked = database if action == "--apply" else queue_database
    with psycopg.connect(asked, autocommit=True) as connection:
        connection.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    result = run("--database", f"{asked} options='-c role=pg_monitor'", "schema", action)
    refused(result, 1, "may not do it: connect as the owner of the tables")


def test_a_server_that_only_reads(run: Callable[..., Result], database: str) -> None:
    read_only = f"{database} options='-c default_transaction_read_only=on'"
    refused(run("--database", read_only, "schema"), 1, "read-only transaction")


def test_an_app_that_cannot_be_imported(run: Callable[..., Result]) -> None:
    stderr = refused(run("-a", "tests.cli.broken_application:app", "worker"), 1)
    assert "'tests.cli.broken_application'" in stderr
    assert "RuntimeError: this module is broken on purpose" in stderr


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("tests.cli.application:ap", "there is no 'ap' in 'tests.cli.application'"),
        ("tests.cli.application:not_an_app", "is not a trio_queue.app.App"),
        ("nowhere.app", "No module named 'nowhere'"),
        ("app", "is not a path to an App"),
    ],
)
def test_a_path_that_names_no_app(run: Callable[..., Result], path: str, told: str) -> None:
    refused(run("-a", path, "worker"), 1, told)


def test_no_app(run: Callable[..., Result]) -> None:
    refused(run("worker"), 1, "--app", "TRIO_QUEUE_APP")
    refused(run("defer", "task"), 1, "--app", "TRIO_QUEUE_APP")


@pytest.mark.parametrize("command", [["worker"], ["defer", "add"], ["jobs", "list"]])
def test_an_app_without_a_database(run: Callable[..., Result], command: list[str]) -> None:
    """The embedded server is not started behind an App's back: it would be an empty one."""
    told = (
        "--database",
        "connector a conninfo",
        "TRIO_QUEUE_DATABASE_URL",
        " DATABASE_URL",
        "PGHOST",
    )
    refused(run("-a", APP, *command), 1, *told, "trio-queue embedded")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
@pytest.mark.parametrize("command", [["jobs", "list"], ["jobs", "list", "--json"]])
def test_an_answer_that_finds_no_room(
    run: Callable[..., Result], on_queue: str, command: list[str]
) -> None:
    del on_queue
    run("defer", "--unknown", "t")
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "trio_queue", *command],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    told = "Error: the answer could not be written: No space left on device\n"
    assert (ended.returncode, ended.stderr) == (1, told)


def test_an_embedded_server_that_cannot_start(run: Callable[..., Result]) -> None:
    """Its place may be why: the message says how to choose another one."""
    env = {"TRIO_QUEUE_POSTGRES_BINARIES": "/nowhere"}
    told = ("cannot start", "/nowhere", "--database", "`trio-queue embedded --directory DIRECTORY`")
    refused(run("jobs", "list", env=env), 1, *told)


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (["wroker"], "did you mean 'worker'?"),
        (["jobs", "lst"], "did you mean 'list'?"),
        (["quux"], "there are demo, worker"),
        (["worker", "--concurency", "3"], "--concurrency"),
        (["jobs", "list", "--satus", "todo"], "--status"),
        (["--databse", "x", "jobs", "list"], "--database"),
        (["jobs", "list", "--log-format", "json"], "trio-queue --log-format ... jobs list"),
        (["-v", "-q", "workers"], "-v and -q exclude each other"),
        (["--log-format", "%(", "workers"], "--log-format"),
        (["--log-format", "%(nope)s", "worker"], "not found in record: 'nope'"),
        (["--log-format", "{nope}", "--log-format-style", "{", "workers"], "'nope'"),
        (["--log-format", "$nope", "--log-format-style", "$", "workers"], "'nope'"),
        (
            ["schema", "--check", "--restore-procrastinate"],
            "--check and --restore-procrastinate exclude each other: give one of them.",
        ),
        (["schema", "--read", "--check"], "--check and --read exclude"),
        (["schema", "--apply", "--migrations-path"], "--apply and --migrations-path exclude"),
        (["--log-level", "loud", "workers"], "'loud' is not one of"),
        (["jobs", "list", "--status", "done"], "'done' is not one of"),
        (["jobs", "show", "first"], "JOB_ID"),
        (["jobs", "retry"], "JOB_ID"),
        (["jobs", "retry", "1", "--in", "1", "--at", "2030-01-01T00:00Z"], "exclude each other"),
        (["jobs", "retry", "1", "--at", "tomorrow"], "is not a moment"),
        (["jobs", "retry", "1", "--in", "nan"], "nan is not a number of seconds"),
        (["defer", "--unknown", "t", "{"], "JSON_ARGS: it is not JSON"),
        (["defer", "--unknown", "t", "[1]"], "it must be an object"),
        (["defer", "--unknown", "t", "--at", "2030-01-01T00:00"], "has no time zone"),
        (["defer", "--unknown", "t", "--in", "-1"], "-1"),
    ],
)
def test_a_command_line_that_is_wrong(
    run: Callable[..., Result], command: list[str], told: str
) -> None:
    result = run(*command)
    refused(result, 2, told)


@pytest.mark.parametrize("id_", [str(2**63), str(-(2**63) - 1), "9" * 20])
@pytest.mark.parametrize(
    "command",
    [
        ["jobs", "--worker"],
        ["jobs", "list", "--worker-id"],
        ["jobs", "list", "--after-id"],
        ["jobs", "show", "--"],
        ["jobs", "retry", "--", "1"],
        ["jobs", "cancel", "--", "1"],
        ["jobs", "abort", "--", "1"],
    ],
)
def test_an_id_that_no_row_can_have(
    run: Callable[..., Result], command: list[str], id_: str
) -> None:
    refused(run(*command, id_), 2, f"{id_} is not an id")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["-c", "0"], "concurrency=0: it must be a whole number, 1 or more"),
        (["-c", "many"], "'many' is not a valid integer"),
        (["--shutdown-graceful-timeout", "-1"], "shutdown_graceful_timeout=-1.0"),
        (["--delete-jobs", "sometimes"], "'sometimes' is not one of"),
        (["--stalled-worker-timeout", "1"], "longer than update_heartbeat_interval"),
    ],
)
def test_a_worker_s_option_that_is_wrong(
    run: Callable[..., Result], on_queue: str, options: list[str], told: str
) -> None:
    refused(run("-a", APP, "worker", *options), 2, told)


def test_a_task_or_arguments_that_are_wrong(run: Callable[..., Result], on_queue: str) -> None:
    refused(run("-a", APP, "defer", "ad"), 1, "did you mean 'add'?")
    refused(run("-a", APP, "defer", "add", '{"a": 1}'), 2, "'b'")
    refused(run("-a", APP, "defer", "add", '{"a": 1, "b": 2}', "--queue", "q" * 200), 2, "queue")
    assert run("jobs", "list").stdout == ""
