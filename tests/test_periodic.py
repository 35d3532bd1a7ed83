from __future__ import annotations

import logging
from typing import Any

import pytest

from tests.recording import NOW, RecordingConnector
from trio_queue import App, Blueprint
from trio_queue.exceptions import InvalidArguments, InvalidOption, TaskAlreadyRegistered
from trio_queue.periodic import PeriodicRegistry, PeriodicTask, TaskAtTime
from trio_queue.tasks import AnyTask, Task

HOUR = 3600
#: A full hour, in UTC.
NOON = 1_700_049_600


@pytest.fixture
def app() -> App:
    return App(connector=RecordingConnector())


def work(timestamp: int, a: int = 0) -> None: ...


def register(
    registry: PeriodicRegistry, cron: str, name: str = "task", **more: Any
) -> PeriodicTask:
    task: AnyTask = Task(work, blueprint=Blueprint(), name=name)
    return registry.register_task(task, cron=cron, periodic_id="", configure_kwargs={}, **more)


def told(found: list[TaskAtTime]) -> list[tuple[str, int]]:
    return [(periodic_task.task.name, moment) for periodic_task, moment in found]


def test_the_decorator_registers_the_task(app: App) -> None:
    @app.periodic(cron="0 * * * *", periodic_id="hourly", queue="q", task_kwargs={"a": 1})
    @app.task(name="task", priority=2)
    def task(timestamp: int, a: int) -> None: ...

    periodic_task = app.periodic_registry.periodic_tasks["task", "hourly"]
    assert (periodic_task.task, periodic_task.cron) == (task, "0 * * * *")
    job = periodic_task.make_job(NOON)
    assert (job.task_name, job.queue, job.priority) == ("task", "q", 2)
    assert job.task_kwargs == {"a": 1, "timestamp": NOON}
    assert periodic_task.make_job(NOON + 1).task_kwargs["timestamp"] == NOON + 1


def test_a_task_may_have_several_schedules(app: App) -> None:
    @app.periodic(cron="0 * * * *", periodic_id="b", task_kwargs={"a": 2})
    @app.periodic(cron="0 * * * *", periodic_id="a", task_kwargs={"a": 1})
    @app.task(name="task")
    def task(timestamp: int, a: int) -> None: ...

    registry = app.periodic_registry
    assert list(registry.periodic_tasks) == [("task", "a"), ("task", "b")]
    with pytest.raises(TaskAlreadyRegistered, match="periodic_id of its own"):
        app.periodic(cron="@daily", periodic_id="a", task_kwargs={"a": 1})(task)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"cron": "61 * * * *"}, "periodic task 'task': .*minute is from 0 to 59"),
        ({"cron": "0 0 30 2 *"}, "never comes"),
        ({"cron": "@daily", "timezone": "Mars/Olympus"}, "there is no time zone 'Mars/Olympus'"),
        ({"cron": "@daily", "periodic_id": "x" * 129}, "periodic_id .* 129 characters"),
        ({"cron": "@daily", "queue": ""}, "queue is empty"),
    ],
)
def test_what_cannot_be_is_refused_at_registration(
    app: App, options: dict[str, Any], complaint: str
) -> None:
    task = app.task(name="task")(work)
    with pytest.raises(InvalidOption, match=complaint):
        app.periodic(**options)(task)
    assert app.periodic_registry.periodic_tasks == {}


def test_a_function_that_takes_no_timestamp_is_refused(app: App) -> None:
    task = app.task(name="task")(lambda: None)
    with pytest.raises(InvalidArguments, match="periodic task 'task' is given `timestamp`"):
        app.periodic(cron="@daily")(task)


def test_decorators_in_the_wrong_order_are_refused(app: App) -> None:
    decorate: Any = app.periodic(cron="@daily")
    with pytest.raises(InvalidOption, match=r"above @app\.task"):
        decorate(work)


