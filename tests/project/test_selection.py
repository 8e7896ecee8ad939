"""``pytest -k NAME`` imports only the files that can hold a test of that name, and leaves out no test."""

from __future__ import annotations

import re

import pytest
from conftest import may_match

#: a Lua class in the name of a test, such as ``nn.Linear``
CLASS = re.compile(r"[a-z]\w*\.[A-Z]\w*")


def test_every_test_named_after_a_class_is_selected_by_it(request: pytest.FixtureRequest) -> None:
    named = {(item.path, name) for item in request.session.items for name in CLASS.findall(item.name)}
    assert sorted(f"{path.name}: {name}" for path, name in named if not may_match(path, {name.lower()})) == []
