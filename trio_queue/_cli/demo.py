"""The demo: some hundred jobs of every kind, a worker that runs them, and what became of them."""

from __future__ import annotations

import importlib.resources
import logging
import os
import shlex
import socket

import attrs
import trio
from rich.console import Console

from trio_queue._cli.demo_display import Display, show_summary
from trio_queue._cli.demo_tasks import (
    KINDS,
    NAMESPACE,
    QUEUE,
    blueprint,
    has_ended,
)
from trio_queue._cli.session import ConnectedApp
from trio_queue.app import App
from trio_queue.connector import BaseConnector
from trio_queue.exceptions import TrioQueueException
from trio_queue.jobs import Job, Status, WorkerInfo
from trio_queue.worker import Stage, Worker

WORKER_NAME = "demo"
WORKER_LOGGER = logging.getLogger(f"trio_queue.worker.{WORKER_NAME}")
CONCURRENCY = 20
#: Seconds between two looks at the database.
LOOK_INTERVAL = 0.1
#: Seconds after which a worker that was not heard of is gone.
WORKER_TIMEOUT = 30.0


class DemoError(TrioQueueException):
    """The demo cannot run here."""


def make_app(connector: BaseConnector) -> App:
    """The demo's App."""
    app = App(connector=connector)
    app.add_tasks_from(blueprint, namespace=NAMESPACE)
    return app


@attrs.frozen
class Demo:
    """One run of the demo."""

    connected: ConnectedApp
    console: Console
    display: Display

    @property
    def app(self) -> App:
        """The App, on the database that was chosen."""
        return self.connected.app

    async def run(self) -> list[Job]:
        """Defer the jobs and work them, until each has ended or a signal stops the worker.

        Returns:
            The demo's jobs as they are at the end.

        Raises:
            DemoError: Another demo is under way on this database.
            TrioQueueException: What the worker raises.
        """
        async with self.app.open_async():
            await self._remove_earlier_jobs()
            await self._defer()
            failure: Exception | None = None
            worker = self.app.worker(queues=[QUEUE], name=WORKER_NAME, concurrency=CONCURRENCY)
            with self.display.shown():
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._watch, worker)
                    try:
                        await worker.run()
                    except Exception as error:  # noqa: BLE001 - raised below, bare: a nursery would wrap it
                        failure = error
                    nursery.cancel_scope.cancel(reason="the worker has stopped")
                jobs = [] if failure else await self._jobs()
                self.display.update(jobs)
            if failure:
                raise failure
            return jobs

    async def _jobs(self) -> list[Job]:
        return await self.app.job_manager.list_jobs_async(queue=QUEUE)

    async def _remove_earlier_jobs(self) -> None:
        """Begin with an empty queue: what an earlier demo left was for looking at it."""
        manager = self.app.job_manager
        for worker in await manager.list_workers_async():
            if worker.name == WORKER_NAME and _may_live(worker, self.app):
                raise DemoError(
                    f"another demo is under way on this database (worker {worker.id}, process "
                    f"{worker.pid} on {worker.host}): let it end first"
                )
        for job in await self._jobs():
            assert job.id is not None, "a job that was read has an id"
            if job.status == Status.TODO.value:
                await manager.cancel_job_by_id_async(job.id, delete_job=True)
            elif job.status == Status.DOING.value:  # its demo was killed
                await manager.finish_job_by_id_async(job.id, Status.FAILED, delete_job=True)
        await manager.delete_old_jobs(
            nb_hours=0,
            queue=QUEUE,
            include_failed=True,
            include_cancelled=True,
            include_aborted=True,
        )

    async def _defer(self) -> None:
        for kind in KINDS:
            for options, arguments in kind.groups():
                await kind.task.configure(**options).batch_defer_async(*arguments)

    async def _watch(self, worker: Worker) -> None:
        """Show how far it is; stop the worker when every job has ended."""
        while True:
            try:
                jobs = await self._jobs()
            except TrioQueueException:
                pass  # the worker says it, and tries again
            else:
                self.display.update(jobs)
                if worker.stage is Stage.RUNNING and _is_done(jobs):
                    self.display.all_have_ended = True
                    worker.stop()
            await trio.sleep(LOOK_INTERVAL)


def _is_done(jobs: list[Job]) -> bool:
    """Whether every job has ended, and a periodic one among them."""
    periodic = {kind.task.name for kind in KINDS if kind.is_periodic}
    others = [job for job in jobs if job.task_name not in periodic]
    return all(map(has_ended, others)) and any(
        has_ended(job) for job in jobs if job.task_name in periodic
    )


def _may_live(worker: WorkerInfo, app: App) -> bool:
    unheard = (app.connector.now() - worker.last_heartbeat).total_seconds()
    if unheard > WORKER_TIMEOUT:
        return False
    if worker.host != socket.gethostname() or worker.pid is None:
        return True
    try:
        os.kill(worker.pid, 0)
    except ProcessLookupError:
        return False  # it was killed a moment ago
    except PermissionError:
        return True
    return worker.pid != os.getpid()


def example_code(*, embedded: bool) -> str:
    """A program of some twenty lines that a user would write, and that runs as it is.

    Args:
        embedded: Whether it works on the embedded server, else on one that the environment names.
    """
    name = f"hello_{'embedded' if embedded else 'server'}.py"
    text = importlib.resources.files("trio_queue._cli.examples").joinpath(name).read_text("utf-8")
    # The first line speaks to the linter.
    return text.partition("\n")[2]


def show_end(connected: ConnectedApp, console: Console, jobs: list[Job]) -> None:
    """Print what became of the jobs, how to look closer, and what a user would write.

    Args:
        connected: What the demo ran on.
        console: Where to.
        jobs: The demo's jobs.
    """
    show_summary(console, jobs)
    program = "trio-queue"
    if connected.source == "--database":
        program += f" --database {shlex.quote(connected.conninfo or '')}"
    console.print("Look closer:", style="bold")
    failed = next((job.id for job in jobs if job.status == Status.FAILED.value), None)
    commands = [f"jobs list --queue {QUEUE}"]
    if failed is not None:
        commands = [f"jobs list --queue {QUEUE} --status failed", f"jobs show {failed}"]
    for command in commands:
        console.print(f"  {program} {command}", soft_wrap=True)
    console.print()
    console.print("What you would write:", style="bold")
    for line in example_code(embedded=connected.is_embedded).splitlines():
        console.print(f"    {line}".rstrip(), soft_wrap=True)
    console.print()
    console.print(f"Save it: {program} demo --code > hello.py", soft_wrap=True)
    console.print(f"Run it:  {_run_line(connected)}", soft_wrap=True)


def _run_line(connected: ConnectedApp) -> str:
    match connected.source:
        case "--database":
            return (
                f"TRIO_QUEUE_DATABASE_URL={shlex.quote(connected.conninfo or '')} python hello.py"
            )
        case "DATABASE_URL":
            return 'TRIO_QUEUE_DATABASE_URL="$DATABASE_URL" python hello.py'
        case _:
            return "python hello.py"
