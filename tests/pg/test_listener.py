from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import trio
import trio.testing

from tests.fix_proxy import Direction
from tests.pg.helpers import cancelled_at, terminate
from tests.waiting import PATIENCE
from trio_queue._pg import Gap, Heard, Listener, TrioConnection

if TYPE_CHECKING:
    from tests.fix_proxy import Message, Proxy


def payloads(heard: Heard) -> list[str]:
    assert not isinstance(heard, Gap)
    return [each.payload for each in heard]


def connection_of(listener: Listener) -> TrioConnection:
    connection = listener._connection  # pyright: ignore[reportPrivateUsage] - the test breaks its wire
    assert connection is not None
    return connection


def pid_of(listener: Listener) -> int:
    return connection_of(listener).info.backend_pid


async def next_of(listener: Listener) -> Heard:
    with trio.fail_after(PATIENCE):
        return await listener.next()


async def test_it_listens_from_the_beginning_on(database: str, admin: TrioConnection) -> None:
    async with Listener(database, ["a", 'odd "name"']) as listener:
        assert listener.is_listening
        await admin.execute("SELECT pg_notify('a', '1'), pg_notify('odd \"name\"', '2')")
        await admin.execute("SELECT pg_notify('unheard', '3')")
        heard = await next_of(listener)
        assert payloads(heard) == ["1", "2"]
    assert not listener.is_listening


async def test_it_works_where_every_statement_is_prepared(
    database: str, admin: TrioConnection
) -> None:
    async with Listener(database, ["a", "b"], kwargs={"prepare_threshold": 0}) as listener:
        await admin.execute("NOTIFY b, 'x'")
        assert payloads(await next_of(listener)) == ["x"]


def test_a_listener_to_nothing_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="at least one channel"):
        Listener("", [])


async def test_a_listener_that_is_not_open(database: str) -> None:
    with pytest.raises(RuntimeError, match="is not open"):
        await Listener(database, ["a"]).next()


async def test_opening_fails_with_the_servers_reason(database: str) -> None:
    with pytest.raises(psycopg.OperationalError, match='"nowhere" does not exist'):
        async with Listener(database, ["a"], kwargs={"dbname": "nowhere"}):
            raise AssertionError("opened")


async def test_its_name_has_no_password() -> None:
    assert "secret" not in repr(Listener("host=a password=secret", ["a"]))


async def test_no_notification_is_lost_by_a_cancel(database: str, admin: TrioConnection) -> None:
    async with Listener(database, ["a"]) as listener:
        with trio.move_on_after(0.01) as scope:
            await listener.next()
        assert scope.cancelled_caught
        await admin.execute("NOTIFY a, 'later'")
        assert payloads(await next_of(listener)) == ["later"]


async def test_an_outage_is_told_to_the_reader_once(
    proxy: Proxy, database: str, admin: TrioConnection
) -> None:
    lost: list[Exception] = []
    async with Listener(proxy.conninfo(database), ["a"], on_lost=lost.append) as listener:
        await proxy.refuse()

        async def come_back_at_the_fourth_attempt() -> None:
            while proxy.accepted < 5:
                await trio.testing.wait_all_tasks_blocked(0.001)
            assert not listener.is_listening
            await admin.execute("NOTIFY a, 'missed'")
            proxy.accept()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(come_back_at_the_fourth_attempt)
            gap = await next_of(listener)
        assert isinstance(gap, Gap)
        assert gap.seconds > 0
        assert listener.is_listening
        await admin.execute("NOTIFY a, 'heard'")
        assert payloads(await next_of(listener)) == ["heard"]
    assert len(lost) == 1


async def test_a_terminated_backend(database: str, admin: TrioConnection) -> None:
    async with Listener(database, ["a"]) as listener:
        await terminate(admin, pid_of(listener))
        assert isinstance(await next_of(listener), Gap)
        await admin.execute("NOTIFY a, 'heard'")
        assert payloads(await next_of(listener)) == ["heard"]


async def test_a_reader_cancelled_again_and_again_does_not_hammer_the_server(
    proxy: Proxy, database: str, mock_clock: trio.testing.MockClock
) -> None:
    async with Listener(proxy.conninfo(database), ["a"]) as listener:
        await proxy.refuse()
        for _ in range(10):  # no time passes meanwhile
            async with trio.open_nursery() as nursery:
                nursery.start_soon(listener.next)
                await trio.testing.wait_all_tasks_blocked(0.005)
                nursery.cancel_scope.cancel()
        assert proxy.accepted <= 2
        proxy.accept()
        mock_clock.jump(1)
        assert isinstance(await next_of(listener), Gap)


