"""The jobs that both libraries defer: which task, and how it is configured."""

from __future__ import annotations

from typing import Any

import attrs

#: Seconds that a slow job takes: several heartbeats of a worker of ours, which others must not take for dead.
SLOW = 1.0

#: What becomes of a job of each task.
ENDS = {
    "note": "succeeded",
    "slow": "succeeded",
    "flaky": "succeeded",
    "fail": "failed",
    "until_aborted": "aborted",
}


@attrs.frozen
class Deferral:
    """One job to be deferred."""

    task: str
    options: dict[str, Any]
    number: int


def deferrals(library: str, count: int) -> list[Deferral]:
    """So many jobs, of every kind. Of a lock that names the library, each job is deferred after the one before."""
    return [_deferral(library, number) for number in range(count)]


def _deferral(library: str, number: int) -> Deferral:
    task, options = "note", dict[str, Any]()
    match number % 10:
        case 0 | 1 | 2:
            options = {"priority": number % 3}
        case 3 | 4:
            options = {"lock": f"{library} {number % 7}"}
        case 5:
            options = {"lock": f"shared {number % 3}", "priority": number % 2}
        case 6:
            task = "flaky"
            options = {"lock": f"{library} {number % 7}"} if number % 20 == 6 else {}
        case 7:
            options = {"schedule_in": {"milliseconds": 300}}
        case 8:
            options = {"queueing_lock": f"only {number % 3}"}
        case _:
            task = {9: "until_aborted", 19: "fail", 29: "slow", 59: "slow"}.get(
                number % 100, "note"
            )
    return Deferral(task, options, number)
