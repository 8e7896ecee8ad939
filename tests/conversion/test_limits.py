"""Whatever a mapping calls while it builds a module is measured before it happens, not only functions of a list."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dpnn_bridge.conversion.budget import BYTES, Budget, BudgetMode
from dpnn_bridge.conversion.options import Options
from dpnn_bridge.conversion.torch_context import TorchConversion
from dpnn_bridge.errors import ConversionLimitError
from dpnn_bridge.objects import LuaObject, LuaTable

LARGE = 1 << 28

OPERATIONS: dict[str, Callable[[], object]] = {
    "empty": lambda: torch.empty(LARGE),
    "empty of bytes": lambda: torch.empty(BYTES + 1, dtype=torch.uint8),
    "full": lambda: torch.full((LARGE,), 1.0),
    "eye": lambda: torch.eye(1 << 14),
    "arange": lambda: torch.arange(LARGE),
    "linspace": lambda: torch.linspace(0, 1, LARGE),
    "repeat": lambda: torch.ones(1).repeat(LARGE),
    "contiguous": lambda: torch.ones(1).expand(LARGE).contiguous(),
    "a sum that is broadcast": lambda: torch.ones(1 << 14, 1) + torch.ones(1 << 14),
    "outer": lambda: torch.outer(torch.ones(1 << 14), torch.ones(1 << 14)),
    "pad": lambda: nn.functional.pad(torch.ones(1), (0, LARGE)),
    "cat": lambda: torch.cat([torch.ones(1 << 20)] * 256),
    "a module": lambda: nn.Linear(1 << 14, 1 << 14),
    "upsampling": lambda: nn.functional.interpolate(torch.ones(1, 1, 1, 1), scale_factor=1 << 14),
    "many small ones": lambda: [torch.empty(1) for _ in range(10_000)],
}


def mode() -> BudgetMode:
    return BudgetMode(Budget(LuaObject("nn.Identity", LuaTable())))


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_beyond_the_budget_does_not_happen(name: str) -> None:
    with pytest.raises(ConversionLimitError, match=r"more .* than the file contains"), mode():
        OPERATIONS[name]()


def test_what_takes_no_memory_is_free() -> None:
    budget = mode()
    with budget:
        table = torch.arange(5000)
        assert sum(int(table[i]) for i in range(5000) if table[i] > 3) == sum(range(4, 5000))
        value: Tensor = torch.ones(4)
        for _ in range(5000):
            value.expand(LARGE, 4).t().narrow(0, 1, 2)
            value.add_(1)
        torch.empty(1 << 40, device="meta")
        nn.Linear(1 << 20, 1 << 20, device="meta")
    assert budget.budget.bytes_left > BYTES - 200_000


def test_layers_of_torch7_inside_those_of_the_user_are_measured() -> None:
    """And after a layer of the user inside another one, the other one's code is not measured."""
    watching: dict[str, bool] = {}

    class Conversion(TorchConversion):
        def _build(self, obj: LuaObject, mapping: Any) -> nn.Module:
            watching[obj.class_name] = self.budget.watching
            return super()._build(obj, mapping)

    def fallback(obj: LuaObject, ctx: Any) -> nn.Module:
        inner = ctx.children(obj)
        watching[obj.class_name] = ctx.budget.watching
        return nn.Sequential(*inner)

    inner = LuaTable.from_list([LuaObject("their.Inner"), LuaObject("nn.Identity")])
    Conversion(Options(fallback=fallback)).to_torch(LuaObject("their.Outer", LuaTable({"modules": inner})))
    assert watching == {"their.Inner": False, "nn.Identity": True, "their.Outer": False}


def test_code_of_the_user_is_not_measured() -> None:
    budget = mode()
    with budget:
        budget.budget.watching = False
        assert torch.empty(BYTES, dtype=torch.uint8).numel() == BYTES
