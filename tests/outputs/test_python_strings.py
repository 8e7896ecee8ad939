"""No string of a model becomes code of a ``.py`` file, which runs when it is checked."""

from __future__ import annotations

import builtins
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import FIXTURES
from test_python_source import ENTRIES, UNKNOWN

import dpnn_bridge
from dpnn_bridge.conversion import to_torch
from dpnn_bridge.errors import DpnnBridgeError

#: strings that run if they are written as they are, between double quotes, or between single quotes
HOSTILE = ["ran()", 'x" + str(ran()) + "', "x' + str(ran()) + '"]


@pytest.mark.parametrize("name", sorted(ENTRIES.keys() - UNKNOWN))
def test_attributes_that_are_strings_are_written_as_strings(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []
    fixture = dpnn_bridge.read_t7(FIXTURES / ENTRIES[name]["file"])
    module = to_torch(fixture["module"] if "module" in fixture else fixture["object"])
    monkeypatch.setattr(builtins, "ran", lambda: ran.append(name), raising=False)
    for part in module.modules():
        found = {**vars(part), "remembering": getattr(part, "remembering", 0)}
        words = {k: v for k, v in found.items() if (v is None or isinstance(v, str)) and not k.startswith("_")}
        for attribute, value in words.items():
            for text in HOSTILE:
                setattr(part, attribute, text)
                with suppress(DpnnBridgeError):
                    dpnn_bridge.save(tmp_path / "m.py", module)
            setattr(part, attribute, value)
    assert ran == []
