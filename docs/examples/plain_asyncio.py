"""A worker and a small server in one asyncio program, without any framework.

Make the queue's tables, once, and start it:

    export DATABASE_URL=postgresql://user@host/name
    trio-queue schema --apply
    python plain_asyncio.py

It answers lines. The first one defers a job, the second asks what became of it:

    echo 'resize 20' | nc -N 127.0.0.1 8000
    echo 'status 1' | nc -N 127.0.0.1 8000

Ctrl-C or SIGTERM stops it: the worker drains while the server still answers, then the server ends, too.
A second one aborts the jobs.
"""

from __future__ import annotations

import asyncio
import logging
import os

import trio_queue
from trio_queue.exceptions import TrioQueueException

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


async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer one client."""
    try:
        async for line in reader:
            writer.write(f"{await answer(line.decode(errors='replace'))}\n".encode())
            await writer.drain()
    except ConnectionError:
        pass  # it went away
    finally:
        writer.close()


async def serve(port: int) -> None:
    """Answer clients until cancelled."""
    server = await asyncio.start_server(talk, "127.0.0.1", port)
    host, bound = server.sockets[0].getsockname()
    print(f"Listening on {host}:{bound} (Ctrl-C stops it)", flush=True)
    try:
        await asyncio.Event().wait()
    finally:
        # Not by `async with server`: that waits for every client to hang up.
        server.close()


async def main(port: int) -> None:
    """Serve and work until asked to stop."""
    async with queue.open_async(), asyncio.TaskGroup() as tasks:
        serving = tasks.create_task(serve(port))
        # It hears Ctrl-C and SIGTERM, drains, and returns.
        await queue.run_worker_async(concurrency=10, shutdown_graceful_timeout=20)
        serving.cancel()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    asyncio.run(main(int(os.environ.get("PORT", "8000"))))
