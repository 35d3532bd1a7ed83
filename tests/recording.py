"""A connector that answers from a table and remembers what was said: for tests above the port."""

from __future__ import annotations

import datetime
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar, cast

import sniffio

from trio_queue.connector import BaseConnector
from trio_queue.store import JobStore
from trio_queue.verbs import DeferJobs, Verb

R = TypeVar("R")

NOW = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)


class RecordingConnector(BaseConnector):
    def __init__(self) -> None:
        #: The colour, what was said, and over which connection.
        self.said: list[tuple[str, Verb[Any], Any]] = []
        #: Answers by the verb's class; a list of several is used up in order.
        self.answers: dict[type[Verb[Any]], list[Any]] = {}
        self.life: list[str] = []
        self.ids = 0

    @property
    def jobs(self) -> list[Any]:
        return [job for _, verb, _ in self.said if isinstance(verb, DeferJobs) for job in verb.jobs]

    def open(self, pool: Any = None) -> None:
        self.life.append(f"open {pool}")

    def close(self) -> None:
        self.life.append("close")

    async def open_async(self, pool: Any = None) -> None:
        self.life.append(f"open_async {pool}")

    async def close_async(self) -> None:
        self.life.append("close_async")

    def is_open(self) -> bool:
        return bool(self.life) and self.life[-1].startswith("open")

    def run(self, verb: Verb[R], connection: Any = None) -> R:
        return self._answer("sync", verb, connection)

    async def run_async(self, verb: Verb[R], connection: Any = None) -> R:
        return self._answer(sniffio.current_async_library(), verb, connection)

    def _answer(self, colour: str, verb: Verb[R], connection: Any) -> R:
        self.said.append((colour, verb, connection))
        if isinstance(verb, DeferJobs):
            first = self.ids + 1
            self.ids += len(verb.jobs)
            return cast(R, list(range(first, self.ids + 1)))
        answers = self.answers[type(verb)]
        return cast(R, answers.pop(0) if len(answers) > 1 else answers[0])

    def open_store(self) -> AbstractAsyncContextManager[JobStore]:
        raise NotImplementedError

    def now(self) -> datetime.datetime:
        return NOW
