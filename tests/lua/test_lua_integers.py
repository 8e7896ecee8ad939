"""Integer arithmetic as C does it. The expected values are those that Torch7 printed."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("lupa")

from dpnn_bridge.lua import LuaBridge
from dpnn_bridge.lua.ops.integers import quotient

#: type -> what rshift(3) makes of -100, 100, -7, -1
SHIFTED = {
    "Byte": [19, 12, 31, 31],
    "Char": [19, 12, 31, 31],
    "Short": [8179, 12, 8191, 8191],
    "Int": [536870899, 12, 536870911, 536870911],
    "Long": [2305843009213693939, 12, 2305843009213693951, 2305843009213693951],
}


@pytest.mark.parametrize("runtime", ["luajit21", "lua51"])
@pytest.mark.parametrize("ty", SHIFTED)
def test_rshift_has_no_sign(ty: str, runtime: str) -> None:
    values = LuaBridge(runtime=runtime).execute(
        f"local T = torch.{ty}Tensor local x, n = T{{-100, 100, -7, -1}}, T(4):fill(3)\n"
        "return x:clone():rshift(3), x:clone():crshift(n), torch.rshift(x, 3), x:clone():rshift(0), x"
    )
    assert [v.tolist() for v in values[:3]] == [SHIFTED[ty]] * 3
    assert values[3].tolist() == values[4].tolist()


@pytest.mark.parametrize(
    ("ty", "base", "power", "result"),
    [
        *(("Int", *p, -(2**31)) for p in [(3, 25), (-5, 20), (2, 31), (2, 63), (-3, 41), (0, -1), (2, 40)]),
        *((ty, *p, 0) for ty in ("Byte", "Char", "Short") for p in [(3, 25), (2, 40)]),
        ("Char", 10, 3, -24),
        ("Byte", 7, 8, 193),
        ("Int", -2, 31, -(2**31)),
        ("Long", 3, 25, 3**25),
        ("Long", 2, 63, -(2**63)),
        ("Long", -1, -3, -1),
    ],
)
def test_cpow_converts_as_c_does(ty: str, base: int, power: int, result: int) -> None:
    found = LuaBridge().execute(f"return torch.{ty}Tensor{{{base}}}:cpow(torch.{ty}Tensor{{{power}}})")
    assert found.tolist() == [result]


@pytest.mark.parametrize(
    ("ty", "arguments", "result"),
    [
        ("Byte", (200, 2, 200, 3), 77),
        ("Byte", (5, 250, 250, 9), 37),
        ("Byte", (-3, -100, 90, 4), 179),
        ("Char", (100, 3, 50, -7), 79),
        ("Char", (-3, -100, 90, 4), 51),
        ("Short", (5, 30000, 250, 9), None),
        ("Int", (5, 250, 250, 9), 6949),
    ],
)
def test_addcdiv_multiplies_in_an_int(ty: str, arguments: tuple[int, ...], result: int | None) -> None:
    x, value, y, z = arguments
    if result is None:  # 5 + 7500000 / 9, cut to 16 bits
        result = (5 + 7500000 // 9 + 2**15) % 2**16 - 2**15
    code = "local T = torch.{0}Tensor return T{{{1}}}:addcdiv({2}, T{{{3}}}, T{{{4}}})"
    assert LuaBridge().execute(code.format(ty, x, value, y, z)).tolist() == [result]


@pytest.mark.parametrize("name", ["uniform", "normal", "cauchy", "logNormal"])
def test_real_numbers_are_not_drawn_for_an_integer_default_type(name: str) -> None:
    found = LuaBridge().execute(
        f"torch.setdefaulttensortype('torch.IntTensor') local a, b = pcall(torch.{name}), pcall(torch.{name}, 1, 2)\n"
        f"torch.setdefaulttensortype('torch.FloatTensor') return a, b, (pcall(torch.{name}))"
    )
    assert found == (False, False, True)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_the_lowest_integer_divided_by_minus_one_does_not_stop_the_program(dtype: torch.dtype) -> None:
    lowest = torch.iinfo(dtype).min
    x, expected = torch.tensor([lowest, -7, 7], dtype=dtype), [lowest, 7, -7]
    assert quotient(x, -1).tolist() == expected
    assert quotient(x, torch.full_like(x, -1)).tolist() == expected
    assert quotient(x[1:], torch.tensor([2, -2], dtype=dtype)).tolist() == [-3, -3]
