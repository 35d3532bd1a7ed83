from __future__ import annotations

import random
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import psycopg
import pytest
import trio
import trio.testing

from tests.pg.helpers import (
    assert_usable,
    cancelled_at,
    fetch_value,
    terminate,
    wait_until,
    wait_until_running,
)
from tests.waiting import PATIENCE
from trio_queue._pg import Pool, PoolClosed, PoolTimeout, TrioConnection, pool_member
from trio_queue._pg.pool_member import CHECK_AFTER

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from tests.fix_proxy import Proxy


@pytest.fixture
async def pool(database: str) -> AsyncGenerator[Pool, None]:
    async with Pool(database, max_size=3) as pool:
        yield pool


async def borrow(stack: AsyncExitStack, pool: Pool, count: int) -> list[TrioConnection]:
    return [await stack.enter_async_context(pool.connection()) for _ in range(count)]


def pids_of(connections: list[TrioConnection]) -> list[int]:
    return [connection.info.backend_pid for connection in connections]


async def backend_pid(pool: Pool) -> int:
    async with pool.connection() as connection:
        return connection.info.backend_pid


async def test_a_connection_is_lent_again(pool: Pool) -> None:
    async with pool.connection() as first:
        await assert_usable(first)
        assert pool.statistics().in_use == 1
        assert pool.statistics().idle == 0
    async with pool.connection() as second:
        assert second is first
    statistics = pool.statistics()
    assert statistics.requests == 2
    assert statistics.opened == 1
    assert statistics.idle == 1
    assert statistics.in_use == 0


async def test_the_one_used_last_is_lent_first(pool: Pool) -> None:
    async with AsyncExitStack() as stack:
        connections = await borrow(stack, pool, 3)
    # The stack unwinds: the first borrowed is the last returned.
    async with pool.connection() as connection:
        assert connection is connections[0]


async def test_an_idle_connection_costs_no_turn_and_no_timeout(pool: Pool) -> None:
    await backend_pid(pool)
    others: list[str] = []

    async def run() -> None:
        others.append("ran")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        async with pool.connection(timeout=0):
            assert not others
        assert not others


async def test_an_idle_connection_is_not_lent_in_a_cancelled_scope(pool: Pool) -> None:
    await backend_pid(pool)
    with trio.CancelScope() as scope:
        scope.cancel()
        async with pool.connection():
            raise AssertionError("lent")
    assert scope.cancelled_caught
    await assert_nothing_leaked(pool)


async def test_no_more_than_max_size(pool: Pool) -> None:
    async with AsyncExitStack() as stack:
        await borrow(stack, pool, 3)
        with pytest.raises(PoolTimeout, match="all 3 connections of the pool are in use") as caught:
            async with pool.connection(timeout=0.01):
                raise AssertionError("lent a fourth")
        assert caught.value.__cause__ is None
    assert pool.statistics().timeouts == 1
    await assert_nothing_leaked(pool)


async def test_those_who_wait_are_served_in_their_order(database: str) -> None:
    order: list[int] = []

    async def ask(pool: Pool, number: int) -> None:
        async with pool.connection():
            order.append(number)

    async with (
        Pool(database, max_size=1) as pool,
        trio.open_nursery() as nursery,
        pool.connection(),
    ):
        for number in range(4):
            nursery.start_soon(ask, pool, number)
            await trio.testing.wait_all_tasks_blocked()
        assert pool.statistics().waiting == 4
    assert order == [0, 1, 2, 3]


@pytest.mark.parametrize(("min_size", "max_size"), [(-1, 4), (5, 4), (0, 0)])
def test_sizes_that_make_no_sense(min_size: int, max_size: int) -> None:
    with pytest.raises(ValueError, match="min_size"):
        Pool("", min_size=min_size, max_size=max_size)


async def test_its_name_has_no_password(database: str) -> None:
    assert "secret" not in repr(Pool("host=a user=b password=secret"))
    assert "dbname=c" in repr(Pool("host=a", kwargs={"dbname": "c"}))


# -- what a borrower leaves behind ------------------------------------------------------------------


