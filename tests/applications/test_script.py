"""The script of docs/examples: sync code that defers a job, and works it or waits for those who do."""

from __future__ import annotations

import signal

from tests.applications.program import Program


def test_it_defers_a_job_and_works_it(program: Program) -> None:
    process = program.start("script.py", "3")
    assert process.wait_end() == 0, process.said
    assert process.said == "job 1: succeeded\n"
    assert program.jobs() == [("succeeded", {"pictures": 3})]
    program.is_gone(process)


def test_it_waits_for_a_worker_elsewhere(program: Program) -> None:
    worker = program.start("-m", "trio_queue", "--app=script.queue", "worker")
    process = program.start("script.py", "3", "--elsewhere")
    assert process.wait_end() == 0, process.said
    assert process.said == "job 1: succeeded\n"
    worker.send(signal.SIGTERM)
    assert worker.wait_end() == 0
    program.is_gone(worker)
