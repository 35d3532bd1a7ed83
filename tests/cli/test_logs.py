"""What the log looks like."""

from __future__ import annotations

import datetime
import io
import json
import logging
import sys
from typing import TYPE_CHECKING, Any

import pytest

from trio_queue._cli import logs
from trio_queue.jobs import Job
from trio_queue.log import Action, fields

if TYPE_CHECKING:
    from collections.abc import Callable

    from click.testing import Result


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def record(level: int = logging.INFO, **extra: Any) -> logging.LogRecord:
    logger = logging.getLogger("trio_queue.somewhere")
    return logger.makeRecord(
        logger.name, level, __file__, 1, "it %s", ("happened",), None, extra=extra
    )


def test_text_is_for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever sits at the terminal knows the date; who reads a file a week later does not."""
    monkeypatch.setenv("NO_COLOR", "1")
    told = record(logging.WARNING)
    told.created = datetime.datetime(2030, 1, 2, 3, 4, 5, 678900).astimezone().timestamp()
    on_terminal = logs.make_formatter("text", "%", Terminal()).format(told)
    assert on_terminal == "03:04:05.678 WARNING it happened"
    elsewhere = logs.make_formatter("text", "%", io.StringIO()).format(told)
    assert elsewhere == "2030-01-02T03:04:05.678 WARNING it happened"


def test_colours_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    on_terminal = logs.make_formatter("text", "%", Terminal())
    assert on_terminal.format(record(logging.ERROR)).startswith("\x1b[31m")
    assert "\x1b" not in on_terminal.format(record(logging.INFO))
    monkeypatch.setenv("NO_COLOR", "1")
    no_colours = logs.make_formatter("text", "%", Terminal())
    assert "\x1b" not in no_colours.format(record(logging.ERROR))


def test_json_has_the_fields_of_a_record_about_a_job() -> None:
    job = Job(id=3, task_name="add", queue="numbers", task_kwargs={"a": 1})
    line = logs.JsonFormatter().format(
        record(
            **fields(Action.START_JOB, job=job.log_context(), worker={"name": "w", "worker_id": 9})
        )
    )
    assert "\n" not in line
    told = json.loads(line)
    assert told["message"] == "it happened"
    assert told["logger"] == "trio_queue.somewhere"
    assert told["action"] == "start_job"
    assert told["job"]["call_string"] == "add[3](a=1)"
    assert (told["job_id"], told["task"], told["queue"]) == (3, "add", "numbers")
    assert told["worker"]["name"] == "w"
    assert told["timestamp"].endswith("+00:00")


def test_json_never_fails_on_a_value_that_json_lacks() -> None:
    told = json.loads(logs.JsonFormatter().format(record(result=object(), many={1, 2})))
    assert "object" in told["result"]


def test_a_format_of_the_logging_module() -> None:
    line = logs.make_formatter("{levelname}|{message}", "{", io.StringIO()).format(record())
    assert line == "INFO|it happened"
    with pytest.raises(ValueError, match="format"):
        logs.make_formatter("{levelname", "%", io.StringIO())


@pytest.mark.parametrize(
    ("format", "style", "told"),
    [
        ("%(levelname)s %(nope)s", "%", "'nope'"),
        ("{levelname} {nope}", "{", "'nope'"),
        ("$levelname ${nope}", "$", "'nope'"),
        # Records of ours have it, those of other libraries have not.
        ("%(action)s %(message)s", "%", "'action'"),
        ("%(message)d", "%", "a real number is required"),
        ("{message.nope}", "{", "'nope'"),
        ("{message:d}", "{", "'d'"),
    ],
)
def test_a_format_that_no_record_fits_is_refused(format: str, style: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        logs.make_formatter(format, style, io.StringIO())


@pytest.mark.parametrize(
    ("format", "style"),
    [
        ("%(asctime)s %(levelno)d %(process)d %(funcName)s:%(lineno)d %(msecs)03d", "%"),
        ("{asctime} {name:>20} {thread:d} {relativeCreated:.1f} {message}", "{"),
        ("$asctime $processName ${threadName} $pathname $$", "$"),
    ],
)
def test_every_field_of_a_record_may_be_in_a_format(format: str, style: str) -> None:
    assert logs.make_formatter(format, style, io.StringIO()).format(record())


@pytest.mark.parametrize(
    ("asked", "level"),
    [
        ({}, logging.INFO),
        ({"verbose": 1}, logging.DEBUG),
        ({"quiet": 1}, logging.WARNING),
        ({"quiet": 2}, logging.ERROR),
        ({"verbose": 2, "log_level": "error"}, logging.ERROR),
        ({"log_level": "Critical"}, logging.CRITICAL),
    ],
)
def test_levels(asked: dict[str, Any], level: int) -> None:
    options: dict[str, Any] = {"log_level": None, "verbose": 0, "quiet": 0, **asked}
    assert logs.chosen_level(**options) == level


def test_logging_is_as_before_when_the_command_has_ended(run: Callable[..., Result]) -> None:
    root = logging.getLogger()
    before = (root.level, list(root.handlers))
    assert run("-v", "schema", "--migrations-path").exit_code == 0
    assert (root.level, list(root.handlers)) == before


def test_without_stderr_there_is_no_log(
    run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What starts a daemon may have closed it: Python's is None then."""
    handlers = list(logging.getLogger().handlers)
    monkeypatch.setattr(sys, "stderr", None)
    with logs.logging_to_stderr(logging.INFO, logs.TEXT, "%"):
        assert logging.getLogger().handlers == handlers


def test_the_details_of_an_error_are_shown_when_asked_for(run: Callable[..., Result]) -> None:
    quiet = run("-a", "tests.cli.broken_application:app", "worker")
    assert "Traceback" not in quiet.stderr
    verbose = run("-v", "-a", "tests.cli.broken_application:app", "worker")
    assert "Traceback" in verbose.stderr
    assert verbose.stderr.endswith("this module is broken on purpose\n")
