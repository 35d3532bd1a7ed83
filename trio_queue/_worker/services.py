"""Services run beside the jobs and never raise into their nursery: their siblings would die."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import trio

from trio_queue._worker.shutdown import Shutdown
from trio_queue.log import Action, fields


class Supervisor:
    """Runs services: what one raises is recorded, and a stop is asked for."""

    def __init__(self, shutdown: Shutdown, logger: logging.Logger) -> None:
        self._shutdown = shutdown
        self._logger = logger
        #: The first error of a service: the worker raises it at its end.
        self.error: Exception | None = None

    @trio.lowlevel.enable_ki_protection
    async def run(self, name: str, service: Callable[[], Awaitable[None]]) -> None:
        """Run a service until it ends or is cancelled. Never raises, but for the cancel."""
        try:
            await service()
        except Exception as error:
            self.error = self.error or error
            self._logger.exception(
                "The worker's service %s failed and cannot recover: the worker stops",
                name,
                extra=fields(Action.SERVICE_FAILED, service=name),
            )
            self._shutdown.stop(f"its service {name} failed: {error}")
