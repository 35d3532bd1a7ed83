"""The server is killed under running jobs and under a drain, and comes back, or does not."""

from __future__ import annotations

import signal
from collections.abc import AsyncGenerator, Iterator

import psycopg
import pytest
import trio

from tests.fix_proxy import Proxy
from tests.waiting import eventually
from tests.worker_on_postgres.bench import Bench
from tests.worker_on_postgres.private_server import PrivateServer
from trio_queue._worker import lease
from trio_queue.exceptions import ConnectorException, OutcomesNotWritten
from trio_queue.worker import Stage

SIGNALS = [signal.SIGKILL, signal.SIGINT]
SHORT_LEASE = {"update_heartbeat_interval": 0.1, "stalled_worker_timeout": 1.0}


@pytest.fixture
def server() -> Iterator[PrivateServer]:
    server = PrivateServer()
    yield server
    server.close()


@pytest.fixture
async def away(server: PrivateServer) -> AsyncGenerator[Bench]:
    """A bench whose server may be killed; the proxy gives it one address through all starts."""
    proxy = Proxy(server)
    async with trio.open_nursery() as nursery:
        await nursery.start(proxy.serve)
        bench = Bench(proxy.conninfo(server.conninfo(tcp=True)), server.conninfo())
        yield bench
        bench.close()
        nursery.cancel_scope.cancel()


async def start_again(server: PrivateServer, bench: Bench) -> None:
    await server.start_again()
    bench.look_at(server.conninfo())


@pytest.mark.promise(
    "When the database is away / running jobs", "When the database is away / outcomes"
)
@pytest.mark.parametrize("number", SIGNALS)
async def test_running_jobs_run_on_and_are_written_when_it_is_back(
    away: Bench, server: PrivateServer, number: signal.Signals
) -> None:
    ids = away.defer("hold", 3)
    async with away.working(concurrency=5) as worker:
        await eventually(lambda: len(away.began) == 3, "the jobs")
        server.kill(number)
        away.gate.set()
        await eventually(lambda: len(away.ended) == 3, "the jobs to end meanwhile")
        await start_again(server, away)
        more = away.defer(count=2)
        await away.all_ended(ids + more)
        assert worker.stage is Stage.RUNNING
        assert away.strays(worker) == []
    away.each_ran_once(ids + more)
    await away.is_quiet()


@pytest.mark.parametrize("number", SIGNALS)
async def test_a_drain_waits_for_it(
    away: Bench, server: PrivateServer, number: signal.Signals
) -> None:
    ids = away.defer("hold", 3)
    async with away.working(concurrency=5) as worker:
        await eventually(lambda: len(away.began) == 3, "the jobs")
        worker.stop()
        server.kill(number)
        away.gate.set()
        await eventually(lambda: len(away.ended) == 3, "the jobs to end meanwhile")
        assert worker.stage is Stage.DRAINING
        await start_again(server, away)
    away.each_ran_once(ids)
    await away.is_quiet()


@pytest.mark.promise("When the database is away / a stop meanwhile")
@pytest.mark.parametrize("number", SIGNALS)
async def test_a_stop_does_not_wait_for_ever(
    away: Bench,
    server: PrivateServer,
    number: signal.Signals,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lease, "GOODBYE_BOUND", 1.0)
    ids = away.defer("hold", 2)
    done = away.defer("work", 1)
    worker = away.worker(concurrency=5, **SHORT_LEASE)
    with pytest.RaisesGroup(OutcomesNotWritten) as raised:
        async with trio.open_nursery() as nursery:
            await nursery.start(worker.run)
            await eventually(lambda: len(away.began) == 3, "the jobs")
            await away.all_ended(done)
            server.kill(number)
            worker.stop()
            away.gate.set()
    (error,) = raised.value.exceptions
    assert all(f"hold[{job_id}]" in str(error) for job_id in ids)
    await start_again(server, away)
    assert away.statuses(ids) == dict.fromkeys(ids, ("doing", 0))
    # They are left to the rescue, which counts the attempt.
    async with away.working(concurrency=5, **SHORT_LEASE):
        await away.all_ended(ids)
    assert away.statuses(ids) == dict.fromkeys(ids, ("succeeded", 2))
    assert away.began == dict.fromkeys(ids, 2) | dict.fromkeys(done, 1)
    await away.is_quiet()


@pytest.mark.promise("When the database is away / a start meanwhile")
async def test_a_start_without_a_server(away: Bench, server: PrivateServer) -> None:
    server.kill(signal.SIGKILL)
    with pytest.raises(ConnectorException, match=r"cannot connect to PostgreSQL at host=127"):
        await away.worker().run()


async def test_a_stop_while_idle_and_away(
    away: Bench, server: PrivateServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "GOODBYE_BOUND", 1.0)
    worker = away.worker()
    async with trio.open_nursery() as nursery:
        await nursery.start(worker.run)
        server.kill(signal.SIGKILL)
        worker.stop()
        await eventually(lambda: worker.stage is Stage.STOPPED, "the end")


async def test_no_connection_is_left() -> None:
    """max_connections is used up, by others: a start says so, a running worker waits and goes on."""
    server = PrivateServer(max_connections=12, superuser_reserved_connections=1)
    bench = Bench(server.conninfo(), server.conninfo())
    others: list[psycopg.Connection] = []

    def use_up() -> None:
        while True:
            try:
                others.append(psycopg.connect(server.conninfo(), application_name="others"))
            except psycopg.OperationalError:
                return

    try:
        ids = bench.defer("hold")
        async with bench.working(concurrency=2) as worker:
            await eventually(lambda: len(bench.began) == 1, "the long job")
            use_up()
            # What the worker has is taken from it, and from whoever is quicker than others.
            for pid, _ in bench.backends():
                bench.rows("SELECT pg_terminate_backend(%s)", pid)
            use_up()
            while others:
                others.pop().close()
            bench.gate.set()
            await bench.all_ended(ids)
            assert worker.stage is Stage.RUNNING
        await bench.is_quiet()  # a session that ends after that would leave a place
        use_up()
        with pytest.raises(ConnectorException, match="too many clients"):
            await bench.worker().run()
    finally:
        for other in others:
            other.close()
        bench.close()
        server.close()
    assert bench.began == dict.fromkeys(ids, 1)
