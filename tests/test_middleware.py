from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from trio_queue.exceptions import InvalidOption, MiddlewareKindMismatch
from trio_queue.middleware import check_worker_middleware, compose, is_async_middleware, of_kind


def sync_middleware(call_next: Callable[[], Any], context: Any, worker: Any) -> Any:
    return f"sync({call_next()})"


async def async_middleware(
    call_next: Callable[[], Awaitable[Any]], context: Any, worker: Any
) -> Any:
    return f"async({await call_next()})"


class Middleware:
    async def __call__(self, call_next: Callable[[], Awaitable[Any]], *_: Any) -> Any:
        return f"object({await call_next()})"


def test_the_first_is_outermost_and_gets_context_and_worker() -> None:
    def naming(call_next: Callable[[], Any], context: Any, worker: Any) -> Any:
        return f"{context}-{worker}({call_next()})"

    run = compose([naming, sync_middleware], lambda: "task", "context", "worker")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  any value is handed on
    assert run() == "context-worker(sync(task))"


async def test_async_middleware_is_awaited() -> None:
    async def task() -> str:
        return "task"

    assert await compose([async_middleware, Middleware()], task, None, None)() == (
        "async(object(task))"
    )


def test_without_middleware_the_task_is_called_itself() -> None:
    def task() -> None: ...

    assert compose([], task, None, None) is task


def test_a_middleware_may_leave_the_task_out_or_let_it_fail() -> None:
    def forbidding(call_next: Callable[[], Any], context: Any, worker: Any) -> Any:
        return "forbidden"

    def failing() -> None:
        raise ValueError("task")

    assert compose([forbidding], failing, None, None)() == "forbidden"
    with pytest.raises(ValueError, match="task"):
        compose([sync_middleware], failing, None, None)()


def test_kinds() -> None:
    kinds: dict[Callable[..., Any], bool] = {
        sync_middleware: False,
        async_middleware: True,
        Middleware(): True,
        functools.partial(async_middleware): True,
    }
    for middleware, is_async in kinds.items():
        assert is_async_middleware(middleware) is is_async
    assert of_kind(kinds, is_async=False) == [sync_middleware]
    assert len(of_kind(kinds, is_async=True)) == 3


def test_a_workers_middleware_is_async() -> None:
    check_worker_middleware([async_middleware, Middleware()])
    with pytest.raises(MiddlewareKindMismatch, match=r"the worker is async .* sync_middleware"):
        check_worker_middleware([async_middleware, sync_middleware])
    not_callable: Any = "text"
    with pytest.raises(InvalidOption, match="cannot be called"):
        check_worker_middleware([not_callable])
