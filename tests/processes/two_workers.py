"""A script with two workers in one nursery: `python -m tests.processes.two_workers CONNINFO`.

The second one's App is opened on a database that is not there, once the first one's job runs.
"""

from __future__ import annotations

import logging
import os
import sys

import trio

import trio_queue
from tests.processes.fleet import DATABASE
from tests.processes.tasks import DIARY, app, place
from tests.waiting import eventually
from trio_queue import PsycopgConnector, Worker


async def main() -> None:
    """Run both until the second one's error has ended the first."""
    nowhere = trio_queue.App(connector=PsycopgConnector(conninfo=sys.argv[1]))
    with app.replace_connector(PsycopgConnector(conninfo=os.environ[DATABASE])):
        async with trio.open_nursery() as nursery:
            await nursery.start(Worker(app, name="good").run)
            await eventually((place() / DIARY).exists, "the job")
            nursery.start_soon(Worker(nowhere, name="bad").run)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    trio.run(main)
