"""The same test under another host: Trio by itself, or as the guest of an asyncio loop.

A test marked `both_hosts` runs under both. With `--in-asyncio` every test on Trio runs under asyncio
only (those with a clock of their own excepted: a guest has none).
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


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    hosts = HOSTS[1:] if metafunc.config.getoption("--in-asyncio") else HOSTS
    marked = metafunc.definition.get_closest_marker("both_hosts") is not None
    if marked or metafunc.config.getoption("--in-asyncio"):
        metafunc.fixturenames.append("host")
        metafunc.parametrize("host", hosts)
