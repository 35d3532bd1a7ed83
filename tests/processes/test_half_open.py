"""The wire swallows everything, and neither end is told: a proxy between the worker and the server."""

from __future__ import annotations

import signal

import trio

from tests.cli.processes import Process
from tests.fix_proxy import Proxy
from tests.processes.fleet import LOOKS_OFTEN, SHORT_LEASE, Fleet
from tests.waiting import eventually

BOUNDED = "tests.processes.short_bounds"
RAN_ONCE = ["deferred", "started", "succeeded"]


async def wait_said(process: Process, text: str) -> None:
    # The proxy runs in this loop: it must not be blocked.
    await trio.to_thread.run_sync(process.wait_said, text)


async def wait_end(process: Process) -> int:
    return await trio.to_thread.run_sync(process.wait_end)


async def wait_told(fleet: Fleet, job: int, word: str) -> None:
    await eventually(lambda: word in fleet.told(job), f"job {job} to tell {word}")


async def wait_status(fleet: Fleet, job: int, status: str) -> None:
    await eventually(lambda: fleet.row(job)[0] == status, f"job {job} to be {status}")


async def test_outcomes_are_kept_until_the_wire_is_whole(fleet: Fleet, proxy: Proxy) -> None:
    jobs = [fleet.defer("hold"), fleet.defer("hold_in_thread")]
    # The lease bounds one try of a write. There is nobody else to lose it to.
    through_the_proxy = proxy.conninfo(fleet.conninfo)
    worker = fleet.start("-c", "2", *SHORT_LEASE, module=BOUNDED, conninfo=through_the_proxy)
    for job in jobs:
        await wait_told(fleet, job, "began")
    proxy.freeze()
    fleet.open_gate()
    for job in jobs:
        await wait_told(fleet, job, "ended")
    await wait_said(worker, "Lost the database (")
    assert [fleet.row(job) for job in jobs] == [("doing", 0)] * 2
    # As where a router has forgotten the connections there were.
    await proxy.cut()
    proxy.thaw()
    for job in jobs:
        await wait_status(fleet, job, "succeeded")
        assert fleet.row(job) == ("succeeded", 1)
        assert fleet.events(job) == RAN_ONCE
        assert fleet.told(job) == ["began", "ended"]
    await wait_said(worker, "The database is back after")
    more = fleet.defer("work")
    await wait_status(fleet, more, "succeeded")
    worker.send(signal.SIGTERM)
    assert await wait_end(worker) == 0, worker.said
    assert "could not be written" not in worker.said
    fleet.is_quiet()


async def test_the_third_signal_leaves_through_it(fleet: Fleet, proxy: Proxy) -> None:
    """The row cannot be released: it goes with the lease."""
    job = fleet.defer("deaf_at_first")
    worker = fleet.start(*LOOKS_OFTEN, conninfo=proxy.conninfo(fleet.conninfo))
    await wait_told(fleet, job, "began")
    proxy.freeze()
    for said in ("is draining", "is aborting"):
        worker.send(signal.SIGTERM)
        await wait_said(worker, said)
    worker.send(signal.SIGTERM)
    assert await wait_end(worker) == 128 + signal.SIGTERM, worker.said
    assert fleet.row(job) == ("doing", 0)
    assert [pid for _, pid in fleet.workers()] == [worker.popen.pid]
    rescuer = fleet.start(*SHORT_LEASE)
    await wait_status(fleet, job, "succeeded")
    assert fleet.row(job) == ("succeeded", 2)
    assert fleet.events(job) == [
        *["deferred", "started", "deferred_for_retry: worker_died", "started", "succeeded"]
    ]
    rescuer.send(signal.SIGTERM)
    assert await wait_end(rescuer) == 0
    assert "Rescued job deaf_at_first[1]()" in rescuer.said
    fleet.is_quiet()
    await proxy.cut()
