"""A job as a value."""

from __future__ import annotations

import datetime

import attrs
import pytest

from trio_queue.jobs import Batch, Job, with_ids

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


def test_a_batch_is_its_jobs() -> None:
    batch = Batch(JOB, [{"a": 1}, {"b": 2}, {}])
    jobs = [JOB, JOB.evolve(task_kwargs={"b": 2}), JOB.evolve(task_kwargs={})]
    assert (list(batch), len(batch), batch[-1], list(batch[1:])) == (jobs, 3, jobs[2], jobs[1:])
    with pytest.raises(IndexError):
        _ = batch[3]


def test_a_deferred_job_waits_under_its_id() -> None:
    assert with_ids([JOB], [7]) == [JOB.evolve(id=7, status="todo")]
    with pytest.raises(ValueError, match="shorter"):
        with_ids([JOB], [])
