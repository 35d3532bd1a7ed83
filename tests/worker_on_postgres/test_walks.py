"""A job that claims do not see for a while, as they begin behind it (see trio_queue_walks), runs when the whole way is walked."""

from __future__ import annotations

import trio

from tests.worker_on_postgres.bench import Bench


def hide(bench: Bench, seconds: float) -> tuple[int, int]:
    """A job before the one at which claims begin for so long, as one that was given back; and that one."""
    hidden, first = bench.defer(count=2)
    bench.database.execute(
        "INSERT INTO trio_queue_walks VALUES ('{}', ~0, %s, clock_timestamp() + make_interval(secs => %s))",
        [first, seconds],
    )
    return hidden, first


async def test_a_worker_that_does_not_wait_for_jobs_waits_for_it(bench: Bench) -> None:
    hidden, first = hide(bench, 50)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.worker(wait=False).run)
        await bench.all_ended([first])
        assert bench.statuses([hidden]) == {hidden: ("todo", 0)}
        bench.database.execute("UPDATE trio_queue_walks SET again_at = clock_timestamp()")
    bench.each_ran_once([hidden, first])


async def test_a_worker_that_rests_comes_again_for_it(bench: Bench) -> None:
    jobs = list(hide(bench, 0.5))
    async with bench.working():
        await bench.all_ended()
    bench.each_ran_once(jobs)
