"""The processes of a chaos run: `python -m tests.chaos.application work|defer FOLDER NAME ...`."""

from __future__ import annotations

import json
import logging
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

import psycopg
import trio

import trio_queue
from tests.chaos.check import DEADLY_STATUS
from tests.chaos.journal import Journal
from tests.chaos.kinds import Draw, draw_job
from trio_queue._cli.logs import JsonFormatter
from trio_queue.exceptions import AlreadyEnqueued, ConnectorException, JobAborted

CONNINFO = "TRIO_QUEUE_TEST_CONNINFO"

#: Short, so that many leases are lost in a short time.
HEARTBEAT_INTERVAL = 0.2
STALLED_TIMEOUT = 1.0

app = trio_queue.App(
    connector=trio_queue.PsycopgConnector(conninfo=os.environ.get(CONNINFO, "")),
    worker_defaults={
        "update_heartbeat_interval": HEARTBEAT_INTERVAL,
        "stalled_worker_timeout": STALLED_TIMEOUT,
        "fetch_job_polling_interval": 1.0,
        "abort_job_polling_interval": 0.5,
        "exit_on_third_signal": True,
    },
)

_journals: list[Journal] = []


def journal() -> Journal:
    """The journal of this process."""
    [opened] = _journals
    return opened


@app.task(name="quick", pass_context=True, interrupted_jobs="requeue")
async def quick(context: trio_queue.JobContext, token: str, seconds: float) -> None:
    """Give way, and end."""
    del token
    with journal().running(context):
        await trio.sleep(seconds)


@app.task(name="steady", pass_context=True, interrupted_jobs="requeue")
async def steady(context: trio_queue.JobContext, token: str, seconds: float) -> None:
    """Last longer; goes back to its queue when a shutdown interrupts it."""
    del token
    with journal().running(context):
        await trio.sleep(seconds)


@app.task(name="plain", pass_context=True)
async def plain(context: trio_queue.JobContext, token: str, seconds: float) -> None:
    """Have no strategy and no policy: a shutdown that interrupts it aborts it."""
    del token
    with journal().running(context):
        await trio.sleep(seconds)


@app.task(name="giving_up", pass_context=True, interrupted_jobs="abort", retry=True)
async def giving_up(context: trio_queue.JobContext, token: str, seconds: float) -> None:
    """Is aborted by a shutdown, whatever its strategy says."""
    del token
    with journal().running(context):
        await trio.sleep(seconds)


@app.task(name="thread", pass_context=True)
def thread(context: trio_queue.JobContext, token: str, seconds: float) -> None:
    """Run in a thread, and never look whether it should stop."""
    del token
    with journal().running(context):
        time.sleep(seconds)


@app.task(name="heeding", pass_context=True, retry=True)
def heeding(context: trio_queue.JobContext, token: str, seconds: float) -> None:
    """Run in a thread, and stop when it should."""
    del token
    with journal().running(context):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if context.should_abort():
                raise JobAborted
            time.sleep(0.02)


@app.task(name="flaky", pass_context=True, retry=True)
async def flaky(context: trio_queue.JobContext, token: str, seconds: float) -> None:
    """Fail the first time."""
    del token
    with journal().running(context):
        await trio.sleep(seconds)
        if context.job.attempts == 0:
            raise ValueError("the first try")


@app.task(name="failing", pass_context=True)
async def failing(context: trio_queue.JobContext, token: str, seconds: float) -> None:
    """Fail for good."""
    del token
    with journal().running(context):
        await trio.sleep(seconds)
        raise ValueError("as always")


@app.task(name="deaf", pass_context=True)
async def deaf(context: trio_queue.JobContext, token: str, seconds: float) -> None:
    """Not heed its cancel."""
    del token
    with journal().running(context), trio.CancelScope(shield=True):
        await trio.sleep(seconds)


@app.task(name="cleaning", pass_context=True, interrupted_jobs="requeue")
async def cleaning(context: trio_queue.JobContext, token: str, seconds: float) -> None:
    """Clean up, shielded, whatever happens."""
    del token
    with journal().running(context):
        try:
            await trio.sleep(seconds)
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(0.2)