@pytest.mark.parametrize("resuming", [False, True], ids=["while waiting", "when resuming"])
async def test_a_gap_is_not_lost_by_a_cancel_at_any_step(
    database: str, admin: TrioConnection, *, resuming: bool
) -> None:
    async with Listener(database, ["a"]) as listener:
        for step in range(1, 12):
            await terminate(admin, pid_of(listener))
            heard: list[Heard] = []
            with cancelled_at(step, resuming=resuming):
                heard.append(await listener.next())
            if not heard:
                heard.append(await next_of(listener))
            assert isinstance(heard[0], Gap), step


async def test_a_wire_cut_before_listen_is_done_is_tried_again(proxy: Proxy, database: str) -> None:
    async with Listener(proxy.conninfo(database), ["a"]) as listener:
        await proxy.cut()

        async def cut_the_second_connection(message: Message) -> None:
            if message.connection == 1 and message.kind == "Q":
                await proxy.cut()
            await trio.lowlevel.checkpoint()

        proxy.on_message = cut_the_second_connection
        assert isinstance(await next_of(listener), Gap)
        assert proxy.accepted == 3


async def test_a_failure_that_will_not_pass_is_raised(database: str, admin: TrioConnection) -> None:
    async with Listener(database, ["a"]) as listener:
        listener.kwargs["colour"] = "blue"
        await terminate(admin, pid_of(listener))
        with pytest.raises(psycopg.ProgrammingError, match="colour"):
            await listener.next()


async def test_silence_is_checked_and_costs_one_statement_an_interval(
    proxy: Proxy, database: str, mock_clock: trio.testing.MockClock
) -> None:
    checks = 0
    answered = trio.Event()

    async def count(message: Message) -> None:
        nonlocal checks
        if message.direction is Direction.TO_SERVER:
            checks += b"SELECT 1" in message.payload
        if message.kind == "Z":
            answered.set()
        await trio.lowlevel.checkpoint()

    async with (
        Listener(proxy.conninfo(database), ["a"], check_interval=30) as listener,
        trio.open_nursery() as nursery,
    ):
        pid = pid_of(listener)
        connection = connection_of(listener)
        proxy.on_message = count
        nursery.start_soon(listener.next)
        await trio.testing.wait_all_tasks_blocked()
        for expected in (1, 2, 3):
            mock_clock.jump(29)
            await trio.testing.wait_all_tasks_blocked()
            assert checks == expected - 1
            mock_clock.jump(2)
            await answered.wait()
            answered = trio.Event()
            while connection.info.transaction_status.name != "IDLE":  # it reads the answer
                await trio.lowlevel.checkpoint()
            await trio.testing.wait_all_tasks_blocked()  # and waits again
            assert checks == expected
            assert pid_of(listener) == pid
        nursery.cancel_scope.cancel()


async def test_what_arrives_during_the_check_is_heard(
    proxy: Proxy, database: str, admin: TrioConnection
) -> None:
    async def notify(message: Message) -> None:
        if b"SELECT 1" in message.payload:
            proxy.on_message = None
            await admin.execute("NOTIFY a, 'meanwhile'")

    async with Listener(proxy.conninfo(database), ["a"], check_interval=0.01) as listener:
        proxy.on_message = notify
        assert payloads(await next_of(listener)) == ["meanwhile"]


async def test_a_half_open_wire_is_found(proxy: Proxy, database: str) -> None:
    lost: list[Exception] = []
    async with Listener(
        proxy.conninfo(database),
        ["a"],
        check_interval=0.01,
        check_timeout=0.05,
        on_lost=lost.append,
    ) as listener:
        pid = pid_of(listener)
        proxy.freeze()

        async def thaw() -> None:
            while listener.is_listening:
                await trio.testing.wait_all_tasks_blocked(0.001)
            proxy.thaw()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(thaw)
            listener.check_interval = 0.01
            heard: Any = await next_of(listener)
        assert isinstance(heard, Gap)
        assert pid_of(listener) != pid
    assert "did not answer" in str(lost[0])
