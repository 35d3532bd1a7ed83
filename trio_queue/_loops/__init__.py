"""Trio and asyncio in one process; knows no jobs.

crossing.py      a Trio task awaits an asyncio task
call.py          an asyncio task awaits a Trio task
guest.py         Trio as a guest of a running asyncio loop
host_queue.py    what the guest wants to be called by its host, also when the host is gone
waking.py        a signal wakes an idle asyncio loop
thread.py        an asyncio loop in a helper thread of a Trio program
on_trio.py       an asyncio loop on top of Trio, by trio-asyncio
backends.py      one of these two, by name
"""
