"""Lua gets the Python object that it was given and keeps it alive, whenever it collects garbage."""

from __future__ import annotations

import weakref
from typing import Any

import pytest

from dpnn_bridge.lua import LuaBridge

PASS_TWICE = """
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
GET_AGAIN = """
local get, reserve, n = ...
local kept = {}
for k = 1, n do
   reserve()
   local object = get(k % 1000)
   if k % 7 == 0 then kept[k % 1000] = object end
   if k % 11 == 0 then kept[math.random(0, 999)] = nil end
   if k % 10 == 0 then collectgarbage('step', 0) end
end
collectgarbage()
collectgarbage()
return kept
"""
FREE_SLOTS = """
local new, reserve, n = ...
local references, kept, least = debug.getregistry().LUPA_PYTHON_REFERENCES_TABLE, {}, math.huge
for k = 1, n do
   reserve()
   local slot, free = references[0], 0
   while slot > 0 do slot, free = references[slot], free + 1 end
   least = math.min(least, free)
   for i = 1, 10000 do kept[#kept + 1] = new() end
end
return least
"""


class Numbered:
    def __init__(self, number: int = -1) -> None:
        self.number = number


@pytest.fixture(params=["lua51", "luajit21"])
def state(request: pytest.FixtureRequest) -> Any:
    try:
        return LuaBridge(runtime=request.param)._runtime
    except ImportError:
        pytest.skip("this lupa has no LuaJIT")


def test_an_object_that_passes_twice_is_the_same(state: Any) -> None:
    objects = [Numbered(i) for i in range(2000)]

    def get(value: object) -> object:
        return value.number if isinstance(value, Numbered) else objects[int(value)]  # type: ignore[call-overload]

    assert state.lua.compile(PASS_TWICE)(get, Numbered, state.bridge["reserve"], 100_000) == 0


def test_an_object_that_lua_holds_lives(state: Any) -> None:
    objects = [Numbered(i) for i in range(1000)]
    kept = state.lua.compile(GET_AGAIN)(lambda i: objects[int(i)], state.bridge["reserve"], 20_000)
    held = {int(i) for i in kept.keys()}  # noqa: SIM118  a table of Lua iterates over its values
    alive = [weakref.ref(o) for o in objects]
    objects.clear()
    assert len(held) > 100
    assert {i for i, reference in enumerate(alive) if reference() is not None} == held


def test_a_call_may_bring_ten_thousand_objects(state: Any) -> None:
    assert state.lua.compile(FREE_SLOTS)(Numbered, state.bridge["reserve"], 8) > 10_000


@pytest.mark.parametrize("runtime", ["lua51", "luajit21"])
def test_many_finalizers_may_create_tensors(runtime: str) -> None:
    """Each of them calls a function of the bridge, which collects garbage before Lua gets an object."""
    bridge = LuaBridge(runtime=runtime)
    code = """
    require 'torch'
    local count, kept = 0, {}
    for i = 1, 2000 do
       kept[i] = newproxy(true)
       getmetatable(kept[i]).__gc = function() local t = torch.ones(2) count = count + t:sum() end
    end
    kept = nil
    for i = 1, 3000 do local t = torch.ones(2) end
    collectgarbage()
    return count
    """
    assert bridge.execute(code) == 4000


@pytest.mark.parametrize("runtime", ["lua51", "luajit21"])
def test_the_error_of_a_finalizer_does_not_end_the_collection_of_garbage(runtime: str) -> None:
    bridge = LuaBridge(runtime=runtime)
    bridge.execute(
        "require 'torch' failing = newproxy(true) getmetatable(failing).__gc = function() error('oops', 0) end"
    )
    bridge.execute("failing = nil pcall(collectgarbage)")
    held = bridge.execute(
        "local t = {} for i = 1, 3000 do t[i % 7] = torch.ones(2) end collectgarbage() return t[1]:sum()"
    )
    assert held == 2
