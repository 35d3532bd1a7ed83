"""Ctrl-C during one of Trio's turns in an asyncio loop."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import pytest

from tests.hosts.application import Application
from trio_queue._loops.host_queue import HostQueue
from trio_queue._loops.interrupts import Interrupts

call_whole = Interrupts().call_whole


def press() -> None:
    signal.raise_signal(signal.SIGINT)


def handler() -> Any:
    return signal.getsignal(signal.SIGINT)


async def is_cancelled() -> bool:
    """Whether this task was asked to stop."""
    try:
        await asyncio.sleep(0)
    except asyncio.CancelledError:
        return True
    return False


def test_the_first_cancels_and_the_next_is_raised_when_the_turn_has_ended() -> None:
    done: list[str] = []

    def turn() -> None:
        press()
        done.append("once")
        press()
        press()
        done.append("to its end")

    async def main() -> None:
        with pytest.raises(KeyboardInterrupt):
            call_whole(turn)
        done.append("raised")
        assert await is_cancelled()

    asyncio.run(main())
    assert done == ["once", "to its end", "raised"]


def test_one_ctrl_c_only_cancels() -> None:
    async def main() -> None:
        before = handler()
        call_whole(press)
        assert handler() is before
        assert await is_cancelled()

    asyncio.run(main())


def test_in_a_turn_within_a_turn_it_comes_after_the_outer_one() -> None:
    done: list[str] = []

    def outer() -> None:
        call_whole(press)
        call_whole(press)
        done.append("outer")

    async def main() -> None:
        before = handler()
        with pytest.raises(KeyboardInterrupt):
            call_whole(outer)
        assert handler() is before
        assert await is_cancelled()

    asyncio.run(main())
    assert done == ["outer"]


def test_what_a_turn_raises_is_raised() -> None:
    async def main() -> None:
        before = handler()
        with pytest.raises(ZeroDivisionError):
            call_whole(lambda: 1 / 0)
        assert handler() is before

    asyncio.run(main())


def test_the_runner_finds_its_handler_when_it_ends() -> None:
    before = handler()

    async def main() -> None:
        call_whole(lambda: None)

    asyncio.run(main())
    assert handler() is before


def test_when_the_runner_has_left_its_handler_it_is_raised_after_the_turn_too() -> None:
    """While it ends the loop, and a worker drains there, Python's own handler is in place."""
    done: list[str] = []

    def turn() -> None:
        press()
        done.append("to its end")

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            call_whole(turn)
        assert handler() is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert done == ["to its end"]


def test_another_handler_hears_at_once() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: heard.append(number))
    try:

        def turn() -> None:
            press()
            assert heard == [signal.SIGINT]

        call_whole(turn)
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("ends", ["in a turn", "between two"])
def test_who_sets_a_handler_in_a_turn_and_puts_back_what_was_there(ends: str) -> None:
    """As a worker does that hears signals: what it finds is the handler of the turn."""

    async def main() -> None:
        runners = handler()
        kept: list[Any] = []
        call_whole(lambda: kept.append(signal.signal(signal.SIGINT, signal.SIG_IGN)))
        assert handler() is signal.SIG_IGN

        def put_back() -> None:
            signal.signal(signal.SIGINT, kept[0])

        put_back() if ends == "between two" else call_whole(put_back)
        press()  # heard by the Runner, which does not raise the first one
        assert await is_cancelled()
        call_whole(lambda: None)
        assert handler() is runners

    asyncio.run(main())


def test_a_process_that_is_forked_in_a_turn_hears_at_once() -> None:
    def turn() -> None:
        child = os.fork()
        if not child:
            status = 1
            try:
                press()  # the first one cancels
                press()
            except KeyboardInterrupt:
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0

    async def main() -> None:
        call_whole(turn)

    asyncio.run(main())


