from __future__ import annotations

import datetime
import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.colours import Run, in_both_loops
from tests.recording import NOW, RecordingConnector
from trio_queue import App, Blueprint, InterruptedJobs, JobContext, RetryStrategy
from trio_queue.deferring import ConfigureTaskOptions
from trio_queue.exceptions import (
    FunctionPathError,
    InvalidArguments,
    InvalidOption,
    MiddlewareKindMismatch,
    TaskAlreadyRegistered,
    UnboundTaskError,
)
from trio_queue.tasks import Task


@pytest.fixture
def connector() -> RecordingConnector:
    return RecordingConnector()


@pytest.fixture
def app(connector: RecordingConnector) -> App:
    return App(connector=connector)


def function(a: int, b: str = "b") -> str:
    """The function's own words."""
    return f"{a}{b}"


async def async_function(a: int) -> int:
    return a


class Adder:
    def __call__(self, a: int) -> int:
        return a + 1

    def method(self, a: int) -> int:
        return a + 2

    async def async_method(self, a: int) -> int:
        return a + 3


class AsyncAdder:
    async def __call__(self, a: int) -> int:
        return a + 1


def returns_awaitable(a: int) -> Awaitable[int]:
    return async_function(a)


@pytest.mark.parametrize(
    ("func", "is_async"),
    [
        (function, False),
        (async_function, True),
        (Adder(), False),
        (AsyncAdder(), True),
        (Adder().method, False),
        (Adder().async_method, True),
        (functools.partial(function, b="c"), False),
        (functools.partial(functools.partial(async_function), a=1), True),
        (functools.partial(AsyncAdder()), True),
        (staticmethod(async_function), True),
        (returns_awaitable, False),
        (len, False),
        (int, False),
    ],
)
def test_every_kind_of_callable_is_a_task(
    app: App, func: Callable[..., Any], is_async: bool
) -> None:
    task = app.task(name="the task")(func)
    assert task.is_async is is_async
    assert task.func is func
    assert app.tasks["the task"] is task


def test_a_task_is_called_as_its_function_is(app: App) -> None:
    task = app.task(function)
    assert task(1, "x") == "1x"
    assert app.task(name="adder")(Adder())(1) == 2


def test_a_task_looks_like_its_function(app: App) -> None:
    task = app.task(function)
    assert task.__doc__ == "The function's own words."
    assert getattr(task, "__name__", None) == "function"
    assert inspect.signature(task) == inspect.signature(function)


def test_the_name_is_the_functions_path(app: App) -> None:
    assert app.task(function).name == "tests.test_tasks.function"
    assert app.task(Adder().method).name == "tests.test_tasks.method"


@pytest.mark.parametrize("func", [Adder(), functools.partial(function)])
def test_where_no_name_can_be_made_one_has_to_be_given(app: App, func: Callable[..., Any]) -> None:
    with pytest.raises(FunctionPathError, match="pass name="):
        app.task(func)


def test_options_are_kept(app: App) -> None:
    strategy = RetryStrategy(max_attempts=3)
    task = app.task(
        name="name",
        aliases=["old"],
        retry=strategy,
        queue="mail",
        priority=7,
        lock="lock",
        queueing_lock="queueing lock",
        flavor="asyncio",
        interrupted_jobs="requeue",
    )(function)
    assert (task.name, task.aliases, task.queue, task.priority) == ("name", ["old"], "mail", 7)
    assert (task.lock, task.queueing_lock, task.flavor) == ("lock", "queueing lock", "asyncio")
    assert task.retry_strategy is strategy
    assert task.interrupted_jobs is InterruptedJobs.REQUEUE
    assert app.tasks["old"] is task


