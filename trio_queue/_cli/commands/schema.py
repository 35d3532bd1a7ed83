"""`trio-queue schema`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from trio_queue._cli.group import EXIT_CODES
from trio_queue._cli.options import connection_options
from trio_queue._cli.session import Session

if TYPE_CHECKING:
    from trio_queue.app import App

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
@click.option("--read", "action", flag_value="read", help="Print the SQL; nothing is connected.")
@click.option(
    "--migrations-path",
    "action",
    flag_value="migrations_path",
    help="Print the directory of the migrations.",
)
@connection_options
@click.pass_obj
def command(session: Session, *, action: str) -> None:
    """Create the tables of the queue in the database, or bring them to this version."""
    if action in {"read", "migrations_path"}:
        from trio_queue.schema import SchemaManager

        told = (
            SchemaManager.get_schema() if action == "read" else SchemaManager.get_migrations_path()
        )
        click.echo(str(told).strip())
        return
    app = session.load_app_if_named()
    with session.connected(app, may_start_server=not session.app_path) as connected:
        connected.run(_apply if action == "apply" else _check)


async def _apply(app: App) -> None:
    await app.schema_manager.apply_schema_async()
    click.echo("The schema is applied.", err=True)


async def _check(app: App) -> None:
    await app.schema_manager.check_async()
    click.echo("The schema is complete.", err=True)