def test_a_call_that_the_loop_forgot_is_made_when_somebody_waits() -> None:
    """Where KeyboardInterrupt strikes between taking it up and making it."""
    called: list[Callable[[], None]] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        queue = HostQueue(loop, Interrupts())
        forgotten = loop.call_soon
        loop.call_soon = lambda *_, **__: None  # type: ignore[assignment]  # it forgets
        queue.soon(lambda: called.append(press))
        loop.call_soon = forgotten  # type: ignore[method-assign]  # again as it was
        await asyncio.sleep(0)
        assert not called
        queue.resume()
        await asyncio.sleep(0)
        assert len(called) == 1
        queue.resume()
        await asyncio.sleep(0)
        assert len(called) == 1

    asyncio.run(main())


def test_a_call_that_the_loop_did_not_forget_is_made_once() -> None:
    """One too many would stay in the loop for as long as each asks for the next."""
    turns: list[int] = []

    async def main() -> None:
        queue = HostQueue(asyncio.get_running_loop(), Interrupts())

        def turn() -> None:
            turns.append(len(turns))
            queue.soon(turn)

        queue.soon(turn)
        queue.resume()
        for _ in range(5):
            await asyncio.sleep(0)
        assert turns == [0, 1, 2, 3, 4]

    asyncio.run(main())


def closed_queue() -> HostQueue:
    loop = asyncio.new_event_loop()
    queue = HostQueue(loop, Interrupts())
    loop.close()
    return queue


def test_what_is_called_instead_of_a_closed_loop_is_called_whole() -> None:
    done: list[str] = []
    queue = closed_queue()

    def turn() -> None:
        press()
        done.append("to its end")

    queue.soon(turn)
    with pytest.raises(KeyboardInterrupt):
        queue.call_until(lambda: False)
    assert done == ["to its end"]


def test_ctrl_c_while_a_closed_loop_waits_for_a_call_does_not_lose_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done: list[str] = []

    class Queue(SimpleQueue[Callable[[], Any]]):
        def get(self, *arguments: Any, **options: Any) -> Callable[[], Any]:
            callback = super().get(*arguments, **options)
            press()
            return callback

    monkeypatch.setattr("queue.SimpleQueue", Queue)
    queue = closed_queue()
    queue.soon(lambda: done.append("called"))
    with pytest.raises(KeyboardInterrupt):
        queue.call_until(lambda: False)
    assert done == ["called"]


def test_who_looks_for_the_handler_in_two_turns_finds_the_same() -> None:
    async def main() -> None:
        seen: list[Any] = []
        call_whole(lambda: seen.append(handler()))
        call_whole(lambda: seen.append(handler()))
        assert seen[0] is seen[1]
        assert seen[0] is not handler()

    asyncio.run(main())


@pytest.mark.parametrize("hears", [True, False])
def test_a_worker_leaves_the_runners_handler_as_it_was(
    application: Application, *, hears: bool
) -> None:
    async def main() -> None:
        before = handler()
        application.defer("short")
        await application.app.run_worker_async(wait=False, install_signal_handlers=hears)
        assert handler() is before

    asyncio.run(main())
    assert application.statuses == ["succeeded"]


@pytest.mark.parametrize("said", ["draining", "aborting"])
def test_ctrl_c_while_a_worker_is_asked_is_raised_when_its_jobs_have_ended(
    application: Application, said: str
) -> None:
    """It strikes in a step of the task that awaits the worker, which is none of Trio's turns."""

    def press_at(record: logging.LogRecord) -> bool:
        if said in record.getMessage() and not pressed:
            pressed.append(said)
            press()
        return True

    async def main() -> None:
        application.defer("hold")
        task = asyncio.current_task()
        assert task is not None
        waiting = asyncio.ensure_future(application.began.wait())
        waiting.add_done_callback(lambda _: press())
        if said == "aborting":
            later = asyncio.get_running_loop().call_later
            waiting.add_done_callback(lambda _: later(0, task.cancel))
        await application.app.run_worker_async()

    pressed: list[str] = []
    logger = logging.getLogger("trio_queue.worker.worker")
    logger.addFilter(press_at)
    logger.setLevel(logging.INFO)
    try:
        with pytest.raises(KeyboardInterrupt):
            asyncio.run(main())
    finally:
        logger.removeFilter(press_at)
        logger.setLevel(logging.NOTSET)
    assert pressed == [said]
    assert application.saw == ["cancelled: AbortReason.SHUTDOWN"]
    assert application.statuses == ["aborted"]
    assert application.workers == 0
