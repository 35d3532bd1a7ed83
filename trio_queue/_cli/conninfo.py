"""Which database a command works on, and who said so.

A server that happens to run is never probed for: its database may be somebody else's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import psycopg.pq
from psycopg.conninfo import conninfo_to_dict

if TYPE_CHECKING:
    from collections.abc import Mapping

DATABASE_OPTION = "--database"
URL_VARIABLES = ("TRIO_QUEUE_DATABASE_URL", "DATABASE_URL")

MISSING_DATABASE = (
    f"no database given: pass {DATABASE_OPTION}, or give the App's connector a conninfo, or set "
    f"{URL_VARIABLES[0]}, {URL_VARIABLES[1]} or PostgreSQL's own variables (PGHOST, PGDATABASE, PGSERVICE, …)"
)
"""What a command says that must not work on an embedded server: a worker would silently work an empty database."""


class InvalidConninfoError(ValueError):
    """A connection string cannot be read; the message names its source."""


@attrs.frozen
class ConninfoChoice:
    """A connection string and its source.

    Attributes:
        conninfo: For libpq; empty where PostgreSQL's variables say everything.
        source: The option, "the App", or the names of the environment variables.
    """

    conninfo: str = attrs.field(repr=False)  # may hold a password
    source: str


def choose_conninfo(
    option: str | None, app_conninfo: str | None, environ: Mapping[str, str]
) -> ConninfoChoice | None:
    """Choose the connection string of a command.

    The order: the option, the App's own, `TRIO_QUEUE_DATABASE_URL`, `DATABASE_URL`, any of the `PG*` variables that
    libpq reads. Empty ones count as not given. What comes after that, the embedded server, is for the commands
    that may use it.

    Args:
        option: The command line's, if given.
        app_conninfo: What the App's connector was made with. None without an App, and where it says nothing.
        environ: The environment.

    Returns:
        The choice, or None where nothing says which database to use.

    Raises:
        InvalidConninfoError: The one that counts cannot be read. The next in order is not tried: it is another database.
    """
    candidates = [(DATABASE_OPTION, option), ("the App", app_conninfo)]
    candidates += [(name, environ.get(name)) for name in URL_VARIABLES]
    for source, conninfo in candidates:
        if conninfo is not None and conninfo.strip():
            return ConninfoChoice(_checked(conninfo.strip(), source), source)
    set_variables = [name for name in _libpq_variables() if environ.get(name)]
    if set_variables:
        return ConninfoChoice("", ", ".join(set_variables))
    return None


def _checked(conninfo: str, source: str) -> str:
    try:
        conninfo_to_dict(conninfo)
    except psycopg.Error:
        # Neither the string nor what libpq says of it, which quotes it: there may be a password in it.
        scheme, separator, _ = conninfo.partition("://")
        about = (
            f" ({scheme}:// is not PostgreSQL's)"
            if separator and not scheme.endswith("postgresql")
            else ""
        )
        raise InvalidConninfoError(
            f"{source} is not a connection string of PostgreSQL{about}: write postgresql://user@host/dbname, or "
            f"'host=… dbname=…'; {DATABASE_OPTION} and {URL_VARIABLES[0]} come before {URL_VARIABLES[1]}"
        ) from None
    return conninfo


def _libpq_variables() -> list[str]:
    """Return the variables that libpq reads: PGDATA and the like belong to servers and other programs."""
    options = psycopg.pq.Conninfo.get_defaults()
    return [option.envvar.decode() for option in options if option.envvar is not None]
