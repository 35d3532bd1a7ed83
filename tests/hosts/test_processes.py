"""Ctrl-C, SIGTERM and the end of a real process around a worker in an asyncio loop."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial

import pytest

from tests.hosts.application import Application, cancelled, eventually, needs_uvloop
from tests.waiting import PATIENCE, wait_until


@contextmanager
def process(
    application: Application, how: str, job: str = "drains"
) -> Generator[subprocess.Popen[str]]:
    """The process, whose worker runs a job."""
    application.defer(job)
    with subprocess.Popen(
        [sys.executable, "-m", "tests.hosts.process", how, application.database.info.dsn],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as started:
        try:
            assert started.stdout is not None
            assert started.stdout.readline() == "began\n", started.communicate()
            yield started
        finally:
            started.kill()


def ended(started: subprocess.Popen[str]) -> tuple[int, list[str], str]:
    """Its exit status, what it said since it began, and its stderr."""
    assert started.stdout is not None
    assert started.stderr is not None
    # Not by communicate(): what came together with the first line is in the buffer already.
    out, err = started.stdout.read(), started.stderr.read()
    return started.wait(PATIENCE), out.splitlines(), err


@pytest.mark.parametrize(
    ("how", "number"),
    [
        ("handlers", signal.SIGINT),
        ("handlers, uvloop", signal.SIGTERM),
        ("run_worker", signal.SIGTERM),
    ],
)
def test_a_signal_drains_and_the_program_goes_on(
    application: Application, how: str, number: signal.Signals
) -> None:
    with process(application, how) as started:
        started.send_signal(number)
        assert ended(started) == (0, ["returned", "left"], "")
    assert application.statuses == ["succeeded"]


@pytest.mark.parametrize("how", ["no handlers, beside other work", "no handlers, no Runner"])
def test_without_handlers_ctrl_c_drains_and_is_raised_when_the_jobs_have_ended(
    application: Application, how: str
) -> None:
    with process(application, how) as started:
        started.send_signal(signal.SIGINT)
        status, out, err = ended(started)
        assert status == -signal.SIGINT
        assert out[-1] == "returned"
        assert err.splitlines()[-1] == "KeyboardInterrupt"
    assert application.statuses == ["succeeded"]


def test_a_process_that_leaves_a_stopped_loop_behind_drains_its_worker(
    application: Application,
) -> None:
    with process(application, "exits") as started:
        status, out, err = ended(started)
        assert status == 0
        assert out == ["left", "returned"], err
    assert application.statuses == ["succeeded"]
    assert application.workers == 0


@pytest.mark.parametrize(
    "how",
    [
        "third signal",
        pytest.param("third signal, uvloop", marks=[needs_uvloop, pytest.mark.only_in_asyncio]),
    ],
)
def test_the_third_signal_leaves_at_once_and_another_worker_has_the_job(
    application: Application, how: str
) -> None:
    @application.app.task(name="deaf")
    async def deaf() -> None:
        pass

    with process(application, how, "deaf") as started:
        for stage in ("draining", "aborting"):
            started.send_signal(signal.SIGTERM)
            wait_until(partial(_is_in, application, stage), stage)
        assert application.statuses == ["doing"]
        started.send_signal(signal.SIGTERM)
        status, _, err = ended(started)
        assert status == 128 + signal.SIGTERM, err
        assert "Traceback" not in err
    assert application.workers == 0, "what it ran is released, and waits for no lease"
    asyncio.run(rescued(application))


def _is_in(application: Application, stage: str) -> bool:
    return application.stages == [stage]


async def rescued(application: Application) -> None:
    worker = asyncio.create_task(application.app.run_worker_async())
    await eventually(lambda: application.statuses == ["succeeded"], "the rescue")
    worker.cancel()
    with cancelled():
        await worker


def test_without_handlers_the_second_ctrl_c_aborts(application: Application) -> None:
    """By way of asyncio.run(), whose end is the second cancel."""
    with process(application, "no handlers", "presses") as started:
        started.send_signal(signal.SIGINT)
        status, out, err = ended(started)
        assert status == -signal.SIGINT, err
        assert out == ["cancelled"]
        assert err.splitlines()[-1] == "KeyboardInterrupt"
    assert application.statuses == ["aborted"]
    assert application.workers == 0


@pytest.mark.parametrize("job", ["presses_after", "presses_after_on_trio"])
def test_a_second_ctrl_c_where_a_body_has_ended_loses_no_outcome(
    application: Application, job: str
) -> None:
    with process(application, "no handlers", job) as started:
        started.send_signal(signal.SIGINT)
        status, out, err = ended(started)
        assert status == -signal.SIGINT, err
        assert out == ["pressed"]
        assert err.splitlines()[-1] == "KeyboardInterrupt"
    assert application.statuses == ["succeeded"]
    assert application.workers == 0
