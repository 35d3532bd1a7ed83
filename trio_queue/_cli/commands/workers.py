"""`trio-queue workers`."""

from __future__ import annotations

import click

from trio_queue._cli.group import EXIT_CODES
from trio_queue._cli.options import connection_options
from trio_queue._cli.session import Session

EPILOG = f"""\b
Stages: starting, running, draining (it waits for its running jobs), aborting.
A worker of Procrastinate has a heartbeat only.

{EXIT_CODES}"""


@click.command(epilog=EPILOG)
@click.option("--json", "as_json", is_flag=True, help="A JSON object for each, on its line.")
@connection_options
@click.pass_obj
def command(session: Session, /, *, as_json: bool) -> None:
    """List the workers that the database knows: where they run, their queues, their stage."""
    from trio_queue._cli import output

    app = session.load_app_if_named()
    with session.connected(app, may_start_server=not session.app_path) as connected:
        workers = connected.run(lambda app: app.job_manager.list_workers_async())
    output.show_workers(workers, as_json=as_json)
