"""Which database a command works on: the first that is named, in one order everywhere."""

from __future__ import annotations

import os
from collections.abc import Mapping

import attrs

#: The variables that hold a connection string, the first one set wins.
URL_VARIABLES = ("TRIO_QUEUE_DATABASE_URL", "DATABASE_URL")
#: libpq's variables that say where to connect, and to what.
LIBPQ_VARIABLES = ("PGHOST", "PGHOSTADDR", "PGPORT", "PGDATABASE", "PGUSER", "PGSERVICE")

NO_DATABASE = (
    "no database is named. Name one, the first of these wins:\n"
    "  --database 'postgresql://user@host/name', before or after the command\n"
    "  the App: App(connector=PsycopgConnector(conninfo=...))\n"
    f"  the environment: {', '.join(URL_VARIABLES)}, or libpq's PGHOST, PGDATABASE, ...\n"
    "For a server without installing one: run `trio-queue embedded`, which prints its conninfo."
)


@attrs.frozen
class Choice:
    """A database that is named."""

    #: None: as the App's connector says.
    conninfo: str | None
    #: Who named it, as a person says it.
    source: str


def choose_conninfo(
    option: str | None, environment: Mapping[str, str] | None = None
) -> Choice | None:
    """Choose where the App itself says nothing, or the option overrules it.

    Args:
        option: What `--database` says.
        environment: The environment's variables; None: this process's.

    Returns:
        The choice; None: nobody names a database.
    """
    environment = os.environ if environment is None else environment
    if option:
        return Choice(option, "--database")
    for name in URL_VARIABLES:
        if environment.get(name):
            return Choice(environment[name], name)
    if named := [name for name in LIBPQ_VARIABLES if environment.get(name)]:
        # The empty conninfo: libpq reads its variables itself.
        return Choice("", ", ".join(named))
    return None
