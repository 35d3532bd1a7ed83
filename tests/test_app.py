from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.colours import Run, in_both_loops
from tests.recording import RecordingConnector
from trio_queue import App, builtin_tasks, management
from trio_queue.exceptions import (
    InvalidArguments,
    InvalidOption,
    LoadFromPathError,
    TaskNotFound,
    TrioQueueException,
)
from trio_queue.job_context import JobContext, WorkerOwner
from trio_queue.jobs import Job, Status
from trio_queue.testing import InMemoryConnector
from trio_queue.types import Flavor


@pytest.fixture
def connector() -> RecordingConnector:
    return RecordingConnector()


@pytest.fixture
def app(connector: RecordingConnector) -> App:
    return App(connector=connector)


# -- opening ----------------------------------------------------------------------------------------


def test_open_in_sync_code(app: App, connector: RecordingConnector) -> None:
    with app.open("pool") as opened:
        assert opened is app
        assert connector.life == ["open pool"]
    assert connector.life[1:] == ["close"]
    assert app.open() is app
    app.close()
    assert connector.life[2:] == ["open None", "close"]


@in_both_loops
def test_open_in_a_loop(app: App, connector: RecordingConnector, run: Run) -> None:
    async def main() -> None:
        async with app.open_async("pool") as opened:
            assert opened is app
            assert connector.life == ["open_async pool"]
        assert connector.life[1:] == ["close_async"]
        assert await app.open_async() is app
        await app.close_async()
        assert connector.life[2:] == ["open_async None", "close_async"]

    run(main)


async def test_what_was_opened_is_closed_whatever_replaces_it(
    app: App, connector: RecordingConnector
) -> None:
    async with app.open_async():
        replacing = app.replace_connector(RecordingConnector())
        replacing.__enter__()
    assert connector.life[-1] == "close_async"
    replacing.__exit__(None, None, None)


def test_replace_connector(app: App, connector: RecordingConnector) -> None:
    task = app.task(name="task")(lambda: None)
    other = RecordingConnector()
    with app.replace_connector(other) as same:
        assert same is app
        assert app.connector is app.job_manager.connector is other
        task.defer()
    assert app.connector is app.job_manager.connector is connector
    with contextlib.suppress(ValueError), app.replace_connector(other):
        raise ValueError
    assert app.connector is connector
    assert (len(other.jobs), len(connector.jobs)) == (1, 0)


@in_both_loops
def test_check_connection(app: App, connector: RecordingConnector, run: Run) -> None:
    connector.answers[management.CheckConnection] = [True]
    assert app.check_connection() is True
    assert run(app.check_connection_async) is True


# -- options ----------------------------------------------------------------------------------------


