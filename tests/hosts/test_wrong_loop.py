"""A task in the loop that it was not written for: the log says what to write."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
import trio

from trio_queue import App
from trio_queue.testing import InMemoryConnector


def test_an_asyncio_task_on_trio(caplog: pytest.LogCaptureFixture) -> None:
    app = App(connector=InMemoryConnector())

    @app.task(name="sleepy")
    async def sleepy() -> None:
        await asyncio.sleep(0.01)  # which only asyncio's loop can do

    async def main() -> None:
        async with app.open_async():
            await sleepy.defer_async()
            await app.run_worker_async(wait=False, install_signal_handlers=False)

    trio.run(main)
    assert 'written for asyncio, it ran on Trio? Say flavor="asyncio"' in caplog.text


def test_a_trio_task_on_asyncio(caplog: pytest.LogCaptureFixture) -> None:
    app = App(connector=InMemoryConnector())

    @app.task(name="sleepy")
    async def sleepy() -> None:
        await trio.sleep(0.01)

    async def main() -> None:
        async with app.open_async():
            await sleepy.defer_async()
            await app.run_worker_async(wait=False, install_signal_handlers=False)

    with contextlib.closing(asyncio.new_event_loop()) as loop:
        loop.run_until_complete(main())
    assert 'written for Trio, it ran on asyncio? Say flavor="trio"' in caplog.text
