"""A Starlette application on Trio, served by Hypercorn, and a worker beside it in one nursery.

Make the queue's tables, once, and start it:

    export DATABASE_URL=postgresql://user@host/name
    trio-queue schema --apply
    python starlette_app.py

Defer a job, and ask what became of it:

    curl -X POST 'http://127.0.0.1:8000/albums?pictures=20'
    curl http://127.0.0.1:8000/jobs/1

Ctrl-C or SIGTERM stops it: the worker drains while the server still answers, then the server ends, too.
A second one aborts the jobs.

For a worker that is a process of its own leave out `working`, and start, in this directory:

    trio-queue --app=starlette_app.queue worker --concurrency=10
"""

from __future__ import annotations

import functools
import logging
import os

import trio
from hypercorn.config import Config
from hypercorn.trio import serve  # pyright: ignore[reportUnknownVariableType]  # half typed
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

import trio_queue
from trio_queue.exceptions import JobNotFound

queue = trio_queue.App(connector=trio_queue.PsycopgConnector(conninfo=os.environ["DATABASE_URL"]))


@queue.task(name="make_thumbnails", pass_context=True)
async def make_thumbnails(context: trio_queue.JobContext, pictures: int) -> str:
    """A long job. When its worker is asked to stop, it leaves the rest to the next one."""
    for done in range(pictures):
        if context.shutting_down():
            await make_thumbnails.defer_async(pictures=pictures - done)
            return f"{done} pictures, the rest later"
        await trio.sleep(0.05)  # your work stands here
    return f"{pictures} pictures"


async def add_album(request: Request) -> JSONResponse:
    """Answer at once, and let a job do the work."""
    try:
        pictures = int(request.query_params["pictures"])
    except (KeyError, ValueError):
        return JSONResponse({"error": "pictures=NUMBER is missing"}, 400)
    return JSONResponse({"job": await make_thumbnails.defer_async(pictures=pictures)}, 202)


async def show_job(request: Request) -> JSONResponse:
    """What became of a job."""
    try:
        status = await queue.job_manager.get_job_status_async(request.path_params["job_id"])
    except JobNotFound as error:
        return JSONResponse({"error": str(error)}, 404)
    return JSONResponse({"status": status.value})


app = Starlette(
    routes=[
        Route("/albums", add_album, methods=["POST"]),
        Route("/jobs/{job_id:int}", show_job),
    ]
)


async def main(port: int) -> None:
    """Serve and work until asked to stop."""
    config = Config()
    config.bind = [f"127.0.0.1:{port}"]
    drained = trio.Event()
    async with queue.open_async(), trio.open_nursery() as serving:
        async with trio.open_nursery() as working:
            # It hears Ctrl-C and SIGTERM. Here it is ready.
            await working.start(queue.worker(concurrency=10, shutdown_graceful_timeout=20).run)
            served = functools.partial(
                serve,
                app,  # type: ignore[arg-type]  # ASGI, in the types of another
                config,
                shutdown_trigger=drained.wait,
            )
            (address,) = await serving.start(served)
            print(f"Serving {address} (Ctrl-C stops it)", flush=True)
        drained.set()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    trio.run(main, int(os.environ.get("PORT", "8000")))
