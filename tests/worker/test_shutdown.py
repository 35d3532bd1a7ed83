"""The table of stages, every cell of it, and its owner alone."""

from __future__ import annotations

import itertools
import math
import threading
import time

import pytest
import trio
import trio.testing

from trio_queue._worker.shutdown import ASKED, TRANSITIONS, Change, Event, Shutdown, Stage

STARTING, RUNNING, DRAINING, ABORTING, STOPPED = Stage

#: From the documentation, cell by cell; None: this cannot happen, and is an error of ours.
CELLS: dict[Event, tuple[Stage | None, ...]] = {
    #                  STARTING  RUNNING   DRAINING  ABORTING  STOPPED
    Event.STARTED: (RUNNING, None, None, None, STOPPED),
    Event.STOP: (STOPPED, DRAINING, DRAINING, ABORTING, STOPPED),
    Event.ABORT: (STOPPED, ABORTING, ABORTING, ABORTING, STOPPED),
    Event.FIRST_ASK: (STOPPED, DRAINING, DRAINING, ABORTING, STOPPED),
    Event.NEXT_ASK: (None, None, ABORTING, ABORTING, STOPPED),
    Event.DEADLINE: (None, None, ABORTING, ABORTING, STOPPED),
    Event.NO_JOB_LEFT: (None, DRAINING, DRAINING, ABORTING, None),
    Event.JOB_EXITED: (None, ABORTING, ABORTING, ABORTING, None),
    Event.ENDED: (STOPPED, None, STOPPED, STOPPED, STOPPED),
}


def put_in(stage: Stage) -> Shutdown:
    """An owner that is in this stage."""
    shutdown = Shutdown()
    if stage is not STARTING:
        shutdown.post(Event.STARTED, "test")
    if stage in {DRAINING, STOPPED}:
        shutdown.post(Event.NO_JOB_LEFT, "test")
    if stage is ABORTING:
        shutdown.post(Event.JOB_EXITED, "test")
    if stage is STOPPED:
        shutdown.post(Event.ENDED, "test")
    assert shutdown.stage is stage
    return shutdown


@pytest.mark.promise(
    "The stages as a table / started",
    "The stages as a table / stop",
    "The stages as a table / abort",
    "The stages as a table / first ask",
    "The stages as a table / next ask",
    "The stages as a table / deadline",
    "The stages as a table / no job left",
    "The stages as a table / job exited",
    "The stages as a table / ended",
)
@pytest.mark.parametrize("stage", Stage)
@pytest.mark.parametrize("event", Event)
def test_each_stage_is_left_by_each_event_as_the_table_says(event: Event, stage: Stage) -> None:
    after = CELLS[event][list(Stage).index(stage)]
    shutdown = put_in(stage)
    if after is None:
        with pytest.raises(KeyError):
            shutdown.post(event, "test")
        assert shutdown.stage is stage
    else:
        shutdown.post(event, "test")
        assert shutdown.stage is after


def test_a_stage_never_goes_back() -> None:
    order = list(Stage)
    for before, row in TRANSITIONS.items():
        assert all(order.index(after) >= order.index(before) for after in row.values())


def test_an_unknown_event_is_an_error() -> None:
    with pytest.raises(KeyError):
        put_in(RUNNING).post(Event.ENDED, "test")


def test_the_first_ask_drains_and_the_second_aborts() -> None:
    shutdown = put_in(RUNNING)
    shutdown.ask("a signal")
    assert shutdown.stage is DRAINING
    shutdown.ask("a cancel")
    assert shutdown.stage is ABORTING


def test_the_first_ask_of_a_worker_that_drains_already_is_nothing_new() -> None:
    shutdown = put_in(RUNNING)
    shutdown.stop("somebody")
    shutdown.ask("a signal")
    assert shutdown.stage is DRAINING
    shutdown.ask("a signal")
    assert shutdown.stage is ABORTING


def test_a_change_tells_who_and_only_changes_are_told() -> None:
    shutdown = put_in(RUNNING)
    changes: list[Change] = []
    shutdown.on_change = changes.append
    shutdown.stop("the first")
    shutdown.stop("the second")
    shutdown.abort("the third")
    assert changes == [
        Change(RUNNING, DRAINING, Event.STOP, "the first"),
        Change(DRAINING, ABORTING, Event.ABORT, "the third"),
    ]


