"""`trio-queue jobs`: list, show, retry, cancel, abort, prune."""

from __future__ import annotations

import datetime
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from trio_queue import utils
from trio_queue._cli.group import EXIT_CODES, CommandGroup
from trio_queue._cli.options import connection_options
from trio_queue._cli.session import Session
from trio_queue._cli.values import duration, moment, row_id
from trio_queue.exceptions import JobNotFound
from trio_queue.jobs import Status

if TYPE_CHECKING:
    from trio_queue.app import App
    from trio_queue.jobs import Event, Job

R = TypeVar("R")

EPILOG = f"""\b
Examples:
  trio-queue jobs list --status failed
  trio-queue jobs list --queue mail --limit 500 --json
  trio-queue jobs --worker 3
  trio-queue jobs show 12
  trio-queue jobs retry 12 13 --in 60
  trio-queue jobs cancel 12
  trio-queue jobs abort 12
  trio-queue jobs prune --older-than 30d --dry-run

\b
Statuses:
  todo       waiting in its queue        doing      a worker runs it
  succeeded  returned                    failed     raised, and is not retried
  cancelled  before it ran               aborted    made to stop while it ran

{EXIT_CODES}"""

STATUSES = ("todo", "doing", "succeeded", "failed", "cancelled", "aborted")

_job_ids = click.argument("job_ids", metavar="JOB_ID...", type=row_id, nargs=-1, required=True)
_as_json = click.option(
    "--json", "as_json", is_flag=True, help="JSON, an object on each line, for programs."
)


@click.command(cls=CommandGroup, epilog=EPILOG, invoke_without_command=True)
@click.option(
    "--worker", "worker_id", type=row_id, metavar="ID", help="List what this worker holds."
)
@_as_json
@connection_options
@click.pass_context
def command(context: click.Context, /, *, worker_id: int | None, as_json: bool) -> None:
    """List jobs; show one with what happened to it; retry, cancel or abort some; prune old ones."""
    if context.invoked_subcommand is not None:
        if worker_id is not None or as_json:
            given = "--json" if worker_id is None else "--worker"
            raise click.UsageError(
                f"{given} stands without a command, or after it: "
                "`trio-queue jobs --worker 3`, `trio-queue jobs list --worker-id 3 --json`."
            )
    elif worker_id is None:
        click.echo(context.get_help(), err=True)
        context.exit(2)
    else:
        _show_held(context.ensure_object(Session), worker_id, as_json=as_json)


def _show_held(session: Session, worker_id: int, *, as_json: bool) -> None:
    """List the jobs that a worker holds, and since when."""
    from trio_queue._cli import output

    async def ask(app: App) -> tuple[list[Job], dict[int | None, datetime.datetime | None]]:
        manager = app.job_manager
        if not any(worker.id == worker_id for worker in await manager.list_workers_async()):
            raise click.ClickException(
                f"there is no worker {worker_id}: `trio-queue workers` lists those that there are"
            )
        jobs = await manager.list_jobs_async(worker_id=worker_id, status=Status.DOING)
        return jobs, {job.id: await _started_at(app, job) for job in jobs}

    jobs, started = _ask(session, ask)
    if jobs:
        output.show_jobs(jobs, as_json=as_json, started=started)
    else:
        click.echo(f"Worker {worker_id} holds no job.", err=True)


async def _started_at(app: App, job: Job) -> datetime.datetime | None:
    assert job.id is not None, "it was read"
    events = await app.job_manager.list_events_async(job.id)
    return next((event.at for event in reversed(events) if event.type == "started"), None)


def _ask(session: Session, question: Callable[[App], Awaitable[R]]) -> R:
    app = session.load_app_if_named()
    with session.connected(app, may_start_server=not session.app_path) as connected:
        return connected.run(question)


@command.command("list")
@click.option("--status", type=click.Choice(STATUSES), help="Jobs of this status.")
@click.option("--queue", help="Jobs of this queue.")
@click.option("--task", help="Jobs of this task.")
@click.option("--lock", help="Jobs with this lock.")
@click.option("--queueing-lock", help="Jobs with this queueing lock.")
@click.option(
    "--worker-id", type=row_id, metavar="ID", help="Jobs that this worker runs or ran last."
)
@click.option(
    "--after-id", type=row_id, metavar="ID", help="Jobs with a greater id; from the lowest on."
)
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=50,
    show_default=True,
    help="At most so many: the newest.",
)
@_as_json
@connection_options
@click.pass_obj
def list_(session: Session, /, *, limit: int, as_json: bool, **filters: Any) -> None:
    """List the jobs that fit every filter given, by id."""
    from trio_queue._cli import output

    newest = filters["after_id"] is None

    async def ask(app: App) -> list[Job]:
        return await app.job_manager.list_jobs_async(limit=limit + 1, newest=newest, **filters)

    jobs = sorted(_ask(session, ask), key=lambda job: job.id or 0)
    has_more = len(jobs) > limit
    if has_more:
        jobs = jobs[1:] if newest else jobs[:-1]
    if not jobs:
        click.echo("No job fits.", err=True)
    elif as_json:
        output.show_jobs(jobs, as_json=True)
    else:
        output.show_jobs(jobs, as_json=False)
        if has_more:
            which = "newest" if newest else "first"
            click.echo(f"These are the {which} {limit}; --limit shows more.", err=True)