def test_a_schedule_beside_the_cron_expression_is_left_out_and_said(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    task = app.task(name="task")(work)
    app.periodic(cron="@daily", schedule_at=NOW, connection=object())(task)
    assert "schedule_at and connection has no meaning" in caplog.text
    (periodic_task,) = app.periodic_registry.periodic_tasks.values()
    assert periodic_task.make_job(0).scheduled_at is None


# -- what is due ------------------------------------------------------------------------------------


def test_a_new_task_is_due_for_its_last_moment_only() -> None:
    registry = PeriodicRegistry()
    register(registry, "*/5 * * * *")
    assert told(registry.due(NOON + 301, {})) == [("task", NOON + 300)]


def test_a_moment_is_due_when_it_comes() -> None:
    registry = PeriodicRegistry()
    register(registry, "0 * * * *")
    last = {("task", ""): NOON - HOUR}
    assert registry.due(NOON - 0.001, last) == []
    assert told(registry.due(NOON, last)) == [("task", NOON)]


def test_a_new_task_is_not_due_for_a_moment_long_ago(caplog: pytest.LogCaptureFixture) -> None:
    registry = PeriodicRegistry()
    register(registry, "0 * * * *")
    caplog.set_level(logging.DEBUG)
    assert told(registry.due(NOON + 600, {})) == [("task", NOON)]
    assert registry.due(NOON + 601, {}) == []
    assert caplog.records[-1].__dict__["action"] == "ignore_periodic_task"
    assert told(registry.due(NOON + 601, {}, max_delay=601)) == [("task", NOON)]


def test_every_moment_since_the_last_is_due_once_oldest_first() -> None:
    registry = PeriodicRegistry()
    register(registry, "* * * * *", "a")
    register(registry, "*/2 * * * *", "b")
    last = {("a", ""): NOON, ("b", ""): NOON}
    found = registry.due(NOON + 125, last)
    assert told(found) == [("a", NOON + 60), ("a", NOON + 120), ("b", NOON + 120)]
    last |= {(task.task.name, task.periodic_id): moment for task, moment in found}
    assert registry.due(NOON + 125, last) == []


def test_a_moment_that_was_not_written_down_is_due_again() -> None:
    registry = PeriodicRegistry()
    register(registry, "* * * * *")
    last = {("task", ""): NOON}
    assert told(registry.due(NOON + 61, last)) == told(registry.due(NOON + 61, last))


def test_after_a_long_outage_only_the_late_moments_are_due() -> None:
    registry = PeriodicRegistry()
    register(registry, "* * * * *")
    found = told(registry.due(NOON + HOUR, {("task", ""): NOON}))
    assert [moment for _, moment in found] == list(range(NOON + HOUR - 600, NOON + HOUR + 1, 60))


def test_a_clock_that_is_set_back_repeats_nothing() -> None:
    registry = PeriodicRegistry()
    register(registry, "* * * * *")
    assert registry.due(NOON - 500, {("task", ""): NOON}) == []


def test_the_next_tick_is_the_first_of_all() -> None:
    registry = PeriodicRegistry()
    assert registry.next_tick(NOON) is None
    register(registry, "0 0 * * *", "daily")
    register(registry, "*/10 * * * *", "often")
    assert registry.next_tick(NOON) == NOON + 600
    assert registry.next_tick(NOON + 599.9) == NOON + 600


def test_time_zones() -> None:
    registry = PeriodicRegistry()
    register(registry, "0 21 * * *", timezone="Asia/Tokyo")
    assert told(registry.due(NOON, {})) == [("task", NOON)]


def test_a_blueprints_schedules_come_along() -> None:
    app = App(connector=RecordingConnector())
    blueprint = Blueprint()

    @blueprint.periodic(cron="0 21 * * *", timezone="Asia/Tokyo", queue="q")
    @blueprint.task(name="task")
    def task(timestamp: int) -> None: ...

    app.add_tasks_from(blueprint, namespace="b")
    assert list(app.periodic_registry.periodic_tasks) == [("b:task", "")]
    assert told(app.periodic_registry.due(NOON, {})) == [("b:task", NOON)]
    (periodic_task,) = app.periodic_registry.periodic_tasks.values()
    assert periodic_task.make_job(NOON).queue == "q"
    assert periodic_task.task is task
