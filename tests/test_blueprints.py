from __future__ import annotations

import pytest

from trio_queue import App, Blueprint
from trio_queue.exceptions import InvalidOption, TaskAlreadyRegistered, UnboundTaskError
from trio_queue.tasks import AnyTask
from trio_queue.testing import InMemoryConnector


@pytest.fixture
def connector() -> InMemoryConnector:
    return InMemoryConnector()


@pytest.fixture
def app(connector: InMemoryConnector) -> App:
    return App(connector=connector)


def work() -> None: ...


def test_a_task_is_deferred_through_the_app_that_took_it(
    app: App, connector: InMemoryConnector
) -> None:
    blueprint = Blueprint()
    task = blueprint.task(name="work", aliases=["old"])(work)
    app.add_tasks_from(blueprint, namespace="space")
    assert app.tasks["space:work"] is app.tasks["space:old"] is task
    assert (task.name, task.aliases) == ("space:work", ["space:old"])
    job_id = task.defer()
    assert connector.jobs[job_id]["task_name"] == "space:work"


def test_blueprints_take_from_blueprints(app: App, connector: InMemoryConnector) -> None:
    inner, outer = Blueprint(), Blueprint()
    task = inner.task(name="work")(work)
    outer.add_tasks_from(inner, namespace="inner")
    with pytest.raises(UnboundTaskError):
        task.defer()
    app.add_tasks_from(outer, namespace="outer")
    assert connector.jobs[task.defer()]["task_name"] == "outer:inner:work"


def test_an_empty_namespace_leaves_the_names(app: App) -> None:
    blueprint = Blueprint()
    task = blueprint.task(name="work")(work)
    app.add_tasks_from(blueprint, namespace="")
    assert app.tasks["work"] is task


def test_a_namespace_is_taken_once_and_nothing_half_done_stays(app: App) -> None:
    first, second = Blueprint(), Blueprint()
    first.task(name="b")(work)
    app.add_tasks_from(first, namespace="n")
    tasks: list[AnyTask] = [second.task(name="a")(work), second.task(name="b")(work)]
    with pytest.raises(TaskAlreadyRegistered, match="'n:b' is registered already"):
        app.add_tasks_from(second, namespace="n")
    assert "n:a" not in app.tasks
    assert [task.name for task in tasks] == ["a", "b"]
    assert all(task.blueprint is second for task in tasks)


def test_a_namespace_may_make_a_name_too_long(app: App) -> None:
    blueprint = Blueprint()
    blueprint.task(name="x" * 128)(work)
    with pytest.raises(InvalidOption, match="130 characters"):
        app.add_tasks_from(blueprint, namespace="n")


def test_two_apps_may_take_the_same_blueprint() -> None:
    blueprint = Blueprint()
    task = blueprint.task(name="work")(work)
    connectors = InMemoryConnector(), InMemoryConnector()
    apps = [App(connector=connector) for connector in connectors]
    for number, app in enumerate(apps):
        app.add_tasks_from(blueprint, namespace=f"n{number}")
    assert [app.tasks[f"n{number}:work"] for number, app in enumerate(apps)] == [task, task]

    # Each App defers to its own database, under the name that it knows.
    for number, app in enumerate(apps):
        app.configure_task(f"n{number}:work").defer()
    names = [[job["task_name"] for job in connector.jobs.values()] for connector in connectors]
    assert names == [["n0:work"], ["n1:work"]]


def test_aliases(app: App, connector: InMemoryConnector) -> None:
    task = app.task(name="new")(work)
    app.add_task_alias(task, "old:name")
    assert app.tasks["old:name"] is task
    assert connector.jobs[app.configure_task("old:name").defer()]["task_name"] == "new"
    with pytest.raises(TaskAlreadyRegistered):
        app.add_task_alias(task, "new")
    with pytest.raises(InvalidOption):
        app.add_task_alias(task, "")


def test_builtin_tasks_bear_procrastinates_names_too(
    app: App, connector: InMemoryConnector
) -> None:
    name = "builtin:trio_queue.builtin_tasks.remove_old_jobs"
    for alias in (
        "builtin:procrastinate.builtin_tasks.remove_old_jobs",
        "procrastinate.builtin_tasks.remove_old_jobs",
    ):
        assert app.tasks[alias] is app.tasks[name]
    job_id = app.configure_task(name).defer(max_hours=1)
    assert connector.jobs[job_id]["queue_name"] == "builtin"
