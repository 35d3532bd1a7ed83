"""What a claim, a completion and a defer cost the server, each by itself: `python -m tests.benchmarks.statements`.

One synchronous connection sends the statements of `trio_queue/sql/queries`, prepared and in autocommit
mode, in batches of several sizes. Printed are the CPU and the time of its backend, in µs a job.

Variants are compared within one run, in turns, each on a database of its own, so that a busy machine
disturbs all alike. A variant is a file of SQL that is applied over our schema; queries in it, each headed
by a line `-- name: fetch_jobs`, are sent in place of ours. `--floor` adds what no queue could do
without: the bare changes of the same rows, without a trigger, and the bare events.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import attrs
import psycopg

from tests.benchmarks.peers import Bench
from trio_queue import verbs
from trio_queue._storage.queries import QUERIES, parse
from trio_queue._storage.statements import statement_of
from trio_queue._worker.pace import CLAIM_BYTES
from trio_queue.completion import Completion
from trio_queue.jobs import Job, Status

Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]

#: The shapes of tables; a job's columns as SQL, of its number n.
SHAPES = {
    "plain": {},
    "locks": {"lock": "'lock' || n"},
    "half": {"lock": "CASE WHEN n % 2 = 0 THEN 'lock' || n END"},
    "due": {"scheduled_at": "now() - interval '1 hour'"},
    "few due": {"scheduled_at": "CASE WHEN n % 100 = 0 THEN now() - interval '1 hour' END"},
    "priorities": {"priority": "n % 5"},
}
EVENTS = (
    "INSERT INTO procrastinate_events (job_id, type) SELECT id, %s FROM unnest(%s::bigint[]) id"
)


@attrs.define
class Cost:
    """CPU and wall seconds, and the jobs they were spent on."""

    cpu: float = 0
    wall: float = 0
    jobs: int = 0


@attrs.define
class Backend:
    """A connection, and what the process at its other end has used so far."""

    connection: Connection
    #: By what was done.
    costs: dict[str, Cost] = attrs.field(factory=dict[str, Cost])
    _schedstat: Path = attrs.field(init=False)
    _seen: float = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        """Begin to count."""
        self._schedstat = Path(f"/proc/{self.connection.info.backend_pid}/schedstat")
        self._seen = self._cpu()

    def _cpu(self) -> float:
        # Nanoseconds; the clock ticks of `stat` are ten milliseconds each.
        return int(self._schedstat.read_text().split()[0]) / 1e9

    def measured(self, what: str, jobs: int, run: Callable[..., Any], *given: Any) -> Any:
        """Run something and count it. What the backend did after its last answer counts here, too."""
        began = time.perf_counter()
        result = run(*given)
        wall = time.perf_counter() - began
        cpu = self._cpu()
        cost = self.costs.setdefault(what, Cost())
        cost.cpu += cpu - self._seen
        cost.wall += wall
        cost.jobs += jobs
        self._seen = cpu
        return result

    def pass_over(self, run: Callable[..., Any], *given: Any) -> Any:
        """Run something that does not count."""
        result = run(*given)
        time.sleep(0.01)
        self._seen = self._cpu()
        return result


@attrs.define
class Variant:
    """Statements to measure, and their database."""

    name: str
    backend: Backend
    texts: Mapping[str, bytes]
    worker: int = 0
    turn: int = 0

    @classmethod
    def prepared(cls, bench: Bench, name: str, text: str) -> Variant:
        """Make a database of our schema with the variant's changes."""
        conninfo = bench.database(ours=True)
        connection = psycopg.connect(conninfo, autocommit=True, prepare_threshold=0)
        changes, _, _ = text.partition("-- name: ")
        if changes.strip():
            connection.execute(changes.encode(), prepare=False)
        queries = {**{query.name: query for query in QUERIES.values()}}
        queries |= {query.name: query for query in parse(text)}
        texts = {query.name: query.text.encode() for query in queries.values()}
        variant = cls(name, Backend(connection), texts)
        (row,) = connection.execute(
            "SELECT trio_queue_register_worker_v1('w', 'host', 1, '0', NULL, 10, 'running')"
        )
        variant.worker = row[0]
        return variant

    def say(self, verb: verbs.Verb[Any]) -> Any:
        """What it takes to send a verb, so that only the sending is measured."""
        statement = statement_of(verb, None)
        text = self.texts[statement.query.name]
        connection = self.backend.connection
        return lambda: statement.read(connection.execute(text, statement.parameters).fetchall())

    def fill(self, jobs: int, shape: Mapping[str, str]) -> None:
        """Begin with so many waiting jobs."""
        columns, values = ["queue_name", "task_name", "args"], ["'bench'", "'noop'"]
        values.append("jsonb_build_object('number', n)")
        connection = self.backend.connection
        connection.execute("TRUNCATE procrastinate_jobs")
        connection.execute(
            f"INSERT INTO procrastinate_jobs ({', '.join([*columns, *shape])})"
            f" SELECT {', '.join([*values, *shape.values()])} FROM generate_series(1, {jobs}) n".encode(),
            prepare=False,
        )
        connection.execute("VACUUM ANALYZE procrastinate_jobs, procrastinate_events", prepare=False)
        connection.execute("CHECKPOINT", prepare=False)

    def drain(self, jobs: int, size: int, queues: list[str] | None) -> None:
        """Claim and complete so many jobs."""
        for _ in range(jobs // size):
            self.turn += 1
            claim = verbs.FetchJobs(self.worker, queues, size, self.turn, CLAIM_BYTES)
            fetched = self.backend.measured("claim", size, self.say(claim))
            assert len(fetched.jobs) == size, len(fetched.jobs)
            done = [
                Completion(job_id=job.id, attempts=job.attempts, status=Status.SUCCEEDED)
                for job in fetched.jobs
            ]
            verb: verbs.Verb[Any] = verbs.FinishJobs(self.worker, done)
            found = self.backend.measured("complete", size, self.say(verb))
            assert all(one.status is Status.SUCCEEDED for one in found)

    def defer(self, jobs: int, size: int) -> None:
        """Defer so many jobs in batches."""
        for _ in range(jobs // size):
            batch = [
                Job(queue="bench", task_name="noop", task_kwargs={"number": n}) for n in range(size)
            ]
            ids = self.backend.measured("defer", size, self.say(verbs.DeferJobs(batch)))
            assert len(ids) == size


@attrs.define
class Floor(Variant):
    """The bare changes of the rows and the bare events, each of the statements with all its indexes."""

    def drain(self, jobs: int, size: int, queues: list[str] | None) -> None:  # noqa: ARG002  # as its base
        connection = self.backend.connection
        self.backend.pass_over(connection.execute, "SET session_replication_role = replica")
        (row,) = connection.execute("SELECT min(id) FROM procrastinate_jobs WHERE status = 'todo'")
        first: int = row[0]
        for start in range(first, first + jobs - size + 1, size):
            ids = list(range(start, start + size))

            def change(kind: str, status: str, ids: list[int]) -> None:
                with connection.pipeline(), connection.transaction():
                    connection.execute(
                        "UPDATE procrastinate_jobs SET status = %s, worker_id = %s, attempts = 1 WHERE id = ANY(%s)",
                        [status, self.worker, ids],
                    )
                    connection.execute(EVENTS, [kind, ids])

            self.backend.measured("claim", size, change, "started", "doing", ids)
            self.backend.measured("complete", size, change, "succeeded", "succeeded", ids)
        self.backend.pass_over(connection.execute, "SET session_replication_role = origin")

    def defer(self, jobs: int, size: int) -> None:
        connection = self.backend.connection
        self.backend.pass_over(connection.execute, "SET session_replication_role = replica")
        texts = [json.dumps({"number": n}) for n in range(size)]

        def insert() -> None:
            with connection.pipeline(), connection.transaction():
                connection.execute(
                    "INSERT INTO procrastinate_jobs (queue_name, task_name, args)"
                    " SELECT 'bench', 'noop', args::jsonb FROM unnest(%s::text[]) args",
                    [texts],
                )
                connection.execute(EVENTS, ["deferred", list(range(size))])

        for _ in range(jobs // size):
            self.backend.measured("defer", size, insert)
        self.backend.pass_over(connection.execute, "SET session_replication_role = origin")


def one_round(variants: Sequence[Variant], options: argparse.Namespace, size: int) -> None:
    """Each variant once, in the order given."""
    jobs = max(min(options.jobs, size * options.calls) // size * size, size)
    for variant in variants:
        variant.backend.costs.clear()
        for shape in options.shape:
            variant.backend.pass_over(variant.fill, options.jobs, SHAPES[shape])
            variant.drain(jobs, size, options.queues or None)
        if options.defer:
            variant.backend.pass_over(variant.fill, 0, {})
            variant.defer(jobs, size)


def measure(
    variants: Sequence[Variant], options: argparse.Namespace, size: int
) -> dict[tuple[str, str], list[tuple[float, float]]]:
    """Rounds in turns; µs of CPU and of time a job, by what was done and by whom."""
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for number in range(options.rounds):
        print(f"batches of {size}, round {number + 1}", file=sys.stderr)
        first = number % len(variants)
        one_round([*variants[first:], *variants[:first]], options, size)
        for variant in variants:
            for what, cost in variant.backend.costs.items():
                figures = 1e6 * cost.cpu / cost.jobs, 1e6 * cost.wall / cost.jobs
                found.setdefault((what, variant.name), []).append(figures)
    return found


def tell(found: dict[tuple[str, str], list[tuple[float, float]]], size: int) -> None:
    """Print the medians."""
    print(f"\nbatches of {size}: µs a job of the server's CPU (least to most), and of time")
    for (what, name), figures in sorted(found.items(), key=lambda item: item[0][0]):
        cpu = [figure[0] for figure in figures]
        wall = statistics.median(figure[1] for figure in figures)
        print(
            f"  {what:9} {name:24} {statistics.median(cpu):8.2f}"
            f"   ({min(cpu):.2f} to {max(cpu):.2f})   {wall:8.2f}",
            flush=True,
        )


def main() -> None:
    """Run the rounds, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="*", default=[10, 100, 500, 1000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=50_000, help="how many wait")
    parser.add_argument("--calls", type=int, default=1000, help="at most, for each size in a round")
    parser.add_argument("--shape", nargs="*", choices=SHAPES, default=["plain"])
    parser.add_argument("--queues", nargs="*", default=["bench"], help="claimed from; none: all")
    parser.add_argument("--no-defer", dest="defer", action="store_false")
    parser.add_argument("--floor", action="store_true")
    parser.add_argument("--variant", type=Path, nargs="*", default=[], metavar="FILE.sql")
    options = parser.parse_args()
    with Bench.opened() as bench:
        variants = [Variant.prepared(bench, "ours", "")]
        variants += [
            Variant.prepared(bench, file.stem, file.read_text()) for file in options.variant
        ]
        if options.floor:
            variants.append(Floor.prepared(bench, "floor", ""))
        # Plans are made, files grow.
        for size in options.sizes:
            one_round(variants, argparse.Namespace(**{**vars(options), "jobs": 6 * size}), size)
        gc.disable()
        for size in options.sizes:
            tell(measure(variants, options, size), size)


if __name__ == "__main__":
    main()
