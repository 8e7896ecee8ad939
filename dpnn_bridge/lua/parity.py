"""Layer by layer: what the original Lua sources compute beside what the converted model computes.

The Lua side runs nn's own files (``lua_path``) on the bridge's kernels. It is an independent reading of the model and
not of Torch7's C code: stored outputs of real Torch7, or :mod:`dpnn_bridge.lua.torch7`, remain the last word.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from dpnn_bridge.lua.module import _flatten, _restore

if TYPE_CHECKING:
    from dpnn_bridge.lua.bridge import LuaBridge
    from dpnn_bridge.objects import LuaObject


@dataclass(frozen=True)
class Comparison:
    """Two results that should be equal.

    Attributes:
        what: such as ``output``, ``gradInput``, ``modules.2.gradWeight``.
        difference: largest absolute difference relative to the larger of 1 and the largest Lua value; inf when shapes
            or the number of tensors differ.
    """

    what: str
    difference: float


def difference(lua: torch.Tensor, converted: torch.Tensor) -> float:
    """See :class:`Comparison`."""
    a, b = lua.detach().double(), converted.detach().double()
    if a.numel() != b.numel():
        return float("inf")
    if not a.numel():
        return 0.0
    gap = float((a.reshape(-1) - b.reshape(-1)).abs().max())
    return gap / max(1.0, float(a.abs().max())) if gap == gap else float("inf")


def _pairs(what: str, lua: Any, converted: Any) -> Iterator[Comparison]:
    a: list[torch.Tensor] = []
    b: list[torch.Tensor] = []
    _flatten(lua, a)
    _flatten(converted, b)
    if len(a) != len(b):
        yield Comparison(f"{what}: {len(a)} tensors in Lua, {len(b)} converted", float("inf"))
        return
    for n, (x, y) in enumerate(zip(a, b, strict=True), 1):
        yield Comparison(what if len(a) == 1 else f"{what}[{n}]", difference(x, y))


def compare(
    bridge: LuaBridge, obj: LuaObject, module: nn.Module, input: Any, *, seed: int = 1, backward: bool = True
) -> list[Comparison]:
    """Run one object in Lua and its converted module on the same input.

    Args:
        bridge: a bridge whose ``lua_path`` holds the original sources.
        obj: the object as read from a file.
        module: what :func:`dpnn_bridge.to_torch` made of it.
        input: tensor or nested list; used as copies on both sides.
        seed: of the generator that draws gradOutput.
        backward: compare gradInput too.

    Returns:
        Outputs, then gradInput.
    """
    with bridge.errors():
        live = bridge.to_lua(obj)
    leaves: list[torch.Tensor] = []
    shape = _flatten(input, leaves)
    lua_input = bridge.to_lua(_restore(shape, [t.detach().clone() for t in leaves]))
    output = bridge.call(live["forward"], live, lua_input)
    inputs = [t.detach().clone().requires_grad_(backward and t.is_floating_point()) for t in leaves]
    converted = module(_restore(shape, inputs))
    results = list(_pairs("output", output, converted))
    if not backward or any(r.difference == float("inf") for r in results):
        return results
    outputs: list[torch.Tensor] = []
    output_shape = _flatten(output, outputs)
    draw = torch.Generator().manual_seed(seed)
    gradients = [torch.randn(o.shape, generator=draw, dtype=o.dtype) for o in outputs]
    grad_output = bridge.to_lua(_restore(output_shape, [g.clone() for g in gradients]))
    grad_input = bridge.call(live["backward"], live, lua_input, grad_output)
    heads: list[torch.Tensor] = []
    _flatten(converted, heads)
    wanted = [t for t in inputs if t.requires_grad]
    if wanted and any(h.requires_grad for h in heads):
        got = torch.autograd.grad(heads, wanted, [g.reshape(h.shape) for g, h in zip(gradients, heads, strict=True)])
        results += _pairs("gradInput", grad_input, list(got))
    return results


def compare_layers(bridge: LuaBridge, obj: LuaObject, module: nn.Module, input: Any) -> dict[str, list[Comparison]]:
    """Every child of a Sequential, each on what the Lua side hands it, then the whole.

    Returns:
        Path of the layer (``modules[3]``, the empty path for the whole) -> its comparisons.
    """
    results: dict[str, list[Comparison]] = {}
    children = obj["modules"].as_list() if obj.class_name == "nn.Sequential" else []
    parts = list(module.children())
    if children and len(children) == len(parts):
        value = input
        for n, (child, part) in enumerate(zip(children, parts, strict=True), 1):
            results[f"modules[{n}]"] = compare(bridge, child, part, value)
            live = bridge.to_lua(child)
            value = bridge.call(live["forward"], live, bridge.to_lua(value))
    results[""] = compare(bridge, obj, module, input)
    return results