async def test_an_open_transaction_is_rolled_back(
    database: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with Pool(database, max_size=1, kwargs={"autocommit": False}) as pool:
        async with pool.connection() as first:
            await first.execute("CREATE TABLE t (i int)")
        async with pool.connection() as second:
            assert second is first
            assert second.info.transaction_status.name == "IDLE"
            assert await fetch_value(second, "SELECT to_regclass('t')") is None
            await second.rollback()
    assert "rolling back a transaction that was left open" in caplog.text


async def test_an_open_transaction_is_rolled_back_in_a_cancelled_scope(database: str) -> None:
    async with Pool(database, kwargs={"autocommit": False}) as pool:
        borrowed: list[TrioConnection] = []
        with trio.CancelScope() as scope:
            async with pool.connection() as first:
                borrowed.append(first)
                await first.execute("SELECT 1")
                scope.cancel()
                await trio.sleep_forever()
        async with pool.connection() as second:
            assert borrowed == [second]
            assert second.info.transaction_status.name == "IDLE"


async def test_a_transaction_that_cannot_be_rolled_back_costs_its_connection(
    database: str, admin: TrioConnection
) -> None:
    async with Pool(database, kwargs={"autocommit": False}) as pool:
        async with pool.connection() as first:
            await first.execute("SELECT 1")
            await terminate(admin, first.info.backend_pid)
        assert first.closed
        async with pool.connection() as second:
            await second.execute("SELECT 1")
            await second.rollback()
        assert pool.statistics().discarded == {"unclean": 1}


async def test_a_connection_returned_in_use_is_closed(pool: Pool, admin: TrioConnection) -> None:
    async def sleep(connection: TrioConnection) -> None:
        with pytest.raises(psycopg.OperationalError, match="closed"):
            await connection.execute("SELECT pg_sleep(600)")

    async with trio.open_nursery() as nursery, pool.connection() as connection:
        pid = connection.info.backend_pid
        nursery.start_soon(sleep, connection)
        await wait_until_running(admin, pid)
    assert pool.statistics().discarded == {"unclean": 1}
    await admin.execute("SELECT pg_terminate_backend(%s)", (pid,))


async def test_a_connection_returned_in_a_pipeline_is_closed(pool: Pool) -> None:
    async with pool.connection() as connection:
        connection.pgconn.enter_pipeline_mode()
    assert connection.closed
    assert pool.statistics().discarded == {"unclean": 1}


async def test_a_connection_that_the_borrower_closed_is_replaced(pool: Pool) -> None:
    async with pool.connection() as first:
        await first.close()
    async with pool.connection() as second:
        await assert_usable(second)
    assert pool.statistics().discarded == {"broken": 1}


# -- health -----------------------------------------------------------------------------------------


async def test_killed_idle_connections_are_replaced(pool: Pool, admin: TrioConnection) -> None:
    async with AsyncExitStack() as stack:
        pids = pids_of(await borrow(stack, pool, 3))
    await terminate(admin, *pids)
    for _ in range(5):
        async with pool.connection() as connection:
            await assert_usable(connection)
            assert connection.info.backend_pid not in pids
    assert pool.statistics().discarded == {"broken": 3}


async def test_a_connection_that_idled_for_long_proves_itself(
    proxy: Proxy, database: str, mock_clock: trio.testing.MockClock
) -> None:
    queries: list[bytes] = []

    async def note(message: object) -> None:
        if getattr(message, "kind", "") == "Q":
            queries.append(getattr(message, "payload", b""))
        await trio.lowlevel.checkpoint()

    proxy.on_message = note
    async with Pool(proxy.conninfo(database)) as pool:
        pid = await backend_pid(pool)
        assert queries == []
        mock_clock.jump(CHECK_AFTER + 1)
        assert await backend_pid(pool) == pid
        assert queries == [b"\0"]
        assert await backend_pid(pool) == pid
        assert queries == [b"\0"]


async def test_a_peer_that_vanished_is_replaced_after_idling(
    proxy: Proxy, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Pool(proxy.conninfo(database)) as pool:
        pid = await backend_pid(pool)
        # From now on: a check of a server that is only slow must not fail.
        monkeypatch.setattr(pool_member, "CHECK_AFTER", -1.0)
        monkeypatch.setattr(pool_member, "CHECK_TIMEOUT", 0.05)
        proxy.freeze()

        async def thaw() -> None:
            # When the check has given up: its connection is closed.
            while not pool.statistics().discarded:
                await trio.testing.wait_all_tasks_blocked(0.001)
            proxy.thaw()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(thaw)
            assert await backend_pid(pool) != pid
        assert pool.statistics().discarded == {"broken": 1}


async def test_an_old_connection_is_replaced(
    database: str, mock_clock: trio.testing.MockClock
) -> None:
    async with Pool(database, max_lifetime=100) as pool:
        pid = await backend_pid(pool)
        mock_clock.jump(89)
        assert await backend_pid(pool) == pid
        mock_clock.jump(12)
        assert await backend_pid(pool) != pid
        assert pool.statistics().discarded == {"expired": 1}


async def test_lifetimes_differ(database: str, mock_clock: trio.testing.MockClock) -> None:
    async with Pool(database, max_lifetime=100, max_size=3) as pool:
        async with AsyncExitStack() as stack:
            await borrow(stack, pool, 3)
        members = pool._idle  # pyright: ignore[reportPrivateUsage] - the test ages what idles
        assert len({member.expires_at for member in members}) == 3
        assert all(90 <= member.expires_at <= 100 for member in members)


async def test_one_that_expires_soon_after_it_was_used_is_not_lent(
    database: str, mock_clock: trio.testing.MockClock
) -> None:
    async with Pool(database, max_lifetime=1) as pool:
        first = await backend_pid(pool)
        mock_clock.jump(2)
        assert await backend_pid(pool) != first
        assert pool.statistics().discarded == {"expired": 1}


async def test_a_connection_that_expires_while_lent_is_closed_when_returned(
    database: str, mock_clock: trio.testing.MockClock
) -> None:
    async with Pool(database, max_lifetime=100) as pool:
        async with pool.connection() as connection:
            mock_clock.jump(101)
            await assert_usable(connection)
        assert connection.closed
        assert pool.statistics().idle == 0


async def test_idle_connections_are_closed_down_to_min_size(
    database: str, mock_clock: trio.testing.MockClock
) -> None:
    async with Pool(database, min_size=1, max_size=4, max_idle=50) as pool:
        async with AsyncExitStack() as stack:
            await borrow(stack, pool, 4)
        mock_clock.jump(49)
        await backend_pid(pool)
        assert pool.statistics().idle == 4
        mock_clock.jump(2)
        await backend_pid(pool)
        assert pool.statistics().idle == 1
        assert pool.statistics().discarded == {"idle": 3}


async def test_min_size_idle_connections_are_kept_however_long(
    database: str, mock_clock: trio.testing.MockClock
) -> None:
    async with Pool(database, min_size=2, max_size=4, max_idle=50) as pool:
        async with AsyncExitStack() as stack:
            kept = await borrow(stack, pool, 4)
        mock_clock.jump(1000)
        async with pool.connection() as connection:
            assert connection in kept
        assert pool.statistics().idle == 2
        assert pool.statistics().discarded == {"idle": 2}


# -- open and close -----------------------------------------------------------------------------------


async def test_opening_fails_early_with_the_servers_reason(database: str) -> None:
    pool = Pool(database, kwargs={"dbname": "nowhere"})
    with pytest.raises(psycopg.OperationalError, match='"nowhere" does not exist') as caught:
        await pool.open()
    assert not isinstance(caught.value, PoolTimeout)
    with pytest.raises(PoolClosed, match="is not open"):
        async with pool.connection():
            raise AssertionError("lent")


async def test_opening_is_bounded(proxy: Proxy, database: str) -> None:
    proxy.freeze()
    pool = Pool(proxy.conninfo(database), timeout=0.05)
    with pytest.raises(PoolTimeout, match=r"within 0\.05 seconds"):
        await pool.open()
    assert pool.statistics().idle == 0


async def test_opening_without_waiting_connects_when_needed(database: str) -> None:
    pool = Pool(database)
    await pool.open(wait=False)
    assert pool.statistics().opened == 0
    async with pool.connection() as connection:
        await assert_usable(connection)
    await pool.close()


async def test_two_tasks_open_it_once(database: str) -> None:
    pool = Pool(database)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pool.open)
        nursery.start_soon(pool.open)
    assert pool.statistics().opened == 1
    await pool.close()


async def test_closing_wakes_those_who_wait_and_closes_what_comes_back(pool: Pool) -> None:
    async def wait() -> None:
        with pytest.raises(PoolClosed, match="closed while a task waited"):
            async with pool.connection():
                raise AssertionError("lent")

    async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
        connections = await borrow(stack, pool, 3)
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        await pool.close()
    assert all(connection.closed for connection in connections)
    await pool.close()
    assert pool.statistics().in_use == 0


async def test_closing_in_a_cancelled_scope(pool: Pool) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await pool.close()
    assert pool.statistics().discarded == {"closed": 1}


async def test_a_closed_pool_can_be_opened_again(pool: Pool) -> None:
    await pool.close()
    await pool.open()
    async with pool.connection() as connection:
        await assert_usable(connection)


# -- configure ----------------------------------------------------------------------------------------


async def test_each_new_connection_is_configured(database: str) -> None:
    configured: list[TrioConnection] = []

    async def configure(connection: TrioConnection) -> None:
        await connection.execute("SET application_name = 'configured'")
        configured.append(connection)

    async with Pool(database, configure=configure) as pool:
        async with AsyncExitStack() as stack:
            connections = await borrow(stack, pool, 2)
            for connection in connections:
                assert await fetch_value(connection, "SHOW application_name") == "configured"
        assert configured == connections


async def test_a_connection_that_cannot_be_configured_is_closed(database: str) -> None:
    seen: list[TrioConnection] = []

    async def configure(connection: TrioConnection) -> None:
        seen.append(connection)
        await connection.execute("NONSENSE")

    pool = Pool(database, configure=configure)
    await pool.open(wait=False)
    with pytest.raises(psycopg.errors.SyntaxError):
        async with pool.connection():
            raise AssertionError("lent")
    assert seen[0].closed
    assert pool.statistics().in_use == 0


async def test_configure_must_not_leave_a_transaction_open(database: str) -> None:
    async def configure(connection: TrioConnection) -> None:
        await connection.execute("SELECT 1")

    pool = Pool(database, kwargs={"autocommit": False}, configure=configure)
    with pytest.raises(psycopg.ProgrammingError, match="left a transaction open"):
        await pool.open()


# -- the server is away ---------------------------------------------------------------------------------


async def test_the_timeout_says_why(
    proxy: Proxy, database: str, mock_clock: trio.testing.MockClock
) -> None:
    async with Pool(proxy.conninfo(database)) as pool:
        await proxy.refuse()

        async def let_time_pass() -> None:
            for failures, seconds in ((1, 1), (2, 30)):  # a pause between two tries; the timeout
                while pool.statistics().failures < failures:
                    await trio.testing.wait_all_tasks_blocked(0.001)
                mock_clock.jump(seconds)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(let_time_pass)
            with pytest.raises(
                PoolTimeout, match="connecting last failed with: could not"
            ) as caught:
                async with pool.connection(timeout=30):
                    raise AssertionError("lent")
        assert isinstance(caught.value.__cause__, psycopg.OperationalError)
        assert pool.statistics().failures >= 2


async def test_it_connects_as_soon_as_the_server_is_back(proxy: Proxy, database: str) -> None:
    async with Pool(proxy.conninfo(database)) as pool:
        pid = await backend_pid(pool)
        await proxy.refuse()

        async def come_back() -> None:
            while pool.statistics().failures < 3:
                await trio.testing.wait_all_tasks_blocked(0.001)
            proxy.accept()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(come_back)
            with trio.fail_after(PATIENCE):
                assert await backend_pid(pool) != pid


async def test_a_mistake_in_the_parameters_is_not_tried_again(database: str) -> None:
    pool = Pool(database, kwargs={"colour": "blue"})
    await pool.open(wait=False)
    with pytest.raises(psycopg.ProgrammingError, match="colour"):
        async with pool.connection():
            raise AssertionError("lent")


# -- cancelled anywhere -----------------------------------------------------------------------------------


async def assert_nothing_leaked(pool: Pool) -> None:
    """All places are free, and all can be used at once."""
    statistics = pool.statistics()
    assert statistics.in_use == 0
    assert statistics.waiting == 0
    assert statistics.idle <= statistics.max_size
    async with AsyncExitStack() as stack:
        with trio.fail_after(PATIENCE):
            for connection in await borrow(stack, pool, pool.max_size):
                await assert_usable(connection)


@pytest.mark.parametrize("resuming", [False, True], ids=["while waiting", "when resuming"])
@pytest.mark.parametrize("state", ["empty", "idle", "idled for long"])
async def test_a_cancel_at_any_step_leaks_nothing(
    database: str, state: str, mock_clock: trio.testing.MockClock, *, resuming: bool
) -> None:
    async with Pool(database, max_size=2, kwargs={"autocommit": False}) as pool:
        for step in range(1, 12):
            if state == "empty":
                async with pool.connection() as connection:
                    await connection.close()
            elif state == "idled for long":
                mock_clock.jump(CHECK_AFTER + 1)
            with cancelled_at(step, resuming=resuming):
                async with pool.connection() as connection:
                    await connection.execute("SELECT 1")
            assert pool.statistics().in_use == 0
        await assert_nothing_leaked(pool)


async def test_stress(database: str, admin: TrioConnection) -> None:
    """Three hundred tasks, most of them cancelled at random: nothing leaks."""
    ends: list[bool] = []

    async def work(pool: Pool) -> None:
        with trio.move_on_after(random.uniform(0, 0.05)) as scope:
            async with pool.connection() as connection:
                await connection.execute("SELECT pg_sleep(%s)", (random.uniform(0, 0.02),))
        ends.append(scope.cancelled_caught)

    async with Pool(database, max_size=4, kwargs={"application_name": "stress"}) as pool:
        for _ in range(10):
            async with trio.open_nursery() as nursery:
                for _ in range(30):
                    nursery.start_soon(work, pool)
        assert len(ends) == 300
        assert True in ends
        assert False in ends
        await assert_nothing_leaked(pool)
        await wait_until(
            admin,
            "SELECT count(*) <= 4 FROM pg_stat_activity WHERE application_name = 'stress'",
        )
