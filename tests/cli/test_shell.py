"""The shell: Procrastinate's commands, at a prompt or one by one."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable

import procrastinate.shell
import procrastinate.utils
import pytest
from click.testing import CliRunner, Result

import trio_queue
from tests.cli.conftest import APP
from tests.cli.processes import Process
from trio_queue._cli import cli
from trio_queue._cli.shell import Shell
from trio_queue.testing import InMemoryConnector

Run = Callable[..., Result]
Say = Callable[[str], str]


@pytest.fixture
def app() -> trio_queue.App:
    """Three jobs: of two queues, one with a lock, one failed."""
    app = trio_queue.App(connector=InMemoryConnector())

    @app.task(name="fail")
    def fail() -> None:
        raise ValueError

    fail.configure(queue="b").defer()
    app.run_worker(wait=False, install_signal_handlers=False)
    app.configure_task("greet", queue="a", lock="the lock", priority=3).defer(name="Ada")
    app.configure_task("greet", queue="b").defer()
    return app


@pytest.fixture
def say(app: trio_queue.App) -> Say:
    """Say a line to the shell of these jobs, and read its answer."""

    def say(line: str) -> str:
        output = io.StringIO()
        assert Shell(app.job_manager, output).onecmd(line) is (line in {"exit", "EOF"})
        return output.getvalue()

    return say


def test_it_has_the_commands_of_procrastinate() -> None:
    def commands(shell: type) -> set[str]:
        return {name for name in dir(shell) if name.startswith("do_")}

    assert commands(procrastinate.shell.ProcrastinateShell) == commands(Shell)


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        (
            "list_jobs",
            "#1 fail on b - [failed]\n#2 greet on a - [todo]\n#3 greet on b - [todo]\n",
        ),
        (
            "list_jobs queue=a task=greet status=todo lock='the lock' details",
            (
                "#2 greet on a - [todo] (attempts=0, priority=3, scheduled_at=None, "
                "args={'name': 'Ada'}, lock=the lock)\n"
            ),
        ),
        ("list_jobs id=3", "#3 greet on b - [todo]\n"),
        ("list_jobs queueing_lock=none", ""),
        (
            "list_queues status=todo",
            (
                "a: 1 jobs (todo: 1, doing: 0, succeeded: 0, failed: 0, cancelled: 0, aborted: 0)\n"
                "b: 1 jobs (todo: 1, doing: 0, succeeded: 0, failed: 0, cancelled: 0, aborted: 0)\n"
            ),
        ),
        (
            "list_tasks task=fail",
            "fail: 1 jobs (todo: 0, doing: 0, succeeded: 0, failed: 1, cancelled: 0, aborted: 0)\n",
        ),
        (
            "list_locks lock='the lock'",
            (
                "the lock: 1 jobs (todo: 1, doing: 0, succeeded: 0, failed: 0, cancelled: 0, "
                "aborted: 0)\n"
            ),
        ),
        ("retry 1", "#1 fail on b - [todo]\n"),
        ("cancel 3", "#3 greet on b - [cancelled]\n"),
        (
            "cancel 1",
            "#1 fail on b - [failed]\nError: job 1 is `failed`, and does not wait\n",
        ),
        ("", ""),
        ("exit", ""),
        ("EOF", "\n"),
    ],
)
def test_what_it_answers(say: Say, line: str, answer: str) -> None:
    assert say(line) == answer


async def say_to_procrastinates(conninfo: str, line: str) -> None:
    """As its command line does."""
    app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=conninfo))
    async with app.open_async():
        shell = procrastinate.shell.ProcrastinateShell(app.job_manager)
        await procrastinate.utils.sync_to_async(shell.onecmd, line)


@pytest.mark.parametrize(
    "line",
    [
        "list_jobs",
        "list_jobs queue=a details",
        "list_queues",
        "list_tasks",
        "list_locks",
        "retry 1",
    ],
)
def test_it_answers_as_procrastinates(
    queue_database: str, capsys: pytest.CaptureFixture[str], line: str
) -> None:
    connector = trio_queue.PsycopgConnector(conninfo=queue_database)
    app = trio_queue.App(connector=connector)
    with app.open():
        app.configure_task("greet", queue="a", lock="l").defer(name="Ada")
        app.configure_task("greet", queue="b").defer()
        # A database has another answer to `retry` the second time.
        fail = "UPDATE procrastinate_jobs SET status = 'failed' WHERE id = 1"
        connector.run_script(fail)
        output = io.StringIO()
        Shell(app.job_manager, output).onecmd(line)
        connector.run_script(fail)
    asyncio.run(say_to_procrastinates(queue_database, line))
    assert output.getvalue() == capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("lst", "there is no command 'lst', but EOF, cancel,"),
        ("list_jobs id=x", "give the number of a job, not 'x'"),
        ("list_jobs id=9223372036854775808", "9223372036854775808 is not an id: ids are"),
        ("cancel -9223372036854775809", "-9223372036854775809 is not an id"),
        ("list_jobs nope=1", "'nope=1' is not a filter: there are id=..., queue=...,"),
        ("list_jobs status", "'status' is not a filter"),
        ("list_queues details", "'details' is not a filter"),
        ("list_jobs status=odd", "there is no status 'odd', but todo,"),
        ("list_jobs lock='a", "No closing quotation"),
        ("retry", "give the number of a job, such as 12"),
        ("retry 99", "99"),
        ("cancel 99", "there is no job 99"),
    ],
)
def test_what_is_wrong_is_told_in_a_line(say: Say, line: str, error: str) -> None:
    answer = say(line)
    assert answer.startswith("Error: ")
    assert error in answer
    assert answer.count("\n") == 1


def test_help(say: Say) -> None:
    assert "list_jobs" in say("help")
    assert say("help retry").startswith("Let a job wait again")
    assert "No help on nope" in say("help nope")


def test_the_prompt_goes_on_after_an_error_and_after_ctrl_c(
    app: trio_queue.App, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = iter(["nope", None, "list_jobs id=3"])

    def type_line(_: str) -> str:
        match next(lines, ""):
            case None:
                raise KeyboardInterrupt
            case "":
                raise EOFError
            case line:
                return line

    monkeypatch.setattr("builtins.input", type_line)
    output = io.StringIO()
    Shell(app.job_manager, output).cmdloop()
    said = output.getvalue()
    assert said.count("The shell of trio_queue") == 1
    assert "Error: there is no command 'nope'" in said
    assert said.index("Error") < said.index("#3 greet on b - [todo]")


def test_one_command_from_the_command_line(run: Run, on_queue: str) -> None:
    del on_queue
    run("--app", APP, "defer", "add", '{"a": 1, "b": 2}')
    listed = run("--app", APP, "shell", "list_jobs", "task=add")
    assert (listed.stdout, listed.exit_code) == ("#1 add on numbers - [todo]\n", 0)
    assert run("shell", "list_jobs", "lock=with spaces").exit_code == 0
    wrong = run("shell", "retry", "x")
    assert (wrong.stdout, wrong.exit_code) == ("Error: give the number of a job, not 'x'\n", 1)


def test_without_tables_it_says_which_command_makes_them(
    run: Run, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", database)
    refused = run("shell", "list_jobs")
    assert refused.exit_code == 1
    assert "schema --apply" in refused.stderr


def test_lines_from_a_pipe(on_queue: str) -> None:
    del on_queue
    done = CliRunner().invoke(cli, ["shell"], input="list_queues\nexit\n")
    assert done.exit_code == 0, done.output
    assert "The shell of trio_queue" in done.stdout


def test_on_a_terminal(start: Callable[..., Process], on_queue: str) -> None:
    del on_queue
    shell = start("shell", terminal=True)
    shell.wait_said("trio-queue> ")
    shell.type("list_jobs status=odd\n")
    shell.wait_said("there is no status 'odd'")
    shell.type("exit\n")
    assert shell.wait_end() == 0
