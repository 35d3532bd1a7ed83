"""One run: start everything, let the plan happen, let all jobs end, and check."""

from __future__ import annotations

import json
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import attrs
import trio

from tests.chaos.check import Findings, check
from tests.chaos.faults import Faults
from tests.chaos.gather import read_history, save_database
from tests.chaos.plan import Fault, Kind
from tests.chaos.report import Setting, report, server_version
from tests.chaos.scene import Place, Scene

#: Seconds for the jobs that are left when the last fault is over, and for the workers' drain.
PATIENCE = 120.0

#: The workers: how many jobs at once, and how long they may go on after a stop is asked.
WORKERS = (("8", "never"), ("8", "0.5"), ("6", "3"))


@attrs.frozen(kw_only=True)
class Options:
    """What a run is asked for.

    Attributes:
        folder: Where everything is kept that the check needs.
        rate: Jobs a second that each deferring process defers, at most.
        backlog: It waits while so many jobs are left.
        command: The command line, for the report.
    """

    folder: Path
    seed: int
    plan: list[Fault]
    command: str
    rate: float = 12.0
    backlog: int = 150
    deferrers: int = 2


def run(options: Options, tell: Callable[[str], None]) -> Findings:
    """Run to the end, check, and write the report into the folder."""
    began = time.time()
    scene = Scene(options.folder)
    with (options.folder / "plan.jsonl").open("w") as file:
        for fault in options.plan:
            file.write(json.dumps({**attrs.asdict(fault), "kind": fault.kind.name}) + "\n")
    try:
        faults = trio.run(_happen, scene, options, tell)
        save_database(scene.server.conninfo(), options.folder)
    finally:
        scene.server.close()
    (options.folder / "setting.json").write_text(
        json.dumps(
            {
                "command": options.command,
                "seed": options.seed,
                "duration": time.time() - began,
                "faults": {kind.name: count for kind, count in faults.items()},
            }
        )
    )
    return look(options.folder)


def look(folder: Path) -> Findings:
    """Check what a run has left in its folder, and write the report there."""
    history = read_history(folder)
    findings = check(history)
    told = json.loads((folder / "setting.json").read_text())
    setting = Setting(
        command=told["command"],
        seed=told["seed"],
        faults=Counter({Kind[name]: count for name, count in told["faults"].items()}),
        duration=told["duration"],
        server=server_version(folder),
    )
    (folder / "report.md").write_text(report(setting, history, findings))
    (folder / "violations.txt").write_text(
        "".join(f"{violation}\n" for violation in findings.violations)
    )
    return findings


async def _happen(scene: Scene, options: Options, tell: Callable[[str], None]) -> Counter[Kind]:
    for number, arguments in enumerate(WORKERS, 1):
        scene.workers.append(Place(scene, f"worker-{number}", "work", *arguments))
    for number in range(1, options.deferrers + 1):
        drawn_by = (str(options.rate), str(options.backlog), str(options.seed))
        scene.deferrers.append(Place(scene, f"deferrer-{number}", "defer", *drawn_by))
    faults = Faults(scene)
    async with trio.open_nursery() as nursery:
        for place in scene.places:
            await nursery.start(place.wire.proxy.serve)
            nursery.start_soon(place.keep)
        for worker in scene.workers:
            await worker.wait_up(30.0)
        tell(f"{len(scene.workers)} workers run; {len(options.plan)} faults begin")
        await faults.carry_out(options.plan)
        tell("the last fault is over; the jobs that are left may end")
        await _let_all_end(scene)
        nursery.cancel_scope.cancel()
    return faults.done


async def _let_all_end(scene: Scene) -> None:
    for place in scene.deferrers:
        await place.close(signal.SIGKILL, PATIENCE)
    await _wait_for_none(
        scene,
        "jobs have not ended",
        "SELECT id FROM procrastinate_jobs WHERE status IN ('todo', 'doing') ORDER BY id",
    )
    # Rows of workers that died last are found by those that live.
    await _wait_for_none(
        scene,
        "rows of dead workers are left",
        "SELECT id FROM procrastinate_workers WHERE last_heartbeat < now() - interval '3 s'",
    )
    for place in scene.workers:
        # One that is still starting would die of the signal, and leave nothing.
        await place.wait_up()
    async with trio.open_nursery() as nursery:
        for place in scene.workers:
            nursery.start_soon(_drain, scene, place)


async def _drain(scene: Scene, place: Place) -> None:
    if not await place.close(signal.SIGTERM, PATIENCE):
        _complain(scene, f"{place.name} did not drain within {PATIENCE:g} s")


async def _wait_for_none(scene: Scene, what: str, statement: str) -> None:
    found = await scene.ask(statement)
    with trio.move_on_after(PATIENCE):
        while found:
            await trio.sleep(0.1)
            found = await scene.ask(statement)
        return
    _complain(scene, f"{len(found)} {what} after {PATIENCE:g} s: {[row[0] for row in found][:20]}")


def _complain(scene: Scene, text: str) -> None:
    with (scene.folder / "complaints.txt").open("a") as file:
        file.write(text + "\n")
