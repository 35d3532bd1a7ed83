"""`trio-queue worker`."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import click

from trio_queue._cli import logs
from trio_queue._cli.group import EXIT_CODES
from trio_queue._cli.options import connection_options, given_worker_options, worker_options
from trio_queue._cli.session import Session
from trio_queue.exceptions import InvalidOption, TrioQueueException
from trio_queue.log import Action, fields

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


class WorkerCommand(click.Command):
    """A service: who reads its log may be a program, and finds there what ended it by an error."""

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        """Read the command line; what is wrong with it is told by `_errors_logged`."""
        with _errors_logged(parent):
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the worker; what ends it by an error is told by `_errors_logged`."""
        with _errors_logged(ctx):
            return super().invoke(ctx)


@contextmanager
def _errors_logged(context: click.Context | None) -> Generator[None]:
    """Tell an error once, as a record of the log, instead of in a line that stands beside it.

    A command line that is wrong is told as usual where the log is text: somebody types it.
    """
    try:
        yield
    except (click.exceptions.Exit, click.Abort):
        raise
    except Exception as error:
        # Not before: an App that sets up logging as it is imported silences the loggers that there are.
        logger = logging.getLogger("trio_queue.worker")
        asked = context.find_root().params.get("log_format") if context else None
        is_usage_of_text = isinstance(error, click.UsageError) and asked in {None, logs.TEXT}
        if is_usage_of_text or not logger.isEnabledFor(logging.ERROR):
            raise
        _log(logger, error)
        code = error.exit_code if isinstance(error, click.ClickException) else 1
        raise click.exceptions.Exit(code) from error


def _log(logger: logging.Logger, error: Exception) -> None:
    match error:
        case click.ClickException():
            told, is_expected = error.format_message(), True
        case TrioQueueException():
            told, is_expected = str(error), True
        case _:
            told, is_expected = f"{type(error).__name__}: {error}", False
    logger.error(
        "The worker failed: %s",
        told,
        extra=fields(Action.WORKER_FAILED),
        exc_info=None if is_expected and not logger.isEnabledFor(logging.DEBUG) else error,
    )


@click.command(cls=WorkerCommand, epilog=EPILOG)
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
