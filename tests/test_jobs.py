"""A job as a value."""

from __future__ import annotations

import datetime

import attrs
import pytest

from trio_queue.jobs import Job

JOB = Job(id=1, task_name="add", task_kwargs={"a": 1}, priority=3)


def test_an_evolved_job_differs_in_what_was_named_only() -> None:
    assert JOB.call_string == "add[1](a=1)"
    evolved = JOB.evolve(id=2, task_kwargs={"a": 2})
    assert evolved == attrs.evolve(JOB, id=2, task_kwargs={"a": 2})
    assert evolved.call_string == "add[2](a=2)"
    assert Job(id=1, task_name="add", task_kwargs={"a": 1}, priority=3) == JOB


def test_an_evolved_job_is_frozen_too() -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        JOB.evolve(id=2).id = 3  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue] - that it is refused is the test


def test_evolving_refuses_what_a_job_refuses() -> None:
    with pytest.raises(TypeError, match="colour"):
        JOB.evolve(colour="red")
    with pytest.raises(ValueError, match="time zone"):
        JOB.evolve(scheduled_at=datetime.datetime(2026, 1, 1))  # noqa: DTZ001 - that is the point
