"""The torch package in Lua beyond the recorded cases: what Torch7 refuses, orders of equal numbers, files, edges."""

from __future__ import annotations

import gc
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("lupa")

from dpnn_bridge.errors import LuaBridgeError, MissingPackageError, OptionError
from dpnn_bridge.loaders.t7_reader import loads
from dpnn_bridge.lua import Generator, LuaBridge, state
from dpnn_bridge.lua.tensor import Tensor
from dpnn_bridge.objects import LuaTensor

BRIDGE = LuaBridge()


def _run(code: str, *args: object) -> object:
    return BRIDGE.execute(f"local T, I, L = torch.Tensor, torch.IntTensor, torch.LongTensor {code}", *args)


# ---- what Torch7 refuses


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("torch.dot(T(2), T(3))", "inconsistent tensor size"),
        ("torch.cross(T(2, 3), T(3, 2))", "inconsistent tensor size"),
        ("torch.cross(T(2, 2), T(2, 2), 1)", "does not have size 3"),
        ("torch.gesv(T(2, 1), T(2, 3))", r"A should be square, got \[2 x 3\]"),
        ("torch.trtrs(T(3, 1), T(3, 2))", r"A should be square, got \[3 x 2\]"),
        ("torch.diag(T(2, 2, 2))", "matrix or a vector expected"),
        ("torch.cat({})", "invalid arguments"),
        ("torch.cat(T(), T(), 0)", "invalid dimension 0"),
        ("torch.manualSeed('x')", "invalid arguments"),
        ("torch.setheaptracking(1)", "boolean expected"),
        ("torch.cat({T(2), I(2)})", "expected torch.DoubleTensor in tensor array"),
        ("torch.conv2(T(2, 3, 3), T(3, 2, 2))", "invalid number of input/kernel planes"),
        ("torch.conv2(T(2, 3, 3), T(1, 3, 2, 2))", "invalid number of input planes"),
        ("I{1}:div(0)", "division by zero"),
        ("return 1 / T(2)", "expected, got number"),
        ("return 1 % T(2)", "expected, got number"),
        ("T()[1] = 2", "empty tensor"),
        ("T(2):index(1)", "LongTensor expected"),
        ("T(2, 3):indexCopy(1, L{1}, T(1, 2))", "inconsistent tensor size"),
        ("T(2, 3):gather(1, L(2, 2):fill(1))", "same size as input tensor apart from dim"),
        ("T(2, 3):scatter(1, L(2, 3):fill(1), T(1, 3))", "source is smaller than the index"),
        ("torch.inverse(T(3))", "should be 2 dimensional"),
        ("torch.gesv(T(2, 1, 1), T(2, 2))", "should have 1 or 2 dimensions"),
        ("torch.pstrf(T{{1, 1}, {1, 1}})", "rank deficient"),
        ("torch.mean(T())", "empty Tensor"),
        ("torch.std(T())", "empty Tensor"),
        ("torch.dist(T(2), T(3))", "inconsistent tensor size"),
        ("torch.match(T(2, 3), T(2, 2))", "same inner vector dim"),
        ("torch.renorm(T(3), 2, 1, 1)", "need at least 2 dimensions"),
        ("torch.renorm(T(3, 3), 0, 1, 1)", "non-positive-norm not supported"),
        ("torch.bhistc(T(2, 2, 2))", "the input must be a 2d tensor"),
        ("T{1, 1 / 0}:histc(4)", "no bins from 1 to inf"),  # where Torch7 crashes
        ("T{1, 2}:histc(4, -1 / 0, 3)", "no bins from -inf to 3"),
        ("T{{1e308, -1e308}}:bhistc(4)", "no bins from -1e.308 to 1e.308"),
        ("T{1e17}:histc(4)", "no bins"),
        ("T{1, 2}:histc(0)", "0 bins"),
        ("T():histc(4)", "tensor must have one dimension"),
        ("torch.multinomial(T(1, 1, 2):fill(1), 1)", "prob_dist must be 1 or 2 dim"),
        ("torch.multinomialAliasSetup(T{0, 1})", "q_min is less than 0"),
        ("T(2):isSize(2)", "LongStorage expected"),
        ("T():resize(torch.LongStorage{2}, 2)", "LongStorage expected"),
        ("T():resize(torch.LongStorage{2}, torch.LongStorage{1, 1})", "stride and size are inconsistent"),
        ("T(torch.DoubleStorage(2), 0)", "invalid storage offset"),
        ("T():select(1, 1)", "empty Tensor"),
        ("T(2):view()", "torch.view, expected"),
        ("T(2):viewAs(2)", "viewAs: expected"),
        ("torch.IntStorage(torch.LongStorage(2))", "IntStorage expected, got LongStorage"),
        ("torch.IntStorage(torch.IntStorage(2), 3)", "offset out of bounds"),
        ("torch.IntStorage(torch.IntStorage(2), 2, 2)", "size out of bounds"),
        ("torch.IntStorage(-1)", "must not be negative"),
        ("torch.IntStorage(2):copy(T(2))", r"Storage expected, got DoubleTensor"),
        ("torch.setRNGState(torch.ByteTensor(5048):zero())", "invalid RNG state"),
        ("torch.DoubleTensor(2^56)", "not enough memory"),
        ("torch.MemoryFile(torch.IntStorage(2))", "CharStorage expected, got IntStorage"),
        ("torch.MemoryFile():writeInt('three')", "number, or IntStorage expected, got string"),
        ("torch.MemoryFile():writeInt(torch.LongStorage(1))", "number, or IntStorage expected, got LongStorage"),
        ("torch.MemoryFile():readInt(torch.LongStorage(1))", "nothing, number, or IntStorage expected"),
        ("torch.MemoryFile():longSize(3)", "Invalid long size"),
        ("torch.MemoryFile('w'):readInt()", "attempt to read in a write-only file"),
        ("torch.MemoryFile('r'):readString('*l')", "read error: read 0 blocks instead of 1"),
        ("torch.PipeFile('true', 'rw')", "file mode should be 'r','w'"),
        ("torch.PipeFile('true', 'rw', true)", "file mode should be 'r','w'"),
        ("torch.DiskFile('none', 'x', true)", "file mode should be 'r','w' or 'rw'"),
        ("torch.DiskFile()", "string expected, got nil"),
        ("torch.DiskFile({})", "string expected, got table"),
        ("torch.MemoryFile():readByte(-1)", "cannot read -1 elements"),
        ("torch.manualSeed('1_0')", "invalid arguments"),
        ("torch.getRNGState(5)", "ByteTensor"),
        ("torch.getRNGState(torch.FloatTensor())", "ByteTensor"),
        ("torch.zeros(2, 'torch.FloatTensXY')", "invalid arguments"),
        ("T{1}:histc(0 / 0)", "nan bins"),
        ("torch.trtrs(T(2, 1):fill(1), T{{1, 2}, {0, 0}})", r"trtrs : A\(2,2\) is zero, singular A"),
        ("torch.gels(T(2, 1):fill(1), T{{1, 0}, {0, 0}})", "gels : The 2-th diagonal element"),
        ("torch.potri(T{{1, 0}, {0, 0}})", r"potri : A\(2,2\) is 0, A cannot be factorized"),
        ("torch.eig(T{{0 / 0, 1}, {1, 1}})", "NaN"),  # where LAPACK crashes
        ("error('', 0)", "an error with an empty message"),
        ("torch.MemoryFile():writeString()", r"bad argument #2 \(string expected, got nil\)"),
        ("torch.MemoryFile():writeString({})", "string expected, got table"),
        ("torch.MemoryFile():writeString(5)", "string expected, got number"),
        ("torch.MemoryFile():writeInt()", "number, or IntStorage expected, got nil"),
        ("torch.IntStorage(2):fill()", r"number expected, got nil"),
        ("torch.IntStorage(2):resize(-1)", "must not be negative"),
        ("torch.packageLuaPath(5)", "string expected, got number"),
        ("L(2):random(-1e30, 3)", r"bad argument \("),
        ("T(2):narrow(1, 1)", r"bad argument #4 \(number expected, got nil\)"),
        ("T(2):copy()", r"expected, got nil"),
        ("T(2):expandAs(2)", "expandAs: expected"),
        ("T.maskedSelect(T(2))", "ByteTensor expected"),
        ("I{1}:fmod(0)", "division by zero"),
        ("I{1}:cremainder(I{0})", "division by zero"),
        ("T():repeatTensor()", "can not be smaller"),
        ("T()[torch.LongStorage()] = 1", "empty tensor"),
        ("torch.match(T(), T(), 1)", "empty Tensor"),
        ("torch.multinomialAliasSetup(T())", "empty Tensor"),
    ],
)
def test_what_torch7_refuses(code: str, message: str) -> None:
    with pytest.raises(LuaBridgeError, match=message):
        _run(code)


