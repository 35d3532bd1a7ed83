"""What one command line works with: its App, its database, and the loop that it runs in."""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Callable, Generator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, TypeVar

import attrs
import click

from trio_queue.exceptions import MissingApp, SchemaError

if TYPE_CHECKING:
    from trio_queue._cli.conninfo import ConninfoChoice
    from trio_queue.app import App
    from trio_queue.connector import BaseConnector

R = TypeVar("R")

HINT = "For a server without installing one: run `trio-queue embedded`, which prints its conninfo."


@attrs.define
class Session:
    """The options that stand before the command, or after it."""

    app_path: str | None = None
    database: str | None = None
    #: Whether the log's level or format was asked for.
    logs_asked_for: bool = False

    def load_app(self) -> App:
        """Import the App that is named. The working directory is searched first.

        Raises:
            MissingApp: None is named.
            LoadFromPathError: It cannot be imported; the message has the cause.
        """
        if not self.app_path:
            raise MissingApp
        # A console script has its own directory there, which holds no App.
        directory = os.getcwd()  # noqa: PTH109 - what sys.path holds is text
        if directory not in sys.path and not sys.flags.safe_path:
            sys.path.insert(0, directory)
        from trio_queue.app import App

        return App.from_path(self.app_path)

    def load_app_if_named(self) -> App:
        """Import the App; where none is named, one without tasks.

        Raises:
            LoadFromPathError: It cannot be imported; the message has the cause.
        """
        if self.app_path:
            return self.load_app()
        from trio_queue._storage.connector import PsycopgConnector
        from trio_queue.app import App

        return App(connector=PsycopgConnector())

    @contextmanager
    def connected(self, app: App, *, may_start_server: bool) -> Generator[ConnectedApp]:
        """Give the App the database that it is to work on. It is not opened yet.

        Args:
            app: The App.
            may_start_server: Where no database is named, use the embedded server.

        Raises:
            click.ClickException: No database is named, or the embedded server cannot start.
        """
        if self._uses_own_database(app.connector):
            yield ConnectedApp(app, "the App", None)
            return
        choice = self._choose()
        if choice is not None:
            with app.replace_connector(_moved(app.connector, choice.conninfo)):
                yield ConnectedApp(app, choice.source, choice.conninfo)
        elif may_start_server:
            with (
                _embedded_conninfo() as conninfo,
                app.replace_connector(_moved(app.connector, conninfo)),
            ):
                yield ConnectedApp(app, "the embedded server", conninfo)
        else:
            from trio_queue._cli.conninfo import MISSING_DATABASE

            raise click.ClickException(f"{MISSING_DATABASE}.\n{HINT}")

    def names_no_database(self) -> bool:
        """Whether a command without an App would use the embedded server."""
        return self._choose() is None

    def _uses_own_database(self, connector: BaseConnector) -> bool:
        from trio_queue._storage.connector import PsycopgConnector

        if self.database:
            return False
        # What is not a PsycopgConnector is memory, or somebody's own.
        return not isinstance(connector, PsycopgConnector) or connector.names_database

    def _choose(self) -> ConninfoChoice | None:
        from trio_queue._cli.conninfo import InvalidConninfoError, choose_conninfo

        try:
            return choose_conninfo(self.database, None, os.environ)
        except InvalidConninfoError as error:
            raise click.ClickException(str(error)) from error


@attrs.frozen
class ConnectedApp:
    """An App with its database, and who named that."""

    app: App
    #: As a person says it: "--database", "DATABASE_URL", "the embedded server".
    source: str
    #: None: the App's own connector says it.
    conninfo: str | None

    @property
    def is_embedded(self) -> bool:
        """Whether the embedded server was started for it."""
        return self.source == "the embedded server"

    @property
    def address(self) -> str:
        """Where the database is, without a password."""
        from trio_queue._pg.errors import describe_conninfo

        return describe_conninfo(self.conninfo or "")

    def check_schema(self) -> None:
        """Refuse a database that this version does not work with. Raises SchemaError."""
        from trio_queue.schema import describe

        state = self.app.schema_manager.check()
        if not state.is_usable:
            raise SchemaError(f"the database (named by {self.source}): {describe(state)}")

    def run(self, ask: Callable[[App], Awaitable[R]]) -> R:
        """Open the App in a loop of its own, and ask it something.

        Raises:
            SchemaError: The database is not one that this version works with.
            TrioQueueException: The database is away or refuses, and what the question raises.
        """
        import trio

        self.check_schema()

        async def main() -> R:
            async with self.app.open_async():
                return await ask(self.app)

        return trio.run(main)


def _moved(connector: BaseConnector, conninfo: str) -> BaseConnector:
    from trio_queue._storage.connector import PsycopgConnector

    if isinstance(connector, PsycopgConnector):
        return connector.moved_to(conninfo)
    return PsycopgConnector(conninfo=conninfo)


@contextmanager
def _embedded_conninfo() -> Generator[str]:
    """Start the embedded server, or join it, while the block lasts."""
    from trio_queue.embedded import EmbeddedServer, EmbeddedServerError

    server = EmbeddedServer()
    try:
        server.start()
    except EmbeddedServerError as error:
        raise click.ClickException(
            f"no database is named, and the embedded server cannot start: {error}\n"
            "Name one by --database, TRIO_QUEUE_DATABASE_URL or DATABASE_URL. In another place the embedded "
            "server is started by `trio-queue embedded --directory DIRECTORY`, which prints how to name it."
        ) from error
    with closing(server):
        yield server.conninfo()
