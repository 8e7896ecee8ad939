"""Results that overlap their sources: products, indices, functions along a dimension. The numbers are Torch7's."""

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


#: V(x, offset, sizes ..., strides ...) is a view of the memory of x; L() an index to be filled
ALONG_A_DIMENSION = [
    ("r = torch.range(1, 12) torch.sum(V(r, 2, 1, 1, 4, 1), V(r, 1, 3, 4, 4, 1), 1)", "1 11 17 19 21 6 7 8 9 10 11 12"),
    ("r = torch.range(1, 12) torch.sum(V(r, 2, 3, 1, 1, 1), V(r, 1, 3, 3, 3, 1), 2)", "1 6 15 24 5 6 7 8 9 10 11 12"),
    (
        "r = torch.range(1, 12):int() torch.prod(V(r, 4, 1, 4, 4, 1), V(r, 1, 3, 4, 4, 1), 1)",
        "1 2 3 18 60 33 96 8 9 10 11 12",
    ),
    (
        "r = torch.range(1, 12) torch.mean(V(r, 3, 3, 1, 1, 1), V(r, 1, 3, 4, 4, 1), 2)",
        "1 2 2.5 6.5 10.5 6 7 8 9 10 11 12",
    ),
    (
        "r = torch.range(12, 1, -1) torch.max(V(r, 2, 1, 4, 4, 1), L(), V(r, 1, 3, 4, 4, 1), 1)",
        "12 12 12 12 12 7 6 5 4 3 2 1",
    ),
    (
        "r = torch.range(12, 1, -1) torch.min(V(r, 3, 3, 1, 1, 1), L(), V(r, 1, 3, 4, 4, 1), 2)",
        "12 11 9 5 1 7 6 5 4 3 2 1",
    ),
    ("r = torch.range(1, 12) torch.var(V(r, 2, 3, 1, 1, 1), V(r, 1, 3, 3, 3, 1), 2)", "1 1 1 1 5 6 7 8 9 10 11 12"),
    (
        "r = torch.range(1, 12) torch.norm(V(r, 2, 1, 3, 3, 1), V(r, 1, 3, 3, 3, 1), 1, 1)",
        "1 12 25 40 5 6 7 8 9 10 11 12",
    ),
    (
        "r = torch.range(1, 12):int() torch.cumsum(V(r, 3, 2, 4, 4, 1), V(r, 1, 2, 4, 4, 1), 2)",
        "1 2 1 3 4 7 4 11 15 26 11 12",
    ),
    ("r = torch.range(1, 12) torch.cumprod(V(r, 2, 2, 2, 2, 1), V(r, 1, 2, 2, 1, 2), 1)", "1 1 3 1 3 6 7 8 9 10 11 12"),
    (
        "r = torch.range(1, 12) torch.renorm(V(r, 2, 2, 3, 3, 1), V(r, 1, 2, 3, 3, 1), 1, 1, 4)",
        "1 0.66666665555556 0.44444442962963 0.29629628148148 0.1049180267498 0.037151300995181 "
        "0.013155214679418 8 9 10 11 12",
    ),
    ("r = torch.range(1, 12) torch.histc(V(r, 5, 4, 1), V(r, 1, 12, 1), 4, 1, 8)", "1 2 3 4 4 2 0 0 9 10 11 12"),
    (
        "r = torch.range(12, 1, -1) torch.sort(V(r, 2, 2, 4, 4, 1), L(), V(r, 1, 2, 4, 1, 2))",
        "12 6 8 10 12 8 12 12 12 3 2 1",
    ),
    (
        "r = torch.range(12, 1, -1) torch.topk(V(r, 2, 3, 2, 2, 1), L(), V(r, 1, 3, 4, 4, 1), 2, 2, true, true)",
        "12 12 11 8 7 4 3 5 4 3 2 1",
    ),
    (
        "r = torch.range(12, 1, -1) torch.median(V(r, 2, 3, 1, 1, 1), L(), V(r, 1, 3, 4, 4, 1), 2)",
        "12 10 6 2 8 7 6 5 4 3 2 1",
    ),
    (
        "r = torch.IntTensor{1, 1, 2, 2, 2, 3, 1, 1, 1, 3, 3, 2} torch.mode(V(r, 5, 3, 1, 1, 1), L(), V(r, "
        "1, 3, 4, 4, 1), 2)",
        "1 1 2 2 1 1 3 1 1 3 3 2",
    ),
    (
        "r = torch.range(1, 12) torch.cross(V(r, 2, 3, 2, 2, 1), V(r, 1, 3, 2, 2, 1), V(r, 4, 3, 2, 2, 1), 1)",
        "1 -6 318 12 -96 -30 1110 8 9 10 11 12",
    ),
    ("r = torch.range(1, 12) torch.tril(V(r, 2, 3, 3, 3, 1), V(r, 1, 3, 3, 3, 1))", "1 1 0 0 0 0 0 0 0 0 11 12"),
    ("r = torch.range(1, 12) torch.triu(V(r, 4, 3, 3, 3, 1), V(r, 1, 3, 3, 3, 1))", "1 2 3 1 2 3 0 2 3 0 0 3"),
    ("r = torch.range(1, 12) torch.diag(V(r, 2, 3, 3, 3, 1), V(r, 3, 3, 1))", "1 0 0 0 0 0 0 0 0 0 11 12"),
    (
        "r = torch.range(1, 12) torch.match(V(r, 2, 2, 2, 2, 1), V(r, 1, 2, 2, 2, 1), V(r, 5, 2, 2, 2, 1), 1)",
        "1 32 612 368453 135752084050 6 7 8 9 10 11 12",
    ),
    (
        "r = torch.range(1, 12) torch.cat(V(r, 2, 2, 4, 4, 1), V(r, 3, 2, 2, 1, 2), V(r, 1, 2, 2, 2, 1), 2)",
        "1 3 5 1 3 4 4 5 1 10 11 12",
    ),
    ("r = torch.range(1, 12) V(r, 3, 10, 1):copy(V(r, 1, 10, 1))", "1 2 1 2 3 4 3 4 7 8 7 8"),
    ("r = torch.range(1, 12):int() V(r, 3, 10, 1):copy(V(r, 1, 10, 1))", "1 2 1 2 1 2 1 2 1 2 1 2"),
    (
        "local m = torch.range(1, 12):view(3, 4) torch.match(torch.Tensor(), m:view(3, 2, 2), m, 1) local a "
        "= m:view(3, 2, 2) torch.match(torch.Tensor(), a, m, 1) r = torch.Tensor{a:dim(), a:size(2)}",
        "2 4",
    ),
    ("r = torch.Tensor(4097):fill(-0):pow(-1) r = torch.Tensor{r[1], r[4097]}", "-inf -inf"),
    ("local x = torch.ones(4097):mul(-0) x = x:cinv() r = torch.Tensor{x[4097]}", "-inf"),
    (
        "local a = torch.Tensor{{1, -9, -7}, {-7, 0, 3}, {-4, -3, 6}, {4, 3, -6}}:t() local b = "
        "torch.Tensor{{8, 8, 8}}:t() torch.gels(b, a, b, a) r = b:clone():mul(1000):floor()",
        "-1177 -1804 431 -432",
    ),
    (
        "local x = torch.range(1, 200):float():view(1, 200):div(7) r = torch.renorm(x, 2, 1, 5):narrow(2, "
        "190, 3):clone():mul(2 ^ 24)",
        "9723753 9774931 9826108",
    ),
]


