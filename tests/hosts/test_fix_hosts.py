"""A guest's fake clock, and what counts as idle, know of the host's loop: else tests inside of it prove nothing."""

from __future__ import annotations

import asyncio

import pytest
import trio
import trio.testing

from tests.fix_hosts import run_as_guest
from trio_queue._loops.guest import open_guest
from trio_queue.owners import asyncio_host

#: Turns of the loop that asyncio code takes here; each of them a moment at which nothing of Trio can run.
TURNS = 20


@pytest.fixture
def seen() -> list[str]:
    return []


async def take_turns(seen: list[str]) -> None:
    for _ in range(TURNS):
        await asyncio.sleep(0)
    seen.append("asyncio")


async def in_host(seen: list[str]) -> None:
    host = asyncio_host.get()
    assert host is not None
    await host.run(lambda: take_turns(seen))


def test_time_does_not_pass_while_asyncio_has_something_to_do(seen: list[str]) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(in_host, seen)
            await trio.sleep(100)
            seen.append("a hundred seconds")
        assert trio.current_time() == 100

    run_as_guest(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert seen == ["asyncio", "a hundred seconds"]


@pytest.mark.parametrize("fake_time", [False, True])
def test_tasks_are_not_all_blocked_while_asyncio_has_something_to_do(
    seen: list[str], *, fake_time: bool
) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(in_host, seen)
            await trio.testing.wait_all_tasks_blocked()
            seen.append("idle")

    clock = trio.testing.MockClock(autojump_threshold=0) if fake_time else None
    run_as_guest(main, clock=clock)
    assert seen == ["asyncio", "idle"]


def test_outside_nothing_is_left_of_it() -> None:
    before = trio.testing.wait_all_tasks_blocked, trio.lowlevel.start_guest_run
    run_as_guest(trio.lowlevel.checkpoint)
    assert before == (trio.testing.wait_all_tasks_blocked, trio.lowlevel.start_guest_run)

    async def main() -> None:
        async with open_guest() as guest:
            await guest.run_trio(trio.lowlevel.checkpoint)

    asyncio.run(main())
