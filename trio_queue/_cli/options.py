"""Options: where their values come from, those that several commands share, and a worker's."""

from __future__ import annotations

import enum
import types
import typing
from collections.abc import Callable
from typing import Any, TypeVar

import attrs
import click

from trio_queue._cli.session import Session
from trio_queue._cli.values import names

F = TypeVar("F", bound=Callable[..., Any])

ENVIRONMENT_PREFIX = "TRIO_QUEUE_"
#: Read where ours is not set, so that a deployment need not change at once.
PROCRASTINATE_PREFIX = "PROCRASTINATE_"


def option(
    *declarations: str, env: str | None = None, help: str = "", **attributes: Any
) -> Callable[[F], F]:
    """An option of a command, as `click.option` makes it.

    Args:
        *declarations: Its names.
        env: The environment variable, without the prefix, that gives it a value otherwise;
            Procrastinate's of the same name is read too, and loses.
        help: What it does; the variable's name is added.
        **attributes: As of `click.option`.
    """
    if env is not None:
        attributes["envvar"] = [f"{ENVIRONMENT_PREFIX}{env}", f"{PROCRASTINATE_PREFIX}{env}"]
    named = f"  [env: {ENVIRONMENT_PREFIX}{env}]" if env else ""
    return click.option(*declarations, help=help + named, **attributes)


# -- what several commands share ------------------------------------------------------------------


def connection_options(command: F) -> F:
    """Let `--app` and `--database` stand after the command too; there they win."""
    # No short form here: a worker's `-a` is another option, as Procrastinate's is.
    command = click.option(
        "--app",
        metavar="MODULE:NAME",
        help="The App, as before the command.",
        expose_value=False,
        callback=_replace("app_path"),
    )(command)
    return database_option(command)


def database_option(command: F) -> F:
    """Let `--database` stand after the command too; there it wins."""
    return click.option(
        "--database",
        metavar="CONNINFO",
        help="The database, as before the command.",
        expose_value=False,
        callback=_replace("database"),
    )(command)


def _replace(attribute: str) -> Callable[[click.Context, click.Parameter, str | None], None]:
    def callback(ctx: click.Context, _: click.Parameter, value: str | None) -> None:
        if value is not None:
            setattr(ctx.ensure_object(Session), attribute, value)

    return callback


# -- a worker's -----------------------------------------------------------------------------------

#: Short names, and other long ones: Procrastinate's.
_NAMES = {
    "name": ["-n", "--name"],
    "queues": ["-q", "--queues"],
    "concurrency": ["-c", "--concurrency"],
    "wait": ["-w", "--wait/--one-shot"],
    "fetch_job_polling_interval": ["-p", "--fetch-job-polling-interval"],
    "abort_job_polling_interval": ["-a", "--abort-job-polling-interval"],
    "listen_notify": ["-l", "--listen-notify/--no-listen-notify"],
}
#: A worker of the command line hears signals, the third one too.
_DECIDED = {"install_signal_handlers": True, "exit_on_third_signal": True}


def worker_options(command: F) -> F:
    """Add an option for each of a worker's that text can give. Those not given come as None."""
    from trio_queue._worker.options import Options

    hints = typing.get_type_hints(Options)
    for field in reversed(attrs.fields(Options)):
        kind = _kind(hints[field.name])
        if kind is not None and field.name not in _DECIDED:
            command = _worker_option(field, kind)(command)
    return command


def given_worker_options(given: dict[str, Any]) -> dict[str, Any]:
    """The options for `App.run_worker`: what was given, and what the command line decides."""
    from trio_queue._worker.options import Options

    known = {field.name for field in attrs.fields(Options)}
    decided = {name: value for name, value in _DECIDED.items() if name in known}
    options = {name: value for name, value in given.items() if value is not None}
    if "queues" in options:
        options["queues"] = options["queues"] or None  # the empty text means every queue
    return decided | options


def _worker_option(field: attrs.Attribute[Any], kind: Any) -> Callable[[F], F]:
    dashed = f"--{field.name.replace('_', '-')}"
    usual = [f"{dashed}/--no-{dashed[2:]}" if kind is bool else dashed]
    attributes: dict[str, Any] = {"type": names if kind is tuple else kind, "default": None}
    if kind is tuple:
        attributes["metavar"] = "NAME,..."
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        attributes["type"] = click.Choice([member.value for member in kind])
    told = field.metadata["help"]
    if (shown := _shown_default(field.default)) is not None:
        told += f"  [default: {shown}]"
    return option(
        field.name,
        *_NAMES.get(field.name, usual),
        env=f"WORKER_{field.name.upper()}",
        help=told,
        **attributes,
    )


def _kind(hint: Any) -> Any:
    """The type that a value on the command line is read as; None: text cannot give one."""
    if typing.get_origin(hint) in {types.UnionType, typing.Union}:
        (hint,) = (each for each in typing.get_args(hint) if each is not types.NoneType)
    origin = typing.get_origin(hint) or hint
    if origin in {bool, int, float, str, tuple}:
        return origin
    return hint if isinstance(hint, type) and issubclass(hint, enum.Enum) else None


def _shown_default(default: Any) -> str | None:
    if default is None:
        return None
    if isinstance(default, enum.Enum):
        return str(default.value)
    if isinstance(default, bool):
        return "yes" if default else "no"
    return f"{default:g}" if isinstance(default, float) else str(default)
