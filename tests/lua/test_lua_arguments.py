"""Numbers and letters as arguments: strings, the element type, overflow. The expected texts are what Torch7 printed."""

from __future__ import annotations

import pytest

pytest.importorskip("lupa.luajit21")

from dpnn_bridge.lua import LuaBridge

RUNTIMES = ("luajit21", "lua51")
BRIDGES = {name: LuaBridge(runtime=name) for name in RUNTIMES}
CODE = """
D, F, L, I, B = torch.DoubleTensor, torch.FloatTensor, torch.LongTensor, torch.IntTensor, torch.ByteTensor
local function text(x)
   if type(x) == 'number' then return x ~= x and 'nan' or ('%.17g'):format(x) end
   if torch.isTensor(x) then x = x:dim() > 0 and x:clone():view(-1):totable() or {} end
   if torch.isStorage(x) then x = x:totable() end
   if type(x) ~= 'table' then return tostring(x) end
   for i = 1, #x do x[i] = text(x[i]) end
   return table.concat(x, ' ')
end
local found = {}
for k, code in ipairs(...) do
   torch.manualSeed(1)
   local answer = {pcall(assert(loadstring(code)))}
   torch.setdefaulttensortype 'torch.DoubleTensor'
   found[k] = answer[1] and text {unpack(answer, 2)} or 'error'
end
return found
"""

