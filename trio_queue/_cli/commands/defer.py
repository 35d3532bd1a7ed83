"""`trio-queue defer`."""

from __future__ import annotations

import datetime
import json
from typing import TYPE_CHECKING, Any, cast

import click

from trio_queue._cli.group import EXIT_CODES
from trio_queue._cli.options import connection_options, option
from trio_queue._cli.session import Session
from trio_queue._cli.values import moment
from trio_queue.exceptions import AlreadyEnqueued, InvalidArguments, InvalidOption

if TYPE_CHECKING:
    from trio_queue.app import App

EPILOG = f"""\b
Examples:
  trio-queue --app myproject.tasks:app defer myproject.tasks.greet '{{"name": "Ada"}}'
  trio-queue --app myproject.tasks:app defer myproject.tasks.report --in 3600 --lock reports
  trio-queue --app myproject.tasks:app defer myproject.tasks.report --at 2030-01-01T06:00:00+01:00
  trio-queue defer --unknown other.project.task '{{"id": 1}}'     without its App

The id of the new job goes to stdout.

{EXIT_CODES}"""


def _arguments(_: click.Context, __: click.Parameter, value: str | None) -> dict[str, Any]:
    if not value:
        return {}
    try:
        arguments = json.loads(value)
    except ValueError as error:
        raise click.BadParameter(
            f"it is not JSON ({error}): {value!r}. Write an object, "
            'in quotes of the shell: \'{"name": "Ada"}\'.',
            param_hint="JSON_ARGS",
        ) from None
    if not isinstance(arguments, dict):
        raise click.BadParameter(
            f'it must be an object, such as {{"name": "Ada"}}, and is {value!r}.',
            param_hint="JSON_ARGS",
        )
    return cast("dict[str, Any]", arguments)


@click.command(epilog=EPILOG)
@click.argument("task")
@click.argument(
    "arguments",
    metavar="[JSON_ARGS]",
    required=False,
    callback=_arguments,
    envvar=["TRIO_QUEUE_DEFER_JSON_ARGS", "PROCRASTINATE_DEFER_JSON_ARGS"],
)
@option("--queue", env="DEFER_QUEUE", help="The queue, instead of the task's own.")
@option("--lock", env="DEFER_LOCK", help="Of the jobs with one lock, one runs at a time.")
@option(
    "--queueing-lock",
    env="DEFER_QUEUEING_LOCK",
    help="Of the jobs with one queueing lock, only one may wait: another is refused.",
)
@option(
    "-i",
    "--ignore-already-enqueued/--no-ignore-already-enqueued",
    env="DEFER_IGNORE_ALREADY_ENQUEUED",
    default=False,
    help="Where it is refused for its queueing lock, say so, but exit with 0.",
)
@option(
    "--at",
    "schedule_at",
    env="DEFER_AT",
    type=moment,
    metavar="MOMENT",
    help="Not before this moment.",
)
@option(
    "--in",
    "schedule_in",
    env="DEFER_IN",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="Not before so many seconds from now.",
)
@option("--priority", env="DEFER_PRIORITY", type=int, help="Higher runs first.")
@option(
    "--unknown/--no-unknown",
    env="DEFER_UNKNOWN",
    default=False,
    help="Also a task that the App does not know, or without an App: its arguments cannot be "
    "checked.",
)
@connection_options
@click.pass_obj
def command(
    session: Session,
    /,
    *,
    task: str,
    arguments: dict[str, Any],
    ignore_already_enqueued: bool,
    unknown: bool,
    schedule_at: datetime.datetime | None,
    schedule_in: float | None,
    **configured: Any,
) -> None:
    """Put a job into its queue: a call of TASK with JSON_ARGS, for a worker to run.

    TASK is the task's name, JSON_ARGS a JSON object with its arguments.
    """
    if schedule_at is not None and schedule_in is not None:
        raise click.UsageError("--at and --in exclude each other: give one of them.")
    options = {name: value for name, value in configured.items() if value is not None}
    if schedule_at is not None:
        options["schedule_at"] = schedule_at
    if schedule_in is not None:
        options["schedule_in"] = {"seconds": schedule_in}
    app = session.load_app_if_named() if unknown else session.load_app()

    async def defer(app: App) -> int | None:
        try:
            deferrer = app.configure_task(task, allow_unknown=unknown, **options)
            return await deferrer.defer_async(**arguments)
        except (InvalidArguments, InvalidOption) as error:
            raise click.UsageError(str(error)) from error
        except AlreadyEnqueued as error:
            if not ignore_already_enqueued:
                raise
            click.echo(f"{error} (ignored)", err=True)
            return None

    with session.connected(app, may_start_server=not session.app_path) as connected:
        job_id = connected.run(defer)
    if job_id is not None:
        click.echo(job_id)
