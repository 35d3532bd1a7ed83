"""Large jobs: claims are bounded by what they hold, and by how long they take."""

from __future__ import annotations

import math
from typing import TypeVar

import pytest
import trio
import trio.testing

from tests.fix_worker import FaultyConnector, wait_until, work, working
from trio_queue import App
from trio_queue._worker import pace
from trio_queue._worker.pace import LONG_CLAIM, Pace
from trio_queue.store import JobStore
from trio_queue.testing import FaultyStore, InMemoryJobStore
from trio_queue.verbs import Fetched, Verb

R = TypeVar("R")


class Large:
    """A task whose jobs have arguments of 100 bytes, of which three may be claimed at once."""

    def __init__(self, app: App, connector: FaultyConnector) -> None:
        #: How many were claimed and had not ended as each began.
        self.in_hands: list[int] = []
        self._connector = connector
        self._task = app.task(name="large")(self._run)

    async def _run(self, number: int, text: str) -> None:  # noqa: ARG002 - its size is what matters
        claimed = sum(
            row["status"] != "todo" and row["task_name"] == "large"
            for row in self._connector.jobs.values()
        )
        self.in_hands.append(claimed - number)
        await trio.lowlevel.checkpoint()

    async def defer(self, count: int) -> None:
        """Defer so many."""
        for number in range(count):
            await self._task.defer_async(number=number, text="x" * 70)


@pytest.fixture
def large(app: App, connector: FaultyConnector, monkeypatch: pytest.MonkeyPatch) -> Large:
    monkeypatch.setattr(pace, "CLAIM_BYTES", 350)
    return Large(app, connector)


async def test_of_large_jobs_as_many_are_claimed_ahead_as_one_claim_may_hold(
    app: App, large: Large, store: FaultyStore, autojump_clock: trio.testing.MockClock
) -> None:
    @app.task(name="small")
    async def small() -> None:
        pass

    for _ in range(10):
        await small.defer_async()
    await large.defer(30)
    for _ in range(10):
        await small.defer_async()
    began = trio.current_time()
    await work(app, concurrency=1, prefetch=1_000)
    # Three come with the small ones, and three when half of all those have begun; then at most one runs and one waits as three come.
    assert max(large.in_hands) <= 3 + 3
    assert max(large.in_hands[6:]) <= 1 + 1 + 3
    assert len(large.in_hands) == 30
    # Fewer than asked for is not the end: nobody waits for anything.
    assert trio.current_time() - began < 1
    # Three at a time, and the small ones in some.
    assert 10 <= store.calls.count("fetch_jobs") <= 25


async def test_a_place_that_is_free_is_filled_however_large_the_jobs_are(
    app: App, large: Large, connector: FaultyConnector
) -> None:
    blocked = trio.Event()

    @app.task(name="blocked")
    async def wait(text: str) -> None:
        await blocked.wait()

    for _ in range(20):
        await wait.defer_async(text="x" * 70)
    async with working(app, concurrency=10, prefetch=100):
        # Four at a time: ten run, and two waited when the last four came.
        await wait_until(lambda: connector.statuses.count("doing") >= 10)
        await trio.testing.wait_all_tasks_blocked()
        assert connector.statuses.count("doing") == 10 + 2 + 4
        blocked.set()
        await wait_until(lambda: connector.statuses == ["succeeded"] * 20)


class SlowWire(FaultyStore):
    """What it answers to a claim takes a tenth of a second for each job."""

    async def run(self, verb: Verb[R]) -> R:
        answer = await super().run(verb)
        if isinstance(answer, Fetched):
            self.sent.append(len(answer.jobs))
            await trio.sleep(0.1 * len(answer.jobs))
        return answer

    def __init__(self, store: JobStore) -> None:
        super().__init__(store)
        self.sent: list[int] = []


async def test_claims_that_would_never_be_answered_in_time_ask_for_less(
    autojump_clock: trio.testing.MockClock,
) -> None:
    connector = FaultyConnector()
    connector.store = store = SlowWire(InMemoryJobStore(connector.database))
    app = App(connector=connector)

    @app.task(name="job")
    async def job() -> None: ...

    for _ in range(200):
        await job.defer_async()
    await work(app, concurrency=100)  # a hundred take ten seconds: twice as long as a claim may
    assert connector.statuses == ["succeeded"] * 200
    assert store.sent[0] == 100
    # So many as take no longer than LONG_CLAIM, but for one try.
    assert max(store.sent[1:]) * 0.1 <= 3 * LONG_CLAIM
    assert max(store.sent[2:]) * 0.1 <= LONG_CLAIM


async def test_claims_ask_for_more_again_when_they_are_quick(
    mock_clock: trio.testing.MockClock,
) -> None:
    pace = Pace(None)
    assert pace.most == math.inf
    pace.claim_took(LONG_CLAIM, 1_000)
    assert pace.most == math.inf
    pace.claim_took(4 * LONG_CLAIM, 1_000)
    assert pace.most == 250
    pace.claim_took(60.0, 0)  # the server was away
    pace.claim_took(0.1, 249)  # there were no more
    assert pace.most == 250
    pace.claim_took(0.1, 250)
    assert pace.most == 500
    pace.claim_was_cut(400)
    assert pace.most == 50
    pace.claim_was_cut(1)
    assert pace.most == 1


async def test_after_a_claim_that_was_full_few_are_asked_for(
    mock_clock: trio.testing.MockClock,
) -> None:
    pace = Pace(None)
    pace.claim_was_full(16)
    assert pace.most == 32
    pace.claim_was_full(20)  # it asked for 32
    assert pace.most == 32
    pace.claim_took(0.1, 32)  # and all of them came: they are smaller now
    assert pace.most == 64
