"""`trio-queue worker`."""

from __future__ import annotations

from typing import Any

import click

from trio_queue._cli.group import EXIT_CODES
from trio_queue._cli.options import connection_options, given_worker_options, worker_options
from trio_queue._cli.session import Session
from trio_queue.exceptions import InvalidOption

EPILOG = f"""\b
Examples:
  trio-queue --app myproject.tasks:app worker
  trio-queue --app myproject.tasks:app worker --queues mail,reports --concurrency 20
  trio-queue --app myproject.tasks:app worker --one-shot     until no job is left
  trio-queue --app myproject.tasks:app --log-format json worker

\b
How it stops, by Ctrl-C (SIGINT) or SIGTERM:
  once        it fetches no more, and waits for the running jobs
  twice       it also aborts the running jobs, and waits until they have ended
  thrice      it leaves at once, with exit code 128 + the signal's number; other
              workers take over the jobs that still run
  With --shutdown-graceful-timeout it aborts them by itself after so many seconds.

Options that are not given are as in the App's `worker_defaults`, else as told above.

{EXIT_CODES}"""


@click.command(epilog=EPILOG)
@worker_options
@connection_options
@click.pass_obj
def command(session: Session, /, **given: Any) -> None:
    """Run the jobs of an App, until it is asked to stop.

    It logs to stderr what it does. Start as many workers as you like, on any machines: each job is
    run by one of them.
    """
    options = given_worker_options(given)
    app = session.load_app()
    with session.connected(app, may_start_server=False) as connected:
        try:
            connected.app.worker(**options)
        except InvalidOption as error:
            raise click.UsageError(str(error)) from error
        connected.app.run_worker(**options)
