"""With LuaJIT, Lua keeps geometry and works on memory itself: the same programs on Lua 5.1, through Python, agree."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("lupa.luajit21")

from dpnn_bridge.lua import LuaBridge

#: draws views, in-place and out-of-place operations on tensors that share memory, and describes what is there
PROGRAM = """
local seed, ty, steps = ...
torch.manualSeed(seed)
torch.setdefaulttensortype('torch.' .. ty .. 'Tensor')
local function pick(list) return list[torch.random(1, #list)] end
local pool, out = {torch.range(1, 12):div(8):resize(3, 4), torch.rand(2, 3, 2), torch.randn(6), torch.Tensor()}, {}
local function sizes(t) return table.concat(t:size():totable(), 'x') end
local function same(t)
   local fits = {}
   for _, u in ipairs(pool) do if u:nElement() == t:nElement() then fits[#fits + 1] = u end end
   return pick(fits)
end
local views = {
   function(t) return t:narrow(torch.random(1, t:dim()), 1, 1) end,
   function(t) local d = torch.random(1, t:dim()) return t:narrow(d, t:size(d), 1) end,
   function(t) return t:transpose(1, t:dim()) end,
   function(t) return t:select(torch.random(1, t:dim()), 1) end,
   function(t) return t[torch.random(1, t:size(1))] end,
   function(t) return t[{{1, -1}}] end,
   function(t) return t[{{}, -1}] end,
   function(t) return t:view(-1) end,
   function(t) return t:contiguous() end,
   function(t) return t:clone() end,
   function(t) return t.new():set(t) end,
   function(t) return torch.Tensor(t:size()):fill(0.5) end,
   function(t) return torch.Tensor(2, 2):fill(1.5) end,
   function(t) return t:expand(t:size()) end,
   function(t) return torch.add(t, 1) end,
   function(t) return t + t end,
   function(t) return torch.mm(t, t:t()) end,
   function(t) return t.new(t:storage(), 1, 2) end,
}
local changes = {
   function(t) t:add(0.25) end,
   function(t) t:add(-0.5, same(t)) end,
   function(t) t:cmul(same(t)) end,
   function(t) t:copy(same(t)) end,
   function(t) t:fill(torch.random(1, 3)) end,
   function(t) t:zero() end,
   function(t) t[torch.random(1, t:size(1))] = 2 end,
   function(t) t[{{}, 1}] = 0.75 end,
   function(t) t:resize(torch.random(1, 4), 2):fill(1) end,
   function(t) t:resizeAs(pick(pool)):fill(0.125) end,
   function(t) t:set(pick(pool)) end,
   function(t) t:addmm(0.5, t, 1, t, t) end,
   function(t) t:addcmul(0.5, same(t), same(t)) end,
   function(t) t:clamp(-1, 1) end,
   function(t) t:abs():sqrt() end,
   function(t) t:storage()[1] = 4 end,
   function(t) t:uniform() end,                                     -- Python's
   function(t) torch.cumsum(t, t, 1) end,                           -- Python's, may move t
   function(t) t:storage():resize(t:storage():size() + 1)[t:storage():size()] = 0 end,
   function(t) t:apply(function(x) return x / 2 end) end,
}
for step = 1, steps do
   local t = pick(pool)
   local chosen, f = torch.uniform() < 0.5
   if chosen then
      f = pick(views)
      local ok, v = pcall(f, t)
      if ok and torch.isTensor(v) then
         if #pool < 9 then pool[#pool + 1] = v else pool[torch.random(1, 9)] = v end
      end
      out[#out + 1] = ok and (torch.isTensor(v) and 'view' or v) or 'error'
   else
      f = pick(changes)
      out[#out + 1] = pcall(f, t) and 'changed' or 'error'
   end
   for i, u in ipairs(pool) do
      if u:nElement() > 0 then u:clamp(-100, 100) end               -- no infinities, whose order of sums shows
      out[#out + 1] = u:dim() == 0 and 'empty' or sizes(u) .. '@' .. u:storageOffset() .. tostring(u:isContiguous())
   end
end
local contents = {}
for i, u in ipairs(pool) do
   out[#out + 1] = u:dim() == 0 and 0 or u:sum()
   out[#out + 1] = u:dim() == 0 and 0 or u:max()
   contents[i] = u:clone()
end
return out, contents
"""


@pytest.fixture(scope="module")
def bridges() -> tuple[LuaBridge, LuaBridge]:
    return LuaBridge(runtime="luajit21"), LuaBridge(runtime="lua51")


@pytest.mark.parametrize("ty", ["Double", "Float"])
@pytest.mark.parametrize("seed", range(12))
def test_random_programs_agree_with_lua51(bridges: tuple[LuaBridge, LuaBridge], seed: int, ty: str) -> None:
    (ours, our_tensors), (theirs, their_tensors) = (b.execute(PROGRAM, seed, ty, 60) for b in bridges)
    numbers = [isinstance(v, (int, float)) for v in theirs]
    assert [v for v, n in zip(ours, numbers, strict=True) if not n] == [
        v for v, n in zip(theirs, numbers, strict=True) if not n
    ]
    rel = 1e-10 if ty == "Double" else 1e-5
    assert [v for v, n in zip(ours, numbers, strict=True) if n] == pytest.approx(
        [v for v, n in zip(theirs, numbers, strict=True) if n], rel=rel, abs=rel
    )
    for a, b in zip(our_tensors, their_tensors, strict=True):
        torch.testing.assert_close(a, b, rtol=rel, atol=rel)


def test_memory_that_python_moves_is_found_again() -> None:
    bridge = LuaBridge(runtime="luajit21")
    t = torch.arange(4, dtype=torch.float64)
    bridge.execute("kept = ... kept:add(1)", t)
    t.untyped_storage().resize_(1 << 20)  # moves
    t.fill_(7)
    assert bridge.execute("kept:add(1) return kept[4]") == 8
    assert t.tolist() == [8, 8, 8, 8]


def test_memory_of_lua_outlives_lua() -> None:
    bridge = LuaBridge(runtime="luajit21")
    tensors = [bridge.execute("return torch.Tensor(5):fill(...)", n) for n in range(100)]
    bridge.execute("collectgarbage() collectgarbage()")
    assert [t.tolist() for t in tensors] == [[n] * 5 for n in range(100)]
    assert tensors[3].untyped_storage().nbytes() == 40


def test_views_made_in_lua_share_memory_with_python() -> None:
    bridge = LuaBridge(runtime="luajit21")
    whole, part = bridge.execute("local t = torch.zeros(3, 4) return t, t:narrow(2, 2, 2):t()")
    part.fill_(1)
    assert whole.sum() == 6
    assert part.stride() == (1, 4)


def test_a_tensor_follows_what_python_makes_of_it() -> None:
    code = """
    local t, r = torch.Tensor(2, 3):fill(1), torch.Tensor(1)
    r[1] = 5
    torch.cat(r, t, t, 1)                  -- Python resizes r
    local storage = r:storage()
    storage:resize(100)[100] = 3           -- and moves its memory
    local rows = r:size(1)
    r:resize(10, 10)
    return rows, r[10][10], r:storage()[1], t:sum()
    """
    assert LuaBridge(runtime="luajit21").execute(code) == (4, 3, 1, 6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_nan_of_any_bits_is_a_number(dtype: torch.dtype) -> None:
    # LuaJIT marks values of other types by such bits; PyTorch's vector code writes the first of these
    wide = torch.tensor([-1, -2, -(1 << 44), -(1 << 47) - 1, 0x7FF0000000000001])
    narrow = torch.tensor([-1, -2, -(1 << 20), -(1 << 22) + 1, 0x7F800001], dtype=torch.int32)
    x = (wide if dtype == torch.float64 else narrow).view(dtype)
    assert bool(x.isnan().all())
    bridge = LuaBridge()
    code = """
    local x = ...
    local function nan(v) return type(v) == 'number' and v ~= v end
    for i = 1, 5 do
        assert(nan(x[i]) and nan(x[{i}]) and nan(x:select(1, i)) and nan(x:storage()[i]), i)
        local one = x:narrow(1, i, 1)
        assert(nan(one:sum()) and nan(one:max()) and nan(one:min()) and nan(one:mean()) and nan(one:norm()), i)
        for _, name in ipairs {'tanh', 'exp', 'log', 'sigmoid', 'abs', 'sqrt', 'cinv', 'floor', 'clone'} do
            local y = one:clone()
            assert(nan(y[name](y, name == 'clone' and nil or one)[1]), name)
        end
        assert(torch.sign(one)[1] == 0 and nan((one + 1)[1]) and nan(torch.cmul(one, one)[1]), i)
    end
    return true
    """
    assert bridge.execute(code, x)


def test_a_copy_between_views_that_overlap_is_that_of_torch7() -> None:
    bridge = LuaBridge()
    code = """
    local v = torch.range(1, 5)
    v:narrow(1, 1, 3):copy(v:narrow(1, 3, 3))
    local function square() return torch.range(1, 9):resize(3, 3) end
    local up, left, right = square(), square(), square()
    up:narrow(1, 1, 2):copy(up:narrow(1, 2, 2))
    left:narrow(2, 1, 2):copy(left:narrow(2, 2, 2))
    right:narrow(2, 2, 2):copy(right:narrow(2, 1, 2))
    return {v, up, left, right}
    """
    v, up, left, right = bridge.execute(code)
    assert v.tolist() == [3, 4, 5, 4, 5]
    assert up.tolist() == [[4, 5, 6], [7, 8, 9], [7, 8, 9]]
    assert left.tolist() == [[2, 3, 3], [5, 6, 6], [8, 9, 9]]
    assert right.tolist() == [[1, 1, 1], [4, 4, 4], [7, 7, 7]]


@pytest.mark.parametrize("ty", ["Double", "Int"])
def test_a_source_that_is_the_result_is_read_after_the_copy_of_the_first(ty: str) -> None:
    code = f"local t, a = torch.{ty}Tensor{{16, 6}}, torch.{ty}Tensor{{4, 3}} return t:addcmul(a, 2, t, a)"
    assert LuaBridge().execute(code).tolist() == [4 + 2 * 4 * 4, 3 + 2 * 3 * 3]
