"""psycopg's asynchronous cursor on Trio: what it may not begin in a cancelled scope, and what not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import psycopg
import trio

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Self

    from psycopg.abc import Params, Query


class TrioCursor(psycopg.AsyncCursor[Any]):
    """A cursor of a `TrioConnection`; in a cancelled scope it sends nothing."""

    __slots__ = ()

    async def execute(self, query: Any, params: Params | None = None, **kwargs: Any) -> Self:
        """Run a statement; see :meth:`psycopg.AsyncCursor.execute`."""
        await trio.lowlevel.checkpoint_if_cancelled()
        await super().execute(query, params, **kwargs)
        return self

    async def executemany(
        self, query: Query, params_seq: Iterable[Params], *, returning: bool = False
    ) -> None:
        """Run a statement once per set of parameters, in one pipeline.

        On a connection in autocommit mode they are committed together or, also when cancelled,
        not at all.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        await super().executemany(query, params_seq, returning=returning)

    async def _fetch_pipeline(self) -> None:
        # Every fetch comes by here. Outside of a pipeline it reads what is in memory already, and
        # must not raise: those rows may be the only trace of what the statement did.
        if self._conn._pipeline:  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - see PSYCOPG_INTERNALS
            await trio.lowlevel.checkpoint_if_cancelled()
        await super()._fetch_pipeline()

    def stream(self, *_args: Any, **_kwargs: Any) -> NoReturn:
        """Refused: rows cannot be streamed on Trio."""
        raise psycopg.NotSupportedError(
            "stream() is not supported on Trio: use execute() and fetchmany(), or LIMIT"
        )

    def copy(self, *_args: Any, **_kwargs: Any) -> NoReturn:
        """Refused: COPY does not work on Trio."""
        raise psycopg.NotSupportedError(
            "copy() is not supported on Trio: use executemany(), or INSERT ... FROM unnest()"
        )


def refuse_server_cursor(*_args: Any, **_kwargs: Any) -> NoReturn:
    """Stand in for the factory that ``connection.cursor("name")`` calls."""
    raise psycopg.NotSupportedError(
        "server-side cursors are not supported on Trio: leave out the name, or use LIMIT"
    )
