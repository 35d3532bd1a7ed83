"""An aiohttp application with a worker inside.

Make the queue's tables, once, and start it:

    export DATABASE_URL=postgresql://user@host/name
    trio-queue schema --apply
    python aiohttp_app.py

Defer a job, and ask what became of it:

    curl -X POST 'http://127.0.0.1:8080/albums?pictures=20'
    curl http://127.0.0.1:8080/jobs/1

Ctrl-C or SIGTERM stops it: aiohttp answers the requests that it has, then it cleans up, and there the
worker drains. At a second signal it cancels what still runs, and the worker aborts its jobs.

For a worker that is a process of its own, open the queue in `run_queue` and leave out the rest; then
start, in this directory:

    trio-queue --app=aiohttp_app.queue worker --concurrency=10
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import AsyncGenerator

from aiohttp import web

import trio_queue
from trio_queue.exceptions import JobNotFound

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


async def run_queue(_: web.Application) -> AsyncGenerator[None]:
    """Run a worker as long as the application is served."""
    async with queue.open_async():
        worker = asyncio.create_task(
            queue.run_worker_async(
                concurrency=10,
                install_signal_handlers=False,  # aiohttp hears the signals
                shutdown_graceful_timeout=20,
            )
        )
        worker.add_done_callback(stop_server)
        yield
        worker.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await worker  # until every job has ended


routes = web.RouteTableDef()


@routes.post("/albums")
async def add_album(request: web.Request) -> web.Response:
    """Answer at once, and let a job do the work."""
    try:
        pictures = int(request.query["pictures"])
    except (KeyError, ValueError) as error:
        raise web.HTTPBadRequest(text="pictures=NUMBER is missing") from error
    return web.json_response(
        {"job": await make_thumbnails.defer_async(pictures=pictures)}, status=202
    )


@routes.get(r"/jobs/{job_id:\d+}")
async def show_job(request: web.Request) -> web.Response:
    """What became of a job."""
    try:
        status = await queue.job_manager.get_job_status_async(int(request.match_info["job_id"]))
    except JobNotFound as error:
        raise web.HTTPNotFound(text=str(error)) from error
    return web.json_response({"status": status.value})


def make_application() -> web.Application:
    """The application, as `aiohttp.web` and its test client take it."""
    application = web.Application()
    application.add_routes(routes)
    application.cleanup_ctx.append(run_queue)
    return application


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    web.run_app(make_application(), host="127.0.0.1", port=int(os.environ.get("PORT", "8080")))
