"""What a job must be to fit into its row: JSON that `jsonb` holds, names that their columns hold."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeAlias, cast

from trio_queue.exceptions import InvalidArguments, InvalidOption
from trio_queue.jobs import MAX_NAME_LENGTH, Batch, Job, Status
from trio_queue.types import JSONDict

Dumps: TypeAlias = Callable[[Any], str | bytes]
Loads: TypeAlias = Callable[[Any], Any]

#: What a queue's channel begins with: Procrastinate's listeners know it by this name.
QUEUE_CHANNEL_PREFIX = "procrastinate_queue_v1#"
ANY_QUEUE_CHANNEL = "procrastinate_any_queue_v1"
#: The server refuses to notify a channel of 64 bytes or more, so a queue's name has 40 at most.
MAX_QUEUE_BYTES = 63 - len(QUEUE_CHANNEL_PREFIX)

#: What a job can be made to end as by hand.
END_STATUSES = (Status.SUCCEEDED, Status.FAILED, Status.ABORTED)

_MIN_PRIORITY, _MAX_PRIORITY = -(2**31), 2**31 - 1


def queue_channel(queue: str) -> str:
    """The channel on which news of a queue's jobs goes out."""
    return QUEUE_CHANNEL_PREFIX + queue


def check_job(job: Job) -> None:
    """Refuse what the columns of a job cannot hold, before anything is sent.

    Raises:
        InvalidOption: A name is too long or has a character that the database refuses, or the
            priority is not a 32-bit integer.
    """
    check_name("task name", job.task_name)
    check_queue(job.queue)
    check_text("lock", job.lock)
    check_text("queueing lock", job.queueing_lock)
    check_priority(job.priority)


def check_name(what: str, name: str) -> None:
    """Refuse a name that a `varchar(128)` cannot hold. Raises InvalidOption."""
    check_text(what, name)
    if len(name) > MAX_NAME_LENGTH:
        raise InvalidOption(
            f"the {what} {name!r} has {len(name)} characters: give it {MAX_NAME_LENGTH} at most"
        )


def check_queue(queue: str) -> None:
    """Refuse a queue that no channel can be named after. Raises InvalidOption."""
    check_name("queue", queue)
    size = len(queue.encode())
    if size > MAX_QUEUE_BYTES:
        raise InvalidOption(
            f"the queue {queue!r} has {size} bytes: give it a name of {MAX_QUEUE_BYTES} bytes at most, "
            "for PostgreSQL cannot notify the workers of a longer one"
        )


def check_priority(priority: int) -> None:
    """Refuse a priority that an `integer` cannot hold. Raises InvalidOption."""
    if not _MIN_PRIORITY <= priority <= _MAX_PRIORITY:
        raise InvalidOption(
            f"the priority {priority} is out of range: give one from {_MIN_PRIORITY} to {_MAX_PRIORITY}"
        )


def check_text(what: str, text: str | None) -> None:
    """Refuse what no text column can hold. Raises InvalidOption."""
    if text is not None and (trouble := _text_trouble(text)):
        raise InvalidOption(f"the {what} {text!r} has {trouble}: PostgreSQL cannot store it")


def check_end_status(status: Status) -> None:
    """Refuse a status that no job ends as by hand. Raises InvalidOption."""
    if status not in END_STATUSES:
        labels = ", ".join(end.value for end in END_STATUSES)
        raise InvalidOption(f"a job cannot be finished as {status.value!r}: give one of {labels}")


def encode_args(job: Job, dumps: Dumps | None = None) -> str:
    """The job's arguments as JSON text that `jsonb` takes.

    Args:
        job: Whose `task_kwargs` are encoded.
        dumps: The user's own encoder; None: the standard one.

    Raises:
        InvalidArguments: JSON, or `jsonb`, cannot hold one of them; the task and the argument are
            named.
    """
    arguments: Any = job.task_kwargs
    try:
        if dumps is None:
            text = _ENCODER.encode(arguments)
            suspicious = _is_suspicious(text)
        else:
            encoded = dumps(arguments)
            text = encoded if isinstance(encoded, str) else encoded.decode()
            arguments = json.loads(text)
            suspicious = True
    except _NOT_JSON as error:
        raise InvalidArguments(_complaint(job, error, dumps)) from error
    if suspicious:
        for place, trouble in _troubles(arguments, ""):
            raise InvalidArguments(_sentence(job, place, trouble))
    return text