def test_without_options_there_are_defaults(app: App) -> None:
    task = app.task(function)
    assert (task.queue, task.priority, task.lock, task.queueing_lock) == ("default", 0, None, None)
    assert (task.retry_strategy, task.flavor, task.interrupted_jobs) == (None, None, None)
    assert task.pass_context is False


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"name": ""}, "name of a task is empty"),
        ({"name": "x" * 129}, "has 129 characters, 128 at most"),
        ({"name": "a\0b"}, "NUL"),
        ({"aliases": [""]}, "alias is empty"),
        ({"aliases": "old"}, "aliases is a list"),
        ({"queue": ""}, "queue is empty"),
        ({"queue": "q" * 129}, "queue .* has 129 characters"),
        ({"queue": "q\0"}, "queue .* NUL"),
        ({"queue": "\ud800"}, "queue .* is not Unicode"),
        ({"queue": 3}, "queue is a string"),
        ({"priority": 2**31}, "priority is an integer from -2147483648 to 2147483647"),
        ({"priority": -(2**31) - 1}, "priority"),
        ({"priority": "high"}, "priority"),
        ({"lock": "l\0"}, "the lock"),
        ({"queueing_lock": "l\0"}, "the queueing lock"),
        ({"flavor": "curio"}, "flavor"),
        ({"interrupted_jobs": "forget"}, "'retry', 'requeue', 'abort', not 'forget'"),
        ({"task_middleware": ["text"]}, "cannot be called"),
    ],
)
def test_options_that_cannot_be_are_refused(
    app: App, options: dict[str, Any], complaint: str
) -> None:
    before = dict(app.tasks)
    wrong: Any = {"name": "the task", **options}
    decorate: Any = app.task
    with pytest.raises(InvalidOption, match=complaint):
        decorate(**wrong)(function)
    assert app.tasks == before


def test_the_longest_name_is_allowed(app: App) -> None:
    app.task(name="ä" * 128, queue="q" * 128)(function)


def test_functions_that_yield_are_refused(app: App) -> None:
    def generator() -> Any:
        yield

    async def async_generator() -> Any:
        yield

    for func in (generator, async_generator):
        with pytest.raises(InvalidOption, match="yields"):
            app.task(func)


def test_a_name_is_registered_once_and_nothing_half_done_stays(app: App) -> None:
    app.task(name="taken")(function)
    with pytest.raises(TaskAlreadyRegistered, match="'taken' is registered already"):
        app.task(name="new", aliases=["newer", "taken"])(function)
    assert "new" not in app.tasks
    assert "newer" not in app.tasks


# -- middleware -------------------------------------------------------------------------------------


def sync_middleware(call_next: Callable[[], Any], context: JobContext, worker: Any) -> Any:
    return call_next()


async def async_middleware(
    call_next: Callable[[], Awaitable[Any]], context: JobContext, worker: Any
) -> Any:
    return await call_next()


def test_middleware_is_of_the_tasks_kind(app: App) -> None:
    app.task(name="1", task_middleware=[sync_middleware])(function)
    app.task(name="2", task_middleware=[async_middleware])(async_function)
    with pytest.raises(
        MiddlewareKindMismatch, match=r"task '3' is sync .* async_middleware is async"
    ):
        app.task(name="3", task_middleware=[async_middleware])(function)
    with pytest.raises(MiddlewareKindMismatch, match=r"task '4' is async .* is sync"):
        app.task(name="4", task_middleware=[sync_middleware])(async_function)


# -- deferring --------------------------------------------------------------------------------------


def test_defer_inserts_a_job_with_the_tasks_options(
    app: App, connector: RecordingConnector
) -> None:
    task = app.task(queue="mail", priority=3, lock="l", queueing_lock="q")(function)
    assert task.defer(a=1) == 1
    (job,) = connector.jobs
    assert (job.task_name, job.task_kwargs) == ("tests.test_tasks.function", {"a": 1})
    assert (job.queue, job.priority, job.lock, job.queueing_lock) == ("mail", 3, "l", "q")
    assert job.scheduled_at is None
    assert connector.said[0][0] == "sync"


