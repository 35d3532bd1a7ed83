"""Services run beside the jobs and never raise into their nursery: their siblings would die."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import ParamSpec

import trio

from trio_queue._worker.shutdown import Shutdown
from trio_queue.completion import leaves
from trio_queue.log import Action, fields

P = ParamSpec("P")


class Supervisor:
    """Runs services: what one raises is recorded, and a stop is asked for."""

    def __init__(self, shutdown: Shutdown, logger: logging.Logger) -> None:
        self._shutdown = shutdown
        self.logger = logger
        #: The first error of a service: the worker raises it at its end.
        self.error: BaseException | None = None

    @trio.lowlevel.enable_ki_protection
    async def run(self, name: str, service: Callable[[], Awaitable[None]]) -> None:
        """Run a service until it ends or is cancelled. Never raises, but for the cancel."""
        try:
            await service()
        except BaseException as error:
            if any(isinstance(leaf, (trio.Cancelled, GeneratorExit)) for leaf in leaves(error)):
                raise
            self._fail(f"its service {name} failed: {error}", error)
            self.call("the log", self._say_failed, name, error)

    def call(
        self, name: str, function: Callable[P, object], *args: P.args, **kwargs: P.kwargs
    ) -> None:
        """Call what may raise because a log handler does: what has happened has happened, and whoever caused it goes on.

        The worker stops, and raises it at its end.
        """
        try:
            function(*args, **kwargs)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the worker raises it at its end
            self._fail(f"{name} failed: {error!r}", error)

    def _say_failed(self, name: str, error: BaseException) -> None:
        self.logger.error(
            "The worker's service %s failed and cannot recover: the worker stops",
            name,
            extra=fields(Action.SERVICE_FAILED, service=name),
            exc_info=error,
        )

    def _fail(self, who: str, error: BaseException) -> None:
        """Record an error, which the worker raises at its end, and ask for a stop."""
        self.error = self.error or error
        self._shutdown.stop(who)
