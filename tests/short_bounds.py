"""Every wait of a worker for its database ends sooner, so that a test need not wait for it."""

from __future__ import annotations

import pytest

from trio_queue._pg import pool_member
from trio_queue._pg.connection import TrioConnection
from trio_queue._worker import database, fetch, lease
from trio_queue._worker.lease import Lease


def shorten_bounds(patch: pytest.MonkeyPatch, seconds: float) -> None:
    """From the moment on when a worker has its row.

    Opening and registering are tried only once: a server that is merely slow must not fail them.
    """
    register = Lease._register  # pyright: ignore[reportPrivateUsage] - nothing public comes between them

    async def register_and_shorten(self: Lease) -> None:
        await register(self)
        for module, name in (
            (fetch, "CLAIM_BOUND"),
            (lease, "CLAIM_BOUND"),
            (pool_member, "CHECK_TIMEOUT"),
        ):
            patch.setattr(module, name, seconds)
        patch.setattr(TrioConnection, "cancel_timeout", seconds)
        assert database.Database.run.__kwdefaults__ is not None
        patch.setitem(database.Database.run.__kwdefaults__, "bound", seconds)

    patch.setattr(Lease, "_register", register_and_shorten)