@in_both_loops
def test_defer_async_in_both_loops(app: App, connector: RecordingConnector, run: Run) -> None:
    task = app.task(function)

    async def defer() -> int:
        return await task.defer_async(a=1)

    assert run(defer) == 1
    assert run(functools.partial(task.batch_defer_async, {"a": 2}, {"a": 3, "b": "x"})) == [2, 3]
    assert [job.task_kwargs for job in connector.jobs] == [{"a": 1}, {"a": 2}, {"a": 3, "b": "x"}]
    assert connector.said[0][0] == ("trio" if run.__name__ == "run_in_trio" else "asyncio")


def test_a_batch_is_one_statement(app: App, connector: RecordingConnector) -> None:
    task = app.task(function)
    assert task.batch_defer({"a": 1}, {"a": 2}) == [1, 2]
    assert len(connector.said) == 1


@in_both_loops
def test_an_empty_batch_says_nothing(app: App, connector: RecordingConnector, run: Run) -> None:
    task = app.task(function)
    assert task.batch_defer() == []
    assert run(task.batch_defer_async) == []
    assert connector.said == []


def test_a_list_of_arguments_is_no_batch(app: App) -> None:
    task = app.task(function)
    with pytest.raises(InvalidArguments, match=r"batch_defer\(\*dictionaries\)"):
        task.batch_defer([{"a": 1}])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  what untyped callers may do


def test_configure_overrides_what_the_task_says(app: App, connector: RecordingConnector) -> None:
    task = app.task(queue="mail", priority=3, lock="l", queueing_lock="q")(function)
    connection = object()
    task.configure(
        queue="other",
        priority=0,
        lock="",
        queueing_lock="other",
        task_kwargs={"a": 1, "b": "x"},
        schedule_at=NOW,
        connection=connection,
    ).defer(a=2)
    (job,) = connector.jobs
    assert (job.queue, job.priority, job.lock, job.queueing_lock) == ("other", 0, "", "other")
    assert job.task_kwargs == {"a": 2, "b": "x"}
    assert job.scheduled_at == NOW
    assert connector.said[0][2] is connection


def test_what_is_none_is_as_the_task_says(app: App, connector: RecordingConnector) -> None:
    task = app.task(queue="mail", priority=3, lock="l", queueing_lock="q")(function)
    task.configure(
        queue=None, priority=None, lock=None, queueing_lock=None, task_kwargs=None
    ).defer(a=1)
    (job,) = connector.jobs
    assert (job.queue, job.priority, job.lock, job.queueing_lock) == ("mail", 3, "l", "q")


def test_configured_arguments_are_not_changed_by_defer(
    app: App, connector: RecordingConnector
) -> None:
    arguments: Any = {"a": 1}
    deferrer = app.task(function).configure(task_kwargs=arguments)
    deferrer.defer(b="x")
    deferrer.defer()
    assert [job.task_kwargs for job in connector.jobs] == [{"a": 1, "b": "x"}, {"a": 1}]
    assert arguments == {"a": 1}


def test_schedule_in_counts_from_the_connectors_clock(
    app: App, connector: RecordingConnector
) -> None:
    app.task(function).configure(schedule_in={"hours": 1, "seconds": 1}).defer(a=1)
    assert connector.jobs[0].scheduled_at == NOW + datetime.timedelta(seconds=3601)


