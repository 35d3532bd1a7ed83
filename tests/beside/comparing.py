"""What of Procrastinate's public API and command line is another in ours, found by looking at both.

A difference is a line of text: `App.open(pool): missing`, `JobManager.listen_for_jobs: missing`,
`worker --queues: default`.
"""

from __future__ import annotations

import argparse
import enum
import importlib
import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import attrs
import click
import procrastinate.cli
import procrastinate.worker

from trio_queue._cli import cli
from trio_queue._worker.options import Options

#: Compared name by name, with all that is public in them. Where ours stands elsewhere, that is said.
MODULES = ("exceptions", "middleware", "types", "utils")
CLASSES = {
    "app.App": "app.App",
    "blueprints.Blueprint": "blueprints.Blueprint",
    "builtin_tasks.remove_old_jobs": "builtin_tasks.remove_old_jobs",
    "connector.BaseConnector": "connector.BaseConnector",
    "job_context.AbortReason": "job_context.AbortReason",
    "job_context.JobContext": "job_context.JobContext",
    "jobs.DeleteJobCondition": "jobs.DeleteJobCondition",
    "jobs.Job": "jobs.Job",
    "jobs.JobDeferrer": "deferring.JobDeferrer",
    "jobs.Status": "jobs.Status",
    "manager.JobManager": "manager.JobManager",
    "psycopg_connector.PsycopgConnector": "_storage.connector.PsycopgConnector",
    "retry.BaseRetryStrategy": "retry.BaseRetryStrategy",
    "retry.RetryDecision": "retry.RetryDecision",
    "retry.RetryStrategy": "retry.RetryStrategy",
    "schema.SchemaManager": "schema.SchemaManager",
    "sync_psycopg_connector.SyncPsycopgConnector": "_storage.sync_connector.SyncPsycopgConnector",
    "tasks.ConfigureTaskOptions": "deferring.ConfigureTaskOptions",
    "tasks.Task": "tasks.Task",
    "testing.InMemoryConnector": "testing.InMemoryConnector",
}

_ABSENT = object()


def api_differences() -> Iterator[str]:
    """Of everything public that an application may use."""
    for module in MODULES:
        theirs, ours = _load(f"procrastinate.{module}"), _load(f"trio_queue.{module}")
        names: list[str] = dir(theirs)
        for name in names:
            value = getattr(theirs, name)
            if not name.startswith("_") and _stands_in(value, theirs):
                told = f"{module}.{name}"
                yield from _compare(told, value, getattr(ours, name, _ABSENT))
    for theirs_path, ours_path in CLASSES.items():
        theirs, ours = _find("procrastinate", theirs_path), _find("trio_queue", ours_path)
        yield from _compare(theirs_path.rpartition(".")[2], theirs, ours)
    yield from _worker_options()


def _load(module: str) -> Any:
    return importlib.import_module(module)


