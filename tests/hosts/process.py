"""A process with a worker in an asyncio loop: `python -m tests.hosts.process HOW CONNINFO`."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Coroutine
from typing import Any

from trio_queue import App, JobContext, PsycopgConnector
from trio_queue._worker.complete import Completer
from trio_queue._worker.running import RunningJob


def main() -> None:
    how, conninfo = sys.argv[1:]
    app = App(
        connector=PsycopgConnector(conninfo=conninfo, min_size=1),
        flavor="asyncio" if how == "run_worker" else None,
    )
    began = asyncio.Event()
    add_tasks(app, began)
    match how:
        case "run_worker":
            app.run_worker()
        case "handlers":
            asyncio.run(app.run_worker_async())
        case "handlers, uvloop":
            uvloop_run(app.run_worker_async())
        case "third signal":
            asyncio.run(app.run_worker_async(exit_on_third_signal=True))
        case "third signal, uvloop":
            uvloop_run(app.run_worker_async(exit_on_third_signal=True))
        case "no handlers":
            asyncio.run(app.run_worker_async(install_signal_handlers=False))
        case "no handlers, beside other work":
            asyncio.run(beside_other_work(app))
        case "no handlers, no Runner":
            loop = asyncio.new_event_loop()
            loop.run_until_complete(app.run_worker_async(install_signal_handlers=False))
        case "exits":
            loop = asyncio.new_event_loop()
            task = loop.create_task(app.run_worker_async(install_signal_handlers=False))
            loop.run_until_complete(began.wait())
            assert not task.done()
        case _:
            raise AssertionError(how)
    say("left")


def add_tasks(app: App, began: asyncio.Event) -> None:
    """What the worker runs; each says when it began."""

    @app.task(name="drains", pass_context=True)
    async def drains(context: JobContext) -> None:
        began.set()
        say("began")
        try:
            await context.wait_shutting_down()
            await asyncio.sleep(0.2)  # it takes a while to return
            say("returned")
        except asyncio.CancelledError:
            say("cancelled")
            raise

    async def presses_after(context: JobContext) -> None:
        say("began")
        await context.wait_shutting_down()
        press_at_outcomes()

    app.task(name="presses_after", pass_context=True)(presses_after)
    app.task(name="presses_after_on_trio", pass_context=True, flavor="trio")(presses_after)

    @app.task(name="presses", pass_context=True)
    async def presses(context: JobContext) -> None:
        say("began")
        await context.wait_shutting_down()
        # In the loop's own code. (Here, in the job's, the job would raise it.)
        asyncio.get_running_loop().call_soon(signal.raise_signal, signal.SIGINT)
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            say("cancelled")
            raise

    @app.task(name="deaf")
    async def deaf() -> None:
        say("began")
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(3600)


def press_at_outcomes() -> None:
    """Press Ctrl-C whenever a body has ended and its outcome is not in the hands of who writes it."""
    add = Completer.add

    def press(completer: Completer, running: RunningJob) -> None:
        say("pressed")
        signal.raise_signal(signal.SIGINT)
        add(completer, running)

    Completer.add = press  # type: ignore[method-assign, assignment]  # nothing of a user's runs there


def uvloop_run(main: Coroutine[Any, Any, None]) -> None:
    import uvloop

    uvloop.run(main)


async def beside_other_work(app: App) -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(app.run_worker_async(install_signal_handlers=False))
        try:
            await asyncio.sleep(3600)
        finally:
            say("the other work ends")


def say(what: str) -> None:
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
