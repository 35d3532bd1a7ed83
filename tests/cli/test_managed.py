"""A worker under what starts, stops and kills it: the recipes of docs/howto/deploy.md."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from click.testing import Result

from tests.cli.conftest import APP, ROOT
from tests.cli.processes import Process
from tests.waiting import wait_for_end, wait_until

DEPLOY = ROOT / "docs" / "howto" / "deploy.md"
#: Seconds that a stop may take after the graceful timeout: the lease, and the goodbye.
AFTER = 30 + 30

#: Makes the first process of a namespace, as a container's is.
UNSHARE = ["unshare", "--pid", "--fork", "--kill-child"]
if os.geteuid() != 0:
    UNSHARE[1:1] = ["--user", "--map-root-user"]

WORKER = [sys.executable, "-m", "trio_queue", "--app", APP, "worker", "--concurrency", "5"]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", DEPLOY.read_text(), re.DOTALL | re.MULTILINE)


def jobs(conninfo: str) -> dict[int, str]:
    with psycopg.connect(conninfo) as connection:
        return dict(
            connection.execute("SELECT id, status::text FROM procrastinate_jobs").fetchall()
        )


@pytest.fixture
def start_first() -> Iterator[Callable[..., tuple[Process, int]]]:
    """Start a program as the first process of a namespace. Gives the process around it, and its id."""
    probe = subprocess.run([*UNSHARE, "true"], capture_output=True, check=False)
    if probe.returncode != 0:
        pytest.skip("this machine does not let us make a namespace of processes")
    processes: list[Process] = []

    def start(*command: str) -> tuple[Process, int]:
        process = Process.start([*UNSHARE, *command], {**os.environ, "PYTHONPATH": str(ROOT)})
        processes.append(process)
        process.wait_said("Starting worker")
        pid = process.popen.pid
        [first] = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return process, int(first)

    yield start
    for process in processes:
        process.kill()


def test_a_containers_first_process_drains(
    start_first: Callable[..., tuple[Process, int]], run: Callable[..., Result], on_queue: str
) -> None:
    run("-a", APP, "defer", "until_drained")
    process, first = start_first(*WORKER)
    process.wait_said("Starting job until_drained")
    os.kill(first, signal.SIGTERM)
    assert process.wait_end() == 0, process.said
    assert "is draining (SIGTERM)" in process.said
    assert jobs(on_queue) == {1: "succeeded"}


def test_a_shell_as_the_first_process_does_not_pass_the_signal_on(
    start_first: Callable[..., tuple[Process, int]], run: Callable[..., Result], on_queue: str
) -> None:
    run("-a", APP, "defer", "until_drained")
    process, first = start_first("sh", "-c", f"{' '.join(WORKER)}; echo the last line")
    process.wait_said("Starting job until_drained[1]")
    os.kill(first, signal.SIGTERM)
    run("-a", APP, "defer", "until_drained")
    process.wait_said("Starting job until_drained[2]")  # it works on
    os.kill(first, signal.SIGKILL)
    process.wait_end()
    assert "draining" not in process.said
    assert jobs(on_queue) == {1: "doing", 2: "doing"}


def test_with_exec_as_its_last_line_a_shell_may_come_first(
    start_first: Callable[..., tuple[Process, int]], run: Callable[..., Result], on_queue: str
) -> None:
    run("-a", APP, "defer", "until_drained")
    process, first = start_first("sh", "-c", f"true; exec {' '.join(WORKER)}")
    process.wait_said("Starting job until_drained")
    os.kill(first, signal.SIGTERM)
    assert process.wait_end() == 0, process.said
    assert jobs(on_queue) == {1: "succeeded"}


#: Not stopped yet by anything that it handles itself, as while Python imports.
IMPORTS = """
import signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
print("Starting worker soon", flush=True)
signal.sigwait([signal.SIGUSR1])
print("it was not stopped")
"""


def test_a_first_process_is_not_stopped_by_a_signal_that_it_does_not_handle_yet(
    start_first: Callable[..., tuple[Process, int]],
) -> None:
    process, first = start_first(sys.executable, "-c", IMPORTS)
    os.kill(first, signal.SIGTERM)
    os.kill(first, signal.SIGUSR1)
    assert process.wait_end() == 0
    assert "it was not stopped" in process.said


@pytest.mark.promise("What is promised / 11", "What happened to a job / worker_died")
def test_what_a_manager_kills_after_its_limit_is_rescued(
    start_python: Callable[..., Process], run: Callable[..., Result], on_queue: str
) -> None:
    lease = ["--update-heartbeat-interval", "0.1", "--stalled-worker-timeout", "1"]
    worker = ["-m", "trio_queue", "--app", APP, "worker", *lease]
    run("-a", APP, "defer", "deaf")
    process = start_python(*worker, "--shutdown-graceful-timeout", "0.1")
    process.wait_said("Starting job deaf")
    process.send(signal.SIGTERM)
    process.wait_said("is aborting (shutdown_graceful_timeout of 0.1 s): 1 job runs")
    process.send(signal.SIGKILL)
    wait_for_end(process.popen.pid)
    assert jobs(on_queue) == {1: "doing"}
    another = start_python(*worker, "--queues", "another")
    another.wait_said("Rescued job deaf[1](), whose worker died")
    wait_until(lambda: jobs(on_queue) == {1: "todo"}, "the rescue")
    events = json.loads(run("jobs", "show", "1", "--json").stdout)["events"]
    assert [event["reason"] for event in events] == [None, None, "worker_died"]


def test_a_hook_that_asks_first_makes_the_managers_signal_the_second(
    start_python: Callable[..., Process], run: Callable[..., Result], on_queue: str
) -> None:
    run("-a", APP, "defer", "for_ever")
    process = start_python("-m", "trio_queue", "--app", APP, "worker")
    process.wait_said("Starting job for_ever")
    process.send(signal.SIGTERM)  # the hook's
    process.wait_said("is draining (SIGTERM)")
    process.send(signal.SIGTERM)  # the manager's own
    assert process.wait_end() == 0, process.said
    assert jobs(on_queue) == {1: "aborted"}


@pytest.mark.parametrize(
    ("language", "limit"),
    [
        ("ini", r"TimeoutStopSec=(\d+)"),
        ("yaml", r"terminationGracePeriodSeconds: (\d+)"),
        ("yaml", r"stop_grace_period: (\d+)s"),
    ],
)
def test_a_managers_limit_is_longer_than_a_stop_may_take(language: str, limit: str) -> None:
    [timeout] = set(re.findall(r"--shutdown-graceful-timeout=(\d+)", DEPLOY.read_text()))
    [seconds] = re.findall(limit, "".join(blocks(language)))
    assert int(seconds) > int(timeout) + AFTER


def test_commands_of_containers_are_lists_that_need_no_shell() -> None:
    text = "".join(blocks("dockerfile") + blocks("yaml"))
    lists = re.findall(r"^ *(?:CMD|command:) (.*)$", text, re.MULTILINE)
    assert len(lists) == 2
    for command in map(json.loads, lists):
        assert command[0] == "trio-queue"
        assert "worker" in command


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    [unit] = blocks("ini")
    unit = unit.replace("/srv/myapp/.venv/bin/trio-queue", sys.executable)
    path = tmp_path / "myapp-worker@1.service"
    path.write_text(unit.replace("User=myapp", "User=root"))
    # Without the machine's own units, whose warnings are not ours.
    verified = subprocess.run(
        [analyze, "verify", "--recursive-errors=no", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (verified.returncode, verified.stderr) == (0, "")
    path.write_text(unit.replace("KillMode=mixed", "KillMode=mixd"))
    wrong = subprocess.run([analyze, "verify", str(path)], capture_output=True, check=False)
    assert b"mixd" in wrong.stderr
