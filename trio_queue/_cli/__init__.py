"""The command line, `trio-queue`."""

from __future__ import annotations

import logging

import click

from trio_queue import __version__
from trio_queue._cli import logs
from trio_queue._cli.group import EXIT_CODES, CommandGroup
from trio_queue._cli.options import option
from trio_queue._cli.session import Session

__all__ = ["MODULES", "cli", "main"]

_COMMANDS = "trio_queue._cli.commands"

#: Each is imported when it is asked for: `trio-queue --help` pays for none of them.
MODULES = {
    "demo": (f"{_COMMANDS}.demo", "See it all at work: a few hundred jobs, in some seconds."),
    "worker": (f"{_COMMANDS}.worker", "Run jobs until you stop it, or until none is left."),
    "defer": (f"{_COMMANDS}.defer", "Put a job into its queue."),
    "jobs": (f"{_COMMANDS}.jobs", "List jobs; show, retry, cancel or abort one."),
    "workers": (f"{_COMMANDS}.workers", "List the workers and what they are doing."),
    "shell": (f"{_COMMANDS}.shell", "Look at jobs, retry and cancel some, from a prompt."),
    "schema": (f"{_COMMANDS}.schema", "Create or migrate the tables, or check them."),
    "healthchecks": (f"{_COMMANDS}.healthchecks", "Check the App, the connection and the tables."),
    "embedded": (f"{_COMMANDS}.embedded", "Run a PostgreSQL server without installing one."),
}

EPILOG = f"""\b
Begin here:
  trio-queue demo                              nothing needs to be prepared
  trio-queue --app myproject.tasks:app schema --apply
  trio-queue --app myproject.tasks:app defer myproject.tasks.greet '{{"name": "Ada"}}'
  trio-queue --app myproject.tasks:app worker

\b
Which database, the first of these that is given:
  --database; the conninfo of the App's connector; TRIO_QUEUE_DATABASE_URL;
  DATABASE_URL; libpq's PGHOST, PGDATABASE, ...; and, for the demo and for
  commands without an App, the embedded server.

\b
Environment: each option tells its variable. Those of Procrastinate, PROCRASTINATE_...
instead of TRIO_QUEUE_..., are read too, where ours are not set.

{EXIT_CODES}"""


@click.command(
    cls=CommandGroup,
    modules=MODULES,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@option(
    "-a",
    "--app",
    env="APP",
    metavar="MODULE:NAME",
    help="Where the App is: `myproject.tasks:app`, or with dots only. The working directory is "
    "searched first.",
)
@click.option(
    "--database",
    metavar="CONNINFO",
    help="The database: postgresql://user@host/name, or 'host=... dbname=...'. It wins over the "
    "App's own.",
)
@option(
    "-v", "--verbose", env="VERBOSE", count=True, default=0, help="Log everything that is done."
)
@click.option("-q", "--quiet", count=True, help="Log warnings and errors only; twice: errors only.")
@option(
    "--log-level",
    env="LOG_LEVEL",
    type=click.Choice(["debug", "info", "warning", "error", "critical"], case_sensitive=False),
    help="Log this and what is worse; instead of -v and -q.",
)
@option(
    "--log-format",
    env="LOG_FORMAT",
    metavar="text|json|FORMAT",
    default=logs.TEXT,
    help="text: for people, in colours on a terminal, with the date elsewhere. json: an object on "
    "each line, with action, job, task, queue and worker as fields. Or a format of Python's "
    "logging module.",
)
@option(
    "--log-format-style",
    env="LOG_FORMAT_STYLE",
    type=click.Choice(["%", "{", "$"]),
    default="%",
    help="The style of such a FORMAT.",
)
@click.version_option(__version__, "-V", "--version", prog_name="trio-queue")
@click.pass_context
def cli(
    ctx: click.Context,
    *,
    app: str | None,
    database: str | None,
    verbose: int,
    quiet: int,
    log_level: str | None,
    log_format: str,
    log_format_style: str,
) -> None:
    """The PostgreSQL job queue for Trio.

    Jobs are calls of your functions, kept in PostgreSQL until a worker has run them. `COMMAND
    --help` explains each command.
    """
    if verbose and quiet:
        raise click.UsageError("-v and -q exclude each other: give one of them.")
    ctx.obj = Session(
        app_path=app,
        database=database,
        logs_asked_for=bool(verbose or log_level or log_format != logs.TEXT),
    )
    # A worker tells what it does; of the other commands the answer is what one wants to read.
    default = logging.INFO if ctx.invoked_subcommand == "worker" else logging.WARNING
    level = logs.chosen_level(log_level=log_level, verbose=verbose, quiet=quiet, default=default)
    try:
        ctx.with_resource(logs.logging_to_stderr(level, log_format, log_format_style))
    except ValueError as error:
        raise click.BadParameter(
            f"{error}: give text, json, or a format in the style {log_format_style!r}",
            ctx,
            param_hint="--log-format",
        ) from error


def main() -> None:
    """Run the command line of this process, and exit."""
    cli(prog_name="trio-queue")