def test_a_tensor_cannot_be_indexed_by_a_float_tensor() -> None:
    assert _run("return pcall(function() T(2)[torch.FloatTensor{1}] = 3 end)")[0] is False  # type: ignore[index]


# ---- values


def test_numbers_alone_give_numbers() -> None:
    assert _run("return torch.lerp(1, 3, 0.25), torch.atan2(1, 1)") == (1.5, math.pi / 4)


def test_range_keeps_the_shape_of_a_result_of_its_size() -> None:
    assert _run("return torch.range(T(2, 2), 1, 4)").tolist() == [[1, 2], [3, 4]]  # type: ignore[attr-defined]


def test_points_fill_a_view_of_their_number() -> None:
    code = "local m = T(5, 4):zero() torch.linspace(m:narrow(2, 1, 2), 1, 10, 10) "
    code += "return m:sum(), m:narrow(2, 1, 2):sum(), m[5][2]"
    assert _run(code) == (55, 55, 10)
    assert _run("local m = T(2, 4):zero() torch.logspace(m:narrow(2, 1, 2), 0, 3, 4) return m[2][2], m[2][3]") == (
        1000,
        0,
    )


def test_a_quiet_file_that_cannot_be_opened_is_nil() -> None:
    assert _run("return torch.DiskFile('no/such/file', nil, true), torch.DiskFile('no/such/file', 'w', true)") == (
        None,
        None,
    )


