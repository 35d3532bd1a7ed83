"""Jobs that fork their worker's process, or start another: part of `tests.processes.tasks:app`."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from multiprocessing.context import ForkProcess, SpawnProcess
from typing import Any

import trio

from tests.processes.tasks import FOR_EVER, app, note
from trio_queue import JobContext


def end_as_told(context: JobContext, how: str) -> str:
    """In a forked child: end in one of the ways that there are."""
    note(context, "child")
    match how:
        case "os._exit":
            os._exit(7)
        case "raise":
            raise ValueError("from the child")
        case "raise a group":
            raise ExceptionGroup("", [ValueError("from the child")])
        case "sys.exit":
            sys.exit(7)
        case "sys.exit with a word":
            sys.exit("a last word")
        case _:
            return "from the child"


def code_of(status: tuple[int, int]) -> int:
    """The exit code of a child that was waited for."""
    return os.waitstatus_to_exitcode(status[1])


@app.task(name="fork", pass_context=True)
async def fork(context: JobContext, how: str) -> Any:
    """Fork on the event loop's thread. Returns how the child ended."""
    pid = os.fork()
    if not pid:
        return end_as_told(context, how)
    return code_of(await trio.to_thread.run_sync(os.waitpid, pid, 0))


@app.task(name="fork_in_thread", pass_context=True)
def fork_in_thread(context: JobContext, how: str) -> Any:
    """Fork in a job's thread. Returns how the child ended."""
    pid = os.fork()
    if not pid:
        return end_as_told(context, how)
    return code_of(os.waitpid(pid, 0))


def in_child(kind: str) -> None:
    """What the children of multiprocessing do."""
    if kind == "exit":
        sys.exit(7)
    if kind == "sleep":
        threading.Event().wait(FOR_EVER)


@app.task(name="multiprocess", pass_context=True)
def multiprocess(context: JobContext, method: str, kind: str) -> int | None:
    """Start a child by multiprocessing; one that sleeps is terminated. Returns how it ended."""
    start: type[ForkProcess | SpawnProcess] = ForkProcess if method == "fork" else SpawnProcess
    child = start(target=in_child, args=(kind,))
    child.start()
    if kind == "sleep":
        child.terminate()
    child.join()
    return child.exitcode


@app.task(name="run_program", pass_context=True)
async def run_program(context: JobContext) -> int:
    """Run a program that looks at the signals it got. Returns how it ended."""
    looks = "import signal, sys; sys.exit(signal.getsignal(signal.SIGTERM) != signal.SIG_DFL)"
    done = await trio.run_process([sys.executable, "-I", "-S", "-c", looks], check=False)
    by_thread = await trio.to_thread.run_sync(
        lambda: subprocess.run([sys.executable, "-I", "-S", "-c", looks], check=False)
    )
    return done.returncode + by_thread.returncode


@app.task(name="fork_and_leave", pass_context=True)
def fork_and_leave(context: JobContext) -> int:
    """Fork a child that lives on, until SIGTERM. Returns its process id."""
    pid = os.fork()
    if not pid:
        note(context, "child")
        threading.Event().wait(FOR_EVER)
        os._exit(3)
    return pid
