"""Bugs in how a worker claims jobs, keeps its lease, and writes what became of them."""

from __future__ import annotations

from tests.model.planting import Mutation
from tests.model.script import (
    ALL,
    Ask,
    AskWorker,
    Ending,
    Ill,
    JobSpec,
    OnCancel,
    Prune,
    Script,
    Theft,
    Trouble,
)
from trio_queue.completion import InterruptedJobs

MUTATIONS_OF_ROWS = (
    Mutation(
        "nobody watches the lease while draining",
        "_worker.lease",
        "Lease.watch",
        "while True:",
        "while not self._shutdown.draining.is_set():",
        Script(
            (JobSpec(20.5),), (AskWorker(1, Ask.STOP), Prune(2, Theft.NONE), Prune(9, Theft.KEEP))
        ),
    ),
    Mutation(
        "jobs of a lost lease run on",
        "_worker.lease",
        "Lease._sort_out",
        "                    running.abort(AbortReason.LEASE_LOST)\n",
        "                    pass\n",
        Script((JobSpec(20.5),), (Prune(1, Theft.KEEP),)),
    ),
    Mutation(
        "the worker rescues what it is about to adopt",
        "_worker.rescue",
        "Rescuer._take_over",
        "if not self._lease.is_renewing:",
        "if True:",
        Script(
            (JobSpec(20.5), JobSpec(20.5, deferred_at=4)),
            (Trouble(3, "adopt_jobs", Ill.FAIL, 8.25), Prune(4, Theft.NONE)),
        ),
    ),
    Mutation(
        "an outcome is lost while its job is adopted",
        "_worker.lease",
        "Lease.check",
        "await self.settled_id()",
        "self.worker_id",
        Script((JobSpec(4.5),), (Trouble(1, "adopt_jobs", Ill.FAIL, 8.25), Prune(2, Theft.NONE))),
    ),
    Mutation(
        "an outcome is lost that named the old row",
        "_worker.complete",
        "Completer._settle",
        "if running.worker_id != written_under",
        "if running.worker_id not in {each.worker_id for each in contested}",
        Script(steps=(Trouble(1, "finish_jobs", Ill.FAIL, 3.25), Prune(1, Theft.NONE))),
    ),
    Mutation(
        "a job is let go before its row is written",
        "_worker.complete",
        "Completer.add",
        "        self._ended.append(running)\n",
        "        self._ended.append(running)\n        self._running.let_go([running])\n",
        Script(steps=(AskWorker(1, Ask.STOP),)),
    ),
    Mutation(
        "outcomes are given up at once when the database is away",
        "_worker.complete",
        "Completer._must_give_up",
        " + self._patience",
        "",
        Script(steps=(Trouble(1, ALL, Ill.FAIL, 3.25), AskWorker(1, Ask.STOP))),
    ),
    Mutation(
        "a requeued job's attempt is counted",
        "completion",
        "_aborted",
        "return _give_back(job, None, Status.ABORTED, reason)",
        "return _give_back(job, RetryDecision(), Status.ABORTED, reason)",
        Script(
            (JobSpec(9.5),), (AskWorker(1, Ask.ABORT),), interrupted_jobs=InterruptedJobs.REQUEUE
        ),
    ),
    Mutation(
        "a group of JobAborted is a failure",
        "completion",
        "is_job_aborted",
        "for leaf in leaves(error)",
        "for leaf in [error]",
        Script((JobSpec(ending=Ending.JOB_ABORTED_GROUP),)),
    ),
    Mutation(
        "claims without an answer are not given back",
        "_worker.fetch",
        "Fetcher.claim",
        "before or self._database.is_transient(error)",
        "before",
        Script((JobSpec(deferred_at=2),), (Trouble(1, "fetch_jobs", Ill.LOSE, 3.25),)),
    ),
    Mutation(
        "one failing claim ends the worker",
        "_worker.fetch",
        "Fetcher.fetch",
        "                if not self._database.is_transient(error):\n                    raise\n",
        "                raise\n",
        Script((JobSpec(deferred_at=2),), (Trouble(1, "fetch_jobs", Ill.FAIL, 3.25),)),
    ),
    Mutation(
        "wait=False leaves what is deferred while jobs run",
        "_worker.fetch",
        "Fetcher._rest",
        "if not self._options.wait and not len(self._running):",
        "if not self._options.wait:",
        Script((JobSpec(4.5), JobSpec(deferred_at=2)), wait=False),
    ),
    Mutation(
        "a lock's next job waits for the poll",
        "_worker.fetch",
        "Fetcher.written",
        "            running.job.lock is not None\n            or ",
        "            ",
        Script((JobSpec(lock="lock"), JobSpec(lock="lock")), listen=False),
    ),
    Mutation(
        "a task's interrupted_jobs is not asked",
        "_worker.run",
        "Runner._decide",
        "task.interrupted_jobs if task else None",
        "None",
        Script(
            (JobSpec(9.5, interrupted_jobs=InterruptedJobs.REQUEUE),), (AskWorker(1, Ask.ABORT),)
        ),
    ),
    Mutation(
        "the worker's row is left",
        "_worker.lease",
        "Lease._say_goodbye",
        "await self._database.run(UnregisterWorker(self.worker_id))",
        "pass",
        Script(),
    ),
    Mutation(
        "a claim that meets the drain is lost",
        "_worker.lease",
        "Lease._say_goodbye",
        "await self.release()",
        "pass",
        Script(
            (JobSpec(deferred_at=2),),
            (Trouble(1, "fetch_jobs", Ill.SLOW_AFTER, 4.25), AskWorker(2.5, Ask.STOP)),
        ),
    ),
    Mutation(
        "the second loss of the row ends the worker",
        "_worker.lease",
        "Lease._register_anew",
        "except WorkerGone:",
        "except ZeroDivisionError:",
        Script(
            steps=(
                Prune(1, Theft.NONE),
                Trouble(1, "adopt_jobs", Ill.FAIL, 3.25),
                Prune(2, Theft.NONE),
            )
        ),
    ),
    Mutation(
        "a write that fails is not tried again",
        "_worker.complete",
        "Completer._write",
        "if not self._database.is_transient(error):",
        "if True:",
        Script(steps=(Trouble(1, "finish_jobs", Ill.FAIL, 3.25),)),
    ),
    Mutation(
        "a lost claim hides behind the write of the job's last run",
        "_worker.fetch",
        "Fetcher._release",
        "self._unanswered = again",
        "self._unanswered = False",
        Script(
            (JobSpec(4.5, ending=Ending.RAISE, retries=1),),
            (Trouble(3, "finish_jobs", Ill.LOSE, 2.25), Trouble(3, "fetch_jobs", Ill.LOSE, 2.25)),
            listen=False,
        ),
    ),
    Mutation(
        "a lost claim hides behind the job's lost run",
        "_worker.running",
        "RunningJobs.may_hide_claims",
        " or each.reason is AbortReason.LEASE_LOST",
        "",
        Script(
            (JobSpec(9.5, on_cancel=OnCancel.DEAF),),
            (Prune(1, Theft.RETRY), Trouble(1, "fetch_jobs", Ill.LOSE, 3.25)),
        ),
    ),
)