def test_an_app_keeps_what_it_is_given(connector: RecordingConnector) -> None:
    app = App(
        connector=connector,
        import_paths=iter(["a", "b"]),
        worker_defaults={"concurrency": 3},
        periodic_defaults={"max_delay": 5},
        flavor="asyncio",
    )
    assert app.import_paths == ["a", "b"]
    assert app.worker_defaults == {"concurrency": 3}
    assert app.periodic_defaults == {"max_delay": 5}
    assert app.flavor == "asyncio"
    owner: WorkerOwner = app
    assert owner.connector is connector


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"flavor": "curio"}, "the App: the flavor"),
        ({"periodic_defaults": {"max_dealy": 5}}, "knows max_delay, not max_dealy"),
        ({"import_paths": "a.b"}, "list of modules"),
    ],
)
def test_what_an_app_refuses(
    connector: RecordingConnector, options: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(InvalidOption, match=complaint):
        App(connector=connector, **options)


# -- tasks by name ----------------------------------------------------------------------------------


def test_a_known_task_is_configured_with_its_defaults_and_checked(
    app: App, connector: RecordingConnector
) -> None:
    @app.task(name="task", queue="mail")
    def task(a: int) -> None: ...

    app.configure_task("task", priority=2).defer(a=1)
    (job,) = connector.jobs
    assert (job.queue, job.priority) == ("mail", 2)
    with pytest.raises(InvalidArguments):
        app.configure_task("task").defer(b=1)


def test_an_unknown_task_may_be_known_elsewhere(app: App, connector: RecordingConnector) -> None:
    app.configure_task("elsewhere", queue="q", schedule_in={"seconds": 1}).defer(whatever=1)
    (job,) = connector.jobs
    assert (job.task_name, job.queue, job.task_kwargs) == ("elsewhere", "q", {"whatever": 1})


def test_an_unknown_task_may_be_refused(app: App) -> None:
    app.task(name="send_mail")(lambda: None)
    with pytest.raises(TaskNotFound, match="did you mean 'send_mail'"):
        app.configure_task("send_mial", allow_unknown=False)
    with pytest.raises(TaskNotFound, match="import_paths"):
        app.configure_task("elsewhere", allow_unknown=False)


def test_an_unknown_tasks_name_is_checked(app: App) -> None:
    with pytest.raises(InvalidOption, match="129 characters"):
        app.configure_task("x" * 129)


def test_import_paths_are_imported_before_a_task_is_looked_up(
    connector: RecordingConnector,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    path = tmp_path / "imported_by_this_test.py"
    path.write_text("raise ValueError('not yet')")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    app = App(connector=connector, import_paths=["imported_by_this_test"])
    with pytest.raises(LoadFromPathError, match=r"import_paths .* raised ValueError: not yet"):
        app.configure_task("task")
    path.write_text("")
    app.configure_task("task")
    assert "imported_by_this_test" in sys.modules
    del sys.modules["imported_by_this_test"]
    app.perform_import_paths()
    assert "imported_by_this_test" not in sys.modules
    assert caplog.records[-1].__dict__["action"] == "imported_tasks"


# -- built-in tasks ---------------------------------------------------------------------------------


@in_both_loops
def test_remove_old_jobs(app: App, connector: RecordingConnector, run: Run) -> None:
    connector.answers[management.DeleteOldJobs] = [management.Deleted(5)]
    context = JobContext(app=app, job=Job(task_name="x"), start_timestamp=0)

    async def main() -> None:
        removed = await builtin_tasks.remove_old_jobs(
            context, max_hours=3, queue="q", remove_failed=True
        )
        assert removed == 5

    run(main)
    assert connector.said[0][1] == management.DeleteOldJobs(
        nb_hours=3, statuses=[Status.SUCCEEDED, Status.FAILED], queue="q"
    )


# -- working ----------------------------------------------------------------------------------------


def test_a_worker_gets_the_apps_defaults_and_what_is_given() -> None:
    app = App(connector=InMemoryConnector(), worker_defaults={"concurrency": 3, "name": "default"})
    worker = app.worker(name="given")
    assert (worker.options.name, worker.options.concurrency) == ("given", 3)


def work_app(flavor: Flavor | None = None) -> tuple[App, list[int]]:
    app = App(connector=InMemoryConnector(), flavor=flavor)
    done: list[int] = []
    app.task(name="sync")(done.append)

    @app.task(name="work")
    async def work(number: int) -> None:
        await trio.lowlevel.checkpoint()
        done.append(number)

    return app, done


def test_run_worker_works_until_there_is_nothing_left() -> None:
    app, done = work_app()
    app.configure_task("work").batch_defer({"number": 1}, {"number": 2})
    app.run_worker(wait=False, install_signal_handlers=False)
    assert done == [1, 2]


async def test_run_worker_async_on_trio() -> None:
    app, done = work_app()
    await app.configure_task("work").defer_async(number=1)
    await app.run_worker_async(wait=False, install_signal_handlers=False)
    assert done == [1]


def test_a_job_deferred_by_procrastinates_name_of_a_builtin_task_runs() -> None:
    app, _ = work_app()
    manager = app.job_manager
    manager.defer_job(
        Job(
            task_name="builtin:procrastinate.builtin_tasks.remove_old_jobs",
            task_kwargs={"max_hours": 1},
        )
    )
    app.run_worker(wait=False, install_signal_handlers=False)
    assert [job.status for job in manager.list_jobs()] == ["succeeded"]


async def test_run_worker_in_a_loop_is_refused() -> None:
    app, _ = work_app()
    with pytest.raises(TrioQueueException, match="run_worker_async"):
        app.run_worker()


def test_run_worker_async_in_asyncio() -> None:
    app, done = work_app("trio")
    app.configure_task("work").defer(number=1)
    asyncio.run(app.run_worker_async(wait=False, install_signal_handlers=False))
    assert done == [1]


def test_run_worker_of_an_app_for_asyncio_runs_it_in_asyncio() -> None:
    app, _ = work_app("asyncio")
    ran_in: list[asyncio.AbstractEventLoop] = []

    @app.task(name="where")
    async def where() -> None:
        await asyncio.sleep(0)
        ran_in.append(asyncio.get_running_loop())

    where.defer()
    app.run_worker(wait=False, install_signal_handlers=False)
    assert ran_in[0].is_closed()


@pytest.fixture
def thawed() -> Iterator[None]:
    """The suite itself freezes what it has imported."""
    gc.unfreeze()
    yield
    gc.freeze()


@pytest.mark.usefixtures("thawed")
def test_while_run_worker_works_what_was_there_before_is_not_collected_again() -> None:
    app, _ = work_app()
    frozen: list[int] = []

    @app.task(name="count")
    def count() -> None:
        frozen.append(gc.get_freeze_count())

    count.defer()
    before = gc.get_freeze_count()
    app.run_worker(wait=False, install_signal_handlers=False)
    assert frozen[0] > 10_000 > before
    assert gc.get_freeze_count() == 0


@pytest.mark.usefixtures("thawed")
def test_what_the_program_froze_itself_stays_frozen() -> None:
    app, _ = work_app()
    gc.freeze()
    app.run_worker(wait=False, install_signal_handlers=False)
    assert gc.get_freeze_count() > 10_000