@pytest.mark.parametrize(("seed", "expected"), [("'0x10'", 16), ("1e30", -(2**63)), ("' 12 '", 12)])
def test_a_seed_is_a_long(seed: str, expected: int) -> None:
    assert _run(f"torch.manualSeed({seed}) return torch.initialSeed()") == expected


def test_a_unit_triangle_may_have_zeros_on_its_diagonal() -> None:
    assert _run("return torch.trtrs(T{{1}, {1}}, T{{1, 2}, {0, 0}}, 'U', 'N', 'U')")[0].tolist() == [[-1], [1]]  # type: ignore[index]


def test_a_string_of_a_number_is_a_seed() -> None:
    assert (
        _run("torch.manualSeed('12') local a = torch.random() torch.manualSeed(12) return a == torch.random()") is True
    )


def test_pstrf_takes_both_results() -> None:
    code = "local r, p = T(), I() torch.pstrf(r, p, T{{1, 0}, {0, 4}}) return r[1][1], r[2][2], p[1], p[2]"
    assert _run(code) == (2, 1, 2, 1)


def test_orgqr_leaves_further_columns() -> None:
    code = "local a = T{{3, 1, 7}, {4, 2, 9}} local f, tau = torch.geqrf(a) local q = torch.orgqr(f, tau) "
    code += "local b = q:narrow(2, 1, 2) return (b:t() * b - torch.eye(2)):abs():max() < 1e-12, q[1][3] == f[1][3]"
    assert _run(code) == (True, True)


def test_the_name_of_the_system() -> None:
    assert _run("return require('sys').uname()") in ("linux", "macos", "windows")


@pytest.mark.parametrize("kind", ["Float", "Double"])
def test_roots_of_many_numbers_are_rounded_correctly(kind: str) -> None:
    code = f"local x = torch.{kind}Tensor(20000):uniform() return x, torch.sqrt(x), torch.pow(x, 0.5), torch.rsqrt(x)"
    x, *roots, inverse = (t.numpy() for t in LuaBridge().execute(code))
    assert all((root == np.sqrt(x)).all() for root in roots)
    assert (inverse == 1 / np.sqrt(x)).all()


