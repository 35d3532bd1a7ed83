"""Run the same test from Trio, from asyncio and, where it makes sense, from sync code."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest
import trio

T = TypeVar("T")

Run = Callable[[Callable[[], Awaitable[Any]]], Any]


def run_in_trio(function: Callable[[], Awaitable[T]]) -> T:
    return trio.run(function)


def run_in_asyncio(function: Callable[[], Awaitable[T]]) -> T:
    async def main() -> T:
        return await function()

    return asyncio.run(main())


in_both_loops = pytest.mark.parametrize("run", [run_in_trio, run_in_asyncio])
