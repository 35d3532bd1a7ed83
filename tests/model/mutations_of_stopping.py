"""Bugs in how a worker stops and its jobs are told to."""

from __future__ import annotations

from tests.model.planting import Mutation
from tests.model.script import (
    AbortJob,
    Ask,
    AskWorker,
    Ending,
    Ill,
    JobSpec,
    OnCancel,
    Script,
    Trouble,
)
from trio_queue.completion import InterruptedJobs

MUTATIONS_OF_STOPPING = (
    Mutation(
        "the caller's cancel reaches the jobs",
        "worker",
        "Worker._live",
        "            with self._life:",
        "            self._life.shield = False\n            with self._life:",
        Script(steps=(AskWorker(1, Ask.CANCEL),)),
    ),
    Mutation(
        "a reason is overwritten",
        "_worker.running",
        "RunningJob.abort",
        "        if self.reason is not None:\n            return False\n",
        "",
        Script(
            (JobSpec(4.5, on_cancel=OnCancel.GO_ON),), (AbortJob(1, 0), AskWorker(2, Ask.ABORT))
        ),
    ),
    Mutation(
        "the reason is set after the cancel",
        "_worker.running",
        "RunningJob.abort",
        "        self.reason = reason\n",
        "        trio.lowlevel.current_trio_token().run_sync_soon(setattr, self, 'reason', reason)\n",
        Script((JobSpec(9.5), JobSpec(9.5)), (AskWorker(1, Ask.ABORT),)),
    ),
    Mutation(
        "the heartbeat ends when the drain begins",
        "_worker.lease",
        "Lease.held",
        """\
            async with store.keep_alive(self.worker_id, interval) as self._heartbeat:
                yield
""",
        """\
            async def beat(task_status):
                async with store.keep_alive(self.worker_id, interval) as self._heartbeat:
                    task_status.started()
                    await self._shutdown.draining.wait()

            async with trio.open_nursery() as nursery:
                await nursery.start(beat)
                yield
""",
        Script((JobSpec(20.5),), (AskWorker(4, Ask.STOP),)),
    ),
    Mutation(
        "jobs that have not begun are not given back",
        "_worker.running",
        "RunningJob.give_back",
        "if not self.started and self.reason is None:",
        "if False:",
        Script(
            (JobSpec(9.5, on_cancel=OnCancel.THREAD),) * 2,
            (AskWorker(1, Ask.STOP),),
            thread_limit=1,
        ),
    ),
    Mutation(
        "a body begins that was told to stop before",
        "_worker.run",
        "Runner.run",
        "if running.was_stopped:",
        "if False:",
        Script(
            (JobSpec(0), JobSpec(0, deferred_at=2)),
            (Trouble(1, "fetch_jobs", Ill.SLOW_AFTER, 4.25), AbortJob(2.5, 1)),
        ),
    ),
    Mutation(
        "the deadline counts from the last ask",
        "_worker.shutdown",
        "Shutdown._happen",
        "self.asked_at = min(self.asked_at, now)",
        "self.asked_at = now",
        Script(
            (JobSpec(20.5),),
            (AskWorker(1, Ask.STOP), AskWorker(3, Ask.STOP)),
            graceful_timeout=4.25,
        ),
    ),
    Mutation(
        "the second ask is ignored",
        "_worker.shutdown",
        "Shutdown._happen",
        "Event.FIRST_ASK if self.asks == 1 else Event.NEXT_ASK",
        "Event.FIRST_ASK",
        Script((JobSpec(20.5),), (AskWorker(1, Ask.ASK), AskWorker(3, Ask.ASK))),
    ),
    Mutation(
        "a second stop() aborts",
        "_worker.shutdown",
        "Shutdown.stop",
        "self.post(Event.STOP, who)",
        "self.post(Event.STOP if self.asked_at == math.inf else Event.ABORT, who)",
        Script((JobSpec(9.5),), (AskWorker(1, Ask.STOP), AskWorker(3, Ask.STOP))),
    ),
    Mutation(
        "a user's abort is not heard while draining",
        "_worker.fetch",
        "Fetcher.hear_abort",
        "if running := self._running.get(job_id):",
        "if (running := self._running.get(job_id)) and not self._shutdown.draining.is_set():",
        Script((JobSpec(20.5),), (AskWorker(1, Ask.STOP), AbortJob(3, 0))),
    ),
    Mutation(
        "a user's abort is forgotten that comes during the claim",
        "_worker.fetch",
        "Fetcher.hear_abort",
        "            self._early_aborts.add(job_id)\n",
        "            pass\n",
        Script(
            (JobSpec(0), JobSpec(9.5, deferred_at=2)),
            (Trouble(1, "fetch_jobs", Ill.SLOW_AFTER, 4.25), AbortJob(2.5, 1)),
        ),
    ),
    Mutation(
        "a user's abort is taken for a shutdown",
        "completion",
        "_aborted",
        "if reason is not AbortReason.SHUTDOWN:",
        "if reason is None:",
        Script((JobSpec(9.5),), (AbortJob(1, 0),), interrupted_jobs=InterruptedJobs.REQUEUE),
    ),
    Mutation(
        "the scope of a job in a thread is cancelled",
        "_worker.running",
        "RunningJob.body_begins",
        "self.interruptible = not in_thread",
        "self.interruptible = True",
        Script((JobSpec(9.5, on_cancel=OnCancel.THREAD),), (AskWorker(1, Ask.ABORT),)),
    ),
    Mutation(
        "a job's KeyboardInterrupt does not stop the worker",
        "_worker.run",
        "Runner._notice_exit",
        "        if exits:\n",
        "        if False:\n",
        Script((JobSpec(ending=Ending.KEYBOARD_INTERRUPT), JobSpec(9.5))),
    ),
    Mutation(
        "a drain waits for the next look at the queue",
        "worker",
        "Worker._conduct",
        """        intake.cancel(reason="the worker drains")\n""",
        "",
        Script((JobSpec(0.5),), (AskWorker(2, Ask.STOP),)),
    ),
    Mutation(
        "the caller's cancel is swallowed",
        "worker",
        "Worker.run",
        "        await trio.lowlevel.checkpoint_if_cancelled()\n",
        "",
        Script(steps=(AskWorker(1, Ask.CANCEL),)),
    ),
    Mutation(
        "a stop while it starts lets it start",
        "worker",
        "Worker._changed",
        "            self._life.cancel(reason=change.who)\n",
        "            pass\n",
        Script(steps=(AskWorker(1, Ask.STOP),), slow_start=2.25),
    ),
    Mutation(
        "too many threads",
        "_worker.call",
        "Caller._in_thread",
        "        async with self._threads:\n",
        "        if True:\n",
        Script((JobSpec(4.5, on_cancel=OnCancel.THREAD),) * 2, thread_limit=1),
    ),
    Mutation(
        "jobs are not aborted at the deadline",
        "_worker.shutdown",
        "Shutdown.wait_aborting",
        "deadline=self.deadline",
        "deadline=math.inf",
        Script((JobSpec(20.5),), (AskWorker(1, Ask.STOP),), graceful_timeout=2.25),
    ),
    Mutation(
        "the drain is not told to running jobs",
        "_worker.run",
        "Runner._context",
        "shutting_down=self._shutdown.draining.is_set",
        "shutting_down=self._shutdown.aborting.is_set",
        Script((JobSpec(4.5),), (AskWorker(1, Ask.STOP),)),
    ),
)
