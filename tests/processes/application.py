"""The application that process tests start: `python -m tests.processes.application COMMAND`."""

from __future__ import annotations

import logging
import os
import sys

import trio

import trio_queue

CONNINFO = "TRIO_QUEUE_TEST_CONNINFO"

app = trio_queue.App(
    connector=trio_queue.PsycopgConnector(conninfo=os.environ.get(CONNINFO, "")),
    periodic_defaults={},
)


@app.task(name="run_async", queue="mixed")
async def run_async(number: int) -> int:
    """Give way once, as a job that waits for something does."""
    await trio.lowlevel.checkpoint()
    return number


@app.task(name="run_sync", queue="mixed")
def run_sync(number: int) -> int:
    """Run in a thread."""
    return number


@app.task(name="run_locked", queue="mixed")
async def run_locked(number: int) -> int:
    """Run while no other job of its lock does."""
    await trio.lowlevel.checkpoint()
    return number


@app.task(name="fail_once", queue="mixed", retry=1, pass_context=True)
def fail_once(context: trio_queue.JobContext, number: int) -> int:
    """Fail the first time, succeed the second."""
    if context.job.attempts == 0:
        raise ValueError(f"the first try of {number}")
    return number


@app.task(name="fail", queue="mixed")
async def fail(number: int) -> None:
    """Fail for good."""
    raise ValueError(str(number))


def defer_mixed(count: int, seed: int) -> None:
    """Defer so many jobs, of every kind."""
    numbers = range(seed, seed + count)
    kinds = [
        run_async.configure(),
        run_sync.configure(priority=1),
        fail_once.configure(),
        run_async.configure(schedule_in={"milliseconds": 700}),
        fail.configure(),
        *(run_locked.configure(lock=f"lock {number}") for number in range(15)),
    ]
    with app.open():
        for index, kind in enumerate(kinds):
            kind.batch_defer(*({"number": number} for number in numbers[index :: len(kinds)]))


def main(command: str, *arguments: str) -> None:
    """Do what a process of the test is started for."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    match command:
        case "defer":
            defer_mixed(*map(int, arguments))
        case "work":
            app.run_worker(concurrency=int(arguments[0]), queues=["mixed"])
        case _:
            sys.exit(f"unknown command {command!r}")


if __name__ == "__main__":
    main(*sys.argv[1:])
