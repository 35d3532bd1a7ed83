"""An application of Procrastinate's: `python -m tests.beside.stock_application work|defer ...`."""

from __future__ import annotations

import asyncio
import itertools
import os
import sys

import procrastinate
from procrastinate import exceptions

from tests.beside.mixture import SLOW, deferrals
from tests.beside.runs import CONNINFO, Notebook

app = procrastinate.App(
    connector=procrastinate.PsycopgConnector(conninfo=os.environ.get(CONNINFO, ""))
)
notebook = Notebook("procrastinate")


@app.task(name="note", pass_context=True)
async def note(context: procrastinate.JobContext, number: int) -> None:
    """Give way once."""
    with notebook.running(context.job):
        await asyncio.sleep(0)


@app.task(name="slow", pass_context=True)
async def slow(context: procrastinate.JobContext, number: int) -> None:
    """Last longer than a heartbeat's interval."""
    with notebook.running(context.job):
        await asyncio.sleep(SLOW)


@app.task(name="flaky", pass_context=True, retry=1)
async def flaky(context: procrastinate.JobContext, number: int) -> None:
    """Fail the first time."""
    with notebook.running(context.job):
        if context.job.attempts == 0:
            raise ValueError(number)


@app.task(name="fail", pass_context=True)
async def fail(context: procrastinate.JobContext, number: int) -> None:
    """Fail for good."""
    with notebook.running(context.job):
        raise ValueError(number)


@app.task(name="until_aborted", pass_context=True)
async def until_aborted(context: procrastinate.JobContext, number: int) -> None:
    """Run until somebody asks for its abort."""
    with notebook.running(context.job):
        await asyncio.Event().wait()


async def defer(count: int) -> None:
    """Defer so many jobs of every kind; say how many a queueing lock refused."""
    refused = 0
    async with app.open_async():
        for each in deferrals("procrastinate", count):
            deferrer = app.configure_task(each.task, **each.options)
            try:
                await deferrer.defer_async(number=each.number)
            except exceptions.AlreadyEnqueued:
                refused += 1
    sys.stdout.write(str(refused))


async def defer_endlessly(queue: str) -> None:
    """Defer job after job, until it is killed."""
    async with app.open_async():
        for number in itertools.count():
            await note.configure(queue=queue).defer_async(number=number)
            await asyncio.sleep(0.01)


def work(queue: str, concurrency: int) -> None:
    """Run a worker until SIGTERM."""
    app.run_worker(
        queues=[queue],
        concurrency=concurrency,
        fetch_job_polling_interval=0.1,
        abort_job_polling_interval=0.1,
    )


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["defer", count]:
            asyncio.run(defer(int(count)))
        case ["defer_endlessly", queue]:
            asyncio.run(defer_endlessly(queue))
        case ["work", queue, concurrency]:
            work(queue, int(concurrency))
        case unknown:
            sys.exit(f"unknown command {unknown!r}")
