"""The same test under another host: Trio by itself, or as the guest of an asyncio loop.

A test marked `both_hosts` runs under both. With `--in-asyncio` every test that runs Trio does so under
asyncio only; the others, and those marked `only_trio`, are deselected. A test that is not async itself
runs Trio by `run_trio`, and says so by the mark `runs_trio`. What is about asyncio anyhow and takes its
time is marked `only_in_asyncio`, and runs only then too.

A fake clock knows nothing of asyncio: here it waits for the host to have nothing to do.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar
from unittest import mock

import attrs
import pytest
import trio
import trio.testing

from trio_queue import from_asyncio
from trio_queue import worker as worker_module
from trio_queue._loops.guest import open_guest
from trio_queue._worker.call import Caller, Way
from trio_queue._worker.flavors import Flavors
from trio_queue._worker.running import RunningJob
from trio_queue.job_context import JobContext
from trio_queue.types import Flavor
from trio_queue.worker import Worker

T = TypeVar("T")

_in_asyncio = False


def run_trio(
    main: Callable[[], Awaitable[T]],
    *,
    clock: trio.abc.Clock | None = None,
    instruments: Sequence[trio.abc.Instrument] = (),
) -> T:
    """`trio.run`, under the host that the tests run under."""
    if _in_asyncio:
        return run_as_guest(main, clock=clock, instruments=instruments)
    return trio.run(main, clock=clock, instruments=instruments)


def run_worker(worker: Worker, *, clock: trio.abc.Clock | None = None) -> None:
    """A program whose main task does nothing but run a worker, under the host that the tests run under."""

    async def main() -> None:
        # A task in which nothing is protected, as in a user's program.
        await worker.run()

    async def host() -> None:
        with _guest_with(clock):
            await from_asyncio.run_worker(worker)

    if _in_asyncio:
        asyncio.run(host())
    else:
        trio.run(main, clock=clock)


def run_as_guest(
    main: Callable[[], Awaitable[T]],
    *,
    clock: trio.abc.Clock | None = None,
    instruments: Sequence[trio.abc.Instrument] = (),
) -> T:
    """`trio.run` inside of `asyncio.run`: a worker in it is a worker in an asyncio loop."""

    async def host() -> T:
        with _guest_with(clock, instruments):
            async with open_guest() as guest:
                return await guest.run_trio(main)

    return asyncio.run(host())


@contextmanager
def _guest_with(
    clock: trio.abc.Clock | None, instruments: Sequence[trio.abc.Instrument] = ()
) -> Generator[None]:
    """The guest that is opened inside of the block has this clock, which knows of the host's loop.

    It takes Trio for idle where the loop has nothing to call either: a job of asyncio's may be on its
    way.
    """
    start = partial(trio.lowlevel.start_guest_run, clock=clock, instruments=instruments)
    ready: Sequence[asyncio.Handle] = asyncio.get_running_loop()._ready  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownVariableType] - asyncio tells nobody when it is idle
    wait_blocked = trio.testing.wait_all_tasks_blocked

    async def wait_all_tasks_blocked(cushion: float = 0.0) -> None:
        await wait_blocked(cushion)
        while ready:
            await wait_blocked()

    if isinstance(clock, trio.testing.MockClock):
        jump = clock._autojump  # pyright: ignore[reportPrivateUsage] - nor does Trio ask anybody before it jumps

        def autojump() -> None:
            if not ready:
                jump()

        clock._autojump = autojump  # type: ignore[method-assign]  # pyright: ignore[reportPrivateUsage] - the same
    with (
        mock.patch.object(trio.lowlevel, "start_guest_run", start),
        mock.patch.object(trio.testing, "wait_all_tasks_blocked", wait_all_tasks_blocked),
    ):
        yield


class _TrioCode(Flavors):
    """What is written for Trio, as asyncio code: it awaits a Trio task."""

    # Not async: its frame would be the first of a job's traceback that is not the product's.
    def run(  # pyright: ignore[reportIncompatibleMethodOverride]  # a coroutine, in other words
        self, flavor: Flavor, function: Callable[[], Awaitable[T]]
    ) -> Coroutine[Any, Any, T]:
        if flavor == "asyncio" and self.asyncio_host is not None:
            function = partial(self.asyncio_host.run_trio, function)
        return super().run(flavor, function)

    def from_host(self, function: Callable[[], Awaitable[T]]) -> Callable[[], Awaitable[T]]:
        return function  # middleware of the worker is written for Trio as well


class _CallerOfTrioCode(Caller):
    """The same for jobs that are tasks of the host's loop."""

    def call_hosted(  # pyright: ignore[reportIncompatibleMethodOverride]  # as above
        self,
        way: Way,
        running: RunningJob,
        context_of: Callable[[RunningJob], JobContext],
    ) -> Awaitable[Any]:
        host = self._flavors.asyncio_host
        assert host is not None

        def function(*args: Any, **kwargs: Any) -> Awaitable[Any]:
            return host.run_trio(partial(way.function, *args, **kwargs))

        return super().call_hosted(attrs.evolve(way, function=function), running, context_of)


@pytest.fixture
def jobs_in_asyncio(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs are asyncio tasks where the host is asyncio, though the test has written them for Trio."""
    monkeypatch.setattr(worker_module, "Flavors", _TrioCode)
    monkeypatch.setattr(worker_module, "Caller", _CallerOfTrioCode)


HOSTS = [
    pytest.param("trio", id="trio"),
    pytest.param("asyncio", id="asyncio", marks=pytest.mark.trio(run=run_as_guest)),
]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--in-asyncio",
        action="store_true",
        help="run the tests on Trio as a guest of an asyncio loop",
    )


def pytest_configure(config: pytest.Config) -> None:
    global _in_asyncio  # noqa: PLW0603 - tests that are not async need no fixture for it
    _in_asyncio = config.getoption("--in-asyncio")
    for marker in (
        "both_hosts: runs under Trio, and inside an asyncio loop",
        "only_trio(reason): is about a Trio host",
        "runs_trio: is not async, and runs Trio by `run_trio`",
        "only_in_asyncio: is about an asyncio host, and costs time: only with --in-asyncio",
    ):
        config.addinivalue_line("markers", marker)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if not inspect.iscoroutinefunction(metafunc.function):
        return
    marked = {marker.name for marker in metafunc.definition.iter_markers()}
    if "only_trio" not in marked and (_in_asyncio or "both_hosts" in marked):
        metafunc.fixturenames.append("host")
        metafunc.parametrize("host", HOSTS[1:] if _in_asyncio else HOSTS)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if others := [item for item in items if not _is_wanted(item)]:
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if _is_wanted(item)]


def _is_wanted(item: pytest.Item) -> bool:
    marked = {marker.name for marker in item.iter_markers()}
    for only_trio in item.iter_markers("only_trio"):
        assert only_trio.args, f"{item.nodeid}: only_trio needs a reason"
    if not _in_asyncio:
        return "only_in_asyncio" not in marked
    if "only_trio" in marked:
        return False
    function: object = getattr(item, "function", None)
    return inspect.iscoroutinefunction(function) or not marked.isdisjoint(
        {"runs_trio", "only_in_asyncio"}
    )
