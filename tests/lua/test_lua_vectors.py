"""Tensors above the limit of LuaJIT's loops: no call reaches Python, and the results are Python's."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("lupa.luajit21")

from dpnn_bridge.lua import LuaBridge
from dpnn_bridge.lua.dispatch import Function

CODE = """
local ty, transposed = ...
local T, L, n, results = torch[ty .. 'Tensor'], torch.LongTensor, 70, {}
torch.manualSeed(3)
local function new(last)
   local t = T(n, n):copy(L(n, n):random(1, last or 9))
   return transposed and t:t() or t
end
local function show(...)
   for k = 1, select('#', ...) do results[#results + 1] = (select(k, ...)):clone() end
end
local x, y, r, mask = new(), new(), new(), new(2):add(-1):byte()
if transposed then mask = mask:t():clone():t() end
for _, name in ipairs {'gt', 'lt', 'ge', 'le', 'eq', 'ne'} do show(x[name](x, 3), x[name](x, y), r[name](r, x, 3)) end
show(torch.add(x, 2), x:clone():add(y), x:clone():csub(1), r:csub(x, y), r:fill(4))
show(torch.clamp(x, 2, 5), torch.clamp(x, 5, 2), torch.cmax(x, 3), torch.cmin(x, y), torch.sign(x))
show(torch.mul(x, 3), torch.cmul(x, y), r:copy(x:t()), x:t():contiguous())
local filled = x:clone()
filled:maskedFill(mask, 2)
show(filled, x:maskedSelect(mask), x:clone():maskedCopy(mask, y), x:sum(1), (x:max(2)))
show(x:sort(1)) show(x:sort(2, true)) show(x:kthvalue(20, 1)) show(x:median()) show(x:mode())
show(x:topk(3, 1, true, true)) show(x:topk(4, 2)) show(x:topk(4, 2, true)) show(x:topk(5, 2, false, true))
x:narrow(2, 2, 30):add(1):mul(2):fill(3)
x[{5, 7}] = y[1][1]
show(x)
if ty == 'Double' then
   y[2][3], y[1][2], y[3][1] = 0 / 0, math.huge, -math.huge
   show(y:gt(1), torch.clamp(y, 0, 1), torch.cmax(y, 1), torch.sign(y), torch.abs(y), torch.add(y, 2), torch.trunc(y))
   show(y / 3, -y)
   local shared = x[1]:clone():view(1, n):expand(n, n)  -- elements that share memory
   show(shared:add(x), shared:mul(2), shared:fill(3))
end
return results
"""


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(*(torch.nan_to_num(t.double(), nan=-77.0) for t in (a, b)))


@pytest.mark.parametrize(("ty", "transposed"), [("Double", False), ("Double", True), ("Byte", True)])
def test_vector_functions_and_loops_are_what_python_computes(ty: str, transposed: bool) -> None:
    fast, slow = (LuaBridge(runtime=name).execute(CODE, ty, transposed) for name in ("luajit21", "lua51"))
    assert len(fast) == len(slow) > 55
    assert [k for k, (a, b) in enumerate(zip(fast, slow, strict=True)) if not _same(a, b)] == []


def test_no_call_on_a_middle_tensor_reaches_python(monkeypatch: pytest.MonkeyPatch) -> None:
    bridge = LuaBridge(runtime="luajit21")
    if not bridge._runtime.bridge["native"]["vectors"]["available"]:
        pytest.skip("this PyTorch has no C interface to its operations")
    bridge.execute("x, y = torch.Tensor(70, 70):fill(3), torch.Tensor(70, 70):fill(4) x[1][1] = 1")
    calls: list[str] = []
    run = Function.run

    def counted(function: Function, *args: Any) -> Any:
        calls.append(function.name)
        return run(function, *args)

    monkeypatch.setattr(Function, "run", counted)
    bridge.execute(
        "x:gt(2) x:eq(y) y:add(1) y:add(x) y:mul(2) y:clamp(1, 5) y:cmax(x) y:fill(2) y:copy(x:t()) y:sum(1)"
        "x:sort(1) x:kthvalue(2) x:mode() x:t():gt(2) x:maskedFill(x:gt(2), 1)"
    )
    assert calls == []
