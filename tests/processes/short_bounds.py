"""The command line, with shorter bounds of every wait: `python -m tests.processes.short_bounds ...`."""

from __future__ import annotations

from trio_queue import _cli
from trio_queue._pg import pool_member
from trio_queue._pg.connection import TrioConnection
from trio_queue._storage import store
from trio_queue._worker import database, fetch, lease

BOUND = 0.5


def main() -> None:
    """Run the command line."""
    for module, name in (
        (fetch, "CLAIM_BOUND"),
        (lease, "CLAIM_BOUND"),
        (pool_member, "CHECK_TIMEOUT"),
        (store, "POOL_TIMEOUT"),
    ):
        setattr(module, name, BOUND)
    TrioConnection.cancel_timeout = BOUND
    assert database.Database.run.__kwdefaults__ is not None
    database.Database.run.__kwdefaults__["bound"] = BOUND
    _cli.main()


if __name__ == "__main__":
    main()
