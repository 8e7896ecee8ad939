"""Every loop that a declaration names gives what PyTorch's function beside it gives; signatures make the arguments."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("lupa.luajit21")

from dpnn_bridge.lua import LuaBridge
from dpnn_bridge.lua.dispatch import FUNCTIONS, Function, _Pattern

#: token -> argument in Lua; `T` and `s` take new tensors in turn
ARGUMENTS = {"n": "2", "b": "true", "I": "places", "IR": "L()", "BR": "B()", "L": "3, 6", "N": "order"}
#: routines of LAPACK, whose vectors may differ in sign and rounding; they have tests of their own
LAPACK = ("eig", "svd", "symeig", "qr", "geqrf", "gels", "orgqr", "ormqr")

CODE = """
local ty, calls = ...
local T, L, B, I = torch[ty .. 'Tensor'], torch.LongTensor, torch.ByteTensor, torch.IntTensor
local answers = {}
local function shown(x)
   if not torch.isTensor(x) then return {torch.type(x), x} end
   return {torch.type(x), table.concat(x:size():totable(), ' '), x:clone()}
end
for _, call in ipairs(calls) do
   for round = 1, 2 do
      torch.manualSeed(7)
      local function new(...) return T(...):copy(L(...):random(1, 9)):div(ty == 'Float' and 4 or 1) end
      local m = new(6, 6)
      local pool = {new(6, 6), new(6, 6), new(6, 6), new(6, 6)}
      if round == 2 then
         for k, t in ipairs(pool) do pool[k] = t:t() end
         if ty ~= 'Byte' then pool[1]:add(-5) end
      end
      local env = {
         torch = torch, T = T, L = L, B = B, new = new, a = pool[1], b = pool[2], c = pool[3], d = pool[4],
         v = new(6), w = new(6), p = new(2, 6, 6), q = new(2, 6, 6),
         places = L(6, 6):random(1, 6), order = I(),
      }
      local run = setfenv(assert(loadstring('return ' .. call)), env)
      local found = {pcall(run)}
      local first, second = found[1] and shown(found[2]) or 'error', found[3] ~= nil and shown(found[3]) or 'none'
      answers[#answers + 1] = {call, first, second, env.a:clone()}
   end
end
return answers
"""


def _loops(function: Function, ty: str) -> dict[tuple[str, ...], tuple[_Pattern, bool]]:
    """Return each loop of a type with a call that leads to it, a method where there is one."""
    found: dict[tuple[str, ...], tuple[_Pattern, bool]] = {}
    for (of, method), patterns in sorted(function._patterns.items()):
        found |= {(*p.small, *(str(arg.dim) for arg in p.args)): (p, method) for p in patterns if of == ty and p.small}
    return found


def _calls(ty: str, known: str = "") -> list[str]:
    """Return a call for every loop of a type that another type does not have."""
    calls = []
    for name, function in FUNCTIONS.items():
        others = _loops(function, known)
        calls += [_call(name, *found) for loop, found in _loops(function, ty).items() if loop not in others]
    return [call for call in calls if call and not any(f".{name}(" in call for name in LAPACK)]


def _call(name: str, pattern: _Pattern, method: bool) -> str:
    names = {None: iter("abcd"), 1: iter("vw"), 2: iter("abcd"), 3: iter("pq"), 4: iter(["p:repeatTensor(2, 1, 1, 1)"])}
    words = []
    for k in pattern.given:
        arg = pattern.args[k]
        if arg.kind == "i":
            words.append("2")
        elif arg.kind == "c":
            words.append(f"'{arg.letters[-1]}'")
        elif arg.kind in ("r", "R"):
            words.append("new(6, 6)")
        elif arg.kind in ARGUMENTS:
            words.append(ARGUMENTS[arg.kind])
        else:
            word = next(names[arg.dim], None)
            if word is None:
                return ""
            words.append(word)
    if method:
        return f"{words[0]}:{name}({', '.join(words[1:])})" if words and not words[0][0].isdigit() else ""
    return f"torch.{name}({', '.join(words)})"


def _same(a: object, b: object, ty: str) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        tolerance = 1e-5 if ty == "Float" else 1e-11
        return a.dtype == b.dtype and torch.allclose(
            a.double(), b.double(), rtol=tolerance, atol=tolerance, equal_nan=True
        )
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(_same(x, y, ty) for x, y in zip(a, b, strict=True))
    if isinstance(a, float) or isinstance(b, float):
        return _same(torch.tensor(a), torch.tensor(b), ty)
    return a == b


@pytest.mark.parametrize(("ty", "known", "least"), [("Float", "", 120), ("Char", "Float", 20)])
def test_loops_are_what_pytorch_computes(ty: str, known: str, least: int) -> None:
    calls = _calls(ty, known)
    assert len(calls) >= least
    fast, slow = (LuaBridge(runtime=name).execute(CODE, ty, calls) for name in ("luajit21", "lua51"))
    different = [(a, b) for a, b in zip(fast, slow, strict=True) if not _same(a, b, ty)]
    assert not different, different[:3]


def test_every_family_that_a_declaration_names_is_loaded() -> None:
    families = LuaBridge(runtime="luajit21")._runtime.bridge["native"]["families"]
    named = {p.small[0] for f in FUNCTIONS.values() for ps in f._patterns.values() for p in ps if p.small}
    assert [name for name in sorted(named) if families[name] is None] == []


#: views, draws and others that LuaJIT answers without a declared loop; x is 2 x 3 x 4, m 2 x 3, n its transposed
WITHOUT_A_DECLARATION = """
x:sub(1, 2, 2, -1)|x:sub(-1, -1)|x:sub(2, 1)|x:unfold(3, 2, 2)|x:unfold(1, 3, 1)|x:permute(3, 1, 2)|x:permute(1, 1, 2)
x:permute(1, 2, 3):isSetTo(x)|x.new(x):isSetTo(x)|x:isSize(x:size())|x:isSize(m:size())|x:elementSize()
x:typeAs(torch.IntTensor())|x:narrow(1, 1, 1):squeeze()|x:narrow(2, 1, 1):squeeze(2)|x:squeeze(9)
torch.Tensor(1):fill(3):squeeze()|x:cmod(x:clone():fill(2)):nonzero()|n:nonzero()|m:dot(n:t())|m:t():dot(n)
m[1] * m[2]|n:select(1, 1) * m:select(2, 1)|torch.gather(x, 1, L(1, 3, 4):fill(2))
torch.gather(x.new(1, 3, 4), x, 1, L(1, 3, 4):fill(2))|n:clone():t():ger(n:select(1, 1), m[1])
n:addr(2, 3, m[1], n:select(1, 1))|torch.rand(2, 3)|m:rand(2)|torch.rand(L(3):storage():fill(2))
torch.randn(torch.FloatTensor(), 4)|torch.randperm(7)|torch.IntTensor():randperm(5)|torch.randperm(L(), 4)
n:bernoulli(n:clone():fill(0.3))|torch.bernoulli(n)|torch.multinomialAliasSetup(m[1]:div(6))|A(m[1]:div(6))
x:topk(2, 3, true)|x:topk(2, 3, false, true)|x:kthvalue(2, 2)
"""


def test_what_needs_no_declaration_is_what_python_answers() -> None:
    calls = [call for line in WITHOUT_A_DECLARATION.strip().splitlines() for call in line.split("|")]
    code = """
        L = torch.LongTensor
        function A(p)  -- draws by the alias method
           local r = L(9)
           torch.multinomialAlias(r, torch.multinomialAliasSetup(p))
           return r
        end
        local answers = {}
        for k, call in ipairs(...) do
           torch.manualSeed(5)
           x, m, n = torch.range(1, 24):view(2, 3, 4), torch.range(1, 6):view(2, 3), torch.range(1, 6):view(2, 3):t()
           local found = {pcall(assert(loadstring('return ' .. call)))}
           for i = 1, 3 do found[i] = tostring(torch.type(found[i]) == 'table' and found[i][1] or found[i]) end
           answers[k] = call .. ': ' .. table.concat(found, ' ')
        end
        return answers
        """
    fast, slow = (LuaBridge(runtime=name).execute(code, calls) for name in ("luajit21", "lua51"))
    assert fast == slow
    assert "false" not in "".join(line for line in fast if not line.startswith(("x:", "x.")))
