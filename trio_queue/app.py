"""The App: its tasks, its way to the database, and the doors to a worker."""

from __future__ import annotations

import contextlib
import difflib
import functools
import logging
from collections.abc import Generator, Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import sniffio
import trio
from typing_extensions import Unpack

from trio_queue import builtin_tasks, utils
from trio_queue._worker.garbage import frozen_heap
from trio_queue.blueprints import Blueprint
from trio_queue.connector import BaseConnector
from trio_queue.deferring import ConfigureTaskOptions, JobDeferrer
from trio_queue.exceptions import InvalidOption, TaskNotFound, TrioQueueException
from trio_queue.log import Action, fields
from trio_queue.manager import JobManager
from trio_queue.tasks import configure_task
from trio_queue.types import Flavor
from trio_queue.validation import check_flavor

if TYPE_CHECKING:
    from trio_queue._worker.options import WorkerOptions
    from trio_queue.schema import SchemaManager
    from trio_queue.worker import Worker

_PERIODIC_DEFAULTS = frozenset({"max_delay"})

logger: logging.Logger = logging.getLogger(__name__)


class App(Blueprint):
    """Where tasks, a database and workers meet. A program defines one, at the top of a module.

    `open_async()` (on Trio or asyncio) or `open()` (in sync code) makes it ready to defer jobs;
    `run_worker()` works them.
    """

    @classmethod
    def from_path(cls, dotted_path: str) -> Self:
        """Import an App.

        Args:
            dotted_path: `package.module.name` or `package.module:name`.

        Raises:
            LoadFromPathError: The module cannot be imported (the cause says why), has nothing of
                this name, or something else under it.
        """
        return utils.load_from_path(dotted_path, cls)

    def __init__(
        self,
        *,
        connector: BaseConnector,
        import_paths: Iterable[str] | None = None,
        worker_defaults: WorkerOptions | None = None,
        periodic_defaults: Mapping[str, Any] | None = None,
        flavor: Flavor | None = None,
    ) -> None:
        """Make an App. Nothing is connected or imported yet.

        Args:
            connector: The way to the database.
            import_paths: The modules that define tasks: imported before a worker starts, and
                before a task is looked up by its name.
            worker_defaults: Options of `worker()` where they are not given there.
            periodic_defaults: `max_delay`: moments of periodic tasks missed for longer, in seconds,
                are given up (600).
            flavor: The event loop that async tasks are written for where they do not say, "trio"
                or "asyncio"; None: the one that the worker is run on. With "asyncio",
                `run_worker()` and the command line run the worker in an asyncio loop.

        Raises:
            InvalidOption: An option has a value that it cannot have.
        """
        super().__init__()
        if isinstance(import_paths, str):
            raise InvalidOption(f"import_paths is a list of modules, not the name {import_paths!r}")
        unknown = set(periodic_defaults or ()) - _PERIODIC_DEFAULTS
        if unknown:
            raise InvalidOption(
                f"periodic_defaults knows {', '.join(_PERIODIC_DEFAULTS)}, "
                f"not {', '.join(sorted(unknown))}"
            )
        self.connector: BaseConnector = connector
        self.import_paths: list[str] = list(import_paths or ())
        self.worker_defaults: Mapping[str, Any] = dict(worker_defaults or {})
        self.periodic_defaults: Mapping[str, Any] = dict(periodic_defaults or {})
        self.flavor: Flavor | None = check_flavor(flavor, "the App")
        self._job_manager = JobManager(connector)
        self._import_paths_performed = False
        self.add_tasks_from(builtin_tasks.builtin, namespace="builtin")
        for name in builtin_tasks.PROCRASTINATE_NAMES:
            self.add_task_alias(builtin_tasks.remove_old_jobs, name)

    # -- opening --------------------------------------------------------------------------------

    def open(self, pool_or_engine: Any = None) -> Self:
        """Open for sync code: `with app.open():`, or without `with` and `close()` later.

        Args:
            pool_or_engine: A `psycopg_pool.ConnectionPool` of yours, which stays yours to close.
        """
        self.connector.open(pool_or_engine)
        return self

    def close(self) -> None:
        """Close what `open()` opened."""
        self.connector.close()

    def __enter__(self) -> Self:
        """The App, opened already by `open()`."""
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close what `open()` opened."""
        self.close()

    def open_async(self, pool: Any = None) -> utils.AwaitableContext[Self]:
        """Open for the running event loop: `async with app.open_async():`, or `await` it.

        Awaited, it is to be closed by `await app.close_async()`.

        Args:
            pool: A `psycopg_pool.AsyncConnectionPool` of yours (asyncio only), which stays yours to
                close.
        """
        # The connector is the one of this moment, for closing too, whatever replaces it meanwhile.
        connector = self.connector
        return utils.AwaitableContext(
            open_coro=functools.partial(connector.open_async, pool),
            close_coro=connector.close_async,
            return_value=self,
        )

    async def close_async(self) -> None:
        """Close what `open_async()` opened. In a cancelled scope too."""
        await self.connector.close_async()

    @contextlib.contextmanager
    def replace_connector(self, connector: BaseConnector) -> Generator[Self]:
        """Let the App speak to another database while the block lasts: for tests.

        The other connector is opened and closed by you.
        """
        replaced = self.connector
        self._set_connector(connector)
        try:
            yield self
        finally:
            self._set_connector(replaced)

    def _set_connector(self, connector: BaseConnector) -> None:
        self.connector = connector
        self._job_manager.connector = connector

    # -- tasks ----------------------------------------------------------------------------------

    @property
    def job_manager(self) -> JobManager:
        """What can be asked about jobs and done to them."""
        return self._job_manager

    def will_configure_task(self) -> None:
        """Nothing: the tasks of an App can be deferred."""

    def configure_task(
        self, name: str, *, allow_unknown: bool = True, **options: Unpack[ConfigureTaskOptions]
    ) -> JobDeferrer:
        """Say how a job is to be run of a task known by its name; then `defer()` what this returns.

        Args:
            name: The task's name, or an alias.
            allow_unknown: Also a name that no task here has: a worker elsewhere may know it. Its
                arguments cannot be checked.
            **options: As of `Task.configure`.

        Raises:
            TaskNotFound: No task has this name, and unknown ones are not allowed.
            InvalidOption: An option has a value that it cannot have.
            LoadFromPathError: A module of `import_paths` cannot be imported.
        """
        self.perform_import_paths()
        task = self.tasks.get(name)
        if task is not None:
            # A task that another App took afterwards bears that one's name, and defers there.
            known = task.name if self.tasks.get(task.name) is task else name
            return task.configure_for(self._job_manager, known, **options)
        if allow_unknown:
            return configure_task(name=name, job_manager=self._job_manager, **options)
        raise TaskNotFound(f"no task {name!r} is registered{self._similar(name)}")

    def _similar(self, name: str) -> str:
        similar = difflib.get_close_matches(name, self.tasks, n=1)
        return (
            f": did you mean {similar[0]!r}?"
            if similar
            else ": import the module that defines it, or list it in the App's import_paths"
        )

    def perform_import_paths(self) -> None:
        """Import the modules of `import_paths`, once.

        Raises:
            LoadFromPathError: One of them cannot be imported; the next call tries again.
        """
        if self._import_paths_performed:
            return
        utils.import_all(self.import_paths)
        self._import_paths_performed = True
        logger.debug(
            "All tasks imported", extra=fields(Action.IMPORTED_TASKS, tasks=list(self.tasks))
        )

    # -- the database ---------------------------------------------------------------------------

    def check_connection(self) -> bool:
        """Whether the database answers and has the table of jobs."""
        return self._job_manager.check_connection()

    async def check_connection_async(self) -> bool:
        """`check_connection` from an event loop."""
        return await self._job_manager.check_connection_async()

    @property
    def schema_manager(self) -> SchemaManager:
        """What creates and migrates the tables."""
        from trio_queue.schema import SchemaManager

        return SchemaManager(self.connector)

    # -- working --------------------------------------------------------------------------------

    def worker(self, **options: Unpack[WorkerOptions]) -> Worker:
        """Make a worker, to be run by `await worker.run()`.

        Args:
            **options: See `trio_queue.Worker`. Where they are not given: `worker_defaults`.
        """
        from trio_queue.worker import Worker

        merged: Any = {**self.worker_defaults, **options}
        return Worker(self, **merged)

    def run_worker(self, **options: Unpack[WorkerOptions]) -> None:
        """Run a worker in an event loop of its own, until it is stopped or, with `wait=False`, idle.

        The loop is Trio's; asyncio's for an App with `flavor="asyncio"`. The App is opened for it,
        and closed. How a worker stops is told by `trio_queue.Worker`. Meanwhile Python's collector of
        garbage leaves alone what was there before (`gc.freeze`).

        Args:
            **options: As of `worker`.

        Raises:
            TrioQueueException: It is called in an event loop.
            LoadFromPathError: A module of `import_paths` cannot be imported.
            Exception: What `Worker.run` raises.
        """
        if _current_loop() is not None:
            raise TrioQueueException(
                "run_worker() starts an event loop of its own, and here one is running: "
                "await app.run_worker_async() instead"
            )
        self.perform_import_paths()
        with frozen_heap():
            if self.flavor == "asyncio":
                import asyncio

                asyncio.run(self.run_worker_async(**options))
            else:
                trio.run(self.worker(**options).run)

    async def run_worker_async(self, **options: Unpack[WorkerOptions]) -> None:
        """Run a worker in the running event loop, until it is stopped or, with `wait=False`, idle.

        The App is opened if it is not open, and then closed. On Trio this is `Worker.run`. On
        asyncio, or uvloop, the worker runs inside that loop, and async tasks without a `flavor` run
        as asyncio tasks on it: they may use its sessions and pools.

        Cancelled, the worker drains before this raises: every job has ended then, and its row is
        written. On asyncio a second `Task.cancel()` aborts the jobs; `asyncio.wait_for` and
        `asyncio.timeout` that expire count as one, and so do the signals that the worker hears.

        Args:
            **options: As of `worker`.

        Raises:
            LoadFromPathError: A module of `import_paths` cannot be imported.
            TrioAlreadyRuns: It is awaited in an asyncio loop, and Trio runs in this thread.
            asyncio.CancelledError: It was cancelled, on asyncio.
            Exception: What `Worker.run` raises.
        """
        self.perform_import_paths()
        worker = self.worker(**options)
        if _current_loop() == "asyncio":
            # Imported here: Trio programs need none of asyncio.
            from trio_queue import from_asyncio

            await from_asyncio.run_worker(worker)
        else:
            await worker.run()


def _current_loop() -> str | None:
    try:
        return sniffio.current_async_library()
    except sniffio.AsyncLibraryNotFoundError:
        return None
