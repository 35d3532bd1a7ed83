"""`trio-queue workers`."""

from __future__ import annotations

import click

from trio_queue._cli.group import EXIT_CODES
from trio_queue._cli.options import connection_options
from trio_queue._cli.session import Session

EPILOG = f"""\b
Stages: starting, running, draining (it waits for its running jobs), aborting.
Running: how many jobs it holds, of how many at once; `trio-queue jobs --worker ID`
lists them.
Of a worker of Procrastinate only its heartbeat is known, and that stops while it drains.
Dead workers are gone from the list as soon as a living one has rescued their jobs.

{EXIT_CODES}"""


@click.command(epilog=EPILOG)
@click.option(
    "--stalled-after",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="One not heard of for so long is shown as dead: the workers' --stalled-worker-timeout.",
)
@click.option("--json", "as_json", is_flag=True, help="A JSON object for each, on its line.")
@connection_options
@click.pass_obj
def command(session: Session, /, *, stalled_after: float, as_json: bool) -> None:
    """List the workers that the database knows: where they run, what they do, whether they live."""
    from trio_queue._cli import output

    app = session.load_app_if_named()
    with session.connected(app, may_start_server=not session.app_path) as connected:
        workers = connected.run(lambda app: app.job_manager.list_workers_async())
    output.show_workers(workers, stalled_after=stalled_after, as_json=as_json)
