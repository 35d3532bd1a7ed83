"""A worker's options: what is refused, and in which words."""

from __future__ import annotations

import math
from typing import Any

import attrs
import pytest

from trio_queue import App, InterruptedJobs, Worker
from trio_queue._worker.options import Options, WorkerOptions, read_options
from trio_queue.exceptions import InvalidOption, MiddlewareKindMismatch
from trio_queue.jobs import DeleteJobCondition
from trio_queue.testing import InMemoryConnector

MORE_THAN_ZERO = "a finite number of seconds, more than zero"
ZERO_OR_MORE = "a finite number of seconds, zero or more"
A_COUNT = "a whole number, 1 or more"
SECONDS = [
    "fetch_job_polling_interval",
    "abort_job_polling_interval",
    "update_heartbeat_interval",
    "stalled_worker_timeout",
]

BAD: list[tuple[str, Any, str]] = [
    ("queues", "default", "a list of names, such as ['default']"),
    ("queues", [], "a list of names with one at least"),
    ("queues", [""], "a list of names with one at least"),
    ("queues", [1], "a list of names with one at least"),
    *(("concurrency", value, A_COUNT) for value in (0, -1, 1.5, "2", None, True)),
    *(("thread_limit", value, A_COUNT) for value in (0, -1, 1.5, "2", False)),
    *(
        (name, value, MORE_THAN_ZERO)
        for name in SECONDS
        for value in (0, -1, math.inf, math.nan, "5", None, True)
    ),
    *(
        ("shutdown_graceful_timeout", value, ZERO_OR_MORE)
        for value in (-1, math.inf, math.nan, "5", True)
    ),
    *(
        (name, value, "True or False")
        for name in ("wait", "listen_notify", "install_signal_handlers")
        for value in (None, 1, "yes")
    ),
    ("delete_jobs", "sometimes", "'never', 'successful' or 'always'"),
    ("interrupted_jobs", "restart", "'retry', 'requeue' or 'abort'"),
]


@pytest.mark.parametrize(("name", "value", "wanted"), BAD)
def test_a_bad_value_is_refused_by_a_line_that_says_what_it_must_be(
    name: str, value: Any, wanted: str
) -> None:
    with pytest.raises(InvalidOption) as caught:
        read_options({name: value})
    assert str(caught.value).startswith(f"worker option {name}=")
    assert wanted in str(caught.value)


def test_a_lease_shorter_than_the_heartbeat_is_refused() -> None:
    with pytest.raises(InvalidOption, match=r"longer than update_heartbeat_interval \(30 s\)"):
        read_options({"update_heartbeat_interval": 30})


def test_an_unknown_option_is_refused_and_the_known_ones_are_named() -> None:
    with pytest.raises(InvalidOption, match=r"no worker option 'concurency'.*concurrency"):
        read_options({"concurency": 2})


def test_middleware_that_cannot_be_called_is_refused() -> None:
    with pytest.raises((InvalidOption, MiddlewareKindMismatch)):
        read_options({"worker_middleware": ["not a function"]})


def test_what_is_not_given_is_as_documented() -> None:
    options = read_options({})
    assert options.queues is None
    assert (options.concurrency, options.wait, options.name) == (1, True, "worker")
    assert options.shutdown_graceful_timeout is None
    assert options.delete_jobs is DeleteJobCondition.NEVER
    assert options.interrupted_jobs is InterruptedJobs.RETRY
    assert (options.update_heartbeat_interval, options.stalled_worker_timeout) == (10, 30)


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ({"queues": ["a", "b", "a"]}, {"queues": ("a", "b")}),
        ({"queues": (name for name in "ab")}, {"queues": ("a", "b")}),
        ({"delete_jobs": None}, {"delete_jobs": DeleteJobCondition.NEVER}),
        (
            {"delete_jobs": DeleteJobCondition.ALWAYS},
            {"delete_jobs": DeleteJobCondition.ALWAYS},
        ),
        ({"shutdown_graceful_timeout": 0}, {"shutdown_graceful_timeout": 0.0}),
        ({"additional_context": None}, {"additional_context": {}}),
        ({"task_middleware": None}, {"task_middleware": ()}),
        ({"worker_middleware": None}, {"worker_middleware": ()}),
        ({"interrupted_jobs": "requeue"}, {"interrupted_jobs": InterruptedJobs.REQUEUE}),
        ({"name": None}, {"name": None}),
    ],
)
def test_good_values_are_read(given: dict[str, Any], read: dict[str, Any]) -> None:
    options = read_options(given)
    assert {name: getattr(options, name) for name in read} == read


def test_options_and_their_types_have_the_same_names() -> None:
    assert set(WorkerOptions.__annotations__) == {field.name for field in attrs.fields(Options)}


def test_every_option_is_explained() -> None:
    for field in attrs.fields(Options):
        text = field.metadata["help"]
        assert text[0].isupper()
        assert text.endswith(".")


def test_the_apps_defaults_are_a_workers_where_it_says_nothing() -> None:
    app = App(
        connector=InMemoryConnector(), worker_defaults={"concurrency": 7, "name": "by default"}
    )
    worker = Worker(app, name="its own")
    assert (worker.options.concurrency, worker.options.name) == (7, "its own")


def test_a_worker_with_a_bad_option_is_never_made() -> None:
    with pytest.raises(InvalidOption):
        Worker(App(connector=InMemoryConnector()), concurrency=0)