def test_set_keeps_the_strides_of_equal_sizes() -> None:
    code = """
    local t = torch.IntTensor(3):set(torch.IntStorage(9):fill(1), 1, 1, 2)
    t:set(torch.IntStorage {5}, 1, 1)
    return t:stride(1), t[1], torch.baddbmm(-2, torch.zeros(1, 1, 1), 0, torch.ones(1, 1, 1), torch.ones(1, 1, 1))
    """
    stride, value, product = LuaBridge().execute(code)
    assert (stride, value) == (2, 5)
    assert math.copysign(1, product.item()) == -1  # without a product, nothing is added to -0


def test_empty_tensors_stay_empty() -> None:
    assert _run("return torch.cat(T(), T()):dim(), T():add(1):dim(), T():mul(2):nElement()") == (0, 0, 0)


def test_match_gives_squared_distances() -> None:
    a, b = torch.randn(3, 4, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
    found = BRIDGE.execute("local a, b = ... return torch.match(a, b, 2)", a, b)
    torch.testing.assert_close(found, 2 * torch.cdist(a, b) ** 2)


def test_complex_eigenvectors_come_as_real_and_imaginary_columns() -> None:
    a = torch.tensor([[0.0, -2, 1], [2, 0, 0], [0, 0, 3]], dtype=torch.float64)
    values, vectors = BRIDGE.execute("return torch.eig(..., 'V')", a)
    for k, (real, imaginary) in enumerate(values.tolist()):
        if imaginary == 0:
            torch.testing.assert_close(a @ vectors[:, k], real * vectors[:, k])
        elif imaginary > 0:
            v = torch.complex(vectors[:, k], vectors[:, k + 1])
            torch.testing.assert_close(a.to(v.dtype) @ v, complex(real, imaginary) * v)
    assert (values[:, 1] == 0).sum() == 1


def test_ormqr_multiplies_by_the_orthogonal_factor() -> None:
    a, c = torch.randn(3, 3, dtype=torch.float64), torch.randn(3, 2, dtype=torch.float64)
    q, product, back = BRIDGE.execute(
        """
        local a, c = ...
        local factors, tau = torch.geqrf(a)
        local product = torch.ormqr(factors, tau, c, 'L', 'N')
        return torch.orgqr(factors, tau), product, torch.ormqr(factors, tau, product, 'L', 'T')
        """,
        a,
        c,
    )
    torch.testing.assert_close(product, q @ c)
    torch.testing.assert_close(back, c)


#: positions that TH's quicksort and quickselect (THTensorMath.c, compiled) give for i^2 mod 7, i = 0 … 39
ASCENDING = [22, 1, 15, 8, 29, 36, 16, 2, 21, 14, 28, 23, 30, 9, 7, 35, 37, 33, 26, 25]
ASCENDING += [39, 32, 40, 11, 18, 4, 12, 5, 19, 6, 3, 38, 24, 34, 10, 31, 13, 17, 27, 20]
DESCENDING = [34, 6, 31, 10, 20, 13, 17, 38, 24, 3, 27, 25, 19, 26, 33, 39, 32, 40, 4, 11]
DESCENDING += [5, 18, 12, 30, 14, 37, 9, 35, 2, 28, 16, 23, 21, 7, 29, 36, 8, 15, 22, 1]
SELECTED = [29, 22, 21, 2, 36, 28, 16, 8, 15, 14, 1, 23, 37, 35, 30, 7, 9, 25, 39, 33]
SELECTED += [26, 32, 40, 24, 19, 18, 27, 17, 13, 12, 31, 11, 10, 34, 6, 5, 4, 38, 3, 20]


def test_equal_numbers_keep_the_order_of_torch7s_sort() -> None:
    values = torch.arange(40, dtype=torch.float64) ** 2 % 7
    ascending, descending, middle, greatest = BRIDGE.execute(
        """
        local x = ...
        local function indices(_, i) return i end
        return indices(x:sort()), indices(x:sort(1, true)), indices(x:kthvalue(20)), indices(x:topk(20, 1, true, false))
        """,
        values,
    )
    assert ascending.tolist() == ASCENDING
    assert descending.tolist() == DESCENDING
    assert middle.tolist() == SELECTED[19:20]
    assert greatest.tolist() == SELECTED[20:]


def test_the_smaller_of_two() -> None:
    assert _run("return T{2, 1}:topk(1)")[1].tolist() == [2]  # type: ignore[index]


def test_beyond_the_exact_limit_equal_numbers_come_in_any_order() -> None:
    x = torch.arange(1 << 17, dtype=torch.float64) % 1000
    values, places = BRIDGE.execute("return (...):topk(150, 1, true, true)", x)
    assert values.tolist() == [999.0] * 131 + [998.0] * 19
    assert torch.equal(x[places - 1], values)


# ---- files


def test_a_disk_file_is_made_and_read_back(tmp_path: Path) -> None:
    code = """
        local name = ...
        local f = torch.DiskFile(name, 'rw')
        f:writeInt(5) f:writeString('hello') f:seek(1)
        local number, text = f:readInt(), f:readString('*a')
        f:close()
        return number, text, torch.DiskFile(name, 'w'):isReadable()
    """
    assert BRIDGE.execute(code, str(tmp_path / "new.txt")) == (5, "hello", False)


def test_pipes_read_and_write(tmp_path: Path) -> None:
    target = tmp_path / "out.txt"
    code = """
        local f = torch.PipeFile(..., 'w')
        f:writeString('written') f:close()
        return torch.PipeFile('echo 3 4'):readInt(2)
    """
    assert BRIDGE.execute(code, f"sleep 0.2; cat > '{target}'").tolist() == [3, 4]
    assert target.read_text() == "written"


def test_half_tensors_are_written_as_torch7_writes_them() -> None:
    data = BRIDGE.execute("return torch.serialize(torch.Tensor{1, 2.5}:half())").encode("latin-1")
    value = loads(data)
    assert isinstance(value, LuaTensor)
    assert value.numpy().tolist() == [1, 2.5]
    assert value.numpy().dtype == np.float16
    assert BRIDGE.execute("return torch.deserialize(...)", data).tolist() == [1, 2.5]


# ---- values from Python


def test_values_of_every_kind_reach_lua() -> None:
    assert BRIDGE.execute("return ...", b"\xe9t\xe9") == "\xe9t\xe9"
    assert BRIDGE.execute("return torch.type((...)), (...)[1]", torch.tensor([True])) == ("torch.ByteTensor", 1)
    assert BRIDGE.execute("return torch.type(...)", torch.ones(1, dtype=torch.bfloat16)) == "torch.FloatTensor"
    assert BRIDGE.execute("return (...):dim()", torch.ones(0)) == 0
    assert BRIDGE.execute("return (...)[1]", torch.tensor(2.5)) == 2.5
    assert BRIDGE.execute("return (...):sum()", LuaTensor.from_numpy(np.ones(3))) == 3
    assert BRIDGE.execute("return torch.random(...)", Generator(5)) == Generator(5).random()
    assert BRIDGE.execute("return torch.LongStorage{4, 5}").tolist() == [4, 5]
    assert isinstance(BRIDGE.execute("return torch.Generator()"), Generator)


def test_values_that_lua_cannot_hold_are_refused() -> None:
    with pytest.raises(LuaBridgeError, match="the tensor is on meta"):
        BRIDGE.execute("", torch.ones(1, device="meta"))
    with pytest.raises(LuaBridgeError, match="object cannot be converted to a Lua value"):
        BRIDGE.execute("", object())


def test_storages() -> None:
    code = """
        local s = torch.LongStorage(torch.Allocator(), 3):fill(7)
        s:resize(3)
        s:retain() s:free()
        s:data()[1] = 8
        return s
    """
    assert BRIDGE.execute(code).tolist() == [7, 8, 7]


def test_the_last_argument_may_name_the_type() -> None:
    assert BRIDGE.execute("return torch.zeros(2, 'torch.IntTensor')").dtype == torch.int32


def test_the_default_type_is_the_bridges_own() -> None:
    other = LuaBridge()
    other.default_dtype(torch.float32)
    assert other.execute("return torch.Tensor(1)").dtype == torch.float32
    assert BRIDGE.execute("return torch.Tensor(1)").dtype == torch.float64


# ---- the Lua state


def test_a_runtime_must_be_known_and_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    for sandbox in (False, True):
        with pytest.raises(OptionError, match="runtime must be"):
            LuaBridge(runtime="lua54", sandbox=sandbox)
    with pytest.raises(OptionError, match="a sandbox needs runtime='lua51'"):
        LuaBridge(runtime="luajit21", sandbox=True)
    monkeypatch.setitem(sys.modules, "lupa.lua51", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'lupa>=2"):
        LuaBridge(runtime="lua51")


def test_files_and_packages(tmp_path: Path) -> None:
    (tmp_path / "answer.lua").write_text("return 42")
    assert LuaBridge(tmp_path).require("answer") == 42
    with pytest.raises(LuaBridgeError, match=r"missing.lua: cannot be opened: no such file"):
        BRIDGE.run_file(tmp_path / "missing.lua")
    with pytest.raises(LuaBridgeError, match="compiled Lua code, which is never run"):
        BRIDGE.execute("\x1bLua")


def test_python_objects_show_lua_nothing() -> None:
    """debug.getupvalue reaches the Python functions behind torch's; Lua cannot access their attributes."""
    code = """
        local k = 1
        while true do
           local name, value = debug.getupvalue(torch.manualSeed, k)
           if not name then return 'nothing of Python' end
           if type(value) == 'userdata' then
              local ok, message = pcall(function() return value.__globals__ end)
              return ok, tostring(message)
           end
           k = k + 1
        end
    """
    ok, message = BRIDGE.execute(code)
    assert ok is False
    assert "cannot access the attributes" in message


def test_lua_collects_while_it_makes_large_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "_COLLECT_AFTER", 1 << 20)
    before = sum(type(o) is Tensor for o in gc.get_objects())
    BRIDGE.execute("collectgarbage('stop') for i = 1, 200 do torch.zeros(20000) end collectgarbage('restart')")
    assert sum(type(o) is Tensor for o in gc.get_objects()) - before < 50


def test_a_result_in_place_is_not_new_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    collections: list[int] = []
    monkeypatch.setattr(state, "_COLLECT_AFTER", 1 << 20)
    monkeypatch.setattr(state.LuaState, "_collect", lambda _: collections.append(1))
    monkeypatch.setattr(BRIDGE._runtime, "_fresh_bytes", 0)
    BRIDGE.execute("local x = torch.zeros(80000) for i = 1, 10 do x:add(1):pow(2.5):sqrt() end")
    assert not collections


def test_adding_zero_times_a_tensor_is_no_operation_of_blas() -> None:
    """Torch7's add in place of contiguous tensors is axpy, which then ignores the other; all else multiplies."""
    code = """
    local n = ...
    local other = T(n):fill(0/0)
    local inplace, columns = torch.ones(n), torch.ones(2, n):t()
    inplace:add(0, other)
    columns:add(0, T(n, 2):fill(0/0))
    return inplace[n], torch.add(torch.ones(n), 0, other)[n], columns[n][1]
    """
    for n in (1, 3, 5000):
        found = _run(code, n)
        assert isinstance(found, tuple)
        assert [math.isnan(v) for v in found] == [False, True, n > 1], n


def test_a_convolution_of_planes_has_the_bits_of_each_plane() -> None:
    difference = LuaBridge().execute(
        """
        torch.manualSeed(7)
        local x, k = torch.rand(19, 14, 13), torch.rand(3, 4, 3)
        local planes = torch.conv3(torch.repeatTensor(x, 2, 1, 1, 1), torch.repeatTensor(k, 2, 1, 1, 1))
        return (torch.conv3(x, k) - planes[2]):abs():max()
        """
    )
    assert difference == 0
