"""What is understood of what a listening connection hears."""

from __future__ import annotations

import psycopg
import pytest
from psycopg import Notify

from tests.storage.told import Told
from trio_queue._pg.listener import Gap, Listener
from trio_queue._storage.hearing import PostgresNotifications, channels, understand
from trio_queue._storage.parameters import Parameters
from trio_queue._storage.store import PostgresJobStore
from trio_queue.exceptions import ConnectorException
from trio_queue.jobs import Job
from trio_queue.store import AbortRequested, JobInserted, Missed
from trio_queue.verbs import DeferJobs


@pytest.mark.parametrize(
    "payload",
    [
        "",
        "{",
        "[1]",
        '"job_inserted"',
        '{"type": "other", "job_id": 1}',
        '{"type": "abort_job_requested"}',
        '{"type": "abort_job_requested", "job_id": "1"}',
    ],
)
def test_what_nobody_knows_is_left_out(payload: str) -> None:
    good = Notify("c", '{"type": "abort_job_requested", "job_id": 7}', 1)
    assert understand([Notify("c", payload, 1), good]) == [AbortRequested(7)]


def test_each_thing_once() -> None:
    inserted = [Notify("c", f'{{"type": "job_inserted", "job_id": {n}}}', 1) for n in range(3)]
    assert understand(inserted) == [JobInserted()]


def test_channels() -> None:
    assert channels(None) == ["procrastinate_any_queue_v1"]
    assert channels(["a", "x" * 41]) == ["procrastinate_queue_v1#a"]
    assert channels(["x" * 41]) == ["procrastinate_any_queue_v1"]


@pytest.mark.parametrize("queue", ['quo"te', "per%cent %s", "line\nbreak", "ü" * 20, " ", "'"])
async def test_odd_names_of_queues(queue_database: str, queue: str) -> None:
    async with (
        PostgresJobStore(Parameters(queue_database, {})) as store,
        store.listen([queue]) as notifications,
    ):
        await store.run(DeferJobs([Job(task_name="t", queue=queue)]))
        assert await notifications.wait() == [JobInserted()]


async def test_a_lost_connection_is_told(queue_database: str) -> None:
    async with (
        PostgresJobStore(Parameters(queue_database, {})) as store,
        store.listen(None) as notifications,
    ):
        with psycopg.connect(queue_database, autocommit=True) as admin:
            admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'"
            )
        assert await notifications.wait() == [Missed()]
        await store.run(DeferJobs([Job(task_name="t")]))
        assert await notifications.wait() == [JobInserted()]


async def test_listening_to_a_server_that_is_not_there() -> None:
    store = PostgresJobStore(Parameters("host=127.0.0.1 port=1", {}))
    with pytest.raises(ConnectorException, match=r"127\.0\.0\.1"):
        async with store.listen(None):
            pass


async def test_reconnecting_goes_on_whatever_the_error(autojump_clock: object) -> None:
    told = Told()
    listener = Listener("", ["c"])
    answers = [psycopg.ProgrammingError("no such role"), Gap(5.0)]

    async def next_() -> object:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    listener.next = next_  # type: ignore[method-assign, assignment]  # pyright: ignore[reportAttributeAccessIssue]  # what it may answer
    assert await PostgresNotifications(listener, told).wait() == [Missed()]
    assert told.history == ["notifications lost", "notifications back"]
    assert told.error == "no such role"