def test_a_result_along_a_dimension_that_overlaps_its_source() -> None:
    found = LuaBridge().execute(
        """
        function V(x, offset, ...)
           local n, a, sizes, strides = select('#', ...) / 2, {...}, {}, {}
           for k = 1, n do sizes[k], strides[k] = a[k], a[n + k] end
           return x.new(x:storage(), offset, torch.LongStorage(sizes), torch.LongStorage(strides))
        end
        L = torch.LongTensor
        local found = {}
        for k, code in ipairs(...) do
           assert(loadstring(code))()
           found[k] = table.concat(r:clone():view(-1):totable(), ' ')
        end
        return found
        """,
        [code for code, _ in ALONG_A_DIMENSION],
    )
    different = [(code, a, b) for (code, a), b in zip(ALONG_A_DIMENSION, found, strict=True) if a != b]
    assert not different


#: E is 2 x 3 with rows that share memory, as x:expand(2, 3) has them. C is 3 x 2 with columns that share memory, the
#: rows of U overlap, and S is a source of 3 x 2. r is shown.
ONE_AFTER_THE_OTHER = [
    ("E:maskedFill(B{{1, 0, 1}, {0, 0, 0}}, 5) r = E[1]", "5 0 5"),
    ("E[B{{1, 0, 1}, {0, 0, 0}}] = 7 r = E[1]", "7 0 7"),
    ("E:maskedCopy(B{{1, 0, 1}, {0, 1, 1}}, D{1, 2, 3, 4}) r = E[1]", "1 3 4"),
    ("E:indexCopy(1, L{1, 2}, D{{1, 2, 3}, {4, 5, 6}}) r = E[1]", "4 5 6"),
    ("E:indexAdd(1, L{1, 2}, D{{1, 2, 3}, {4, 5, 6}}) r = E[1]", "5 7 9"),
    ("E:indexAdd(2, L{1, 1}, D{{1, 2}, {3, 4}}) r = E[1]", "10 0 0"),
    ("E.tril(E, D{{3, 2, 1}, {6, 5, 4}}) r = E[1]", "6 5 0"),
    ("r = D{1, 2, 3} r:indexAdd(1, L{2, 3, 1}, r)", "7 3 6"),
    ("r = D{1, 2, 3} r:indexCopy(1, L{2, 3, 1}, r)", "1 1 1"),
    ("r = D{{1, 2}, {3, 4}} r:indexCopy(2, L{2, 1}, r:t())", "3 1 1 1"),
    ("r = torch.range(1, 6) r:narrow(1, 2, 4):indexAdd(1, L{1, 2, 3, 4}, r:narrow(1, 1, 4))", "1 3 6 10 15 6"),
    ("r = D(2, 3):zero() r:indexAdd(2, L{1, 2}, D{{{1, 2}, {3, 4}}})", "1 3 0 2 4 0"),
    ("r = D(2, 3):zero() r:indexCopy(1, L{1, 2}, D(2, 1, 3):fill(3))", "3 3 3 3 3 3"),
    ("r = D{1, 2, 3} pcall(r.maskedFill, r, B{1, 2, 1}, 7)", "7 2 3"),
    ("r = D{1, 2, 3} pcall(r.maskedCopy, r, B{1, 2, 1}, D{7, 8, 9})", "7 2 3"),
    ("r = D(1) pcall(r.maskedSelect, r, D{1, 2, 3}, B{1, 1}) r = D{r:size(1)}", "2"),
    ("r = D(6):zero() D(r:storage(), 1, 3, 2):maskedSelect(D{7, 8, 9}, B{1, 1, 1})", "7 8 9 0 0 0"),
    ("r = D{1, 2, 3, 4} r:narrow(1, 2, 2):maskedSelect(r, B{1, 1, 0, 0})", "1 1 1 4"),
    ("r = D{{1, 0}, {0, 5}} local p = r:select(2, 1) r = torch.multinomial(p, 4, true):double():cat(p)", "1 1 1 1 1 0"),
    (
        "local v = L(4, 2):zero():select(2, 1) D{0, 0, 1}.multinomial(v, D{0, 0, 1}, 4, true) "
        "r = v:clone():cat(L(v:stride()))",
        "3 3 3 3 1",
    ),
    ("r = D{1, 2, 3} pcall(torch.multinomial, r, 0) r = D{r:dim()}", "2"),
    ("r = F(1):zero() pcall(F.cat, r, D{1}, D{2})", "0"),
    ("r = torch.range(1, 6):view(1, 2, 3):expand(2, 2, 3) r:reshape(r, 3, 2)", "1 2 3 4 5 6"),
    ("r = torch.range(1, 6) r:narrow(1, 2, 2):reshape(r, 3, 2)", "1 1 1 1 1 1"),
    ("r = C:sort(S)", "2 2 5 5 6 6"),
    ("r = C:tril(S)", "1 1 5 5 6 6"),
    ("r = U:triu(S)", "1 0 0 0 0 0"),
    ("r = C:addcmul(S, S, I{{1, 1}, {2, 1}, {1, 3}})", "5 5 16 16 28 28"),
    ("r = I{{3, 1, 2}}:expand(2, 3):cross(I{{1, 2, 3}, {5, 4, 6}}, I{{1, 1, 2}, {1, 1, 3}})", "6 -9 1 6 -9 1"),
    ("r = U:gather(S, 1, L{{1, 3}, {2, 1}, {3, 3}})", "1 6 6 2 2 6"),
    ("r = U:scatter(1, L{{1, 3}, {2, 1}, {3, 2}}, S)", "1 5 5 6 6 2"),
    ("r = U U:index(S, 2, L{2, 1})", "2 1 1 3 3 4"),
    ("r = U U:indexCopy(2, L{2, 1}, S)", "2 5 5 6 6 4"),
    ("r = U:mm(S, I{{1, 1}, {2, 1}})", "5 13 13 16 16 10"),
    ("r = D{{1}, {2}, {3}}:expand(3, 2) r:ger(D{1, 2, 3}, D{1, 2})", "0 0 0 0 0 0"),
    ("r = C:eye(3, 2)", "1 1 1 1 0 0"),
]
#: results for elements beyond 2 ^ 53, which no number of Lua is; a is 2 ^ 53 + 3, 1, 2, 3
LONGS = [
    ("r = a:sort():add(-2 ^ 53)", "1 2 3 3"),
    ("r = a:sort(1, true):add(-2 ^ 53)", "3 3 2 1"),
    ("r = a:topk(2):add(-2 ^ 53)", "1 2"),
    ("r = a:kthvalue(1):add(-2 ^ 53)", "1"),
    ("r = a:median():add(-2 ^ 53)", "2"),
    ("r = a:mode():add(-2 ^ 53)", "3"),
    ("r = a:mul(-1):sort():add(2 ^ 53)", "-3 -3 -2 -1"),
]


@pytest.mark.parametrize("runtime", ["luajit21", "lua51"])
def test_both_runtimes_visit_elements_in_the_order_of_torch7(runtime: str) -> None:
    cases = ONE_AFTER_THE_OTHER + LONGS
    found = LuaBridge(runtime=runtime).execute(
        """
        D, F, L, B, I = torch.DoubleTensor, torch.FloatTensor, torch.LongTensor, torch.ByteTensor, torch.IntTensor
        local found = {}
        for k, code in ipairs(...) do
           C, U, S = I{{3}, {1}, {2}}:expand(3, 2), I{1, 2, 3, 4}:unfold(1, 2, 1), I{{1, 2}, {3, 5}, {4, 6}}
           E, a = D(1, 3):zero():expand(2, 3), L(4):fill(2 ^ 53):add(L{3, 1, 2, 3})
           assert(loadstring(code))()
           found[k] = table.concat(r:clone():view(-1):totable(), ' ')
        end
        return found
        """,
        [code for code, _ in cases],
    )
    assert [(code, b) for (code, a), b in zip(cases, found, strict=True) if a != b] == []
