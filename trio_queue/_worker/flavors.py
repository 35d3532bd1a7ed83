"""Where the code of jobs runs: on Trio or on asyncio, each with the App open for it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from functools import partial
from typing import TypeVar

import attrs
import trio

from trio_queue._loops.backends import open_backend
from trio_queue._worker.opening import opened
from trio_queue.completion import leaves
from trio_queue.connector import BaseConnector, keep_open, let_close
from trio_queue.exceptions import HostLoopClosed
from trio_queue.job_context import WorkerOwner
from trio_queue.owners import AsyncioBackend, HostsJobs, HostsTrio, RunsAsyncio, asyncio_host
from trio_queue.tasks import AnyTask
from trio_queue.types import Flavor

T = TypeVar("T")


@attrs.define
class _Opening:
    """The opening of a loop, which jobs may wait for together."""

    ended: trio.Event = attrs.field(factory=trio.Event)
    error: Exception | None = None


class Flavors:
    """The two loops of one worker: its host, and the one beside it for tasks of the other flavour.

    The host's is there from the start, and the other one too where a task or the App asks for it by
    name. Otherwise it is opened for the first job that needs it. Both live until the worker's last
    row is written.
    """

    def __init__(self, app: WorkerOwner, backend: AsyncioBackend | None) -> None:
        self._app = app
        self._backend = backend
        #: The asyncio loop whose guest Trio is; None: Trio runs by itself.
        self.asyncio_host: HostsTrio | None = None
        self._runner: RunsAsyncio | None = None
        self._ready: set[Flavor] = set()
        self._openings: dict[Flavor, _Opening] = {}
        self._closing = trio.Event()
        self._nursery: trio.Nursery | None = None

    @property
    def host(self) -> Flavor:
        """The flavour of the loop that the worker runs in."""
        return "trio" if self.asyncio_host is None else "asyncio"

    def of(self, task: AnyTask) -> Flavor:
        """The flavour of a task: its own, else the App's, else the host's."""
        return task.flavor or self._app.flavor or self.host

    def host_of_jobs(self) -> HostsJobs | None:
        """The asyncio loop around us, where it can run jobs: not where it is closed."""
        host = self.asyncio_host
        return host if host is not None and host.is_open else None

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncGenerator[None]:
        """They are there while the block lasts.

        Raises:
            ConnectorException: The App cannot be opened for one of them.
            ImportError: trio-asyncio was asked for, and cannot be imported.
        """
        self.asyncio_host = asyncio_host.get()
        with _bare():
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                try:
                    for flavor in self._needed():
                        await self.make_ready(flavor)
                    yield
                finally:
                    self._closing.set()

    def _needed(self) -> list[Flavor]:
        asked_for = {self._app.flavor, *(task.flavor for task in self._app.tasks.values())}
        other: Flavor = "asyncio" if self.host == "trio" else "trio"
        return [self.host, other] if other in asked_for else [self.host]

    async def make_ready(self, flavor: Flavor) -> None:
        """Open what this flavour needs, if it is not open. Raises as `opened` does."""
        if flavor in self._ready:
            return
        opening = self._openings.get(flavor)
        if opening is None:
            assert self._nursery is not None, "it is open"
            opening = self._openings[flavor] = _Opening()
            # Not by nursery.start(): in a scope that is cancelled meanwhile, that would wait for
            # the end of what it starts, which waits for the end of the block.
            self._nursery.start_soon(self._keep, flavor, opening)
        await opening.ended.wait()
        if opening.error is not None:
            self._openings.pop(flavor, None)  # the next job tries again
            raise opening.error

    # As every task of the worker: Ctrl-C is for the one that hears it.
    @trio.lowlevel.enable_ki_protection
    async def _keep(self, flavor: Flavor, opening: _Opening) -> None:
        try:
            async with contextlib.AsyncExitStack() as stack:
                await self._open(flavor, stack)
                self._ready.add(flavor)
                opening.ended.set()
                with trio.CancelScope(shield=True):  # until no job uses it any more
                    await self._closing.wait()
        except Exception as error:
            if opening.ended.is_set():
                raise
            opening.error = error
        finally:
            opening.ended.set()

    async def _open(self, flavor: Flavor, stack: contextlib.AsyncExitStack) -> None:
        connector = self._app.connector
        if flavor == "trio":
            await stack.enter_async_context(opened(connector))
            return
        runner: RunsAsyncio | None = self.asyncio_host
        if runner is None:
            runner = await stack.enter_async_context(open_backend(self._backend))
        self._runner = runner
        await stack.enter_async_context(_opened_in(runner, connector))

    async def run(self, flavor: Flavor, function: Callable[[], Awaitable[T]]) -> T:
        """Await `function()` in the loop of this flavour, which is ready. From Trio."""
        if flavor == "trio":
            return await function()
        assert self._runner is not None, "it was made ready"
        return await self._runner.run(function)

    def from_host(self, function: Callable[[], Awaitable[T]]) -> Callable[[], Awaitable[T]]:
        """A Trio function, as the code of the host's loop may call it."""
        host = self.asyncio_host
        return function if host is None else partial(host.run_trio, function)


@contextlib.asynccontextmanager
async def _opened_in(runner: RunsAsyncio, connector: BaseConnector) -> AsyncGenerator[None]:
    """The connector is open for an asyncio loop while the block lasts. See `opened`."""
    kept = await runner.run(partial(keep_open, connector))
    try:
        yield
    finally:
        if kept:
            # A closed loop has taken its connections along.
            with trio.CancelScope(shield=True), contextlib.suppress(HostLoopClosed):
                await runner.run(partial(let_close, connector))


@contextlib.contextmanager
def _bare() -> Generator[None]:
    """Raise a single error of a nursery as it is."""
    try:
        yield
    except BaseExceptionGroup as group:
        errors = [error for error in leaves(group) if not isinstance(error, trio.Cancelled)]
        if len(errors) == 1:
            raise errors[0] from None
        raise
