"""`trio-queue schema`."""

from __future__ import annotations

import click

from trio_queue._cli.group import EXIT_CODES
from trio_queue._cli.options import connection_options
from trio_queue._cli.session import Session
from trio_queue.exceptions import SchemaError

EPILOG = f"""\b
Examples:
  trio-queue --app myproject.tasks:app schema --apply
  trio-queue --database postgresql://localhost/queue schema --check

{EXIT_CODES}"""


@click.command(epilog=EPILOG)
@click.option(
    "--apply",
    "action",
    flag_value="apply",
    default="apply",
    help="Create the tables, or bring them to this version (the default). Safe to repeat, safe on "
    "a database of Procrastinate's, whose workers may go on.",
)
@click.option(
    "--check", "action", flag_value="check", help="Say what is missing; exit with 1 if anything is."
)
@click.option(
    "--restore-procrastinate",
    "action",
    flag_value="restore_procrastinate",
    help="Go back: take away what trio_queue added, so that the tables, with every job, are as "
    "Procrastinate makes them. Refused while a worker of trio_queue is alive.",
)
@click.option("--read", "action", flag_value="read", help="Print the SQL; nothing is connected.")
@click.option(
    "--migrations-path",
    "action",
    flag_value="migrations_path",
    help="Print the directory of the migrations.",
)
@connection_options
@click.pass_obj
def command(session: Session, /, *, action: str) -> None:
    """Create the tables of the queue in the database, or bring them to this version."""
    from trio_queue.schema import SchemaManager, describe

    if action in {"read", "migrations_path"}:
        told = (
            SchemaManager.get_schema() if action == "read" else SchemaManager.get_migrations_path()
        )
        click.echo(str(told).strip())
        return
    app = session.load_app_if_named()
    with session.connected(app, may_start_server=not session.app_path) as connected:
        manager = connected.app.schema_manager
        if action == "restore_procrastinate":
            manager.restore_procrastinate()
            click.echo(
                "the tables are as Procrastinate makes them; what trio_queue added is gone, "
                "every job is there"
            )
            return
        if action == "apply":
            manager.apply_schema()
        state = manager.check()
    if not state.is_usable:
        raise SchemaError(describe(state))
    click.echo(describe(state))
