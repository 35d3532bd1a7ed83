"""The same test under another host: Trio by itself, or as the guest of an asyncio loop.

A test marked `both_hosts` runs under both. With `--in-asyncio` every test on Trio runs under asyncio
only, but for those with a clock of their own (a guest has none) and those marked `only_trio`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
import trio

from trio_queue._loops.guest import open_guest


def run_as_guest(
    main: Callable[[], Awaitable[Any]],
    *,
    clock: trio.abc.Clock | None = None,
    instruments: Sequence[trio.abc.Instrument] = (),
) -> Any:
    """`trio.run` inside of `asyncio.run`: a worker in it is a worker in an asyncio loop."""
    if clock is not None or instruments:
        return trio.run(main, clock=clock, instruments=instruments)

    async def host() -> Any:
        async with open_guest() as guest:
            return await guest.run_trio(main)

    return asyncio.run(host())


HOSTS = [
    pytest.param("trio", id="trio"),
    pytest.param("asyncio", id="asyncio", marks=pytest.mark.trio(run=run_as_guest)),
]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--in-asyncio",
        action="store_true",
        help="run the tests on Trio as a guest of an asyncio loop",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "both_hosts: runs under Trio, and inside an asyncio loop")
    config.addinivalue_line("markers", "only_trio: is about a Trio host")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    all_in_asyncio = metafunc.config.getoption("--in-asyncio")
    marked = {marker.name for marker in metafunc.definition.iter_markers()}
    if "only_trio" not in marked and (all_in_asyncio or "both_hosts" in marked):
        metafunc.fixturenames.append("host")
        metafunc.parametrize("host", HOSTS[1:] if all_in_asyncio else HOSTS)
