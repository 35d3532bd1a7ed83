"""A Trio program with an asyncio task, on a Python that trio-asyncio does not fit, or where it is missing.

`python -m tests.hosts.without_trio_asyncio HOW BACKEND` says where the task ran.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import trio

from trio_queue import App
from trio_queue.testing import InMemoryConnector


class Refusing(MetaPathFinder):
    """Its import ends as it does there."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002 - as it is called
        target: ModuleType | None = None,  # noqa: ARG002 - the same
    ) -> ModuleSpec | None:
        if fullname != "trio_asyncio":
            return None
        if sys.argv[1] == "missing":
            raise ModuleNotFoundError("No module named 'trio_asyncio'", name=fullname)
        # As Python 3.14 says it.
        raise AttributeError(
            "module 'asyncio.events' has no attribute 'BaseDefaultEventLoopPolicy'"
        )


def main() -> None:
    sys.meta_path.insert(0, Refusing())
    before = asyncio.get_running_loop, asyncio.new_event_loop
    app = App(connector=InMemoryConnector())

    @app.task(name="job", flavor="asyncio")
    async def job() -> None:
        await asyncio.sleep(0.001)
        sys.stdout.write(f"{threading.current_thread().name}\n")

    job.defer()
    options: dict[str, Any] = {"asyncio_backend": sys.argv[2]} if sys.argv[2:] else {}
    trio.run(app.worker(wait=False, install_signal_handlers=False, **options).run)
    assert [job.status for job in app.job_manager.list_jobs()] == ["succeeded"]
    assert before == (asyncio.get_running_loop, asyncio.new_event_loop), "asyncio as it was"


if __name__ == "__main__":
    main()