def encode_batch(jobs: Sequence[Job], dumps: Dumps | None = None) -> str:
    """The arguments of jobs as one JSON array, in their order. Raises as `encode_args`.

    One document: an array of a thousand small ones costs both sides twice as much.
    """
    if dumps is None:
        with contextlib.suppress(*_NOT_JSON):
            text = _ENCODER.encode(
                jobs.arguments if isinstance(jobs, Batch) else [job.task_kwargs for job in jobs]
            )
            if not _is_suspicious(text):
                return text
    # One at a time, to tell whose arguments are at fault.
    return f"[{','.join(encode_args(job, dumps) for job in jobs)}]"


_ENCODER = json.JSONEncoder(allow_nan=False)
#: What encoders raise.
_NOT_JSON = (TypeError, ValueError, RecursionError, OverflowError)


def _is_suspicious(text: str) -> bool:
    """Whether it may have escapes that jsonb refuses.

    Both occur in good text too (an astral character is a pair of surrogates, a backslash may stand
    before `u0000`): `_troubles` decides.
    """
    return "\\u0000" in text or "\\ud" in text


def plain_array(values: Iterable[int | str]) -> str:
    """An array as PostgreSQL reads it, of what needs no quotes: numbers, or the labels of an enum.

    psycopg's own way looks at each element: 1.2 µs for each, and a batch has thousands of them.
    """
    return f"{{{','.join(map(str, values))}}}"


def as_stored(text: str, loads: Loads | None = None) -> JSONDict:
    """What comes back for JSON text that was stored as `jsonb`.

    The keys of an object are sorted, by length first, the last of equal ones wins; a number
    keeps its digits but not its exponent, so that 1e16 comes back as an integer.
    """
    value: JSONDict = json.loads(text, object_pairs_hook=_sorted_object, parse_float=_number)
    return value if loads is None else loads(json.dumps(value))


def _sorted_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return dict(sorted(dict(pairs).items(), key=_jsonb_order))


def _jsonb_order(item: tuple[str, Any]) -> tuple[int, bytes]:
    key = item[0].encode()
    return len(key), key


def _number(literal: str) -> int | float:
    import decimal

    digits = format(decimal.Decimal(literal), "f")
    # Adding zero makes a negative zero positive: `numeric` has none.
    return float(digits) + 0.0 if "." in digits else int(digits)


def _text_trouble(text: str) -> str | None:
    if "\x00" in text:
        return "a NUL character"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "half of a surrogate pair"
    return None


def _troubles(value: Any, place: str) -> Iterator[tuple[str, str]]:
    """Where something in a value cannot be stored, and what it is."""
    match value:
        case str():
            if trouble := _text_trouble(value):
                yield place, f"{value!r} has {trouble}, which PostgreSQL's jsonb refuses"
        case float():
            if not math.isfinite(value):
                yield place, f"{value} is not a number that JSON has"
        case dict():
            entries: dict[Any, Any] = value  # pyright: ignore[reportUnknownVariableType]  # a cast is redundant to mypy
            for key, entry in entries.items():
                inner = f"{place}[{key!r}]" if place else str(key)
                yield from _troubles(key, inner)
                yield from _troubles(entry, inner)
        case list() | tuple():
            members = cast("list[Any]", value)
            for index, member in enumerate(members):
                yield from _troubles(member, f"{place}[{index}]")
        case _:
            pass


def _complaint(job: Job, error: Exception, dumps: Dumps | None) -> str:
    """Say which argument an encoder stumbled over, by giving it each alone."""
    for name, value in job.task_kwargs.items():
        try:
            if dumps is None:
                json.dumps(value, allow_nan=False)
            else:
                json.loads(dumps(value))
        except _NOT_JSON as alone:
            place, trouble = next(iter(_safe_troubles(value, name)), (name, str(alone)))
            return _sentence(job, place, trouble)
    return _sentence(job, "", str(error))


def _safe_troubles(value: Any, name: str) -> list[tuple[str, str]]:
    try:
        return list(_troubles(value, name))
    except RecursionError:
        return [(name, "it contains itself, or is nested too deeply")]


def _sentence(job: Job, place: str, trouble: str) -> str:
    where = f"argument {place!r}" if place else "arguments"
    return f"cannot store the {where} of task {job.task_name!r}: {trouble}"
