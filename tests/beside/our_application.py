"""An application of ours with the same tasks: `python -m tests.beside.our_application work|defer ...`."""

from __future__ import annotations

import logging
import os
import sys

import trio

import trio_queue
from tests.beside.mixture import SLOW, deferrals
from tests.beside.runs import CONNINFO, Notebook
from trio_queue import exceptions

app = trio_queue.App(connector=trio_queue.PsycopgConnector(conninfo=os.environ.get(CONNINFO, "")))
notebook = Notebook("trio_queue")


@app.task(name="note", pass_context=True)
async def note(context: trio_queue.JobContext, number: int) -> None:
    """Give way once."""
    with notebook.running(context.job):
        await trio.lowlevel.checkpoint()


@app.task(name="slow", pass_context=True)
async def slow(context: trio_queue.JobContext, number: int) -> None:
    """Last longer than a heartbeat's interval."""
    with notebook.running(context.job):
        await trio.sleep(SLOW)


@app.task(name="flaky", pass_context=True, retry=1)
def flaky(context: trio_queue.JobContext, number: int) -> None:
    """Fail the first time."""
    with notebook.running(context.job):
        if context.job.attempts == 0:
            raise ValueError(number)


@app.task(name="fail", pass_context=True)
async def fail(context: trio_queue.JobContext, number: int) -> None:
    """Fail for good."""
    with notebook.running(context.job):
        raise ValueError(number)


@app.task(name="until_aborted", pass_context=True)
async def until_aborted(context: trio_queue.JobContext, number: int) -> None:
    """Run until somebody asks for its abort."""
    with notebook.running(context.job):
        await trio.sleep_forever()


async def defer(count: int) -> None:
    """Defer so many jobs of every kind; say how many a queueing lock refused."""
    refused = 0
    async with app.open_async():
        for each in deferrals("trio_queue", count):
            deferrer = app.configure_task(each.task, **each.options)
            try:
                await deferrer.defer_async(number=each.number)
            except exceptions.AlreadyEnqueued:
                refused += 1
    sys.stdout.write(str(refused))


def work(queue: str, concurrency: int) -> None:
    """Run a worker until SIGTERM. It is taken for dead after three seconds."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("trio_queue.worker").setLevel(logging.CRITICAL)  # jobs fail on purpose
    app.run_worker(
        queues=[queue],
        concurrency=concurrency,
        abort_job_polling_interval=0.1,
        update_heartbeat_interval=0.3,
        stalled_worker_timeout=3,
        stalled_jobs_limit=20,
    )


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["defer", count]:
            trio.run(defer, int(count))
        case ["work", queue, concurrency]:
            work(queue, int(concurrency))
        case unknown:
            sys.exit(f"unknown command {unknown!r}")