def test_schedule_in_zero_is_now(app: App, connector: RecordingConnector) -> None:
    app.task(function).configure(schedule_in={}).defer(a=1)
    assert connector.jobs[0].scheduled_at == NOW


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"schedule_at": NOW, "schedule_in": {"seconds": 1}}, "not both"),
        ({"schedule_at": datetime.datetime(2030, 1, 1)}, "needs a time zone"),  # noqa: DTZ001  the point
        ({"schedule_in": {"minuts": 1}}, "'minuts'"),
        ({"schedule_in": {"minutes": float("nan")}}, "schedule_in"),
        ({"queue": ""}, "queue is empty"),
        ({"priority": 2**31}, "priority"),
        ({"lock": "\0"}, "NUL"),
    ],
)
def test_what_cannot_be_configured_is_refused(
    app: App, options: ConfigureTaskOptions, complaint: str
) -> None:
    task = app.task(function)
    with pytest.raises(InvalidOption, match=f"task 'tests.test_tasks.function'.*{complaint}"):
        task.configure(**options)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({}, "missing a required argument: 'a'"),
        ({"a": 1, "c": 1}, "unexpected keyword argument 'c'"),
        ({"a": 1, "self": 1}, "unexpected keyword argument 'self'"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(
    app: App, connector: RecordingConnector, arguments: dict[str, Any], complaint: str
) -> None:
    task = app.task(function)
    with pytest.raises(InvalidArguments, match=f"task 'tests.test_tasks.function'.*{complaint}"):
        task.defer(**arguments)
    with pytest.raises(InvalidArguments, match=complaint):
        task.batch_defer({"a": 1}, arguments)
    assert connector.said == []


@in_both_loops
def test_arguments_that_do_not_fit_are_refused_in_both_loops(app: App, run: Run) -> None:
    task: Any = app.task(function)
    with pytest.raises(InvalidArguments, match="'c'"):
        run(functools.partial(task.defer_async, a=1, c=1))
    with pytest.raises(InvalidArguments, match="by keyword"):
        run(functools.partial(task.defer_async, 1))


def test_positional_arguments_are_refused(app: App) -> None:
    task: Any = app.task(function)
    with pytest.raises(InvalidArguments, match=r"positional arguments \(1,\).*by keyword"):
        task.defer(1)


def test_a_function_may_call_an_argument_self(app: App, connector: RecordingConnector) -> None:
    def with_self(self: int, name: int) -> None: ...

    app.task(with_self).defer(self=1, name=2)
    assert connector.jobs[0].task_kwargs == {"self": 1, "name": 2}


def test_a_context_is_not_among_the_arguments(app: App, connector: RecordingConnector) -> None:
    @app.task(pass_context=True)
    def with_context(context: JobContext, a: int) -> None: ...

    with_context.defer(a=1)
    untyped: Any = with_context
    for arguments in ({"a": 1, "context": None}, {}):
        with pytest.raises(InvalidArguments):
            untyped.defer(**arguments)
    assert len(connector.jobs) == 1


def test_a_context_needs_a_parameter(app: App) -> None:
    def without(*, a: int) -> None: ...

    untyped: Any = app.task(pass_context=True, name="the task")
    with pytest.raises(InvalidOption, match=r"'the task': pass_context=True, but .* no parameter"):
        untyped(without)
    with pytest.raises(InvalidOption, match="no parameter"):
        untyped(lambda: None)


def test_a_decorator_may_provide_arguments(app: App, connector: RecordingConnector) -> None:
    def with_database(func: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(func)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return func(*args, database="db", **kwargs)

        return wrapper

    @app.task(pass_context=True)
    @with_database
    def task(context: JobContext, database: str, a: int) -> None: ...

    task.defer(a=1)
    assert connector.jobs[0].task_kwargs == {"a": 1}


def test_what_a_partial_gives_need_not_be_given(app: App, connector: RecordingConnector) -> None:
    app.task(name="partial")(functools.partial(function, a=1)).defer(b="x")
    assert connector.jobs[0].task_kwargs == {"b": "x"}


def test_a_function_without_a_signature_is_not_checked(
    app: App, connector: RecordingConnector
) -> None:
    func: Any = dict
    untyped: Any = app.task(name="c")(func)
    untyped.defer(whatever=1)
    assert connector.jobs[0].task_kwargs == {"whatever": 1}


def test_a_blueprints_task_cannot_be_deferred() -> None:
    task = Blueprint().task(function)
    assert task(1) == "1b"
    with pytest.raises(UnboundTaskError, match="add_tasks_from"):
        task.defer(a=1)


def test_with_defaults_leaves_the_options_alone(app: App) -> None:
    options: ConfigureTaskOptions = {"queue": "q"}
    merged = Task(function, blueprint=app).with_defaults(options)
    assert merged.get("queue") == "q"
    assert merged.get("priority") == 0
    assert options == {"queue": "q"}