def test_aborting_without_draining_before_is_draining_too() -> None:
    shutdown = put_in(RUNNING)
    shutdown.abort("somebody")
    assert shutdown.draining.is_set()
    assert shutdown.aborting.is_set()


def test_without_a_timeout_there_is_no_deadline() -> None:
    shutdown = put_in(RUNNING)
    shutdown.stop("somebody")
    assert shutdown.deadline == math.inf


@pytest.mark.parametrize("event", [event for event in Event if event not in ASKED])
async def test_what_nobody_asked_for_sets_no_deadline(event: Event) -> None:
    for stage in Stage:
        if event not in TRANSITIONS[stage]:
            continue
        shutdown = put_in(stage)
        shutdown.attach()
        shutdown.post(event, "test")
        assert shutdown.asked_at == math.inf


async def test_the_deadline_counts_from_the_first_ask(
    autojump_clock: trio.testing.MockClock,
) -> None:
    shutdown = Shutdown(10)
    shutdown.attach()
    shutdown.post(Event.STARTED, "test")
    asked_at = trio.current_time()
    shutdown.stop("the first")
    await trio.sleep(4)
    shutdown.ask("the second")
    await shutdown.wait_aborting()
    assert trio.current_time() == asked_at + 10


async def test_a_later_ask_gives_a_deadline_to_a_drain_that_nobody_asked_for(
    autojump_clock: trio.testing.MockClock,
) -> None:
    shutdown = Shutdown(10)
    shutdown.attach()
    shutdown.post(Event.STARTED, "test")
    shutdown.post(Event.NO_JOB_LEFT, "test")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(shutdown.wait_aborting)
        await trio.sleep(100)
        assert not shutdown.aborting.is_set()
        asked_at = trio.current_time()
        shutdown.stop("somebody")
    assert trio.current_time() == asked_at + 10


async def test_a_deadline_of_zero_seconds_aborts_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    shutdown = Shutdown(0)
    shutdown.attach()
    shutdown.post(Event.STARTED, "test")
    shutdown.stop("somebody")
    asked_at = trio.current_time()
    await shutdown.wait_aborting()
    assert (shutdown.stage, trio.current_time()) == (ABORTING, asked_at)


async def test_what_other_threads_ask_is_not_lost() -> None:
    shutdown = Shutdown()
    shutdown.attach()
    shutdown.post(Event.STARTED, "test")

    def ask() -> None:
        shutdown.ask("a thread")

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()  # the loop is blocked meanwhile, as by a job that does not yield
    assert shutdown.stage is RUNNING, "changes happen on Trio's thread"
    await shutdown.aborting.wait()
    assert shutdown.asks == 3


async def test_asked_while_the_loop_is_blocked_the_deadline_counts_from_the_ask(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_the_wall = [1_000.0]
    monkeypatch.setattr(time, "monotonic", lambda: by_the_wall[0])
    shutdown = Shutdown(10)
    shutdown.attach()
    shutdown.post(Event.STARTED, "test")
    await trio.sleep(50)
    shutdown.post_from_signal("SIGTERM")
    by_the_wall[0] += 7  # so long until the loop goes on
    await shutdown.draining.wait()
    await shutdown.wait_aborting()
    assert trio.current_time() == pytest.approx(53)


async def test_asks_after_the_end_of_the_loop_are_nothing() -> None:
    shutdown = put_in(RUNNING)

    async def attach() -> None:
        shutdown.attach()
        await trio.lowlevel.checkpoint()

    await trio.to_thread.run_sync(trio.run, attach)
    shutdown.stop("too late")
    shutdown.post_from_signal("too late")


def test_an_ask_from_a_handler_that_interrupts_an_ask_does_not_block() -> None:
    shutdown = put_in(RUNNING)
    # A handler of the user's may call stop() while the same thread is in the middle of one.
    shutdown.on_change = lambda _: shutdown.stop("from within")
    done = threading.Event()

    def stop() -> None:
        shutdown.stop("outside")
        done.set()

    threading.Thread(target=stop, daemon=True).start()
    assert done.wait(5)


def test_every_stage_and_event_stands_in_the_table_of_this_test() -> None:
    assert set(CELLS) == set(Event)
    for stage, event in itertools.product(Stage, Event):
        assert (event in TRANSITIONS[stage]) == (CELLS[event][list(Stage).index(stage)] is not None)
