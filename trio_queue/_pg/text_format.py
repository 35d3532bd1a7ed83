"""Values in PostgreSQL's text format, as parameters of a type that the statement names.

psycopg looks at each value to guess a type and a dumper for it: 30 µs for the seven parameters of a deferred job. Where the
statement says `$1::bigint`, the server needs to be told the text only. Other values (a subclass, a `Decimal`) are left to psycopg.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Mapping
from types import NoneType
from typing import Any, Final, TypeAlias

import psycopg

Encoder: TypeAlias = Callable[[Any], bytes]
#: How values are written, by their exact types; that of None answers None.
Encoders: TypeAlias = Mapping[type, Callable[[Any], bytes | None]]


def encoders_for(type_name: str) -> Encoders:
    """How Python's values become a parameter of a type of PostgreSQL's.

    Args:
        type_name: As the statement casts it: `bigint`, `text[]`.

    Returns:
        The encoders. A type that is not among their keys is psycopg's to write.
    """
    element = type_name.removesuffix("[]")
    own = {**_ENCODERS, **_OF_ONE_TYPE.get(element, {})}
    if element == type_name:
        return {NoneType: _null, **own}
    array = _array_encoder(own)
    # Text: an array that somebody has written already.
    return {NoneType: _null, str: _text, **dict.fromkeys((list, tuple, set, frozenset), array)}


def _null(_: None) -> None:
    return None


def _text(value: str) -> bytes:
    if "\x00" in value:
        # It would end the parameter.
        raise psycopg.DataError("PostgreSQL text fields cannot contain NUL (0x00) bytes")
    return value.encode()


def _integer(value: int) -> bytes:
    return b"%d" % value


def _boolean(value: bool) -> bytes:
    return b"t" if value else b"f"


def _float(value: float) -> bytes:
    # The server reads `inf` and `nan`, too.
    return repr(value).encode()


def _moment(value: datetime.datetime) -> bytes:
    return str(value).encode()


def _array_encoder(elements: Mapping[type, Encoder]) -> Encoder:
    encoders: dict[type, Encoder] = {NoneType: lambda _: b"NULL"}
    for kind, encode in elements.items():
        encoders[kind] = _quoting(encode) if kind in {str, datetime.datetime} else encode

    def encode_array(values: Iterable[Any]) -> bytes:
        return b"{%b}" % b",".join([encoders[type(value)](value) for value in values])

    return encode_array


def _quoting(encode: Encoder) -> Encoder:
    # Between quotes nothing but these two means anything.
    return lambda value: b'"%b"' % encode(value).replace(b"\\", b"\\\\").replace(b'"', b'\\"')


#: Read alike by every type that they can be a value of.
_ENCODERS: Final[dict[type, Encoder]] = {
    str: _text,
    int: _integer,
    datetime.datetime: _moment,
}
#: The server rounds a number that is to be an integer and does not read its text as one; nor a truth as a number.
_OF_ONE_TYPE: Final[dict[str, dict[type, Encoder]]] = {
    "boolean": {bool: _boolean},
    "double precision": {float: _float},
}
