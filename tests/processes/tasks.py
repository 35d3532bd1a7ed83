"""The App whose workers are signalled, suspended and killed: `tests.processes.tasks:app`.

Its jobs tell of themselves in an append-only file, the diary, and wait for a file, the gate: both
in a directory that the environment names.
"""

from __future__ import annotations

import hashlib
import os
import signal
import time
from pathlib import Path

import trio

import trio_queue
from tests.waiting import eventually, wait_until
from trio_queue import JobContext

PLACE = "TRIO_QUEUE_TEST_PLACE"
DIARY, GATE = "diary", "gate"
#: Longer than any test: a job that waits so long has been forgotten.
FOR_EVER = 600.0

#: Names no database: the environment does.
app = trio_queue.App(connector=trio_queue.PsycopgConnector())


def place() -> Path:
    """Where the diary and the gate are."""
    return Path(os.environ[PLACE])


def note(context: JobContext, word: str) -> None:
    """Tell that something happened to a job, and in which process."""
    line = f"{word} {context.job.id} {os.getpid()}\n"
    descriptor = os.open(place() / DIARY, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(descriptor, line.encode())
    os.close(descriptor)


def gate_is_open() -> bool:
    """Whether the jobs that wait may end."""
    return (place() / GATE).exists()


@app.task(name="work", pass_context=True)
async def work(context: JobContext) -> None:
    """Run for a moment."""
    note(context, "began")
    await trio.lowlevel.checkpoint()
    note(context, "ended")


@app.task(name="hold", pass_context=True)
async def hold(context: JobContext) -> None:
    """Run until the gate is open, or it is cancelled."""
    note(context, "began")
    try:
        await eventually(gate_is_open, "the gate", FOR_EVER)
    except trio.Cancelled:
        reason = context.abort_reason()
        note(context, f"cancelled/{reason.name if reason else None}")
        raise
    note(context, "ended")


@app.task(name="hold_and_retry", pass_context=True, retry=1)
async def hold_and_retry(context: JobContext) -> None:
    """As `hold`, with a retry strategy."""
    await hold.func(context)


@app.task(name="hold_in_thread", pass_context=True)
def hold_in_thread(context: JobContext) -> None:
    """Run until the gate is open, in a thread, and never ask whether to stop."""
    note(context, "began")
    wait_until(gate_is_open, "the gate", FOR_EVER)
    note(context, "ended")


@app.task(name="swallow", pass_context=True)
async def swallow(context: JobContext) -> None:
    """As `hold`; cancelled, it returns as if nothing had been."""
    try:
        await hold.func(context)
    except trio.Cancelled:  # what a job must not do, and does
        note(context, "swallowed")


@app.task(name="deaf_at_first", pass_context=True)
async def deaf_at_first(context: JobContext) -> None:
    """The first time, run whatever is asked; then end."""
    note(context, "began")
    if context.job.attempts == 0:
        with trio.CancelScope(shield=True):
            await trio.sleep(FOR_EVER)
    note(context, "ended")


@app.task(name="block_at_first", pass_context=True)
async def block_at_first(context: JobContext) -> None:
    """The first time, block the event loop until the end of the process; then end."""
    note(context, "began")
    if context.job.attempts == 0:
        time.sleep(FOR_EVER)  # noqa: ASYNC251 - it is meant to block
    note(context, "ended")


@app.task(name="block", pass_context=True)
async def block(context: JobContext, how: str) -> None:
    """Block the event loop until the gate is open."""
    note(context, "began")
    while not gate_is_open():
        match how:
            case "sleep":
                time.sleep(0.005)  # noqa: ASYNC251 - it is meant to block
            case _:
                hashlib.pbkdf2_hmac("sha256", b"", b"", 100_000)
    note(context, "ended")
    await trio.lowlevel.checkpoint()


@app.task(name="pass_on", pass_context=True)
async def pass_on(context: JobContext, times: int, *, at_the_gate: bool = False) -> None:
    """Defer another one like this, so many times."""
    note(context, "began")
    if at_the_gate:
        await eventually(gate_is_open, "the gate", FOR_EVER)
    if times:
        await pass_on.defer_async(times=times - 1)
    note(context, "ended")


@app.task(
    name="fail_once", pass_context=True, retry=trio_queue.RetryStrategy(max_attempts=1, wait=1)
)
async def fail_once(context: JobContext) -> None:
    """Fail, and succeed when it is tried again a second later."""
    note(context, "began")
    if context.job.attempts == 0:
        raise ValueError("the first try")
    await trio.lowlevel.checkpoint()


@app.task(name="end_process", pass_context=True)
async def end_process(context: JobContext) -> None:
    """End the worker's process from inside: each time in another way."""
    note(context, "began")
    if context.job.attempts == 0:
        os._exit(9)
    os.kill(os.getpid(), signal.SIGKILL)
    await trio.sleep(FOR_EVER)
