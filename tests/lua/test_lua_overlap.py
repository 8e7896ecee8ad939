"""Products whose result is one of their factors, and indices into their own source; the numbers are Torch7's."""

from __future__ import annotations

import pytest

pytest.importorskip("lupa")

from dpnn_bridge.lua import LuaBridge

CASES = [
    ('r = T("Int",{1,2,3,4},2,2) r:addmm(2,3,r,T("Int",{1,-1,2,0},2,2))', "17 -47 39 -109"),
    ('r = T("Long",{1,2,3,4},2,2) r:addmm(T("Long",{5,6,7,8},2,2),T("Long",{1,-1,2,0},2,2):t(),r)', "24 28 -17 -20"),
    ('r = T("Int",{1,2,3},3) r:addmv(T("Int",{1,2,3,4,5,6,7,8,9},3,3),r)', "15 90 855"),
    ('r = T("Int",{1,2,3},3) r:addmv(2,1,T("Int",{1,2,3,4,5,6,7,8,9},3,3):t(),r)', "456 528 600"),
    ('r = T("Int",{1,2,3},1,3):expand(2,3) r:addr(2,1,T("Int",{1,2},2),T("Int",{3,4,5},3))', "13 20 27 13 20 27"),
    ('r = T("Int",{1,2,3,4,5,6,7,8},2,2,2) r:baddbmm(r,r)', "8 26 39 1034 72 486 567 275634"),
    (
        'r = T("Int",{1,2,3,4},2,2) r:addbmm(T("Int",{1,2,3,4,5,6,7,8},2,2,2),r:view(1,2,2):expand(2,2,2))',
        "282 408 2325 3360",
    ),
    ('r = T("Double",{1,2,3,4},2,2) r:addmm(2,3,r,T("Double",{1,-1,2,0},2,2))', "32 -2 72 -10"),
    ('r = T("Float",{1,2,3,4},2,2) r:addmm(T("Float",{5,6,7,8},2,2),r,r)', "72 84 98 114"),
    ('r = T("Double",{1,2,3},3) r:addmv(2,1,T("Double",{1,2,3,4,5,6,7,8,9},3,3),r)', "30 68 106"),
    ('r = T("Double",{1,2,3,4},2,2) r:mm(r,r)', "0 0 0 0"),
    (
        'r = T("Byte",{1,2,3,4,5,6,7,8},2,4) local s = r:narrow(2,1,2) s:addmm(r:narrow(2,2,2),s)',
        "18 24 3 4 148 192 7 8",
    ),
    ('r = T("Double",{1,2,3,4,5,6,7,8},2,2,2):select(3,1) r:addmm(2,1,r,r)', "18 30 50 78"),
    ("r = torch.range(1, 6) local s = r:narrow(1, 2, 4) s:index(r, 1, torch.LongTensor{3, 2, 1})", "1 3 3 1 5 6"),
    ("r = torch.IntTensor{1, 2, 3} r:indexFill(-1, torch.LongTensor{2}, 7)", "1 7 3"),
]


@pytest.mark.parametrize(("code", "expected"), CASES)
def test_a_result_that_is_a_source(code: str, expected: str) -> None:
    found = LuaBridge().execute(
        """
        local code = ...
        function T(kind, values, ...) return torch[kind .. 'Tensor'](values):view(...) end
        assert(loadstring(code))()
        return table.concat(r:clone():view(-1):totable(), ' ')
        """,
        code,
    )
    assert found == expected
