"""Lua gets the Python object that it was given, whenever it collects garbage."""

from __future__ import annotations

import pytest

from dpnn_bridge.lua import LuaBridge

CODE = """
local get, new, reserve, n = ...
local wrong, kept = 0, {}
for k = 1, n do
   reserve()
   local i = math.random(0, 1999)
   local object = get(i)
   local ok, found = pcall(get, object)
   if found ~= i then wrong = wrong + 1 end
   if k % 7 == 0 then kept[k % 50] = object end
   if k % 3 == 0 then
      reserve()
      kept[100 + k % 30] = new()
   end
end
return wrong
"""


class Numbered:
    def __init__(self, number: int) -> None:
        self.number = number


@pytest.mark.parametrize("runtime", ["lua51", "luajit21"])
def test_an_object_that_passes_twice_is_the_same(runtime: str) -> None:
    try:
        bridge = LuaBridge(runtime=runtime)
    except ImportError:
        pytest.skip("this lupa has no LuaJIT")
    state, objects = bridge._runtime, [Numbered(i) for i in range(2000)]

    def get(value: object) -> object:
        return value.number if isinstance(value, Numbered) else objects[int(value)]  # type: ignore[call-overload]

    assert state.lua.compile(CODE)(get, lambda: Numbered(-1), state.bridge["reserve"], 100_000) == 0
