from __future__ import annotations

from trio_queue._pg.backoff import FIRST_DELAY, LONGEST_DELAY, Backoff


def test_delays_grow_to_a_cap_below_one_second() -> None:
    backoff = Backoff()
    delays = [backoff.next_delay() for _ in range(20)]
    assert FIRST_DELAY / 2 <= delays[0] <= FIRST_DELAY
    assert all(LONGEST_DELAY / 2 <= delay <= LONGEST_DELAY for delay in delays[10:])
    assert LONGEST_DELAY < 1


def test_delays_differ() -> None:
    assert len({Backoff().next_delay() for _ in range(20)}) > 1


def test_a_success_begins_anew() -> None:
    backoff = Backoff()
    for _ in range(20):
        backoff.next_delay()
    backoff.reset()
    assert backoff.next_delay() <= FIRST_DELAY