@app.task(name="blocking", pass_context=True)
async def blocking(context: trio_queue.JobContext, token: str, seconds: float) -> None:
    """Block the event loop for longer than the lease."""
    del token
    with journal().running(context):
        time.sleep(seconds)  # noqa: ASYNC251 - on purpose


@app.task(name="deadly", pass_context=True)
async def deadly(context: trio_queue.JobContext, token: str) -> None:
    """End the process that runs it."""
    del token
    with journal().running(context):
        os._exit(DEADLY_STATUS)


@app.periodic(cron="* * * * * */3")
@app.task(name="ticking", pass_context=True, interrupted_jobs="requeue")
async def ticking(context: trio_queue.JobContext, timestamp: int) -> None:
    """Is deferred by the workers, each moment once."""
    del timestamp
    with journal().running(context):
        await trio.lowlevel.checkpoint()


def work(name: str, concurrency: int, graceful_timeout: float | None) -> None:
    """Be a worker, until it is stopped."""
    try:
        app.run_worker(
            concurrency=concurrency, name=name, shutdown_graceful_timeout=graceful_timeout
        )
    except Exception as error:  # noqa: BLE001 - which one it was is what the check must know
        logging.getLogger("chaos").warning(
            "%r", error, extra={"action": "ended", "error": type(error).__name__}
        )
        sys.exit(1)


def defer(name: str, rate: float, backlog: int, seed: int) -> None:
    """Defer jobs of every kind, so many a second, until it is killed; wait while many are left."""
    numbers = random.Random(f"{name} {seed}")
    number = 0
    with _opened():
        while True:
            _wait_for_backlog(backlog)
            for _ in range(max(1, round(rate))):
                started = time.monotonic()
                number += 1
                _defer_one(draw_job(numbers, f"{name} {number}"))
                time.sleep(max(0.0, started + 1 / rate - time.monotonic()))


def _opened() -> trio_queue.App:
    """The App, open as soon as the database is there."""
    while True:
        try:
            return app.open()
        except ConnectorException:
            time.sleep(0.2)


def _defer_one(draw: Draw) -> None:
    options: Any = {"lock": draw.lock, "queueing_lock": draw.queueing_lock}
    if draw.delay is not None:
        options["schedule_in"] = {"seconds": draw.delay}
    deferrer = app.configure_task(draw.task, allow_unknown=False, priority=draw.priority, **options)
    token = draw.arguments["token"]
    journal().write("deferring", token=token, draw=json.dumps(draw.arguments))
    try:
        job_id = deferrer.defer(**draw.arguments)
    except AlreadyEnqueued:
        journal().write("not deferred", token=token, why="queueing lock")
    except ConnectorException as error:
        # It may be in the database or not: if it is, it must end as any other.
        journal().write("not deferred", token=token, why=repr(error))
        time.sleep(0.2)
    else:
        journal().write("deferred", token=token, job=job_id)


def _wait_for_backlog(backlog: int) -> None:
    while True:
        try:
            with psycopg.connect(os.environ[CONNINFO], connect_timeout=2, autocommit=True) as look:
                left = look.execute(
                    "SELECT count(*) FROM procrastinate_jobs WHERE status IN ('todo', 'doing')"
                ).fetchone()
        except psycopg.Error:
            left = None
        if left is not None and left[0] < backlog:
            return
        time.sleep(0.5)


def main(command: str, folder: str, name: str, *arguments: str) -> None:
    """Do what the process is started for."""
    _journals.append(Journal(Path(folder) / "journals" / f"{name}.jsonl", name))
    handler = logging.FileHandler(Path(folder) / "logs" / f"{name}.jsonl")
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    match command, arguments:
        case "work", (concurrency, graceful_timeout):
            timeout = None if graceful_timeout == "never" else float(graceful_timeout)
            work(name, int(concurrency), timeout)
        case "defer", (rate, backlog, seed):
            defer(name, float(rate), int(backlog), int(seed))
        case _:
            sys.exit(f"unknown command {command!r} {arguments}")


if __name__ == "__main__":
    main(*sys.argv[1:])
