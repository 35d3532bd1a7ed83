# ruff: noqa: T201 - a user's program, which prints
"""Three jobs and their worker: save this as hello.py, and run `python hello.py`."""

import trio

from trio_queue import App, PsycopgConnector
from trio_queue.embedded import EmbeddedServer

server = EmbeddedServer()  # stops by itself when nobody uses it any more
server.start()
app = App(connector=PsycopgConnector(conninfo=server.conninfo()))


@app.task(name="hello", queue="hello", retry=3)
async def hello(name: str) -> None:
    await trio.sleep(0.1)
    print(f"Hello, {name}!")


async def main() -> None:
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        for name in ("Ada", "Barbara", "Grace"):
            await hello.defer_async(name=name)
        await app.run_worker_async(queues=["hello"], concurrency=10, wait=False)


if __name__ == "__main__":
    trio.run(main)
