from __future__ import annotations

import functools
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from tests.colours import Run, in_both_loops
from tests.recording import RecordingConnector
from trio_queue import deferring
from trio_queue.deferring import JobDeferrer
from trio_queue.exceptions import AlreadyEnqueued, InvalidArguments
from trio_queue.jobs import Job
from trio_queue.manager import JobManager
from trio_queue.testing import InMemoryConnector

JOB = Job(task_name="task", queueing_lock="q", task_kwargs={"a": 1})


@pytest.fixture
def connector() -> RecordingConnector:
    return RecordingConnector()


@pytest.fixture
def deferrer(connector: RecordingConnector) -> JobDeferrer:
    return JobDeferrer(JobManager(connector), JOB)


@pytest.fixture(autouse=True)
def forget_warnings() -> Iterator[None]:
    deferring.warned_of_main.clear()
    yield
    deferring.warned_of_main.clear()


def test_make_new_job_merges_arguments(deferrer: JobDeferrer) -> None:
    assert deferrer.make_new_job(b=2).task_kwargs == {"a": 1, "b": 2}
    assert deferrer.make_new_job(a=2).task_kwargs == {"a": 2}
    assert deferrer.job is JOB


def test_arguments_are_checked_when_they_are_complete(connector: RecordingConnector) -> None:
    checked: list[Any] = []
    deferrer = JobDeferrer(
        JobManager(connector), JOB, check_arguments=lambda told: checked.append(set(told))
    )
    deferrer.defer(b=2)
    # Of a batch, those of the same names once.
    deferrer.batch_defer({}, {"a": 3}, {"c": 4}, {"a": 5})
    assert checked == [{"a", "b"}, {"a"}, {"a", "c"}]


def test_a_batch_with_one_misfit_inserts_nothing(connector: RecordingConnector) -> None:
    def check(arguments: Any) -> None:
        if "bad" in arguments:
            raise InvalidArguments

    deferrer = JobDeferrer(JobManager(connector), JOB, check_arguments=check)
    with pytest.raises(InvalidArguments):
        deferrer.batch_defer({}, {"bad": 1})
    assert connector.said == []


@in_both_loops
def test_the_log_tells_what_was_deferred(
    deferrer: JobDeferrer, caplog: pytest.LogCaptureFixture, run: Run
) -> None:
    caplog.set_level(logging.DEBUG)
    run(functools.partial(deferrer.defer_async, b=2))
    deferrer.batch_defer({}, {})
    before, after, _, batch = [record.__dict__ for record in caplog.records[-4:]]
    assert (before["action"], after["action"]) == ("about_to_defer_jobs", "jobs_deferred")
    assert [job["id"] for job in before["jobs"]] == [None]
    assert [job["id"] for job in after["jobs"]] == [1]
    assert "task[1](a=1, b=2)" in caplog.text
    assert [job["id"] for job in batch["jobs"]] == [2, 3]


def test_a_queueing_lock_that_is_taken_is_an_error() -> None:
    deferrer = JobDeferrer(JobManager(InMemoryConnector()), JOB)
    deferrer.defer()
    with pytest.raises(AlreadyEnqueued):
        deferrer.defer()


def test_a_task_of_the_main_module_is_warned_of_once(
    connector: RecordingConnector, caplog: pytest.LogCaptureFixture
) -> None:
    deferrer = JobDeferrer(JobManager(connector), JOB.evolve(task_name="__main__.task"))
    deferrer.defer()
    deferrer.defer()
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "main module" in warnings[0].getMessage()
    assert warnings[0].__dict__["action"] == "app_defined_in___main__"
