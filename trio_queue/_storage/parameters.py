"""How to reach a database: a conninfo and keywords, with our defaults beneath the user's."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias

import attrs
import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from trio_queue._pg.connecting import WIRE_DEFAULTS
from trio_queue._pg.errors import describe_conninfo
from trio_queue.exceptions import ConnectorException

#: Text, or something that tells it each time (a password that rotates), as psycopg_pool takes it.
Given: TypeAlias = str | Callable[[], str | Awaitable[str]]
GivenKeywords: TypeAlias = (
    Mapping[str, Any] | Callable[[], Mapping[str, Any] | Awaitable[Mapping[str, Any]]]
)

#: Seconds for one attempt to connect, unless the user says otherwise.
CONNECT_TIMEOUT = 10
#: Keywords of `psycopg.connect` that are not libpq's.
_PSYCOPG_KEYWORDS = frozenset(
    {"autocommit", "prepare_threshold", "context", "row_factory", "cursor_factory"}
)
#: Keywords of libpq's that say where to connect, and as whom.
_ADDRESS_KEYWORDS = frozenset(
    {"host", "hostaddr", "port", "dbname", "user", "password", "passfile", "service"}
)


@attrs.frozen
class Parameters:
    """A conninfo and the keywords of `connect`."""

    conninfo: str
    kwargs: dict[str, Any]

    @functools.cached_property
    def address(self) -> str:
        """Names the server, without its password. Kept: it takes 0.1 ms, and every statement says it."""
        try:
            return describe_conninfo(self.libpq())
        except ConnectorException:
            return describe_conninfo(self.conninfo)

    def libpq(self) -> str:
        """All that is libpq's, as one conninfo. Raises ConnectorException where it cannot be read."""
        options = {
            name: value for name, value in self.kwargs.items() if name not in _PSYCOPG_KEYWORDS
        }
        try:
            return make_conninfo(self.conninfo, **options)
        except psycopg.Error as error:
            # The message may have the string in it, and so a password: the cause has it, not we.
            raise ConnectorException(
                "the conninfo cannot be read: give 'host=... dbname=...' or 'postgresql://...'"
            ) from error

    @property
    def may_prepare(self) -> bool:
        """Whether the user said when statements are prepared."""
        return "prepare_threshold" in self.kwargs

    def connect_kwargs(self) -> dict[str, Any]:
        """The keywords for psycopg's connections: the user's, then our defaults."""
        given = conninfo_to_dict(self.libpq())
        defaults: dict[str, Any] = {"autocommit": True}
        # A black hole would hold a defer for a quarter of an hour.
        defaults.update({name: WIRE_DEFAULTS[name] for name in WIRE_DEFAULTS.keys() - given})
        if "connect_timeout" not in given and "PGCONNECT_TIMEOUT" not in os.environ:
            defaults["connect_timeout"] = CONNECT_TIMEOUT
        if "fallback_application_name" not in given:
            defaults["fallback_application_name"] = "trio_queue"
        return {**defaults, **self.kwargs}

    def sync_kwargs(self) -> dict[str, Any]:
        """The keywords for psycopg's sync connections: a kind of cursor for asyncio has a twin, or none."""
        kwargs = self.connect_kwargs()
        kind = kwargs.get("cursor_factory") or psycopg.Cursor
        if issubclass(kind, psycopg.AsyncClientCursor):
            kwargs["cursor_factory"] = psycopg.ClientCursor
        elif issubclass(kind, psycopg.AsyncCursor):
            del kwargs["cursor_factory"]
        return kwargs

    def trio_kwargs(self) -> dict[str, Any]:
        """The keywords for the driver's connections: their rows are tuples, and each statement is a transaction."""
        kwargs = self.connect_kwargs()
        # Without autocommit the pool would roll back what was said.
        for name in ("autocommit", "context", "row_factory", "cursor_factory"):
            kwargs.pop(name, None)
        return kwargs


def resolve(conninfo: Given, kwargs: GivenKeywords | None) -> Parameters:
    """The parameters from sync code. Raises ConnectorException where only a loop can tell them."""
    told = conninfo if isinstance(conninfo, str) else conninfo()
    keywords = kwargs() if callable(kwargs) else kwargs or {}
    if inspect.isawaitable(told) or inspect.isawaitable(keywords):
        for pending in (told, keywords):
            if inspect.iscoroutine(pending):
                pending.close()
        raise ConnectorException(
            "conninfo= or kwargs= is an async function: sync code needs a sync one"
        )
    return Parameters(told, dict(keywords))


async def resolve_async(conninfo: Given, kwargs: GivenKeywords | None) -> Parameters:
    """The parameters, on any loop."""
    told = conninfo if isinstance(conninfo, str) else conninfo()
    keywords = kwargs() if callable(kwargs) else kwargs or {}
    return Parameters(
        await told if inspect.isawaitable(told) else told,
        dict(await keywords if inspect.isawaitable(keywords) else keywords),
    )


def without_address(keywords: Mapping[str, Any]) -> dict[str, Any]:
    """The keywords of `connect` that do not say where to, or as whom, it connects."""
    return {name: value for name, value in keywords.items() if name not in _ADDRESS_KEYWORDS}
