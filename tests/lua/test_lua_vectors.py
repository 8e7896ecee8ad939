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
show(x, x + y, x - y, x + 1, 2 - x, x * 2, -x, x % 3, x * y, x * y[2], torch.ger(x[1], y[2]), x:sum(1), x:sum(2))
show(torch.addmm(x, 2, x, y), torch.addmv(x[1], 3, x, y[1]), torch.addr(0, x, 1, x[1], y[2]), torch.match(x, y, 2))
show(torch.addcmul(x, 2, x, y), torch.addcdiv(x, -2, x, y), torch.triu(x, 1), x:clone():tril(-2))
show(torch.diag(x, 3), torch.diag(x[1]), x:reshape(n * n))
show(x:byte(), x:short(), x:double(), torch.IntTensor(n, n):copy(x), torch.cat(x, y, 1), torch.cat({x, y, x}, 2))
local places, at = L(n):random(1, n), L(n, n):random(1, n)
local function changed(name, ...)
   local t = x:clone()
   t[name](t, ...)
   return t
end
show(x:index(1, places), x:index(2, places), changed('indexCopy', 1, places, y), changed('indexCopy', 2, places, y))
show(changed('indexAdd', 2, places, y), changed('indexFill', 1, places, 3), x:gather(1, at), x:gather(2, at))
show(x:clone():scatter(1, at, y), x:clone():scatter(2, at, 3), x:cumsum(1), x:cumsum(2), torch.eye(n), torch.ones(n, n))
local dots = {x:dot(y), x[1]:dot(y[2]), x[1] * y[2], x:storage() == x:storage(), x == y}
if ty == 'Double' then
   y[2][3], y[1][2], y[3][1] = 0 / 0, math.huge, -math.huge
   show(y:gt(1), torch.clamp(y, 0, 1), torch.cmax(y, 1), torch.sign(y), torch.abs(y), torch.add(y, 2), torch.trunc(y))
   show(y / 3, -y)
   local shared = x[1]:clone():view(1, n):expand(n, n)  -- elements that share memory
   show(shared:add(x), shared:mul(2), shared:fill(3))
