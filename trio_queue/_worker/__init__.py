"""The worker's machinery: nouns hold state, verbs happen to a job, `worker.py` nests the lifetimes.

The life of a job here::

    fetch.py     claim          a row becomes `doing` under this worker's id
    running.py   hand over      one entry in the table of running jobs, one task in the jobs nursery
    run.py       run            the body runs in its own shielded scope; how it ends is an Outcome
    call.py      call           in the task's flavour: Trio, asyncio (flavors.py), or a thread
    completion   decide         Outcome, reason, strategy -> Completion (pure, one floor below)
    complete.py  write          many Completions in one statement, fenced, retried
    running.py   let go         the entry leaves the table, its place is free

The life of a worker is the table in `shutdown.py`; `hear.py` hears of new jobs and of aborts,
`periodic.py` defers what is due, `lease.py` knows who we are to the database.
"""
