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


#: What it can do, by the names of the options.
ACTIONS = ("apply", "check", "restore_procrastinate", "read", "migrations_path")


@click.command(epilog=EPILOG)
@click.option(
    "--apply",
    is_flag=True,
    help="Create the tables, or bring them to this version (the default). Safe to repeat, safe on "
    "a database of Procrastinate's, whose workers may go on.",
)
@click.option("--check", is_flag=True, help="Say what is missing; exit with 1 if anything is.")
@click.option(
    "--restore-procrastinate",
    is_flag=True,
    help="Go back: take away what trio_queue added, so that the tables, with every job, are as "
    "Procrastinate makes them. Refused while a worker of trio_queue is alive.",
)
@click.option("--read", is_flag=True, help="Print the SQL; nothing is connected.")
@click.option(
    "--migrations-path",
    is_flag=True,
    help="Print the directory of the migrations.",
)
@connection_options
@click.pass_obj
def command(session: Session, /, **given: bool) -> None:
    """Create the tables of the queue in the database, or bring them to this version."""
    from trio_queue.schema import SchemaManager, describe

    action = _only_action(given)
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


def _only_action(given: dict[str, bool]) -> str:
    """What is to be done. Raises click.UsageError where it is more than one thing."""
    asked = [action for action in ACTIONS if given[action]]
    if len(asked) > 1:
        names = " and ".join(f"--{action.replace('_', '-')}" for action in asked)
        raise click.UsageError(f"{names} exclude each other: give one of them.")
    return asked[0] if asked else "apply"
