"""A FastAPI application with a worker inside.

Make the queue's tables, once, and start it:

    export DATABASE_URL=postgresql://user@host/name
    trio-queue schema --apply
    uvicorn fastapi_app:app

Defer a job, and ask what became of it:

    curl -X POST 'http://127.0.0.1:8000/albums?pictures=20'
    curl http://127.0.0.1:8000/jobs/1

Ctrl-C or SIGTERM stops it: uvicorn answers the requests that it has, then it leaves the lifespan, and
there the worker drains.

The worker shares the event loop, the process and its memory with the requests. For a worker that is a
process of its own, open the queue in the lifespan and leave out the rest; then start, in this directory:

    trio-queue --app=fastapi_app.queue worker --concurrency=10
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import AsyncGenerator

from fastapi import FastAPI, HTTPException

import trio_queue
from trio_queue.exceptions import JobNotFound

logging.basicConfig(level=logging.INFO)

queue = trio_queue.App(
    connector=trio_queue.PsycopgConnector(conninfo=os.environ["DATABASE_URL"]),
    flavor="asyncio",  # what the tasks are written for, also in a process of their own
)


@queue.task(name="make_thumbnails", pass_context=True)
async def make_thumbnails(context: trio_queue.JobContext, pictures: int) -> str:
    """A long job. When its worker is asked to stop, it leaves the rest to the next one."""
    for done in range(pictures):
        if context.shutting_down():
            await make_thumbnails.defer_async(pictures=pictures - done)
            return f"{done} pictures, the rest later"
        await asyncio.sleep(0.05)  # your work stands here
    return f"{pictures} pictures"


def stop_server(worker: asyncio.Task[None]) -> None:
    """Let a worker that breaks take the server along, rather than serve without one."""
    if not worker.cancelled():
        signal.raise_signal(signal.SIGTERM)


@contextlib.asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
    """Run a worker as long as the application is served."""
    async with queue.open_async():
        worker = asyncio.create_task(
            queue.run_worker_async(
                concurrency=10,
                install_signal_handlers=False,  # uvicorn hears the signals
                shutdown_graceful_timeout=20,
            )
        )
        worker.add_done_callback(stop_server)
        yield
        worker.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await worker  # until every job has ended


app = FastAPI(lifespan=lifespan)


@app.post("/albums", status_code=202)
async def add_album(pictures: int) -> dict[str, int]:
    """Answer at once, and let a job do the work."""
    return {"job": await make_thumbnails.defer_async(pictures=pictures)}


@app.get("/jobs/{job_id}")
async def show_job(job_id: int) -> dict[str, str]:
    """What became of a job."""
    try:
        status = await queue.job_manager.get_job_status_async(job_id)
    except JobNotFound as error:
        raise HTTPException(404, str(error)) from error
    return {"status": status.value}
