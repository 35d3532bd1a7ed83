"""What is refused early: options that no row can hold, functions that cannot be tasks."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from inspect import Parameter
from typing import Any, Final

from trio_queue import utils
from trio_queue.completion import InterruptedJobs
from trio_queue.exceptions import InvalidOption, MiddlewareKindMismatch
from trio_queue.jobs import MAX_NAME_LENGTH
from trio_queue.types import Flavor

#: The column is an `integer`.
PRIORITIES: Final = range(-(2**31), 2**31)


def check_text(what: str, value: object, *, of: str) -> None:
    """Refuse what PostgreSQL cannot hold as text.

    Args:
        what: What the value is, for the error.
        value: The value.
        of: Whose it is, for the error.

    Raises:
        InvalidOption: It is not a string, has a NUL character, or half a surrogate pair.
    """
    if not isinstance(value, str):
        raise InvalidOption(f"{of}: the {what} is a string, not {value!r}")
    if "\0" in value:
        raise InvalidOption(f"{of}: the {what} {value!r} has a NUL character")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise InvalidOption(f"{of}: the {what} {value!r} is not Unicode text") from error


def check_name(what: str, value: object, *, of: str, may_be_empty: bool = False) -> None:
    """Refuse what cannot be the name of a queue or a task: as `check_text`, empty, or too long."""
    check_text(what, value, of=of)
    assert isinstance(value, str)
    if not value and not may_be_empty:
        raise InvalidOption(f"{of}: the {what} is empty")
    if len(value) > MAX_NAME_LENGTH:
        raise InvalidOption(
            f"{of}: the {what} {value!r} has {len(value)} characters, {MAX_NAME_LENGTH} at most"
        )


def check_options(
    *, of: str, queue: object, priority: object, lock: object, queueing_lock: object
) -> None:
    """Refuse options that no row can hold, before anything is sent.

    Raises:
        InvalidOption: The first one that is wrong, and whose it is.
    """
    check_name("queue", queue, of=of)
    if not isinstance(priority, int) or priority not in PRIORITIES:
        raise InvalidOption(
            f"{of}: the priority is an integer from {PRIORITIES[0]} to {PRIORITIES[-1]}, "
            f"not {priority!r}"
        )
    if lock is not None:
        check_text("lock", lock, of=of)
    if queueing_lock is not None:
        check_text("queueing lock", queueing_lock, of=of)


def check_middleware(middleware: Callable[..., Any], *, is_async: bool, of: str) -> None:
    """Refuse a middleware that cannot stand around this kind of function.

    Args:
        middleware: What is to be checked.
        is_async: Whether it stands around something async.
        of: What it stands around, for the error.

    Raises:
        InvalidOption: It cannot be called.
        MiddlewareKindMismatch: It is of the other kind.
    """
    if not callable(middleware):
        raise InvalidOption(f"{of}: the middleware {middleware!r} cannot be called")
    if utils.is_async_callable(middleware) is not is_async:
        kind, other = ("async", "sync") if is_async else ("sync", "async")
        name = getattr(middleware, "__name__", repr(middleware))
        raise MiddlewareKindMismatch(
            f"{of} is {kind} and its middleware {name} is {other}: make the middleware {kind}"
        )


def job_signature(
    function: Callable[..., Any], *, pass_context: bool = False
) -> inspect.Signature | None:
    """What a job's arguments are bound to: the function's signature, without the context.

    Returns:
        None where it cannot be told, as of some functions written in C.

    Raises:
        InvalidOption: The context is to be passed, and there is no parameter for it.
    """
    try:
        # What is called is the outermost wrapper, and its own signature counts: a decorator with
        # functools.wraps may well provide arguments that the function inside asks for.
        signature = inspect.signature(function, follow_wrapped=False)
    except (TypeError, ValueError):
        return None
    if not pass_context:
        return signature
    parameters = list(signature.parameters.values())
    if not parameters or parameters[0].kind in {Parameter.KEYWORD_ONLY, Parameter.VAR_KEYWORD}:
        raise InvalidOption(
            "pass_context=True, but the function has no parameter for the context: write it first"
        )
    if parameters[0].kind is Parameter.VAR_POSITIONAL:
        return signature
    return signature.replace(parameters=parameters[1:])


def takes_names(signature: inspect.Signature | None) -> Callable[[AbstractSet[str]], bool]:
    """What tells quickly that arguments of these names can be bound; a False of it is not certain."""
    parameters: Mapping[str, Parameter] = {} if signature is None else signature.parameters
    by_name = {
        name
        for name, parameter in parameters.items()
        if parameter.kind in {Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY}
    }
    needed = {
        name
        for name, parameter in parameters.items()
        if parameter.default is Parameter.empty
        and parameter.kind not in {Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD}
    }
    return lambda names: needed <= names <= by_name


def check_flavor(flavor: Flavor | None, of: str) -> Flavor | None:
    """The flavor, if there is such a one. Raises InvalidOption."""
    if flavor not in {None, "trio", "asyncio"}:
        raise InvalidOption(f'{of}: the flavor is "trio" or "asyncio", not {flavor!r}')
    return flavor


def check_interrupted_jobs(value: str | InterruptedJobs | None, of: str) -> InterruptedJobs | None:
    """The policy of this name. Raises InvalidOption where there is none."""
    if value is None:
        return None
    try:
        return InterruptedJobs(value)
    except ValueError as error:
        known = ", ".join(repr(policy.value) for policy in InterruptedJobs)
        raise InvalidOption(f"{of}: interrupted_jobs is one of {known}, not {value!r}") from error
