"""Does what the plan says, each fault in a task of its own: several may be under way at once."""

from __future__ import annotations

import json
import math
import signal
import time
from collections import Counter

import trio

from tests.chaos.plan import Fault, Kind
from tests.chaos.scene import Place, Scene

#: By a signal to a worker.
_SIGNALS = frozenset(
    {
        Kind.KILL,
        Kind.TERMINATE,
        Kind.TERMINATE_TWICE,
        Kind.TERMINATE_THRICE,
        Kind.SUSPEND,
        Kind.SUSPEND_SHORTLY,
        Kind.SUSPEND_AND_KILL,
    }
)
#: On a worker's way to the server.
_WIRES = frozenset(
    {
        Kind.CUT,
        Kind.CUT_BEFORE_ANSWER,
        Kind.FREEZE,
        Kind.FREEZE_SHORTLY,
        Kind.HALF_OPEN,
        Kind.REFUSE,
    }
)


class Faults:
    """Carries out a plan.

    Attributes:
        done: How many faults of each kind were carried out.
    """

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self.done: Counter[Kind] = Counter()

    async def carry_out(self, plan: list[Fault]) -> None:
        """Do all of it; returns when the last fault is over."""
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for fault in plan:
                await trio.sleep_until(began + fault.at)
                nursery.start_soon(self._carry_out, fault)

    async def _carry_out(self, fault: Fault) -> None:
        began = time.time()
        await self._do(fault)
        self.done[fault.kind] += 1
        line = {
            "number": fault.number,
            "kind": fault.kind.name,
            "began": began,
            "ended": time.time(),
        }
        with (self._scene.folder / "faults.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")

    async def _do(self, fault: Fault) -> None:
        scene = self._scene
        if fault.kind in _SIGNALS:
            await _signal(fault, _target(scene.workers, fault))
        elif fault.kind in _WIRES:
            await _disturb(fault, _target(scene.workers, fault))
        elif fault.kind in _STATEMENTS:
            # Again until it has found somebody to do it to.
            while not await scene.ask(_STATEMENTS[fault.kind], fault.target):  # noqa: ASYNC110 - it signals nothing
                await trio.sleep(0.2)
        else:
            await self._do_else(fault)

    async def _do_else(self, fault: Fault) -> None:
        scene = self._scene
        match fault.kind:
            case Kind.RESTART_SERVER:
                await scene.restart_server(signal.SIGINT, fault.lasts)
            case Kind.CRASH_SERVER:
                await scene.restart_server(signal.SIGKILL, fault.lasts)
            case Kind.DEADLY_JOB:
                await scene.ask(_INSERT_DEADLY, f"deadly {fault.number}")
            case Kind.KILL_DEFERRER:
                (await _target(scene.deferrers, fault).wait_up()).send(signal.SIGKILL)
            case Kind.CUT_DEFERRER:
                await _target(scene.deferrers, fault).wire.proxy.cut()
            case kind:
                raise AssertionError(f"nobody does {kind}")


def _target(places: list[Place], fault: Fault) -> Place:
    return places[math.floor(fault.target * len(places))]


async def _signal(fault: Fault, place: Place) -> None:
    # One of ten meets a process that is just starting, if there is one.
    is_patient = fault.number % 10 != 0
    living = await (place.wait_up() if is_patient else place.wait_up(0.0))
    match fault.kind:
        case Kind.KILL:
            living.send(signal.SIGKILL)
        case Kind.TERMINATE:
            living.send(signal.SIGTERM)
        case Kind.TERMINATE_TWICE | Kind.TERMINATE_THRICE:
            living.send(signal.SIGTERM)
            for _ in range(1 if fault.kind is Kind.TERMINATE_TWICE else 2):
                await trio.sleep(fault.lasts)
                living.send(signal.SIGTERM)
        case Kind.SUSPEND_AND_KILL:
            living.suspend()
            await trio.sleep(fault.lasts)
            living.send(signal.SIGKILL)
        case _:
            living.suspend()
            await trio.sleep(fault.lasts)
            living.resume()


async def _disturb(fault: Fault, place: Place) -> None:
    wire = place.wire
    match fault.kind:
        case Kind.CUT:
            await wire.proxy.cut()
        case Kind.CUT_BEFORE_ANSWER:
            # Heartbeats are answered five times a second: not always the next answer.
            wire.cut_before_answer(fault.number % 12)
        case Kind.FREEZE | Kind.FREEZE_SHORTLY:
            wire.freeze()
            await trio.sleep(fault.lasts)
            wire.thaw()
        case Kind.HALF_OPEN:
            wire.half_open()
            await trio.sleep(fault.lasts)
            await wire.proxy.cut()
        case _:
            await wire.refuse()
            await trio.sleep(fault.lasts)
            wire.accept()


#: Any session of a worker's or a deferring process's.
_TERMINATE_BACKEND = """
WITH sessions AS (
    SELECT pid, row_number() OVER (ORDER BY pid) - 1 AS place, count(*) OVER () AS total
      FROM pg_stat_activity
     WHERE backend_type = 'client backend' AND datname = current_database()
       AND application_name <> 'chaos itself')
SELECT pg_terminate_backend(pid) FROM sessions WHERE place = floor(%s * total)
"""

#: A job that runs, rather than one that waits.
_ABORT_JOB = """
WITH doing AS (
    SELECT id FROM procrastinate_jobs WHERE status = 'doing'),
jobs AS (
    SELECT id, row_number() OVER (ORDER BY id) - 1 AS place, count(*) OVER () AS total
      FROM (SELECT id FROM doing UNION ALL
            (SELECT id FROM procrastinate_jobs WHERE status = 'todo' ORDER BY id LIMIT 3)) either),
asked AS MATERIALIZED (
    SELECT procrastinate_cancel_job_v1(id, true, false) AS id FROM jobs
     WHERE place = floor(%s * total))
SELECT id FROM asked WHERE id IS NOT NULL
"""

#: What Procrastinate's prune of stalled workers does, to one that lives.
_PRUNE = """
DELETE FROM procrastinate_workers WHERE id = (
    SELECT id FROM (
        SELECT id, row_number() OVER (ORDER BY id) - 1 AS place, count(*) OVER () AS total
          FROM procrastinate_workers WHERE last_heartbeat > now() - interval '0.5 s') living
     WHERE place = floor(%s * total))
RETURNING id
"""

_INSERT_DEADLY = """
INSERT INTO procrastinate_jobs (queue_name, task_name, args, priority)
SELECT 'default', 'deadly', jsonb_build_object('token', token), 3 FROM (SELECT %s::text AS token) drawn
 WHERE NOT EXISTS (SELECT FROM procrastinate_jobs WHERE args ->> 'token' = token)
RETURNING id
"""

_STATEMENTS = {
    Kind.TERMINATE_BACKEND: _TERMINATE_BACKEND,
    Kind.ABORT_JOB: _ABORT_JOB,
    Kind.PRUNE: _PRUNE,
}