#: elements of integers read a string as C's strtol, other arguments as Lua
STRINGS = [
    ('return I{"0x10", "010", "1e2", "3.7", "-5"}', "16 8 1 3 -5"),
    ('local x = I(3):zero() x[1], x[2], x[{3}] = "0x10", "010", "-5abc" return x', "16 8 -5"),
    ('local x = I(2, 2):zero() x[1] = "010" x[{2}] = "010" return x', "8 8 10 10"),
    ('local x = I(2):zero() x[B{1, 0}] = "010" return x', "8 0"),
    ('local x = I(2):zero() x[B{1, 0}] = "abc" return x', "error"),
    ('local x = I(1):zero() x[1] = "12abc" return x', "error"),
    ('return I(1):fill(3) * "1e2", I(1):fill(3) - "010", I(1):fill(30) / "010"', "3 -5 3"),
    ('local s = torch.IntStorage(2):fill("010") s[2] = "12abc" return s', "8 12"),
    ('return torch.LongStorage{"3", "0x10"}, torch.DoubleStorage{"1e2"}', "3 16 100"),
    ('return torch.LongStorage{"x"}', "error"),
    ('return I(1):fill("010"), D(1):fill("-0x10"), D(1):fill(" 0x1p4 ")', "10 -16 16"),
    ('return D(2):fill("1_0")', "error"),
    ('return torch.zeros("2.7")', "0 0"),
    ("return torch.CharStorage():string(1 / 3):string()", "0.33333333333333"),
    ('return torch.conv2(D(2, 2):fill(1), D(2, 2):fill(1), "Full")', "1 2 1 2 4 2 1 2 1"),
    ('return torch.conv2(D(2, 2):fill(1), D(2, 2):fill(1), "full")', "error"),
    ('return (torch.symeig(D{{2, 0}, {0, 3}}, "N", "Upper"))', "2 3"),
]
OF_THE_DEFAULT_TYPE = [
    (
        'torch.setdefaulttensortype("torch.FloatTensor") return torch.sqrt(2), torch.pow(2, 0.5), torch.abs(-0.1)',
        "1.4142135381698608 1.4142135381698608 0.10000000149011612",
    ),
    (
        'torch.setdefaulttensortype("torch.FloatTensor") return torch.atan2(1, 2), torch.lerp(0.1, 0.3, 0.7)',
        "0.46364760398864746 0.24000000953674316",
    ),
    ('torch.setdefaulttensortype("torch.IntTensor") return torch.abs(-2.7), torch.abs(3)', "2 3"),
    ("return torch.exp(1000), torch.log(0), torch.cosh(1000)", "inf -inf inf"),
]
OVERFLOWS = [
    ("return F(2):fill(1e300), F{1e300, -1e300}, torch.FloatStorage(1):fill(-1e300)", "inf inf inf -inf -inf"),
    ("local x = F(2, 2):zero() x[1], x[{2, 2}] = -1e300, 1e300 return x", "-inf -inf 0 inf"),
    ("local x = F(3):zero() x:maskedFill(B{1, 0, 0}, 1e300) x:indexFill(1, L{2}, -1e300) return x", "inf -inf 0"),
    ("return F{1, 2}:clamp(-1e300, 1e300), F{1}:cmax(1e300), F{1}:mul(-1e300), F{1}:gt(1e300)", "1 2 inf -inf 0"),
    ("return F(1, 2):expand(2, 2):fill(1e300), F(1, 1):fill(1):scatter(1, L{{1}}, 1e300)", "inf inf inf inf inf"),
    ("return torch.HalfTensor(1):fill(1e6):float(), torch.HalfStorage{1e6, 65519, 65520}", "inf inf 65504 inf"),
    ("return F{1e-30, 1}:lshift(200), F{1e-30}:rshift(-200), F{1e30}:crshift(F{-200})", "inf inf inf inf"),
    ("return D{1}:lshift(2000), D{1}:rshift(2000), F{3}:lshift(0.5)", "inf 0 4.242640495300293"),
    (
        "return torch.exponential(0), D(1):exponential(0), torch.logNormal(1000, 1), D(1):logNormal(1000, 1)",
        "inf inf inf inf",
    ),
    ("return torch.pow(0, -1), torch.pow(10, 400)", "inf inf"),
]
ROUNDED = [
    (
        "return D{0.1, 0.2, 0.7, 1.1}:pow(-2)",
        "99.999999999999986 24.999999999999996 2.0408163265306127 0.82644628099173545",
    ),
    ("return D{1e-160, 0, 1 / 0}:pow(-2)", "inf inf 0"),
    (
        "return F{{0.3, 0.4}, {0.1, 0.7}}:renorm(2, 1, 0.1)",
        "0.059999991208314896 0.079999983310699463 0.01414213515818119 0.098994940519332886",
    ),
    (
        "return F{{0.1, 0}}:renorm(1, 1, 0.1), F{{0.7, 0}}:renorm(1, 1, 0.7)",
        "0.10000000149011612 0 0.69999998807907104 0",
    ),
    (
        "return F():linspace(0.1, 1.7, 5)",
        "0.10000000149011612 0.5 0.90000003576278687 1.3000000715255737 1.7000000476837158",
    ),
    ("return torch.pow(0.1, F{0.3, 1.3, 11.1})", "0.50118720531463623 0.050118729472160339 7.94327711245435e-12"),
    ("return F{0.3, 0.4, 0.9}:norm(3.3), F{0.3, 0.4, 0.9}:norm(1.7, 1)", "0.92521524429321289 1.0999414920806885"),
    ("return torch.range(0, 1.9999999999999998)", "0 1 2"),
    ("return torch.asin(0.3), torch.tanh(0.7), torch.acos(2)", "0.30469265401539752 0.60436777711716361 nan"),
    ("return F():linspace(0.1, 3.7, 60):dist(F(60):fill(0.3), 0.7)", "515.59100341796875"),
    ("local t = D{0.1, 0.2, 0.3} return t:add(0.1, t)", "0.11 0.22 0.33000000000000002"),
    ("return D(1, 1):linspace(2, 2, 1)", "error"),
    ("local x = D{{1, 2}, {3, 4}} return x[{0.5}], x[{0.5, 2}], x[{{}, {0.5, 1}}], x[{-1.5, 1}]", "1 2 2 1 3 3"),
    ("return D{1, 2}[{-0.5}]", "error"),
    ("return D(1, 2):permute(1.5, 2)", "error"),
    ("return D(1, 2):permute('1', 2)", "error"),
    ("return torch.cat(D{1}, D{2}, false)", "error"),
    ("return torch.cat({D{1}, D{2}}, nil)", "error"),
    ("return torch.cat({D{1}, D{2}, nil, 3}, 1)", "1 2"),
    ("return D{1, 2}:csub(0, D{1 / 0, 0 / 0}), F{1}:csub(0, F{1 / 0}), torch.csub(D{1}, 0, D{1 / 0})", "1 2 1 nan"),
]


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("cases", [STRINGS, OF_THE_DEFAULT_TYPE, OVERFLOWS, ROUNDED])
def test_numbers_as_arguments(cases: list[tuple[str, str]], runtime: str) -> None:
    found = BRIDGES[runtime].execute(CODE, [code for code, _ in cases])
    assert [(code, b) for (code, a), b in zip(cases, found, strict=True) if a != b] == []


#: the numbers of arguments in Torch7's messages
POSITIONS = {
    "D.maskedSelect(D(2), D(2))": 2,
    "D.maskedSelect(D(2), D(2), D(2))": 3,
    "D(2):index(1, 3)": 3,
    "D(2):index('a', L{1})": 2,
    "D(2):index(D(2), 1, 3)": 4,
    "D(2):index(D(2), 'a', L{1})": 3,
    "D(2):index(F(2), 1, L{1})": 2,
}


def test_messages_count_arguments_as_torch7_does() -> None:
    code = f"{CODE.partition('local function')[0]} return select(2, pcall(loadstring('return ' .. ...)))"
    for call, position in POSITIONS.items():
        assert f"bad argument #{position} " in str(BRIDGES["lua51"].execute(code, call)), call


@pytest.mark.parametrize("call", ["zeros(2 ^ 44)", "randperm(2 ^ 44)", "range(1, 2 ^ 44)"])
def test_without_enough_memory_the_message_is_that_of_torch7(call: str) -> None:
    message = BRIDGES["lua51"].execute(f"return select(2, pcall(function() return torch.{call} end))")
    assert "not enough memory" in str(message), message
    assert "Error" not in str(message), message
