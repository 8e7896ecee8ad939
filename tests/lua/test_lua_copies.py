"""Python's copies of large outputs and gradients, which are made when they are needed."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch

pytest.importorskip("lupa")

from dpnn_bridge.lua import LuaBridge, state
from dpnn_bridge.lua.module import LuaModule

TWICE = """
require 'nn'
local Twice = torch.class('nn.Twice', 'nn.Module')
function Twice:updateOutput(x) self.output:resizeAs(x):copy(x):mul(2) return self.output end
function Twice:updateGradInput(_, g) self.gradInput:resizeAs(g):copy(g):mul(2) return self.gradInput end
"""


@pytest.fixture(params=["luajit21", "lua51"])
def layer(request: Any) -> LuaModule:
    bridge = LuaBridge(runtime=request.param)
    bridge.execute(TWICE)
    return bridge.module("nn.Twice")


def _input(value: float) -> torch.Tensor:
    return torch.full((200, 200), value, dtype=torch.float64, requires_grad=True)


def _is_all(x: torch.Tensor | None, value: float) -> bool:
    return x is not None and bool((x == value).all())


def _of_lua(layer: LuaModule, name: str) -> torch.Tensor:
    return layer.bridge.to_python(layer.lua[name])  # type: ignore[attr-defined]


def test_lua_overwrites_no_output_and_no_gradient(layer: LuaModule) -> None:
    x = _input(1)
    first = layer(x)
    first.sum().backward()
    kept, second = x.grad, layer(_input(3))
    assert _is_all(first, 2)
    for name in ("output", "gradInput"):
        tensor = layer.lua[name]
        tensor["zero"](tensor)  # not by the bridge
        assert _is_all(_of_lua(layer, name), 0)
    assert _is_all(kept, 2)
    assert _is_all(second, 6)


def test_python_overwrites_no_output_and_no_gradient(layer: LuaModule) -> None:
    x = _input(1)
    y = layer(x)
    y.sum().backward()
    with torch.no_grad():
        y.zero_()
        x.grad.zero_()  # type: ignore[union-attr]
    assert _is_all(_of_lua(layer, "output"), 2)
    assert _is_all(_of_lua(layer, "gradInput"), 2)


def test_memory_that_python_has_dropped_is_not_copied(layer: LuaModule) -> None:
    y = layer(_input(1))
    layer.bridge.execute("return 1")  # type: ignore[attr-defined]
    assert torch._C._is_cow_tensor(_of_lua(layer, "output"))  # type: ignore[attr-defined]
    del y
    address = _of_lua(layer, "output").data_ptr()
    for value in (2, 3):
        layer(_input(value)).sum().backward()
    assert _of_lua(layer, "output").data_ptr() == address
    assert _is_all(_of_lua(layer, "output"), 6)


def test_a_gradient_is_freed_with_its_last_use(layer: LuaModule) -> None:
    x = _input(1)
    gc.disable()
    try:
        addresses = []
        for _ in range(4):  # the first gradient becomes x.grad, the others are added to it
            layer(x).sum().backward()
            addresses.append(_of_lua(layer, "gradInput").data_ptr())
    finally:
        gc.enable()
    assert len(set(addresses[1:])) == 1


def test_copies_without_the_private_function_of_pytorch(layer: LuaModule, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "_lazy_clone", torch.clone)
    test_lua_overwrites_no_output_and_no_gradient(layer)
    test_python_overwrites_no_output_and_no_gradient(layer)


def test_memory_that_lua_accesses_otherwise_is_copied_at_once(layer: LuaModule) -> None:
    run = layer.bridge.execute  # type: ignore[attr-defined]
    layer(_input(1))
    run("PART = torch.DoubleStorage((...).output:storage(), 1, 2) PART[1] = 5", layer.lua)
    y = layer(_input(2))
    run("PART[1] = 7")
    assert _is_all(y, 4)
    assert run("return (...).output[1][1]", layer.lua) == 7


def test_memory_whose_address_lua_has_is_copied_at_once() -> None:
    bridge = LuaBridge(runtime="luajit21")
    bridge.execute(TWICE)
    for data in ("output:data()", "output:storage():data()", "output:select(1, 1):data()"):
        layer = bridge.module("nn.Twice")
        layer(_input(1))
        bridge.execute(f"ADDRESS = (...).{data}", layer.lua)
        y = layer(_input(2))
        bridge.execute("ADDRESS[0] = 7")
        assert _is_all(y, 4)
        assert bridge.execute("return (...).output[1][1]", layer.lua) == 7
