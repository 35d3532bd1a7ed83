"""Jobs claimed ahead of free places: by number, by pace; and given back where they wait too long."""

from __future__ import annotations

import itertools
from contextvars import ContextVar
from typing import TypeVar

import pytest
import trio
import trio.testing

from tests.fix_worker import FaultyConnector, Steps, rescue_elsewhere, wait_until, work, working
from trio_queue import App
from trio_queue._worker import running
from trio_queue._worker.pace import (
    DISTRUST,
    HORIZON,
    MAX_AGE,
    MAX_AHEAD,
    SAMPLE,
    Pace,
)
from trio_queue.management import CancelJob
from trio_queue.testing import FaultyStore

R = TypeVar("R")


class Held:
    """A task whose jobs wait for the test."""

    def __init__(self, app: App) -> None:
        self.began: list[int] = []
        self.steps = [Steps() for _ in range(10)]
        self._task = app.task(name="held")(self._run)

    async def _run(self, number: int) -> None:
        self.began.append(number)
        await self.steps[number]()

    async def defer(self, count: int) -> None:
        """Defer so many; job n + 1 is number n."""
        for number in range(count):
            await self._task.defer_async(number=number)


@pytest.fixture
def held(app: App) -> Held:
    return Held(app)


# -- so many --------------------------------------------------------------------------------------


async def test_so_many_are_claimed_ahead_and_begin_when_others_end(
    app: App, connector: FaultyConnector, held: Held
) -> None:
    await held.defer(5)
    async with working(app, concurrency=1, prefetch=2):
        await held.steps[0].started.wait()
        await trio.testing.wait_all_tasks_blocked()
        assert connector.statuses == ["doing", "doing", "doing", "todo", "todo"]
        assert held.began == [0]
        held.steps[0].may_end.set()
        await held.steps[1].started.wait()
        for steps in held.steps:
            steps.may_end.set()
        await wait_until(lambda: connector.statuses == ["succeeded"] * 5)
    assert held.began == [0, 1, 2, 3, 4]


async def test_a_job_that_makes_room_for_the_next_does_not_leave_it_its_context_variables(
    app: App,
) -> None:
    variable: ContextVar[str] = ContextVar("variable", default="clean")
    found: list[str] = []

    @app.task(name="job")
    async def job() -> None:
        found.append(variable.get())
        variable.set("of another job")

    for _ in range(3):
        await job.defer_async()
    await work(app, concurrency=1, prefetch=5)
    assert found == ["clean"] * 3


async def test_a_drain_gives_back_what_waits_uncounted(
    app: App, connector: FaultyConnector, held: Held
) -> None:
    await held.defer(3)
    async with working(app, concurrency=1, prefetch=5) as worker:
        await held.steps[0].started.wait()
        worker.stop()
        await wait_until(lambda: connector.statuses == ["doing", "todo", "todo"])
        held.steps[0].may_end.set()
    assert held.began == [0]
    assert [row["attempts"] for row in connector.jobs.values()] == [1, 0, 0]


async def test_a_waiting_job_is_aborted_at_once(
    app: App, connector: FaultyConnector, held: Held
) -> None:
    await held.defer(2)
    async with working(app, concurrency=1, prefetch=1):
        await held.steps[0].started.wait()
        connector.say(CancelJob(2, abort=True))
        await wait_until(lambda: connector.statuses == ["doing", "aborted"])
        held.steps[0].may_end.set()
    assert held.began == [0]


async def test_a_waiting_job_whose_lease_was_lost_does_not_begin(
    app: App, connector: FaultyConnector, held: Held, autojump_clock: trio.testing.MockClock
) -> None:
    await held.defer(2)
    async with working(app, concurrency=1, prefetch=1, queues=["default"]) as worker:
        await held.steps[0].started.wait()
        before = worker.worker_id
        rescue_elsewhere(connector)
        while worker.worker_id == before:  # noqa: ASYNC110 - a registration signals nothing
            await trio.sleep(1)
        await trio.testing.wait_all_tasks_blocked()
    assert connector.statuses == ["doing", "doing"]  # the other's
    assert held.began == [0]


async def claims_as_they_begin(held: Held, store: FaultyStore) -> list[int]:
    """How many claims there were when the second job had begun, the third and so on, one after the other."""
    claims: list[int] = []
    await held.steps[0].started.wait()
    for steps, following in itertools.pairwise(held.steps[:5]):
        steps.may_end.set()
        await following.started.wait()
        await trio.testing.wait_all_tasks_blocked()
        claims.append(store.calls.count("fetch_jobs"))
    for steps in held.steps:
        steps.may_end.set()
    return claims