@command.command("show")
@click.argument("job_id", type=row_id)
@_as_json
@connection_options
@click.pass_obj
def show(session: Session, /, *, job_id: int, as_json: bool) -> None:
    """Show one job, and what happened to it."""
    from trio_queue._cli import output

    async def ask(app: App) -> tuple[Job, list[Event]]:
        job = await _require(app, job_id)
        return job, await app.job_manager.list_events_async(job_id)

    job, events = _ask(session, ask)
    output.show_job(job, events, as_json=as_json)


@command.command("retry")
@_job_ids
@click.option("--at", type=moment, metavar="MOMENT", help="Not before this moment.")
@click.option(
    "--in",
    "in_",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="Not before so many seconds from now.",
)
@click.option("--priority", type=int, help="The new priority; higher runs first.")
@click.option("--queue", help="The new queue.")
@click.option("--lock", help="The new lock.")
@connection_options
@click.pass_obj
def retry(
    session: Session,
    /,
    *,
    job_ids: tuple[int, ...],
    at: datetime.datetime | None,
    in_: float | None,
    **changes: Any,
) -> None:
    """Let jobs wait again that failed, or that are `doing` under a dead worker."""
    if at is not None and in_ is not None:
        raise click.UsageError("--at and --in exclude each other: give one of them.")
    if in_ is not None:
        try:
            at = utils.datetime_from_timedelta_params({"seconds": in_})
        except ValueError:
            raise click.BadParameter(
                f"{in_} is not a number of seconds.", param_hint="'--in'"
            ) from None

    async def retry_one(app: App, job_id: int) -> str:
        if (await _require(app, job_id)).abort_requested:
            # The database would make a running one `failed`, and refuse a failed one.
            raise JobNotFound(
                f"job {job_id} was asked to abort, and so does not wait again: defer a new one"
            )
        await app.job_manager.retry_job_by_id_async(job_id, retry_at=at, **changes)
        return "waits again"

    _for_each(session, job_ids, retry_one)


@command.command("cancel")
@_job_ids
@click.option("--delete", is_flag=True, help="Delete the job, too.")
@connection_options
@click.pass_obj
def cancel(session: Session, /, *, job_ids: tuple[int, ...], delete: bool) -> None:
    """Cancel jobs that wait. Running ones go on: abort them."""

    async def cancel_one(app: App, job_id: int) -> str:
        if await app.job_manager.cancel_job_by_id_async(job_id, delete_job=delete):
            return "is deleted" if delete else "is cancelled"
        return await _refuse(app, job_id)

    _for_each(session, job_ids, cancel_one)


@command.command("abort")
@_job_ids
@connection_options
@click.pass_obj
def abort(session: Session, /, *, job_ids: tuple[int, ...]) -> None:
    """Ask for the abort of running jobs; waiting ones are cancelled.

    An async job is cancelled at its next checkpoint; a sync one has to ask `should_abort()`.
    """

    async def abort_one(app: App, job_id: int) -> str:
        if await app.job_manager.cancel_job_by_id_async(job_id, abort=True):
            status = await app.job_manager.get_job_status_async(job_id)
            return "is cancelled" if status.value == "cancelled" else "is asked to abort"
        ended = (await _require(app, job_id)).status
        raise JobNotFound(f"job {job_id} is `{ended}`, and cannot be aborted")

    _for_each(session, job_ids, abort_one)


@command.command("prune")
@click.option(
    "--older-than",
    type=duration,
    metavar="DURATION",
    required=True,
    help="They ended longer ago: 90m, 12h, 30d, 4w.",
)
@click.option(
    "--status",
    "statuses",
    type=click.Choice(STATUSES[2:]),
    multiple=True,
    default=[Status.SUCCEEDED.value],
    show_default=True,
    help="They ended like this. Can be given several times.",
)
@click.option("--queue", help="Only jobs of this queue.")
@click.option("--dry-run", is_flag=True, help="Delete nothing, only count.")
@connection_options
@click.pass_obj
def prune(
    session: Session,
    /,
    *,
    older_than: datetime.timedelta,
    statuses: tuple[str, ...],
    queue: str | None,
    dry_run: bool,
) -> None:
    """Delete jobs that ended long ago, and what happened to them, for good.

    In many short transactions, with rests: workers go on meanwhile. Interrupted, it leaves the rest.
    """

    async def ask(app: App) -> int:
        return await app.job_manager.prune_jobs(older_than, statuses, queue, dry_run=dry_run)

    count = _ask(session, ask)
    jobs = "1 job" if count == 1 else f"{count:,} jobs"
    click.echo(f"{jobs} would be deleted." if dry_run else f"Deleted {jobs}.")


async def _require(app: App, job_id: int) -> Job:
    jobs = await app.job_manager.list_jobs_async(id=job_id)
    if not jobs:
        raise JobNotFound(f"there is no job {job_id}")
    return jobs[0]


async def _refuse(app: App, job_id: int) -> str:
    status = (await _require(app, job_id)).status
    hint = f": `trio-queue jobs abort {job_id}` asks it to stop" if status == "doing" else ""
    raise JobNotFound(f"job {job_id} is `{status}`, and does not wait{hint}")


def _for_each(
    session: Session, job_ids: tuple[int, ...], act: Callable[[App, int], Awaitable[str]]
) -> None:
    """Do it to each of the jobs, whatever the others say; exit with 1 if one refuses."""

    async def ask(app: App) -> bool:
        refused = False
        for job_id in job_ids:
            try:
                click.echo(f"Job {job_id} {await act(app, job_id)}.")
            except JobNotFound as error:
                refused = True
                click.echo(f"Error: {error}", err=True)
        return refused

    if _ask(session, ask):
        raise click.exceptions.Exit(1)
