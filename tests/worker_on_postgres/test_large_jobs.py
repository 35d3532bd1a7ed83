"""Jobs with a megabyte of arguments: so many are in a worker's hands as it runs, and as one claim may hold."""

from __future__ import annotations

import pytest

from tests.worker_on_postgres.bench import Bench

MEGABYTE = 1_000_000
#: How they come: a text that is stored as it is, and one of which a hundredth is stored.
TEXTS = {
    "as it is": f"(SELECT string_agg(md5(n || '-' || g), '') FROM generate_series(1, {MEGABYTE // 32}) g)",
    "compressed": f"repeat('x', {MEGABYTE})",
}


def defer(bench: Bench, count: int, text: str) -> None:
    """Large jobs; each text differs."""
    bench.database.execute(
        "INSERT INTO procrastinate_jobs (queue_name, task_name, args)"
        f" SELECT 'default', 'large', jsonb_build_object('text', {TEXTS[text]}) FROM generate_series(1, {count}) n".encode()
    )


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("prefetch", [None, 1000], ids=["by pace", "by number"])
async def test_behind_small_ones_few_large_ones_are_claimed_ahead(
    bench: Bench, text: str, prefetch: int | None
) -> None:
    in_hands: list[int] = []

    @bench.app.task(name="large")
    async def large(text: str) -> None:
        assert len(text) >= MEGABYTE
        in_hands.append(
            sum(not running.ended and running.job.task_name == "large" for running in held)
        )

    bench.defer(count=2_000)
    defer(bench, 60, text)
    worker = bench.worker(wait=False, concurrency=1, prefetch=prefetch)
    held = worker._running  # pyright: ignore[reportPrivateUsage] - no user needs it
    await worker.run()
    assert len(in_hands) == 60
    # One runs, some came with the last small ones, and 16 in the claim after that. (By pace it may be fewer: it is the machine's.)
    assert (16 if prefetch else 1) <= max(in_hands) <= 1 + 16 + 16
    await bench.is_quiet()
    assert set(bench.statuses().values()) == {("succeeded", 1)}


async def test_as_many_run_as_there_are_places(bench: Bench) -> None:
    began = 0

    @bench.app.task(name="large")
    async def large(text: str) -> None:
        nonlocal began
        began += 1
        if began == 40:
            bench.gate.set()
        await bench.gate.wait()

    defer(bench, 40, "compressed")
    # Those that did not come at once do not wait for the next look at the queue.
    await bench.worker(wait=False, concurrency=40, fetch_job_polling_interval=600.0).run()
    assert began == 40
