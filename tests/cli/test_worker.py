"""`trio-queue worker`, as a process."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from tests.cli.conftest import APP
from trio_queue import App

if TYPE_CHECKING:
    from collections.abc import Callable

    from click.testing import Result

    from tests.cli.processes import Process

#: Nobody listens there.
AWAY = "host=127.0.0.1 port=1"


def statuses(conninfo: str) -> dict[int, str]:
    with psycopg.connect(conninfo) as connection:
        rows = connection.execute("SELECT id, status::text FROM procrastinate_jobs").fetchall()
    return dict(rows)


def test_one_shot_runs_what_is_there_and_exits_with_0(
    start: Callable[..., Process], run: Callable[..., Result], on_queue: str
) -> None:
    for a in range(5):
        assert run("-a", APP, "defer", "add", json.dumps({"a": a, "b": 1})).exit_code == 0
    assert run("-a", APP, "defer", "fail").exit_code == 0
    worker = start("--app", APP, "worker", "--one-shot", "--concurrency", "3")
    assert worker.wait_end() == 0, worker.said
    assert statuses(on_queue) == dict.fromkeys(range(1, 6), "succeeded") | {6: "failed"}
    assert "ValueError: as it was meant" in worker.said
    assert "\x1b[" not in worker.said, "no colours where there is no terminal"


def test_only_its_queues(
    start: Callable[..., Process], run: Callable[..., Result], on_queue: str
) -> None:
    run("-a", APP, "defer", "add", '{"a": 1, "b": 2}')
    run("-a", APP, "defer", "add", '{"a": 1, "b": 2}', "--queue", "other")
    run("-a", APP, "defer", "add", '{"a": 1, "b": 2}', "--queue", "third")
    worker = start("--app", APP, "worker", "-w", "--one-shot", "-q", "other, third")
    assert worker.wait_end() == 0, worker.said
    assert statuses(on_queue) == {1: "todo", 2: "succeeded", 3: "succeeded"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_drains_and_exits_with_0(
    start: Callable[..., Process],
    run: Callable[..., Result],
    on_queue: str,
    number: signal.Signals,
) -> None:
    run("-a", APP, "defer", "until_drained")
    worker = start("--app", APP, "worker")
    worker.wait_said("Starting job until_drained")
    worker.send(number)
    assert worker.wait_end() == 0, worker.said
    assert statuses(on_queue) == {1: "succeeded"}
    assert f"draining ({number.name})" in worker.said
    assert run("workers").stdout == ""


def test_two_signals_abort(
    start: Callable[..., Process], run: Callable[..., Result], on_queue: str
) -> None:
    run("-a", APP, "defer", "for_ever")
    worker = start("--app", APP, "worker", terminal=True)
    worker.wait_said("Starting job for_ever")
    worker.send(signal.SIGINT)
    worker.wait_said("draining (SIGINT): 1 job runs, for_ever[1]() for ")
    worker.wait_said("ask again to abort (Ctrl-C)")
    worker.send(signal.SIGINT)
    assert worker.wait_end() == 0, worker.said
    assert statuses(on_queue) == {1: "aborted"}


@pytest.mark.promise(
    "What asks for it / SIGINT or SIGTERM for the third time, with exit_on_third_signal"
)
def test_the_third_signal_leaves_at_once(
    start: Callable[..., Process], run: Callable[..., Result], on_queue: str
) -> None:
    run("-a", APP, "defer", "deaf")
    worker = start("--app", APP, "worker")
    worker.wait_said("Starting job deaf")
    worker.send(signal.SIGTERM)
    worker.wait_said("is draining")
    worker.send(signal.SIGTERM)
    worker.wait_said("is aborting")
    worker.send(signal.SIGTERM)
    assert worker.wait_end() == 128 + signal.SIGTERM, worker.said
    assert "leaves at once (SIGTERM, the third signal): 1 job runs, deaf[1]()" in worker.said
    assert "Traceback" not in worker.said


def test_json_lines_carry_what_they_are_about(
    start: Callable[..., Process], run: Callable[..., Result], on_queue: str
) -> None:
    run("-a", APP, "defer", "add", '{"a": 1, "b": 2}')
    run("-a", APP, "defer", "fail")
    worker = start("--log-format", "json", "--app", APP, "worker", "--one-shot", "-n", "night")
    assert worker.wait_end() == 0, worker.said
    records = read_records(worker.said)
    by_action = {record["action"]: record for record in records if "action" in record}
    success = by_action["job_success"]
    assert (success["task"], success["queue"], success["job_id"]) == ("add", "numbers", 1)
    assert success["job"]["task_kwargs"] == {"a": 1, "b": 2}
    assert success["worker"]["name"] == "night"
    assert success["level"] == "info"
    assert "ValueError: as it was meant" in by_action["job_error"]["exception"]
    assert by_action["start_worker"]["worker"]["name"] == "night"
    stage = by_action["worker_stage"]
    assert (stage["stage"], stage["who"]) == ("draining", "wait=False, no job is left")
    assert (stage["running"], stage["not_begun"], stage["unwritten"]) == (0, 0, 0)
    assert "stop_worker" in by_action


def read_records(text: str) -> list[dict[str, Any]]:
    """The records of a log of JSON lines, that holds nothing else."""
    return [json.loads(line) for line in text.splitlines()]


def test_a_database_that_is_away_is_an_error_of_the_json_log(run: Callable[..., Result]) -> None:
    """A collector reads nothing but the records, and an alert those of level error."""
    result = run("--log-format", "json", "--database", AWAY, "-a", APP, "worker")
    *_, stopped, failed = read_records(result.stderr)
    assert (result.exit_code, result.stdout) == (1, "")
    assert (stopped["action"], stopped["level"]) == ("stop_worker", "info")
    assert (failed["action"], failed["level"]) == ("worker_failed", "error")
    assert failed["message"].startswith("The worker failed: cannot connect to PostgreSQL")
    assert "exception" not in failed
    assert result.stderr.count('"level": "error"') == 1
    assert result.stderr.count("pip install") == 1


def test_in_the_text_log_it_is_a_record_too(run: Callable[..., Result]) -> None:
    result = run("--database", AWAY, "-a", APP, "worker")
    assert result.exit_code == 1
    assert result.stderr.count(" ERROR   The worker failed: cannot connect to PostgreSQL") == 1
    assert "Error: " not in result.stderr


def test_an_app_that_sets_up_logging_for_itself_does_not_take_it_away(
    start: Callable[..., Process], tmp_path: Any
) -> None:
    """What `dictConfig` does by default: the loggers that there are already fall silent."""
    (tmp_path / "mine.py").write_text(
        "import logging.config, trio_queue\n"
        "logging.config.dictConfig({'version': 1})\n"
        "app = trio_queue.App(connector=trio_queue.PsycopgConnector())\n"
    )
    options = ("--log-format", "json", "--database", AWAY, "--app", "mine:app")
    worker = start(*options, "worker", cwd=tmp_path)
    assert worker.wait_end() == 1
    assert read_records(worker.said)[-1]["action"] == "worker_failed"


def test_where_the_log_has_no_place_for_it_it_is_told_all_the_same(
    run: Callable[..., Result],
) -> None:
    result = run("--log-level", "critical", "--database", AWAY, "-a", APP, "worker")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: cannot connect to PostgreSQL")


@pytest.mark.parametrize("format", ["json", "%(levelname)s %(message)s"])
@pytest.mark.parametrize("options", [["-c", "many"], ["--stalled-worker-timeout", "1"]])
def test_options_that_are_wrong_are_an_error_of_a_log_for_programs(
    run: Callable[..., Result], on_queue: str, format: str, options: list[str]
) -> None:
    result = run("--log-format", format, "-a", APP, "worker", *options)
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    if format == "json":
        [failed] = read_records(result.stderr)
        assert (failed["action"], failed["level"]) == ("worker_failed", "error")
    else:
        assert result.stderr.startswith("ERROR The worker failed: ")


def test_an_error_that_nobody_expects_comes_with_its_traceback(
    run: Callable[..., Result], on_queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_worker(_: App, **__: Any) -> None:
        raise RuntimeError("as it was meant")

    monkeypatch.setattr(App, "run_worker", run_worker)
    result = run("--log-format", "json", "-a", APP, "worker")
    [failed] = read_records(result.stderr)
    assert result.exit_code == 1
    assert failed["message"] == "The worker failed: RuntimeError: as it was meant"
    assert failed["exception"].startswith("Traceback")


def test_an_app_in_the_working_directory(
    start: Callable[..., Process], on_queue: str, tmp_path: Any
) -> None:
    (tmp_path / "mine.py").write_text(
        "import trio_queue\n"
        "app = trio_queue.App(connector=trio_queue.PsycopgConnector())\n"
        "@app.task(name='here')\n"
        "def here(): pass\n"
    )
    defer = start("--app", "mine.app", "defer", "here", cwd=tmp_path)
    assert defer.wait_end() == 0, defer.said
    worker = start("worker", "--app", "mine:app", "--one-shot", cwd=tmp_path)
    assert worker.wait_end() == 0, worker.said
    assert statuses(on_queue) == {1: "succeeded"}
