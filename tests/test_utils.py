from __future__ import annotations

import contextlib
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

from trio_queue import App, utils
from trio_queue.exceptions import LoadFromPathError
from trio_queue.testing import InMemoryConnector


@pytest.fixture
def module() -> Iterator[types.ModuleType]:
    made = types.ModuleType("made_for_this_test")
    made.app = App(connector=InMemoryConnector())  # type: ignore[attr-defined]  # a module's namespace
    made.holder = types.SimpleNamespace(app=made.app)  # type: ignore[attr-defined]  # the same
    made.number = 3  # type: ignore[attr-defined]  # the same
    sys.modules[made.__name__] = made
    yield made
    del sys.modules[made.__name__]


@pytest.mark.parametrize(
    "path",
    ["made_for_this_test.app", "made_for_this_test:app", "made_for_this_test:holder.app"],
)
def test_an_app_is_loaded_from_a_path(module: types.ModuleType, path: str) -> None:
    assert App.from_path(path) is module.app


@pytest.mark.parametrize(
    ("path", "complaint"),
    [
        ("app", "'app' is not a path to an App: write module.name or module:name"),
        ("", "not a path"),
        ("made_for_this_test:", "not a path"),
        (":app", "not a path"),
        ("made_for_this_test.other", "there is no 'other' in 'made_for_this_test'"),
        ("made_for_this_test:holder.other", "there is no 'other'"),
        ("made_for_this_test:number", "is not a trio_queue.app.App but a builtins.int"),
        ("no_such_module:app", "importing 'no_such_module' raised ModuleNotFoundError"),
        ("..app", "importing '.' raised"),
    ],
)
def test_what_cannot_be_loaded(module: types.ModuleType, path: str, complaint: str) -> None:
    with pytest.raises(LoadFromPathError, match=complaint) as caught:
        App.from_path(path)
    assert isinstance(caught.value, ImportError)


def test_a_module_that_would_exit_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "exits_at_import.py").write_text("import sys; sys.exit(3)")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with pytest.raises(LoadFromPathError, match="importing 'exits_at_import' raised SystemExit: 3"):
        App.from_path("exits_at_import.app")


def test_a_module_that_raises_is_the_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "raises_at_import.py").write_text("raise KeyError('DATABASE')")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with pytest.raises(
        LoadFromPathError, match="importing 'raises_at_import' raised KeyError: 'DATABASE'"
    ) as caught:
        App.from_path("raises_at_import:app")
    assert isinstance(caught.value.__cause__, KeyError)


async def test_a_context_is_awaited_or_entered() -> None:
    said: list[str] = []

    async def open_it() -> None:
        said.append("open")

    async def close_it() -> None:
        said.append("close")

    assert await utils.AwaitableContext(open_it, close_it, 1) == 1
    assert said == ["open"]
    said.clear()
    with contextlib.suppress(ValueError):
        async with utils.AwaitableContext(open_it, close_it, 2) as value:
            assert value == 2
            raise ValueError
    assert said == ["open", "close"]


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (-1, "0.0 s"),
        (0.04, "0.0 s"),
        (119.94, "119.9 s"),
        (120, "2 min 00 s"),
        (125.4, "2 min 05 s"),
        (7199.9, "2 h 00 min"),
        (3600 * 5 + 420, "5 h 07 min"),
        (86400 * 2 + 3 * 3600, "2 d 03 h"),
    ],
)
def test_durations_are_told_as_people_read_them(seconds: float, told: str) -> None:
    assert utils.duration(seconds) == told
