"""The named queries of `sql/queries/`, loaded once.

A file holds queries, each headed by a line `-- name: fetch_jobs`. Comment lines right below the head
belong to the query's description and are not sent. Parameters are psycopg's `%(name)s`.
"""

from __future__ import annotations

import importlib.resources
import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType

import attrs

_HEAD = re.compile(r"^-- name: (\w+)$", re.MULTILINE)
_PARAMETER = re.compile(r"%\((\w+)\)s")


@attrs.frozen
class Query:
    """A statement, with the parameters it takes."""

    #: The name of the verb that it serves.
    name: str
    #: The text, without comments and without the semicolon.
    text: str
    #: The names of its parameters, in the order in which they first occur.
    parameters: tuple[str, ...]


def parse(text: str) -> Iterator[Query]:
    """Yield the queries of a file.

    Args:
        text: What the file holds. What stands before the first head is a comment on the file.

    Raises:
        ValueError: A head is followed by no query.
    """
    pieces = _HEAD.split(text)
    for name, body in zip(pieces[1::2], pieces[2::2], strict=True):
        lines = (line for line in body.splitlines() if not line.lstrip().startswith("--"))
        statement = "\n".join(lines).strip().removesuffix(";")
        if not statement:
            raise ValueError(f"no query follows the line `-- name: {name}`")
        yield Query(name, statement, tuple(dict.fromkeys(_PARAMETER.findall(statement))))


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
