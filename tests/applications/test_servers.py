"""The servers of docs/examples: a request defers a job, and a signal lets the running one come to its end."""

from __future__ import annotations

import signal
from collections.abc import Callable

import attrs
import pytest

from tests.applications.program import Program


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
    """An example, how it is started, and its exit code after a signal, as docs/howto/applications.md says."""

    command: tuple[str, ...]
    after: dict[signal.Signals, int]
    defer: Callable[[Program, int], int]
    status: Callable[[Program, int], str]


def uvicorn(application: str) -> tuple[str, ...]:
    return "-m", "uvicorn", application, "--port=0"


SERVERS = {
    "fastapi": Server(
        uvicorn("fastapi_app:app"),
        {signal.SIGTERM: -signal.SIGTERM, signal.SIGINT: 0},
        over_http,
        status_over_http,
    ),
    "aiohttp": Server(("aiohttp_app.py",), {signal.SIGTERM: 0}, over_http, status_over_http),
    "asyncio": Server(
        ("plain_asyncio.py",), {signal.SIGTERM: 0, signal.SIGINT: 0}, by_line, status_by_line
    ),
    "trio": Server(
        ("plain_trio.py",), {signal.SIGTERM: 0, signal.SIGINT: 0}, by_line, status_by_line
    ),
}


@pytest.mark.parametrize(
    ("server", "number"),
    [
        pytest.param(server, number, id=f"{name}-{number.name}")
        for name, server in SERVERS.items()
        for number in server.after
    ],
)
def test_a_request_defers_a_job_and_a_signal_drains(
    program: Program, server: Server, number: signal.Signals
) -> None:
    process = program.serve(server.command)

    short = server.defer(program, 1)
    program.wait_status(short, "succeeded")
    assert server.status(program, short) == "succeeded"
    assert server.status(program, 4711) == "404"

    long = server.defer(program, 1_000_000)
    program.wait_status(long, "doing")
    process.send(number)
    assert process.wait_end() == server.after[number], process.said
    program.is_gone(process)
    (_, (status, _), rest) = program.jobs()
    assert status == "succeeded", "it was not aborted, it has seen that it shall end"
    assert rest[0] == "todo", "what it has left to the next worker"
    assert 0 < rest[1]["pictures"] <= 1_000_000
    assert "Traceback" not in process.said


@pytest.mark.parametrize("server", SERVERS.values(), ids=SERVERS)
def test_a_worker_that_cannot_run_ends_the_server(program: Program, server: Server) -> None:
    """Here the queue's tables are missing: nobody would work what it defers."""
    program.database.execute("DROP TABLE trio_queue_migrations")
    process = program.start(*server.command)
    process.wait_end()
    assert "SchemaError" in process.said
    program.is_gone(process)
