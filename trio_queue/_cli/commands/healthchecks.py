"""`trio-queue healthchecks`."""

from __future__ import annotations

import click

from trio_queue._cli.group import EXIT_CODES
from trio_queue._cli.options import connection_options
from trio_queue._cli.session import Session
from trio_queue.exceptions import SchemaError


@click.command(epilog=EXIT_CODES)
@connection_options
@click.pass_obj
def command(session: Session, /) -> None:
    """Check that the App can be imported, that the database answers, and that the tables are there.

    Says what is fine and exits with 0, or says what is not and exits with 1: for a container's
    probe. Without an App only the database is checked; the embedded server is never started for it.
    """
    from trio_queue.schema import describe

    app = session.load_app_if_named()
    with session.connected(app, may_start_server=False) as connected:
        if session.app_path:
            app.perform_import_paths()
            click.echo("App: OK")

        state = connected.app.schema_manager.check()
        click.echo("Database connection: OK")
        if not state.is_usable:
            raise SchemaError(describe(state))
        click.echo("Tables: OK")
