"""`trio-queue demo`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from trio_queue._cli.group import EXIT_CODES
from trio_queue._cli.options import database_option
from trio_queue._cli.session import ConnectedApp, Session

if TYPE_CHECKING:
    from rich.console import Console

EPILOG = f"""\b
Examples:
  trio-queue demo
  trio-queue demo --database postgresql://localhost/playground
  trio-queue demo --code > hello.py

\b
It says which database it works on: the one that is named, else the embedded
server, whose data stay in your data directory. Its jobs are in a queue of their
own, `demo`: it neither runs nor shows other jobs, and each demo removes the jobs
of the one before.

{EXIT_CODES}"""


@click.command(epilog=EPILOG)
@click.option("--code", is_flag=True, help="Only print the program that one would write, and end.")
@database_option
@click.pass_obj
def command(session: Session, /, *, code: bool) -> None:
    """Run some hundred jobs of every kind in a few seconds, and show what becomes of them.

    Async jobs, sync jobs in threads, locks, priorities, retries, failures, a scheduled and a
    periodic one. Ctrl-C in the middle shows how a worker stops.
    """
    import trio

    from trio_queue import PsycopgConnector
    from trio_queue._cli import demo, output
    from trio_queue._cli.demo_display import Display

    app = demo.make_app(PsycopgConnector())
    if code:
        click.echo(demo.example_code(embedded=session.names_no_database()), nl=False)
        return
    console = output.make_console()
    with session.connected(app, may_start_server=True) as connected:
        _prepare(connected, console)
        display = Display(console, logger=demo.WORKER_LOGGER, logs_shown=session.logs_asked_for)
        jobs = trio.run(demo.Demo(connected, console, display).run)
        demo.show_end(connected, console, jobs)


def _prepare(connected: ConnectedApp, console: Console) -> None:
    """Say which database it is; make the tables there."""
    from trio_queue.exceptions import SchemaError
    from trio_queue.schema import SchemaKind, describe

    console.print(f"Database: {connected.address} ({connected.source})", soft_wrap=True)
    manager = connected.app.schema_manager
    state = manager.check()
    if state.is_usable:
        console.print("Tables:   there already")
        return
    is_asked_for = connected.is_embedded or connected.source == "--database"
    if state.kind is not SchemaKind.ABSENT and not is_asked_for:
        raise SchemaError(
            f"{connected.source} names a database with tables that somebody uses, and the demo "
            f"would change them: {describe(state)}. Or name another by --database"
        )
    manager.apply_schema()
    console.print("Tables:   made, as by `trio-queue schema --apply`")
