"""The asyncio facade: a worker inside a running asyncio loop, asyncio's or uvloop's.

The worker is the same as on Trio, which runs as a guest of the loop. What is added is how asyncio
asks it to stop: `Task.cancel()`.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import Any

from trio_queue._loops.guest import Guest, open_guest
from trio_queue.owners import HostedWorker


async def run_worker(worker: HostedWorker) -> None:
    """Run a worker inside the running asyncio loop, until it has stopped.

    Args:
        worker: It has not run.

    Raises:
        asyncio.CancelledError: This task was cancelled, and every job has ended.
        TrioAlreadyRuns: Trio runs in this thread in another way.
        BaseException: What the worker raises, bare.

    Cancelled once, the worker drains; cancelled again, it aborts its jobs. Signals that it hears
    count with these. What it raises comes before the CancelledError.
    """
    async with open_guest() as guest:
        await _run(guest, worker)


async def _run(guest: Guest, worker: HostedWorker) -> None:
    interrupts: list[KeyboardInterrupt] = []
    cancels: list[asyncio.CancelledError] = []
    asks: list[str] = []

    def interrupted(error: KeyboardInterrupt) -> None:
        interrupts.append(error)
        worker.ask("Ctrl-C")

    def ask() -> None:
        if asks:
            guest.resume()
        while asks:
            worker.ask(asks.pop(0))

    call = guest.begin(worker.run)
    guest.workers[worker] = interrupted
    try:
        with contextlib.ExitStack() as shields:
            while not call.ended.done():
                try:
                    try:
                        guest.call_whole(ask)
                        await asyncio.wait([call.ended])
                    except asyncio.CancelledError as error:
                        cancels.append(error)
                        asks.append("Task.cancel()")
                        _shield_from_anyio(error, shields)
                # Raised in a step of this task: it would leave the worker behind, and nobody to ask it.
                except KeyboardInterrupt as error:
                    interrupts.append(error)
                    asks.append("Ctrl-C")
    finally:
        guest.workers.pop(worker, None)
    call.result()
    if interrupts:
        raise interrupts[-1]
    if cancels:
        # None of them is taken back by uncancel(): who cancelled counts on that.
        raise cancels[-1]


def _shield_from_anyio(error: asyncio.CancelledError, shields: contextlib.ExitStack) -> None:
    """Hear the cancel of an anyio scope once.

    anyio cancels a task anew in each turn of the loop until it has left the scope: the second of
    these would be taken for a second ask. Inside of a shielded scope it leaves the task alone.
    """
    anyio: Any = sys.modules.get("anyio")
    if anyio is not None and error.args and "cancel scope" in str(error.args[0]):
        shields.enter_context(anyio.CancelScope(shield=True))
