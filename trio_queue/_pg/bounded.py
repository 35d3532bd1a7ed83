"""A sync connection that never waits for ever: for a thread that has to go on, whatever the server does.

A server-side timeout does not help where the server is frozen, and TCP's own only helps on TCP. So
the wait itself ends, on a Unix socket too, and it can be called off by another thread.
"""

from __future__ import annotations

import math
import select
import time
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
from psycopg.waiting import Ready, Wait

if TYPE_CHECKING:
    from psycopg.abc import PQGen

_ReturnT = TypeVar("_ReturnT")


class BoundedConnection(psycopg.Connection[Any]):
    """A connection whose exchanges with the server end at a moment that its user sets.

    An exchange that does not end in time, or is called off, raises `psycopg.OperationalError` and
    leaves the connection closed: what the server did is not known. `connect` is not among them:
    it is bounded by `connect_timeout`, for each address.

    Attributes:
        deadline: The moment, by `time.monotonic()`, after which nothing is waited for.
        interrupt: A descriptor; once it is readable, nothing is waited for. None: there is none.
    """

    deadline: float = math.inf
    interrupt: int | None = None

    def wait(
        self,
        gen: PQGen[_ReturnT],
        interval: float = 0.0,  # noqa: ARG002  # psycopg looks for Ctrl-C so often; a thread hears none
        timeout: float | None = None,
    ) -> _ReturnT:
        """Drive one exchange with the server. Called by psycopg.

        Args:
            gen: The exchange, as psycopg's generators are.
            interval: Not used.
            timeout: Seconds after which it ends, if that is before the deadline.

        Raises:
            OperationalError: It was not over in time, or was called off; or what psycopg says.
        """
        deadline = self.deadline
        if timeout is not None:
            deadline = min(deadline, time.monotonic() + timeout)
        try:
            wanted = next(gen)
            while True:
                wanted = gen.send(self._wait_ready(wanted, deadline))
        except StopIteration as end:
            result: _ReturnT = end.value
            return result

    def _wait_ready(self, wanted: Wait, deadline: float) -> Ready:
        poller = select.poll()
        socket = self.pgconn.socket
        poller.register(
            socket,
            (select.POLLIN if wanted & Wait.R else 0) | (select.POLLOUT if wanted & Wait.W else 0),
        )
        if self.interrupt is not None:
            poller.register(self.interrupt, select.POLLIN)
        seconds = max(deadline - time.monotonic(), 0)
        found = dict(poller.poll(None if math.isinf(seconds) else math.ceil(seconds * 1000)))
        events = found.get(socket, 0)
        if self.interrupt in found:
            self._give_up("the wait for the server's answer was called off")
        if not events:
            self._give_up("the server did not answer in time")
        ready = (Ready.R if events & select.POLLIN else 0) | (
            Ready.W if events & select.POLLOUT else 0
        )
        # POLLERR, POLLHUP, POLLNVAL: only libpq can say what is wrong, when it tries.
        return Ready(ready or wanted)

    def _give_up(self, reason: str) -> None:
        self.pgconn.finish()
        raise psycopg.OperationalError(reason)
