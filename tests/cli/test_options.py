"""A worker's options on the command line are the ones that `Options` declares."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.cli.conftest import APP
from trio_queue import App

if TYPE_CHECKING:
    from collections.abc import Callable

    from click.testing import Result

IN_MEMORY = "tests.cli.application:in_memory"


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The options that `App.run_worker` is called with."""
    found: dict[str, Any] = {}

    def run_worker(_: App, **options: Any) -> None:
        options.pop("install_signal_handlers")
        options.pop("exit_on_third_signal", None)
        found.update(options)

    monkeypatch.setattr(App, "run_worker", run_worker)
    return found


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ([], {}),
        (["-q", "a, b,", "-n", "me"], {"queues": ["a", "b"], "name": "me"}),
        (["--queues", ""], {"queues": None}),
        (["-c", "3", "--thread-limit", "2"], {"concurrency": 3, "thread_limit": 2}),
        (["-w"], {"wait": True}),
        (["--one-shot"], {"wait": False}),
        (["-l"], {"listen_notify": True}),
        (["--no-listen-notify"], {"listen_notify": False}),
        (
            ["-p", "1.5", "-a", "2"],
            {"fetch_job_polling_interval": 1.5, "abort_job_polling_interval": 2.0},
        ),
        (["--shutdown-graceful-timeout", "0"], {"shutdown_graceful_timeout": 0.0}),
        (["--delete-jobs", "successful"], {"delete_jobs": "successful"}),
        (["--interrupted-jobs", "requeue"], {"interrupted_jobs": "requeue"}),
        (
            ["--update-heartbeat-interval", "1", "--stalled-worker-timeout", "2"],
            {"update_heartbeat_interval": 1.0, "stalled_worker_timeout": 2.0},
        ),
    ],
)
def test_options(
    run: Callable[..., Result],
    given: dict[str, Any],
    arguments: list[str],
    options: dict[str, Any],
) -> None:
    result = run("-a", IN_MEMORY, "worker", *arguments)
    assert result.exit_code == 0, result.output
    assert given == options


def test_what_is_not_given_is_left_to_the_app(run: Callable[..., Result]) -> None:
    """`worker_defaults` of the App are not overwritten by the command line's own defaults."""
    result = run("-a", IN_MEMORY, "worker", "--one-shot")
    assert result.exit_code == 0, result.output
    assert "concurrency 7" in result.stderr


@pytest.mark.parametrize(
    ("env", "options"),
    [
        ({"TRIO_QUEUE_WORKER_CONCURRENCY": "4"}, {"concurrency": 4}),
        ({"PROCRASTINATE_WORKER_CONCURRENCY": "4"}, {"concurrency": 4}),
        (
            {"PROCRASTINATE_WORKER_CONCURRENCY": "4", "TRIO_QUEUE_WORKER_CONCURRENCY": "5"},
            {"concurrency": 5},
        ),
        ({"PROCRASTINATE_WORKER_WAIT": "n"}, {"wait": False}),
        ({"TRIO_QUEUE_WORKER_LISTEN_NOTIFY": "0"}, {"listen_notify": False}),
        ({"TRIO_QUEUE_WORKER_QUEUES": "a,b"}, {"queues": ["a", "b"]}),
        ({"TRIO_QUEUE_WORKER_QUEUES": ""}, {}),
        ({"TRIO_QUEUE_WORKER_SHUTDOWN_GRACEFUL_TIMEOUT": "9"}, {"shutdown_graceful_timeout": 9.0}),
    ],
)
def test_the_environment(
    run: Callable[..., Result],
    given: dict[str, Any],
    env: dict[str, str],
    options: dict[str, Any],
) -> None:
    result = run("worker", env={"TRIO_QUEUE_APP": IN_MEMORY, **env})
    assert result.exit_code == 0, result.output
    assert given == options


def test_the_command_line_wins_over_the_environment(
    run: Callable[..., Result], given: dict[str, Any]
) -> None:
    env = {"TRIO_QUEUE_APP": APP, "TRIO_QUEUE_WORKER_CONCURRENCY": "4"}
    assert run("worker", "--app", IN_MEMORY, "-c", "6", env=env).exit_code == 0
    assert given == {"concurrency": 6}
