"""A process whose main thread is blocked for ever: `python -m tests.storage.blocked_process CONNINFO`.

It registers a worker, claims a job, says so on its output, and blocks. Its third signal ends it.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time

import trio

from tests.conformance.conftest import registration
from trio_queue._storage.parameters import Parameters
from trio_queue._storage.store import PostgresJobStore
from trio_queue.store import Heartbeat
from trio_queue.verbs import FetchJobs


def say(what: str) -> None:
    """Tell the test; in a signal handler, too."""
    os.write(1, f"{what}\n".encode())


def block() -> None:
    """Run the job: it gives way to nobody."""
    while True:
        time.sleep(600)


def count_signals(heartbeat: Heartbeat) -> None:
    """End the process at the third signal, in the middle of whatever the main thread does."""
    seen: list[int] = []

    def hear(number: int, _: object) -> None:
        seen.append(number)
        say(f"signal {len(seen)}")
        if len(seen) == 3:
            heartbeat.exit_process(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, hear)


async def main(conninfo: str) -> None:
    async with PostgresJobStore(Parameters(conninfo, {})) as store:
        worker_id = await store.run(registration())
        [job] = (await store.run(FetchJobs(worker_id, None, 1))).jobs
        async with store.keep_alive(worker_id, 0.05) as heartbeat:
            count_signals(heartbeat)
            # As a job may be interrupted anywhere: with locks in hand that others take, too.
            for handler in logging.getLogger().handlers:
                handler.acquire()
            say(f"runs {job.id} under {worker_id}")
            block()


if __name__ == "__main__":
    logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
    trio.run(main, sys.argv[1])