end
return results, dots
"""


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(*(torch.nan_to_num(t.double(), nan=-77.0) for t in (a, b)))


@pytest.mark.parametrize(("ty", "transposed"), [("Double", False), ("Double", True), ("Byte", True), ("Int", False)])
def test_vector_functions_and_loops_are_what_python_computes(ty: str, transposed: bool) -> None:
    fast, slow = (LuaBridge(runtime=name).execute(CODE, ty, transposed) for name in ("luajit21", "lua51"))
    assert len(fast[0]) == len(slow[0]) > 55
    assert [k for k, (a, b) in enumerate(zip(fast[0], slow[0], strict=True)) if not _same(a, b)] == []
    assert fast[1] == slow[1]


def test_renorm_and_dist_of_floats_give_what_torch7_printed() -> None:
    scaled, distance = LuaBridge(runtime="luajit21").execute(
        "return torch.FloatTensor{{100, 200, 300}}:renorm(3, 1, 7),"
        "torch.FloatTensor{16777216, 1, 1, 1}:dist(torch.FloatTensor(4):zero(), 1)"
    )
    assert torch.equal(scaled, torch.tensor([[2.11997366, 4.23994732, 6.35992098]]))
    assert distance == 16777216


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
        " for _, ty in ipairs {'Int', 'Byte'} do"
        "   local z, e = torch[ty .. 'Tensor'](70, 70):fill(3), torch[ty .. 'Tensor'](70, 70):copy(y)"
        "   e:cmax(z):cmin(2):clamp(1, 3):addcmul(2, z, e):addcdiv(2, z, e) torch.addmm(3, e, 2, z, e)"
        "   local a, b = z + e - 1, -(z * e % 5) z:sum(1) z:dot(e) torch.match(z, e) a:copy(y) b:cat(a, e)"
        "   z:bitand(3):mul(2.5) torch.addmm(0.5, a, 1.5, z, e) torch.conv2(z, e:narrow(1, 1, 3):narrow(2, 1, 3), 'F')"
        "   z.new():randperm(300) torch.cpow(z:narrow(1, 1, 50), e:narrow(1, 1, 50))"
        " end "
        " x:renorm(2, 1, 3) x:cumsum(2) x:histc(5) x:norm(1) x:triu() x:eye(70, 70)"
        "y:indexAdd(1, torch.range(1, 70):long(), x)"
    )
    assert calls == []


#: what Torch7 computes with vector instructions that round once -> its bits
_ROUNDED_ONCE = {
    "x:clone():add(0.1, y)": "9.0205620750793972e-19 1.01",
    "torch.csub(x, -0.1, y)": "9.0205620750793972e-19 1.01",
    "spread:add(0.1, y)": "1.7347234759768071e-18 1.01",  # not contiguous: rounded twice
    "a:conv2(k)": "0.10000000000000005 0.24000000000000002 0.38 0.52000000000000002 0.66000000000000003 "
    "0.93999999999999995 1.0800000000000001 1.22 1.3599999999999999 1.5",
    "a:narrow(2, 1, 3):conv2(k)": "0.10000000000000001 0.24000000000000005 0.93999999999999995 1.0800000000000001",
    "a:narrow(2, 1, 3):t():xcorr2(k, 'F')": "0.090000000000000011 0.69999999999999996 1.6600000000000001 "
    "0.90999999999999992 0.15000000000000002 0.66000000000000014 1.5 1.1099999999999999 0.21000000000000002 "
    "0.80000000000000004 1.6400000000000001 1.1899999999999997 -0.089999999999999997 -0.24000000000000002 "
    "-0.35999999999999993 0.15000000000000002",
    "torch.conv2(a:view(1, 3, 6), k:view(1, 2, 2))": "0.10000000000000005 0.24000000000000002 0.38 "
    "0.52000000000000002 0.66000000000000003 0.93999999999999995 1.0800000000000001 1.22 1.3599999999999999 1.5",
    "torch.xcorr2(a:view(1, 3, 6):repeatTensor(2, 1, 1), k:view(1, 1, 2, 2):repeatTensor(2, 2, 1, 1), 'F'):sum(3)": (
        "6.7199999999999989 17.399999999999999 27.480000000000004 -3.7200000000000002 "
        "6.7199999999999989 17.399999999999999 27.480000000000004 -3.7200000000000002"
    ),
    "a:conv2(k:clone():zero(), 'F'):sum()": "0",
    "torch.Tensor(4, 4):fill(1 / 0):conv2(torch.zeros(1, 1)):view(-1):narrow(1, 1, 1)": "nan",
}


@pytest.mark.parametrize("code", _ROUNDED_ONCE)
def test_multiples_and_convolutions_are_rounded_as_in_torch7(code: str) -> None:
    found = LuaBridge().execute(
        """
        local x, y, spread = torch.Tensor {-0.01, 1}, torch.Tensor {0.1, 0.1}, torch.zeros(2, 2):select(2, 1)
        local a, k = torch.range(1, 18):div(10):view(3, 6), torch.Tensor {{0.1, -0.3}, {0.7, 0.9}}
        spread:copy(x)
        local result, text = EXPRESSION, {}
        if type(result) == 'number' then result = torch.Tensor {result} end
        result:clone():apply(function(v) text[#text + 1] = v == v and ('%.17g'):format(v) or 'nan' end)
        return table.concat(text, ' ')
        """.replace("EXPRESSION", code)
    )
    assert found == _ROUNDED_ONCE[code]


@pytest.mark.parametrize("ty", ["Byte", "Char", "Short", "Int"])
@pytest.mark.parametrize("transposed", [False, True])
def test_sums_of_integers_wrap(ty: str, transposed: bool) -> None:
    """Of both orders in memory, with more elements than are added at once, and where the result is a source."""
    found = LuaBridge().execute(
        """
        local ty, transposed = ...
        local T, n = torch[ty .. 'Tensor'], 70
        local both = T(2, n, n):copy(torch.LongTensor(2, n, n):random(0, 127))
        local x, y = both[1], both[2]
        if transposed then x, y = x:t(), y:t() end
        local function same(result, f, ...)
           local wide = {}
           for k, t in ipairs {...} do wide[k] = t:long() end
           local expected = f(unpack(wide)):type('torch.' .. ty .. 'Tensor')
           return result:eq(expected):all()
        end
        local twice = x:clone():add(7, x)
        return same(torch.add(x, 100), function(a) return a:clone():add(100) end, x),
               same(torch.add(x, 3, y), function(a, b) return torch.add(a, 3, b) end, x, y),
               same(torch.csub(y, 100, x), function(a, b) return torch.csub(a, 100, b) end, y, x),
               same(twice, function(a) return a * 8 end, x),
               same(x:clone():csub(3), function(a) return a:clone():csub(3) end, x)
        """,
        ty,
        transposed,
    )
    assert found == (True,) * 5


@pytest.mark.parametrize("ty", ["Float", "Double"])
def test_multiples_of_any_number_of_elements_are_rounded_once(ty: str) -> None:
    """The first elements are added in a loop and by vector instructions: (1 + a)^2 - (1 + 2 a) is a^2."""
    found = LuaBridge().execute(
        """
        local ty, a = ..., 2 ^ -12
        if ty == 'Double' then a = 2 ^ -27 end
        local T, wrong = torch[ty .. 'Tensor'], 0
        for _, n in ipairs {1, 100, 512, 513, 2500, 5000} do
           local x = T(n):fill(1 + a)
           local sum, difference = T(n):fill(-1 - 2 * a):add(1 + a, x), torch.add(T(n):fill(1 + 2 * a), -1 - a, x)
           wrong = wrong + sum:ne(a * a):sum() + difference:ne(-a * a):sum()
        end
        return wrong
        """,
        ty,
    )
    assert found == 0