async def test_more_are_claimed_when_half_of_those_ahead_have_begun(
    app: App, store: FaultyStore, held: Held
) -> None:
    await held.defer(9)
    async with working(app, concurrency=1, prefetch=4):
        assert await claims_as_they_begin(held, store) == [1, 2, 2, 3]


async def test_of_many_more_are_claimed_when_so_many_have_begun_as_are_worth_a_claim(
    app: App, store: FaultyStore, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "WORTH_A_CLAIM", 2)
    await held.defer(10)
    async with working(app, concurrency=1, prefetch=6):
        assert await claims_as_they_begin(held, store) == [1, 2, 2, 3]


async def test_no_more_are_claimed_while_too_many_outcomes_wait_to_be_written(
    app: App, connector: FaultyConnector, store: FaultyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "MAX_UNWRITTEN", 5)

    @app.task(name="short")
    async def short() -> None:
        pass

    for _ in range(9):
        await short.defer_async()
    hung = store.hang("finish_jobs")
    async with working(app):
        await hung.wait_hit()
        await trio.testing.wait_all_tasks_blocked()
        assert connector.statuses == ["doing"] * 5 + ["todo"] * 4
        hung.release()
        await wait_until(lambda: connector.statuses == ["succeeded"] * 9)


async def test_more_are_claimed_while_as_many_as_run_at_once_wait_to_be_written(
    app: App, connector: FaultyConnector, store: FaultyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Short jobs end all at once: a claim that waited for the write would be made after it, never beside it."""
    monkeypatch.setattr(running, "MAX_UNWRITTEN", 1)

    @app.task(name="short")
    async def short() -> None:
        pass

    for _ in range(20):
        await short.defer_async()
    hung = store.hang("finish_jobs")
    async with working(app, concurrency=3, prefetch=6):
        await hung.wait_hit()
        await trio.testing.wait_all_tasks_blocked()
        assert store.calls.count("fetch_jobs") > 1
        hung.release()
        await wait_until(lambda: connector.statuses == ["succeeded"] * 20)


# -- by pace --------------------------------------------------------------------------------------


async def test_long_jobs_are_not_claimed_ahead(
    app: App, connector: FaultyConnector, autojump_clock: trio.testing.MockClock
) -> None:
    most = 0

    @app.task(name="long")
    async def long() -> None:
        nonlocal most
        most = max(most, connector.statuses.count("doing"))
        await trio.sleep(1)

    for _ in range(10):
        await long.defer_async()
    await work(app, concurrency=2)
    assert most == 2


async def test_the_pace_decides_how_many(mock_clock: trio.testing.MockClock) -> None:
    pace = Pace(None)
    pace.measure(0)
    mock_clock.jump(1.0)
    pace.measure(SAMPLE - 1)  # too few to say, however short they were
    assert pace.ahead() == 0
    mock_clock.jump(1.0)
    pace.measure(SAMPLE - 1)  # from here on
    mock_clock.jump(0.5)
    pace.measure(500 + SAMPLE - 1)
    assert pace.ahead() == 1_000 * HORIZON
    mock_clock.jump(0.001)
    pace.measure(500 + SAMPLE)  # too few for another pace
    assert pace.ahead() == 1_000 * HORIZON
    mock_clock.jump(0.5)
    pace.measure(100_000)
    assert pace.ahead() == MAX_AHEAD
    mock_clock.jump(60.0)
    pace.measure(200_000)  # it rested: nobody knows
    assert pace.ahead() == 0


async def test_what_waits_too_long_is_given_back_and_nothing_is_claimed_ahead_for_a_while(
    app: App, connector: FaultyConnector, held: Held, autojump_clock: trio.testing.MockClock
) -> None:
    @app.task(name="short")
    async def short() -> None:
        await trio.sleep(0.001)

    for _ in range(200):
        await short.defer_async()
    async with working(app) as worker:
        await trio.sleep(0.15)  # the pace is found: a thousand a second
        await held.defer(3)
        await held.steps[0].started.wait()
        began = trio.current_time()
        assert connector.statuses[200:] == ["doing", "doing", "doing"]
        await trio.sleep(MAX_AGE + 0.1)
        assert connector.statuses[200:] == ["doing", "todo", "todo"]
        # Another worker may have them; this one takes one at a time for now.
        held.steps[0].may_end.set()
        await held.steps[1].started.wait()
        assert trio.current_time() - began < DISTRUST
        assert connector.statuses[200:] == ["succeeded", "doing", "todo"]
        for steps in held.steps:
            steps.may_end.set()
        await wait_until(lambda: connector.statuses[200:] == ["succeeded"] * 3)
        assert worker.stage.value == "running"
    assert [row["attempts"] for row in list(connector.jobs.values())[200:]] == [1, 1, 1]
