"""`trio-queue shell`."""

from __future__ import annotations

import shlex

import click

from trio_queue._cli.group import EXIT_CODES
from trio_queue._cli.options import connection_options
from trio_queue._cli.session import Session

EPILOG = f"""\b
Examples:
  trio-queue --app myproject.tasks:app shell
  trio-queue shell list_jobs status=failed details
  trio-queue shell help

For programs there is `trio-queue jobs`, which can write JSON.

{EXIT_CODES}"""


@click.command(epilog=EPILOG)
@click.argument("shell_command", metavar="[COMMAND]...", nargs=-1)
@connection_options
@click.pass_obj
def command(session: Session, /, *, shell_command: tuple[str, ...]) -> None:
    """Look at jobs, retry and cancel some, from a prompt; or by the one COMMAND given."""
    from trio_queue._cli.shell import Shell

    app = session.load_app_if_named()
    with session.connected(app, may_start_server=not session.app_path) as connected:
        connected.check_schema()
        with connected.app.open():
            shell = Shell(connected.app.job_manager)
            if not shell_command:
                shell.cmdloop()
                return
            shell.onecmd(shlex.join(shell_command))
    if shell.has_failed:
        raise click.exceptions.Exit(1)
