"""A worker and a small server in one Trio program, without any framework.

Make the queue's tables, once, and start it:

    export DATABASE_URL=postgresql://user@host/name
    trio-queue schema --apply
    python plain_trio.py

It answers lines. The first one defers a job, the second asks what became of it:

    echo 'resize 20' | nc -N 127.0.0.1 8000
    echo 'status 1' | nc -N 127.0.0.1 8000

Ctrl-C or SIGTERM stops it: the worker drains while the server still answers, then the server ends, too.
A second one aborts the jobs.
"""

from __future__ import annotations

import functools
import logging
import os

import trio

import trio_queue
from trio_queue.exceptions import TrioQueueException

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


async def answer(line: str) -> str:
    """The answer to a line."""
    try:
        match line.split():
            case ["resize", pictures]:
                return f"job {await make_thumbnails.defer_async(pictures=int(pictures))}"
            case ["status", job_id]:
                return (await queue.job_manager.get_job_status_async(int(job_id))).value
            case _:
                return "say: resize PICTURES, or: status JOB"
    except (ValueError, TrioQueueException) as error:
        return f"error: {error}"


async def talk(stream: trio.SocketStream) -> None:
    """Answer one client."""
    received = b""
    try:
        async for some in stream:
            *lines, received = (received + some).split(b"\n")
            for line in lines:
                reply = await answer(line.decode(errors="replace"))
                await stream.send_all(f"{reply}\n".encode())
    except trio.BrokenResourceError:
        pass  # it went away


async def main(port: int) -> None:
    """Serve and work until asked to stop."""
    async with queue.open_async(), trio.open_nursery() as serving:
        async with trio.open_nursery() as working:
            # It hears Ctrl-C and SIGTERM. Here it is ready.
            await working.start(queue.worker(concurrency=10, shutdown_graceful_timeout=20).run)
            serve = functools.partial(trio.serve_tcp, talk, port, host="127.0.0.1")
            listeners: list[trio.SocketListener] = await serving.start(serve)
            host, bound = listeners[0].socket.getsockname()
            print(f"Listening on {host}:{bound} (Ctrl-C stops it)", flush=True)
        # Here it has drained, and returned.
        serving.cancel_scope.cancel()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    trio.run(main, int(os.environ.get("PORT", "8000")))
