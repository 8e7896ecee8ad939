"""Paths of values: what is written as a path is read as the same keys, and other text is no path."""

from __future__ import annotations

import math
from typing import Any

import pytest

from dpnn_bridge.base.graph import format_path, parse_path


@pytest.mark.parametrize(
    "keys",
    [
        [],
        ["protos", "rnn"],
        [1, -2, 10**15, "x"],
        [1.5, -0.25, 1e300, math.inf, -math.inf],
        [True, 1, False, 0],
        ["my net", "it's", 'a"b', "a\nb", "\\", "[1]", "", "\udcff", "é", "1"],
    ],
)
def test_paths_are_read_as_they_are_written(keys: list[Any]) -> None:
    read = parse_path(format_path(keys))
    assert read == keys
    assert [type(key) for key in read or ()] == [type(key) for key in keys]


def test_paths_that_people_type() -> None:
    assert parse_path(".model") == parse_path("['model']") == ["model"]
    assert parse_path("model.my-net.2[ 3 ]") == ["model", "my-net", "2", 3]


NO_PATHS = ["model[foo]", "model]", "[1", "a..b", "a.", ".", "[1]x", "[²]", "[1_0]", "['a]", "[]", "[nil]"]


@pytest.mark.parametrize("text", NO_PATHS)
def test_other_text_is_no_path(text: str) -> None:
    assert parse_path(text) is None
