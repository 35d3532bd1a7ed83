"""A group of commands that imports only the one it runs, suggests what was meant, and shows errors without a traceback."""

from __future__ import annotations

import difflib
import errno
import importlib
import logging
from collections.abc import Mapping
from typing import Any, cast

import click

from trio_queue.exceptions import TrioQueueException

logger = logging.getLogger(__name__)

#: What a shell says of a program that Ctrl-C ended: 128 + SIGINT.
INTERRUPTED = 130

EXIT_CODES = f"""\b
Exit codes:
  0    fine; of a worker also: stopped by a signal, every job ended or given back
  1    an error, told on stderr
  2    the command line is wrong
  {INTERRUPTED}  interrupted by Ctrl-C
"""


class CommandGroup(click.Group):
    """A click group whose commands are modules, named with the line that lists them."""

    def __init__(
        self, *args: Any, modules: Mapping[str, tuple[str, str]] | None = None, **kwargs: Any
    ) -> None:
        """Make a group.

        Args:
            *args: As of `click.Group`.
            modules: Of each command its module, which has it under the name `command`, and what
                the list of commands says about it; None: its
                commands are in this process already.
            **kwargs: As of `click.Group`.
        """
        super().__init__(*args, **kwargs)
        self._modules = dict(modules or {})

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of the commands, in the order in which they are listed."""
        return [*self._modules, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command of this name; None where there is none."""
        if cmd_name not in self._modules:
            return super().get_command(ctx, cmd_name)
        command: click.Command = importlib.import_module(self._modules[cmd_name][0]).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        if not self._modules:
            super().format_commands(ctx, formatter)
            return
        with formatter.section("Commands"):
            formatter.write_dl([(name, told) for name, (_, told) in self._modules.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or say which one may have been meant."""
        name = args[0]
        if self.get_command(ctx, name) is None and not ctx.resilient_parsing:
            known = self.list_commands(ctx)
            if name.startswith("-"):
                raise click.NoSuchOption(name, ctx=ctx)
            similar = difflib.get_close_matches(name, known, n=1)
            meant = f"did you mean {similar[0]!r}?" if similar else f"there are {', '.join(known)}."
            raise click.UsageError(f"No such command {name!r}: {meant}", ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; what a user can mend is shown as one message.

        Raises:
            click.ClickException: The database, the App or the embedded server has a fault, or the disk
                that the answer goes to is full.
            click.exceptions.Exit: Ctrl-C ended the command.
        """
        try:
            return super().invoke(ctx)
        except click.NoSuchOption as error:
            raise self._explained(error, ctx) from error
        except TrioQueueException as error:
            logger.debug("What went wrong, in full:", exc_info=error)
            raise click.ClickException(str(error)) from error
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            told = f"the answer could not be written: {error.strerror}"
            raise click.ClickException(told) from error
        except BaseException as error:
            if not _is_interrupt(error):
                raise
            click.echo("Interrupted.", err=True)
            raise click.exceptions.Exit(INTERRUPTED) from None

    def _explained(self, error: click.NoSuchOption, ctx: click.Context) -> click.UsageError:
        """An option of the group that stands after the command is not unknown, only misplaced."""
        if error.ctx is None or error.ctx is ctx:
            return error
        if any(error.option_name in option.opts for option in self.params):
            return click.UsageError(
                f"{error.option_name} stands before the command: "
                f"{ctx.command_path} {error.option_name} ... "
                f"{error.ctx.command_path.removeprefix(ctx.command_path).strip()}",
                error.ctx,
            )
        return error


def _is_interrupt(error: BaseException) -> bool:
    """Whether it is Ctrl-C and nothing else; between the blocks of a loop it may come in a group."""
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        return all(map(_is_interrupt, group.exceptions))
    return isinstance(error, KeyboardInterrupt)
