"""Small tensors: what LuaJIT computes in memory is what Python computes for Lua 5.1."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

pytest.importorskip("lupa.luajit21")

from dpnn_bridge.lua import LuaBridge

TYPES = ("Byte", "Char", "Short", "Int", "Long", "Float", "Double")

CODE = """
local ty = ...
torch.manualSeed(1)
local results = {}
local function show(...)
   for i = 1, select('#', ...) do
      local x = select(i, ...)
      if torch.isTensor(x) then
         results[#results + 1] = torch.type(x) .. ' ' .. table.concat(x:size():totable(), 'x')
         results[#results + 1] = x:clone()
      else
         results[#results + 1] = type(x) == 'number' and torch.DoubleTensor{x} or tostring(x)
      end
   end
end
local function try(f) local r = {pcall(f)} if r[1] then show(unpack(r, 2)) else show('error') end end
local L, T = torch.LongTensor, torch[ty .. 'Tensor']
local a = T(4, 5, 3):random(0, 9)
for _, v in ipairs {
   a, a:transpose(1, 2), a:transpose(1, 3), a:narrow(2, 2, 3), a:select(3, 2), a[2][3], a:select(2, 2):t(),
   a:narrow(1, 2, 2):transpose(2, 3), a[{{}, {2}, {}}], a:select(2, 1):narrow(2, 1, 1):expand(4, 3)
} do
   for d = 1, v:dim() do
      local I = L{1, v:size(d), 1}
      local s, r = v:clone(), T()
      show(v:index(d, I), r:index(v, d, I), r)
      try(function() return s:indexFill(d, L{1}, 7), s end)
      try(function() return s:indexCopy(d, L{1, 1}, v:narrow(d, 1, 1):index(d, L{1, 1})), s end)
      try(function() return s:indexAdd(d, I, v:index(d, I)), s end)
      try(function() return v:index(d, L{0}) end)
      try(function() return v:sum(d), torch.sum(v, d), v:max(d) end)
      try(function() return torch.min(v, d) end)
      try(function() return v:mean(d), v:norm(2, d), v:norm(1, d), torch.norm(v, 3, d), torch.mean(v, d) end)
      local G = L():resize(v:size()):random(1, v:size(d))
      local H = G:narrow(d, 1, 1)
      try(function() return v:gather(d, G), v:gather(d, H) end)
      try(function() return s:scatter(d, H, v:narrow(d, 1, 1)), s:scatter(d, H, 3), s end)
      show(v:sort(d))
      show(torch.sort(v, d, true))
      show(v:kthvalue(1, d))
      show(torch.median(v, d))
   end
   local m, s = v:gt(4), v:clone()
   local two = v:clone():fill(2)
   show(m, v:lt(4), v:le(v), v:eq(3), v:ne(two), v:ge(5), torch.eq(v, 1), torch.gt(v, two), v:gt(2.5), v:eq(-1))
   show(v.gt(torch.ByteTensor(), v, 3), v.lt(T(), v, 3))
   try(function() return v[m], v:maskedSelect(m), T():maskedSelect(v, m) end)
   try(function() return s:maskedFill(m, 2), s, s:maskedCopy(m, two), s end)
   s[s:gt(3)] = 1
   s[m] = two
   show(s)
   try(function() return v:clone():maskedFill(m, 2.5) end)
   for _, name in ipairs {'double', 'float', 'long', 'int', 'short', 'char', 'byte'} do show(v[name](v)) end
   show(v:type('torch.FloatTensor'), v:type(), s:add(3), s:mul(2), s:add(2, v), s:cmul(v), s:csub(1), s:csub(v))
   show(s:clamp(2, 5), s:cmax(3), s:cmin(v), torch.add(s, 2), torch.mul(s, 3), torch.cmul(s, v), s:add(2.7), s:mul(0.5))
   show(v:sum(), v:max(), v:min())
   local called = 0
   show(v:clone():apply(function(x) called = called + 1 return called % 50 end))
   show(v:clone():map(v, function(x, y) return x + y end))
   show(v:clone():map2(v, s, function(x, y, z) return x > 3 and z or nil end))
   show(T():view(s, -1), T():viewAs(s, s:view(-1)), T():expand(s:view(-1, 1), s:nElement(), 2), T(s:size()):fill(1))
end
return results
"""


@pytest.mark.parametrize("ty", TYPES)
def test_small_tensors_are_as_python_computes_them(ty: str) -> None:
    fast, slow = (LuaBridge(runtime=name).execute(CODE, ty) for name in ("luajit21", "lua51"))
    assert len(fast) == len(slow) > 500
    for a, b in zip(fast, slow, strict=True):
        if isinstance(a, torch.Tensor) and a.is_floating_point():  # sums in Torch7's order, and in PyTorch's
            torch.testing.assert_close(a, b, rtol=1e-6 if a.dtype == torch.float32 else 1e-14, atol=0)
        else:
            assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def test_no_element_is_lost_on_the_way_between_types() -> None:
    result = LuaBridge(runtime="luajit21").execute(
        """
        local x = torch.LongTensor(100):fill(7)
        return torch.LongTensor{2^40, 3}:double(), torch.LongTensor{16777217}:float(), x:float(), x:int(),
           torch.FloatTensor{1.7, -2.3}:long()
        """
    )
    double, single, many, whole, cut = result
    assert double.tolist() == [2**40, 3]
    assert single.tolist() == [16777216]
    assert cut.tolist() == [1, -2]
    assert many.tolist() == whole.tolist() == [7] * 100


@pytest.mark.parametrize("ty", ["Double", "Float"])
@pytest.mark.parametrize("name", ["Tanh", "Sigmoid", "SoftMax", "LogSoftMax"])
def test_the_first_call_of_a_kernel_gives_the_bits_of_the_next(name: str, ty: str) -> None:
    """A result that has no memory yet is sized in Lua, so that the functions of C serve it too."""
    first, second = LuaBridge().execute(
        """
        local name, ty = ...
        require 'nn.THNN'
        local new, kernels = torch[ty .. 'Tensor'], torch.getmetatable('torch.' .. ty .. 'Tensor').THNN
        local x, y, z = new(60, 50):normal(), new(), new(60, 50)
        for _, out in ipairs {y, z} do kernels[name .. '_updateOutput'](x:cdata(), out:cdata()) end
        return y, z
        """,
        name,
        ty,
    )
    assert first.shape == (60, 50)
    assert bool((first == second).all())


@pytest.mark.parametrize("bits", [0x7FF8000000000000, 0x7FFFFFFFFFFFFFFF, 0xFFF8000000000000, 0xFFFFFFFFFFFFFFFF])
@pytest.mark.parametrize("name", ["neg", "abs", "sigmoid", "sqrt", "csub"])
def test_a_nan_of_any_bits_stays_one(name: str, bits: int) -> None:
    value = torch.from_numpy(np.array([bits, 0, bits], np.uint64).view(np.float64))
    result = LuaBridge().execute(f"local t = ... return t:{name}({'t' if name == 'csub' else ''})", value)
    assert result.isnan().tolist() == [True, False, True]


@pytest.mark.parametrize("bits", [0x7FFFFFFF, 0xFFFFFFFF])
def test_the_negative_of_an_element_that_is_nan(bits: int) -> None:
    value = torch.from_numpy(np.array([bits], np.uint32).view(np.float32))
    assert math.isnan(LuaBridge().execute("local t = ... return -t[1]", value))


@pytest.mark.parametrize("runtime", ["luajit21", "lua51"])
def test_histograms_and_distances_compute_in_the_element_type(runtime: str) -> None:
    """16777217 is no float, so that the edges are 16777215 and 16777216; |x - y|^0 is 1, to the power 1/0."""
    found = LuaBridge(runtime=runtime).execute(
        """
        local t, one, x = torch.FloatTensor {16777216, 16777216}, torch.Tensor {1}, torch.Tensor {0 / 0, 1, 2}
        return t:histc(3), t:view(1, 2):bhistc(3), x:histc(2), x:histc(2, 1, 2), one:dist(one, 0), x:dist(x, 0)
        """
    )
    assert [t.tolist() for t in found[:4]] == [[0, 0, 2], [[0, 0, 2]], [0, 0], [1, 1]]
    assert found[4:] == (1, float("inf"))
