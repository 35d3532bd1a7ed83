"""Chaos: real workers under load, random faults, and a check of all that happened.

`python -m tests.chaos --seed 1 --faults 1000 --minutes 12`. What is promised and how it is checked
is told by `docs/chaos.md`; a short run is part of the test suite (`test_chaos.py`).

plan      the faults, drawn from the seed
kinds     the kinds of jobs, what each may end as, and how they are drawn
journal   what the jobs themselves write down
application  the workers and the deferring processes: `python -m tests.chaos.application`
scene     the server, a proxy for each process, the processes, which are started again
faults    does what the plan says
run       one run, from the first process to the report
history   what happened: rows, events and changes of the database, journals, logs, ends of processes
check     compares them: a pure function
report    the table at the end
"""