def _find(library: str, path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(_load(f"{library}.{module}"), name, _ABSENT)


def _stands_in(value: Any, module: Any) -> bool:
    defined = inspect.isclass(value) or inspect.isfunction(value)
    return defined and value.__module__ == module.__name__


def _compare(told: str, theirs: Any, ours: Any) -> Iterator[str]:
    if ours is _ABSENT:
        yield f"{told}: missing"
    elif not inspect.isclass(theirs):
        yield from _compare_signatures(told, theirs, ours)
    elif issubclass(theirs, enum.Enum):
        yield from _compare_names(told, theirs.__members__, ours.__members__)
    elif typed := getattr(theirs, "__annotations__", None) if _is_typed_dict(theirs) else None:
        yield from _compare_names(told, typed, ours.__annotations__)
    else:
        for name in _public_names(theirs):
            yield from _compare_members(f"{told}.{name}", theirs, ours, name)


def _is_typed_dict(kind: Any) -> bool:
    return hasattr(kind, "__total__")


def _public_names(kind: type) -> list[str]:
    known = {name for base in (object, BaseException, tuple) for name in dir(base)}
    names = [name for name in dir(kind) if not name.startswith("_") and name not in known]
    defines = "__init__" in dir(kind) and inspect.isfunction(kind.__init__)  # type: ignore[misc]  # only looked at
    return ["__init__", *names] if defines else names


def _compare_names(told: str, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> Iterator[str]:
    yield from (f"{told}.{name}: missing" for name in theirs if name not in ours)
    yield from (f"{told}.{name}: new" for name in ours if name not in theirs)


def _compare_members(told: str, theirs: type, ours: type, name: str) -> Iterator[str]:
    static = inspect.getattr_static(theirs, name)
    if name not in dir(ours) and not _is_field(ours, name):
        yield f"{told}: missing"
    elif callable(getattr(theirs, name)) and not isinstance(static, property):
        yield from _compare_signatures(told, getattr(theirs, name), getattr(ours, name))


def _is_field(kind: type, name: str) -> bool:
    """An attribute that instances get."""
    if attrs.has(kind):
        return name in attrs.fields_dict(kind)
    return bool(re.search(rf"^\s+self\.{name}\b\s*[:=]", inspect.getsource(kind), re.MULTILINE))


def _compare_signatures(told: str, theirs: Any, ours: Any) -> Iterator[str]:
    if not callable(ours):
        yield f"{told}: not callable"
        return
    if inspect.iscoroutinefunction(theirs) != inspect.iscoroutinefunction(ours):
        yield f"{told}: async"
    yield from _compare_parameters(told, _parameters(theirs), _parameters(ours))


Parameters: TypeAlias = Mapping[str, inspect.Parameter]


def _parameters(function: Any) -> Parameters:
    """By name; what takes the rest by its stars, as its name is nobody's business."""
    found = inspect.signature(function).parameters.values()
    return {_parameter_name(each): each for each in found}


def _parameter_name(parameter: inspect.Parameter) -> str:
    match parameter.kind:
        case inspect.Parameter.VAR_POSITIONAL:
            return "*"
        case inspect.Parameter.VAR_KEYWORD:
            return "**"
        case _:
            return parameter.name


def _compare_parameters(told: str, theirs: Parameters, ours: Parameters) -> Iterator[str]:
    for name, parameter in theirs.items():
        if name not in ours:
            yield f"{told}({name}): missing"
            continue
        if parameter.kind is not ours[name].kind:
            yield f"{told}({name}): kind"
        if not _is_same_default(parameter.default, ours[name].default):
            yield f"{told}({name}): default"
    yield from (f"{told}({name}): new" for name in ours if name not in theirs)
    if [name for name in theirs if name in ours] != [name for name in ours if name in theirs]:
        yield f"{told}: order"


def _is_same_default(theirs: Any, ours: Any) -> bool:
    # attrs' stand-in for "a new one each time", and types of either package, are told alike.
    return theirs is ours or repr(theirs) == repr(ours)


def _worker_options() -> Iterator[str]:
    theirs = inspect.signature(procrastinate.worker.Worker).parameters
    ours = {field.name: field for field in attrs.fields(Options)}
    for name, parameter in theirs.items():
        if name == "app":
            continue
        if name not in ours:
            yield f"run_worker({name}): missing"
        elif not _is_same_option(parameter.default, ours[name].default):
            yield f"run_worker({name}): default"
    yield from (f"run_worker({name}): new" for name in ours if name not in theirs)


def _is_same_option(theirs: Any, ours: Any) -> bool:
    """No middleware is None there and an empty tuple here; no value of ours is an enum of theirs."""
    if isinstance(ours, attrs.Factory):  # type: ignore[arg-type]  # a class at run time
        ours = ours.factory()
    return theirs == ours or (not theirs and not ours)


# -- the command line ---------------------------------------------------------------------------


@attrs.frozen
class Option:
    """What a command takes."""

    #: Whether a value follows it.
    has_value: bool
    env: str | None
    choices: frozenset[str]
    default: Any


def command_line_differences() -> Iterator[str]:
    """Of commands, their options and arguments."""
    theirs, ours = dict(_their_commands()), dict(_our_commands())
    for name, options in theirs.items():
        if name not in ours:
            yield f"{name}: missing"
            continue
        prefix = f"{name} " if name else ""
        for option, told in options.items():
            if option not in ours[name]:
                yield f"{prefix}{option}: missing"
                continue
            for field in attrs.fields(Option):
                if getattr(told, field.name) != getattr(ours[name][option], field.name):
                    yield f"{prefix}{option}: {field.name}"
        yield from (f"{prefix}{option}: new" for option in ours[name] if option not in options)
    yield from (f"{name}: new" for name in ours if name not in theirs)


def _their_commands() -> Iterator[tuple[str, dict[str, Option]]]:
    parser = procrastinate.cli.create_parser()
    procrastinate.cli.add_arguments(parser)
    procrastinate.cli.add_cli_features(parser)
    yield "", _their_options(parser)
    for action in _actions(parser):
        if action.dest == "command":
            commands: Mapping[str, argparse.ArgumentParser] = action.choices
            for name, command in commands.items():
                yield name, _their_options(command)


def _actions(parser: argparse.ArgumentParser) -> list[Any]:
    """Of a parser, but for its help."""
    every = parser._actions  # pyright: ignore[reportPrivateUsage]  # argparse tells them nowhere else
    return [action for action in every if action.dest != "help"]


def _their_options(parser: argparse.ArgumentParser) -> dict[str, Option]:
    found: dict[str, Option] = {}
    for action in _actions(parser):
        if action.dest == "command":
            continue
        env = re.search(r"\(env: PROCRASTINATE_(\w+)", action.help or "")
        choices = () if action.choices is None else action.choices
        option = Option(
            has_value=action.nargs != 0,
            env=env[1] if env else None,
            choices=frozenset(str(getattr(each, "value", each)) for each in choices),
            default=action.default or None if action.default != argparse.SUPPRESS else None,
        )
        found |= dict.fromkeys(action.option_strings or [_next_argument(found)], option)
    return found


def _our_commands() -> Iterator[tuple[str, dict[str, Option]]]:
    context = click.Context(cli)
    yield "", _our_options(cli)
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        yield name, _our_options(command)


def _our_options(command: click.Command) -> dict[str, Option]:
    found: dict[str, Option] = {}
    for parameter in command.params:
        envs = [parameter.envvar] if isinstance(parameter.envvar, str) else parameter.envvar or []
        env = next((each.removeprefix("TRIO_QUEUE_") for each in envs), None)
        is_flag = isinstance(parameter, click.Option) and (parameter.is_flag or parameter.count)
        choices = parameter.type.choices if isinstance(parameter.type, click.Choice) else ()
        default = None if repr(parameter.default).startswith("Sentinel") else parameter.default
        option = Option(
            has_value=not is_flag,
            env=env,
            choices=frozenset(map(str, choices)),
            default=(default or None) if not is_flag else None,
        )
        names = [*parameter.opts, *parameter.secondary_opts]
        if isinstance(parameter, click.Argument):
            names = [_next_argument(found)]
        found |= dict.fromkeys(names, option)
    return found


def _next_argument(found: Mapping[str, Option]) -> str:
    """What has no name to be given by is told by its place."""
    return f"argument {sum(name.startswith('argument') for name in found) + 1}"
