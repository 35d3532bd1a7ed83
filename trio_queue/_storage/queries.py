"""The named queries of `sql/queries/`, loaded once.

A file holds queries, each headed by a line `-- name: fetch_jobs`. Comment lines right below the head
belong to the query's description and are not sent. Parameters are psycopg's `%(name)s`, each with the type that it is cast to.
"""

from __future__ import annotations

import importlib.resources
import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from types import MappingProxyType
from typing import Any

import attrs

from trio_queue._pg.direct import Command
from trio_queue._pg.text_format import Encoders, encoders_for

_HEAD = re.compile(r"^-- name: (\w+)$", re.MULTILINE)
_PARAMETER = re.compile(r"%\((\w+)\)s(?:::((?:double precision|\w+)(?:\[\])?))?")
_NAME = re.compile(r"%\((\w+)\)s")


@attrs.frozen(slots=False)
class Query:
    """A statement, with the parameters it takes."""

    #: The name of the verb that it serves.
    name: str
    #: The text, without comments and without the semicolon.
    text: str
    #: The type that each parameter is cast to, by their names, in the order in which they first occur.
    types: Mapping[str, str]

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names of its parameters, in that order."""
        return tuple(self.types)

    @cached_property
    def command(self) -> Command:
        """The statement as it is sent without a cursor."""
        numbers = {name: f"${number}" for number, name in enumerate(self.types, start=1)}
        text = _NAME.sub(lambda found: numbers[found[1]], self.text).replace("%%", "%")
        return Command(f"trio_queue_{self.name}".encode(), text.encode())

    @cached_property
    def placeholders(self) -> bytes:
        """The statement as a cursor takes it. Bytes: psycopg takes text only where it stands in the code, for fear of injections."""
        return self.text.encode()

    @cached_property
    def _encoders(self) -> tuple[tuple[str, Encoders], ...]:
        return tuple((name, encoders_for(kind)) for name, kind in self.types.items())

    def encode(self, values: Mapping[str, Any]) -> list[bytes | None] | None:
        """The parameters for `command`; None: one of them is for psycopg's dumpers.

        Raises:
            psycopg.DataError: A text has a NUL character.
            UnicodeEncodeError: A text has half of a surrogate pair.
        """
        try:
            return [
                encoders[type(value := values[name])](value) for name, encoders in self._encoders
            ]
        except KeyError:
            return None


def parse(text: str) -> Iterator[Query]:
    """Yield the queries of a file.

    Args:
        text: What the file holds. What stands before the first head is a comment on the file.

    Raises:
        ValueError: A head is followed by no query, or a parameter has no type.
    """
    pieces = _HEAD.split(text)
    for name, body in zip(pieces[1::2], pieces[2::2], strict=True):
        lines = (line for line in body.splitlines() if not line.lstrip().startswith("--"))
        statement = "\n".join(lines).strip().removesuffix(";")
        if not statement:
            raise ValueError(f"no query follows the line `-- name: {name}`")
        yield Query(name, statement, _types(name, statement))


def _types(name: str, statement: str) -> Mapping[str, str]:
    types: dict[str, str] = {}
    for parameter, kind in _PARAMETER.findall(statement):
        if not kind or types.setdefault(parameter, kind) != kind:
            raise ValueError(f"{name}: cast each %({parameter})s to its type, one and the same")
    return MappingProxyType(types)


def _load() -> Mapping[str, Query]:
    queries: dict[str, Query] = {}
    folder = importlib.resources.files("trio_queue").joinpath("sql", "queries")
    for file in sorted(folder.iterdir(), key=lambda file: file.name):
        if not file.name.endswith(".sql"):
            continue
        for query in parse(file.read_text(encoding="utf-8")):
            if query.name in queries:
                raise ValueError(
                    f"two queries are named {query.name}; the second is in {file.name}"
                )
            queries[query.name] = query
    return MappingProxyType(queries)


#: Every query, by the name of its verb.
QUERIES: Mapping[str, Query] = _load()


def query(name: str) -> str:
    """The text of a query. Raises KeyError where there is none of this name."""
    return QUERIES[name].text
