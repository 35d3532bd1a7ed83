"""Whether an App works on its own database, or on one that is named elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from trio_queue import App, PsycopgConnector
from trio_queue._cli.session import Session
from trio_queue.testing import InMemoryConnector

if TYPE_CHECKING:
    from trio_queue.connector import BaseConnector


def connected(connector: BaseConnector, **session: Any) -> tuple[BaseConnector, str]:
    app = App(connector=connector)
    with Session(**session).connected(app, may_start_server=False) as found:
        return found.app.connector, found.source


@pytest.mark.parametrize(
    "arguments", [{"conninfo": "host=here"}, {"kwargs": {"dbname": "mine"}}, {"conninfo": str}]
)
def test_the_app_s_own_wins_over_the_environment(
    monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any]
) -> None:
    monkeypatch.setenv("DATABASE_URL", "host=elsewhere")
    connector = PsycopgConnector(**arguments)
    assert connected(connector) == (connector, "the App")


def test_the_option_wins_over_the_app_s_own() -> None:
    """The address is another; what else the connector was told stays."""
    connector = PsycopgConnector(
        conninfo="host=here", kwargs={"dbname": "mine", "application_name": "x"}, max_size=3
    )
    moved, source = connected(connector, database="host=there")
    assert source == "--database"
    assert isinstance(moved, PsycopgConnector)
    assert vars(moved)["_pool_args"] == {
        "conninfo": "host=there",
        "kwargs": {"application_name": "x"},
        "max_size": 3,
    }


def test_a_connector_without_a_conninfo_takes_the_environment_s(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DATABASE_URL", "host=elsewhere")
    moved, source = connected(PsycopgConnector(min_size=1))
    assert source == "DATABASE_URL"
    assert isinstance(moved, PsycopgConnector)
    assert vars(moved)["_pool_args"] == {"conninfo": "host=elsewhere", "min_size": 1}


def test_memory_stays_memory_unless_the_option_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DATABASE_URL", "host=elsewhere")
    connector = InMemoryConnector()
    assert connected(connector) == (connector, "the App")
    moved, _ = connected(connector, database="host=there")
    assert isinstance(moved, PsycopgConnector)
