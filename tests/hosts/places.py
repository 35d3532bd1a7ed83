"""Where asyncio tasks of a worker run: on the host's loop, on trio-asyncio's, or on a thread's."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import attrs
import trio

from tests.hosts.application import run_in_asyncio, run_in_uvloop
from trio_queue import App

#: Set for a process of its own: importing trio-asyncio changes asyncio for all that comes after.
ONLY_TRIO_ASYNCIO = "TRIO_QUEUE_TEST_ONLY_TRIO_ASYNCIO"


@attrs.frozen
class Place:
    """One of them."""

    name: str
    _run: Callable[[App, dict[str, Any]], None]
    #: What the worker's middleware is written for.
    host: str

    def work(self, app: App, **options: Any) -> None:
        """Run a worker until no job is left."""
        options = {"wait": False, "install_signal_handlers": False, "concurrency": 4, **options}
        self._run(app, options)


def _under_asyncio(run: Callable[[Any], None]) -> Callable[[App, dict[str, Any]], None]:
    return lambda app, options: run(app.run_worker_async(**options))


def _under_trio(backend: str) -> Callable[[App, dict[str, Any]], None]:
    return lambda app, options: trio.run(app.worker(**options, asyncio_backend=backend).run)


PLACES = (
    [Place("trio-asyncio", _under_trio("trio-asyncio"), "trio")]
    if os.environ.get(ONLY_TRIO_ASYNCIO)
    else [
        Place("asyncio", _under_asyncio(run_in_asyncio), "asyncio"),
        Place("uvloop", _under_asyncio(run_in_uvloop), "asyncio"),
        Place("thread", _under_trio("thread"), "trio"),
    ]
)
