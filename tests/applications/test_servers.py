"""The servers of docs/examples: a request defers a job, and a signal lets the running one come to its end."""

from __future__ import annotations

import signal
from collections.abc import Callable

import attrs
import pytest

from tests.applications.program import OURS, THEIRS, Program


def over_http(program: Program, pictures: int) -> int:
    status, answer = program.ask(f"/albums?pictures={pictures}", b"")
    assert status == 202
    job_id: int = answer["job"]
    return job_id


def status_over_http(program: Program, job_id: int) -> str:
    status, answer = program.ask(f"/jobs/{job_id}")
    return f"{answer['status']}" if status == 200 else f"{status}"


def by_line(program: Program, pictures: int) -> int:
    word, job_id = program.say(f"resize {pictures}").split()
    assert word == "job"
    return int(job_id)


def status_by_line(program: Program, job_id: int) -> str:
    answer = program.say(f"status {job_id}")
    return "404" if answer.startswith("error: ") else answer


@attrs.frozen
class Server:
    """An example, and how it is started."""

    command: tuple[str, ...]
    ready: str
    defer: Callable[[Program, int], int]
    status: Callable[[Program, int], str]
    #: What it makes of a signal: the exit codes that docs/howto/applications.md tells.
    sigterm: int = 0
    sigint: int = 0


SERVERS = {
    "fastapi": Server(
        ("-m", "uvicorn", "fastapi_app:app", "--port=0"),
        THEIRS,
        over_http,
        status_over_http,
        sigterm=-signal.SIGTERM,
    ),
    "aiohttp": Server(("aiohttp_app.py",), THEIRS, over_http, status_over_http),
    "starlette": Server(("starlette_app.py",), OURS, over_http, status_over_http),
    "asyncio": Server(("plain_asyncio.py",), OURS, by_line, status_by_line),
    "trio": Server(("plain_trio.py",), OURS, by_line, status_by_line),
}
SIGNALS = [(server, signal.SIGTERM, SERVERS[server].sigterm) for server in SERVERS] + [
    (server, signal.SIGINT, SERVERS[server].sigint) for server in ("fastapi", "asyncio", "trio")
]


@pytest.mark.parametrize(("name", "number", "code"), SIGNALS)
def test_a_request_defers_a_job_and_a_signal_drains(
    program: Program, name: str, number: signal.Signals, code: int
) -> None:
    server = SERVERS[name]
    process = program.serve(server.command, server.ready)

    short = server.defer(program, 1)
    program.wait_status(short, "succeeded")
    assert server.status(program, short) == "succeeded"
    assert server.status(program, 4711) == "404"

    long = server.defer(program, 1_000_000)
    # In the row it is `doing` a little earlier; one that has not begun would go back to the queue.
    process.wait_said(f"Starting job make_thumbnails[{long}]")
    process.send(number)
    assert process.wait_end() == code, process.said
    program.is_gone(process)
    # It was not aborted: it has seen that it shall end, and left the rest to the next worker.
    assert program.statuses() == ["succeeded", "succeeded", "todo"], process.said
    assert 0 < program.jobs()[-1][1]["pictures"] <= 1_000_000
    assert "Traceback" not in process.said


@pytest.mark.parametrize("name", SERVERS)
def test_a_client_that_says_nothing_holds_up_no_end(program: Program, name: str) -> None:
    server = SERVERS[name]
    process = program.serve(server.command, server.ready)
    with program.connect():
        # Accepted after that one.
        program.wait_status(server.defer(program, 1), "succeeded")
        process.send(signal.SIGTERM)
        assert process.wait_end() == server.sigterm, process.said
    program.is_gone(process)


@pytest.mark.parametrize("name", SERVERS)
def test_a_worker_that_cannot_run_ends_the_server(program: Program, name: str) -> None:
    """Here the queue's tables are missing: nobody would work what it defers."""
    program.database.execute("DROP TABLE trio_queue_migrations")
    process = program.start(*SERVERS[name].command)
    process.wait_end()
    assert "SchemaError" in process.said
    program.is_gone(process)
