"""The benchmarks run, and reckon right. What they measure is nobody's business here."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.benchmarks import __main__ as command
from tests.benchmarks import machine
from tests.benchmarks.figures import BASE, FLOOR, ON_ASYNCIO, OURS, Figure, Figures, shown
from tests.benchmarks.measures import measure
from tests.benchmarks.peers import Bench
from tests.fix_postgres import PostgresServer


@pytest.fixture
def bench(postgres_server: PostgresServer, tmp_path: Path) -> Bench:
    return Bench(postgres_server.embedded, tmp_path, quick=True)


def peers_of(figures: Iterator[Figure]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for figure in figures:
        assert figure.value >= 0
        assert figure.unit
        found.setdefault(figure.measure, set()).add(figure.peer)
    return found


@pytest.mark.parametrize(
    ("name", "one_of_its_measures", "peers"),
    [
        (
            "drain-10",
            "drain, concurrency 10: client",
            {OURS, ON_ASYNCIO, BASE, FLOOR},
        ),
        (
            "settings-waiting",
            "drain, jobs that wait 10 ms",
            {f"concurrency={each}" for each in (1, 10, 100, 1000)},
        ),
        (
            "defer-batches-10",
            "defer, batches of 10",
            {OURS, ON_ASYNCIO, BASE, FLOOR},
        ),
        (
            "defer-singly",
            "defer, one by one",
            {
                OURS,
                ON_ASYNCIO,
                "trio_queue, sync",
                BASE,
                "procrastinate, sync",
                FLOOR,
                "floor, any commit",
            },
        ),
        ("defer-tasks", "defer, 10 tasks at once", {OURS, ON_ASYNCIO, BASE}),
        ("latency", "latency, defer to succeeded, p99", {OURS, ON_ASYNCIO, BASE}),
        ("open", "a worker's whole life, no job", {OURS, ON_ASYNCIO, BASE}),
        ("idle", "idle: turns of the host's loop", {ON_ASYNCIO, BASE}),
        ("stop-aborts", "stop, 1,000 jobs aborted", {OURS, BASE}),
        ("stop-user-abort", "a user's abort while draining", {OURS}),
        ("stop-idle", "stop, nothing runs", {OURS}),
    ],
)
def test_a_measure_gives_figures_of_every_peer(
    bench: Bench, name: str, one_of_its_measures: str, peers: set[str]
) -> None:
    assert peers_of(measure(bench, name))[one_of_its_measures] == peers


def test_the_steps_of_a_job_add_up(bench: Bench) -> None:
    values = {figure.peer: figure.value for figure in measure(bench, "steps")}
    whole = values.pop("sum of the steps")
    drained = values.pop("a drain, measured")
    assert drained > 0
    assert whole == pytest.approx(
        sum(value for step, value in values.items() if not step.startswith("("))
    )
    assert whole > 0


def test_another_peer_is_first_in_each_round(bench: Bench) -> None:
    peers = {"a": 1, "b": 2, "c": 3}
    orders: list[str] = []
    for bench.round in range(4):
        orders.append("".join(name for name, _ in bench.in_turn(peers)))
    assert orders == ["abc", "bca", "cab", "abc"]


def test_a_drain_that_lost_a_job_has_no_figure(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.benchmarks import drain

    def drains_nothing(conninfo: str, concurrency: int) -> None:
        del conninfo, concurrency

    monkeypatch.setattr(drain, "PEERS", {OURS: drain.Peer(drains_nothing)})
    with pytest.raises(AssertionError, match="of 20 jobs succeeded"):
        list(drain.drain(10)(bench))


def test_the_processor_time_of_a_server_grows(bench: Bench) -> None:
    pid = machine.server_pid(bench.server.state.data)
    assert os.getpgid(pid)
    if not Path("/proc/self/stat").exists():
        assert machine.server_cpu(pid) is None
        return
    before = machine.server_cpu(pid)
    assert before is not None
    with bench.fresh_database():  # a thousand lines of schema
        pass
    after = machine.server_cpu(pid)
    assert after is not None
    assert after >= before > 0
    assert machine.server_cpu(2**30) is None


# -- what the figures say -------------------------------------------------------------------------


def made(**peers: list[float]) -> Figures:
    figures = Figures()
    for peer, values in peers.items():
        for value in values:
            figures.add(Figure("drain", "jobs/s", peer, value))
    return figures


def test_medians_spread_and_ratio() -> None:
    figures = made(trio_queue=[300.0, 100.0, 2_000.0], procrastinate=[10.0, 20.0, 12.0])
    found = figures.summary("drain", OURS)
    assert (found.median, found.least, found.most) == (300, 100, 2_000)
    assert found.ratio == 25
    assert figures.summary("drain", BASE).ratio == 1
    assert "".join(figures.table()).split("trio_queue")[1].split() == [
        *("300", "(100", "..", "2,000)", "25.00", "x", "procrastinate", "procrastinate"),
        *("12", "(10", "..", "20)", "1.00", "x", "procrastinate"),
    ]


def test_without_the_other_there_is_no_ratio() -> None:
    assert made(trio_queue=[1.0]).summary("drain", OURS).ratio is None
    assert made(trio_queue=[1.0], procrastinate=[0.0]).summary("drain", OURS).ratio is None


@pytest.mark.parametrize(
    ("value", "text"),
    [(123_456.0, "123,000"), (99.94, "99.9"), (0.012345, "0.0123"), (0.0, "0"), (1_000.0, "1,000")],
)
def test_three_digits(value: float, text: str) -> None:
    assert shown(value) == text


def test_the_file_keeps_what_another_run_measured(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    first = made(trio_queue=[1.0])
    first.add(Figure("latency", "ms", OURS, 1.23456))
    first.runs.append({"measures": ["drain", "latency"], "date": "first"})
    first.write(path)
    assert json.loads(path.read_text())["latency"] == {OURS: [1.235]}

    second = made(trio_queue=[2.0, 3.0])
    second.runs.append({"measures": ["drain"], "date": "second"})
    both = Figures.read(path)
    both.replace(second)
    both.write(path)
    again = Figures.read(path)
    assert again.measures == {"drain": {OURS: [2.0, 3.0]}, "latency": {OURS: [1.235]}}
    assert again.units == {"drain": "jobs/s", "latency": "ms"}
    assert [run["date"] for run in again.runs] == ["first", "second"]

    # Once nothing is left of a run, nothing is said about it.
    third = made(trio_queue=[4.0])
    again.replace(third)
    assert [run["date"] for run in again.runs] == ["first"]


def test_measures_are_chosen_by_pattern() -> None:
    assert command.chosen(["drain-*0"]) == ["drain-10", "drain-100", "drain-1000"]
    assert command.chosen(["idle", "latency"]) == ["latency", "idle"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--only", "nothing"], "no measure is called nothing"),
        (["--plots", "folder"], "give both"),
        (["--rounds", "0"], "--rounds"),
    ],
)
def test_a_wrong_command_line_says_so(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        command.main(arguments)
    assert said in capsys.readouterr().err


def test_the_whole_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "results.json"
    command.main(["--quick", "--only", "command-line", "stop-idle", "--json", str(path)])
    out = capsys.readouterr().out
    assert "command line, --help (s)\n  trio_queue " in out
    assert "Not kept constant" in out
    assert "load_before" in out
    written = Figures.read(path)
    assert set(written.measures["command line, worker --help"]) == {OURS, BASE}
    [about] = written.runs
    assert about["rounds"] == 1
    assert about["quick"] is True
    assert about["settings"]["fsync"] == "off"
    assert about["packages"]["psycopg"]
