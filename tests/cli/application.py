"""The App that the command line's tests name: `tests.cli.application:app`."""

from __future__ import annotations

import trio

import trio_queue
from trio_queue.testing import InMemoryConnector

#: Names no database: the environment or `--database` does.
app = trio_queue.App(connector=trio_queue.PsycopgConnector())

in_memory = trio_queue.App(connector=InMemoryConnector(), worker_defaults={"concurrency": 7})

unreadable = trio_queue.App(connector=trio_queue.PsycopgConnector(conninfo="what is this"))

not_an_app = "text"


@app.task(name="add", queue="numbers")
async def add(a: int, b: int) -> int:
    """Succeed."""
    await trio.lowlevel.checkpoint()
    return a + b


@app.task(name="fail", queue="numbers")
def fail() -> None:
    """Fail."""
    raise ValueError("as it was meant")


@app.task(name="until_drained", pass_context=True)
async def until_drained(context: trio_queue.JobContext) -> str:
    """Run until the worker is asked to stop."""
    await context.wait_shutting_down()
    return "drained"


@app.task(name="for_ever")
async def for_ever() -> None:
    """Run until it is aborted."""
    await trio.sleep_forever()


@app.task(name="deaf")
async def deaf() -> None:
    """Run whatever is asked."""
    with trio.CancelScope(shield=True):
        await trio.sleep_forever()
