"""Rows that somebody wrote by hand: each has a clear end, and none stops the worker."""

from __future__ import annotations

import pytest

from tests.waiting import eventually
from tests.worker_on_postgres.bench import Bench
from trio_queue.worker import Stage

ODD_NAMES = ['quo"te', "apo'strophe", "per%cent %s %(a)s", "line\nbreak", "🐝", " ", "\\", "a" * 40]


async def insert(bench: Bench, **columns: object) -> int:
    values = {"task_name": "work", "args": "{}", "queue_name": "default", **columns}
    names = ", ".join(values)
    marks = ", ".join(["%s"] * len(values))
    return int(
        bench.value(
            f"INSERT INTO procrastinate_jobs ({names}) VALUES ({marks}) RETURNING id",
            *values.values(),
        )
    )


async def ends_as(bench: Bench, job_id: int, status: str, attempts: int = 1) -> None:
    """It ends so, and the worker works on: a job deferred after it runs."""
    async with bench.working(concurrency=2) as worker:
        await eventually(
            lambda: bench.statuses([job_id]) == {job_id: (status, attempts)},
            lambda: f"job {job_id} to be {status}, it is {bench.statuses([job_id])}",
        )
        await bench.all_ended(bench.defer())
        assert worker.stage is Stage.RUNNING
    await bench.is_quiet()


@pytest.mark.parametrize("args", ["[1, 2]", "3", '"text"', "true", "null"])
async def test_arguments_that_are_no_object(
    bench: Bench, caplog: pytest.LogCaptureFixture, args: str
) -> None:
    job_id = await insert(bench, args=args)
    await ends_as(bench, job_id, "failed")
    assert "arguments" in caplog.text
    assert str(job_id) in caplog.text
    assert not bench.began[job_id]


@pytest.mark.parametrize("task_name", ["work", "no.such.task"])
@pytest.mark.parametrize(
    "args",
    [
        # Python 3.13 reads some 8,000 levels, 3.12 some 1,000; PostgreSQL takes more.
        pytest.param('{"number": ' + "[" * 12_000 + "]" * 12_000 + "}", id="nested"),
        pytest.param('{"number": ' + "9" * 5000 + "}", id="digits"),
    ],
)
async def test_arguments_that_python_cannot_read(
    bench: Bench, caplog: pytest.LogCaptureFixture, args: str, task_name: str
) -> None:
    job_id = await insert(bench, args=args, task_name=task_name)
    await ends_as(bench, job_id, "failed")
    if task_name == "work":
        assert "arguments" in caplog.text
    assert not bench.began[job_id]


async def test_arguments_that_the_task_does_not_take(bench: Bench) -> None:
    job_id = await insert(bench, args='{"nothing of this": 1, "": 2}')
    await ends_as(bench, job_id, "failed")


@pytest.mark.parametrize("name", [*ODD_NAMES, "no.such.task", ""])
async def test_unknown_tasks(bench: Bench, caplog: pytest.LogCaptureFixture, name: str) -> None:
    job_id = await insert(bench, task_name=name)
    await ends_as(bench, job_id, "failed")
    assert f"no task {name!r} is registered" in caplog.text


@pytest.mark.parametrize("name", [*ODD_NAMES, ""])
async def test_odd_queues_locks_and_queueing_locks(bench: Bench, name: str) -> None:
    job_id = await insert(bench, queue_name=name, lock=name, queueing_lock=name)
    await ends_as(bench, job_id, "succeeded")


@pytest.mark.parametrize("priority", [2**31 - 1, -(2**31)])
async def test_extreme_priorities(bench: Bench, priority: int) -> None:
    await ends_as(bench, await insert(bench, priority=priority), "succeeded")


@pytest.mark.parametrize("attempts", [-1, -(2**31), 2**31 - 2])
async def test_extreme_attempts(bench: Bench, attempts: int) -> None:
    await ends_as(bench, await insert(bench, attempts=attempts), "succeeded", attempts + 1)


async def test_an_attempt_that_cannot_be_counted(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    job_id = await insert(bench, attempts=2**31 - 1)
    async with bench.working() as worker:
        await eventually(lambda: "could not be written" in caplog.text, "the refusal to be told")
        assert "integer out of range" in caplog.text
        await bench.all_ended(bench.defer())
        assert worker.stage is Stage.RUNNING
    # It ran: it is not given back as if it had not.
    assert bench.statuses([job_id]) == {job_id: ("doing", 2**31 - 1)}
    assert bench.began[job_id] == 1


@pytest.mark.parametrize("scheduled_at", ["-infinity", "4713-01-01 BC", "0001-01-01", "1970-01-01"])
async def test_due_since_for_ever(bench: Bench, scheduled_at: str) -> None:
    await ends_as(bench, await insert(bench, scheduled_at=scheduled_at), "succeeded")


@pytest.mark.parametrize("scheduled_at", ["infinity", "294276-12-31", "9999-12-31 23:59:59+00"])
async def test_never_due(bench: Bench, scheduled_at: str) -> None:
    job_id = await insert(bench, scheduled_at=scheduled_at)
    async with bench.app.open_async():
        (job,) = await bench.app.job_manager.list_jobs_async()
        assert job.scheduled_at is not None
        assert job.scheduled_at.year == 9999
    await ends_as(bench, job_id, "todo", 0)


@pytest.mark.parametrize("abort_requested", [False, True])
async def test_doing_without_a_worker(bench: Bench, abort_requested: bool) -> None:
    # Whose it is, nobody knows: a worker of Procrastinate's, pruned, may still run it.
    job_id = await insert(bench, status="doing", abort_requested=abort_requested)
    async with bench.working(listen_notify=True) as worker:
        bench.rows("UPDATE procrastinate_jobs SET abort_requested = true RETURNING id")
        await bench.all_ended(bench.defer())
        assert worker.stage is Stage.RUNNING
    assert bench.statuses([job_id]) == {job_id: ("doing", 0)}


@pytest.mark.parametrize("status", ["aborting", "cancelled", "aborted"])
async def test_other_statuses_are_left_alone(bench: Bench, status: str) -> None:
    await ends_as(bench, await insert(bench, status=status), status, 0)


@pytest.mark.parametrize(
    "payload",
    ["", "{", "[" * 7000, '{"type": "abort_job_requested", "job_id": ' + "9" * 5000 + "}"],
)
async def test_notifications_of_nobody(bench: Bench, payload: str) -> None:
    async with bench.working() as worker:
        bench.rows("SELECT pg_notify('procrastinate_any_queue_v1', %s)", payload)
        await bench.all_ended(bench.defer())
        assert worker.stage is Stage.RUNNING
