"""The packages that scripts of Torch7 require, as the bridge has them without any checkout."""

from __future__ import annotations

import math
import os
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("lupa")

from dpnn_bridge.errors import LuaBridgeError
from dpnn_bridge.lua import LuaBridge
from dpnn_bridge.modules import nnx


def test_paths_answers_as_in_torch7(bridge: LuaBridge, tmp_path: Path) -> None:
    code = """
    local folder = ...
    local made, again = paths.mkdir(folder .. '/a/b'), paths.mkdir(folder .. '/a')
    io.open(folder .. '/a/x.lua', 'w'):close()
    local names = {}
    for name in paths.iterfiles(folder .. '/a') do names[#names + 1] = name end
    return {paths.concat('/x/', 'y', '../z'), paths.concat('/a', '/c'), paths.basename('/a/b.c', '.c'),
            paths.basename('/a/b/'),
            paths.dirname('b.c'), paths.dirname('/a/b/'), paths.extname('a.tar.gz'), made, again == nil,
            paths.extname('b') == nil, names[1], paths.rmall(folder .. '/a', 'yes'), paths.dirp(folder .. '/a')}
    """
    wanted = ["/x/z", "/c", "b", "b", ".", "/a", "gz", True, True, True, "x.lua", True, False]
    assert bridge.execute(code, str(tmp_path)) == wanted


def test_numbers_are_paths(bridge: LuaBridge, tmp_path: Path) -> None:
    code = """
    local folder = ...
    require 'paths' require 'sys' require 'lfs'
    assert(paths.mkdir(paths.concat(folder, 5)) and lfs.touch(folder .. '/5', 100, 200) and lfs.chdir(folder))
    sys.sleep(0.001)
    local sum = require('md5').sumhexa
    return {paths.concat('/m', 5, 1.5), paths.basename(12.5, 5), paths.dirname(3), paths.extname(1.5),
            paths.dirp(5), paths.filep(1), lfs.attributes(5, 'access'), lfs.attributes(5, 'modification'),
            paths.rmdir(5), sum(5) == sum('5'), paths.basename('a.', '.')}
    """
    before = Path.cwd()
    try:
        found = bridge.execute(code, str(tmp_path))
    finally:
        os.chdir(before)
    assert found == ["/m/5/1.5", "12", ".", "5", True, False, 100, 200, True, True, "a."]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("paths.concat('a', nil)", "bad argument #2 (string expected, got nil)"),
        ("paths.dirname()", "bad argument #1 (string expected, got no value)"),
        ("paths.mkdir({})", "bad argument #1 (string expected, got table)"),
        ("lfs.rmdir()", "bad argument #1 (string expected, got no value)"),
        ("lfs.attributes(nil, 'mode')", "bad argument #1 (string expected, got nil)"),
        ("sys.usleep()", "bad argument #1 (number expected, got no value)"),
        ("require('md5').sumhexa()", "bad argument #1 (string expected, got nil)"),
    ],
)
def test_a_wrong_argument_of_a_package_is_named_with_the_line_of_the_call(
    bridge: LuaBridge, call: str, message: str
) -> None:
    code = f"require 'lfs'\nlocal function f()\n{call}\nend\nlocal function g()\nf()\nend\n"
    assert bridge.execute(code + "return select(2, pcall(g))") == f"python:3: {message}"


def test_image_names_a_wrong_argument(bridge: LuaBridge) -> None:
    for call, message in {
        "load()": "#1 (string expected, got nil)",
        "save('x.png')": "#2 (tensor expected, got nil)",
    }.items():
        with pytest.raises(LuaBridgeError, match=re.escape(f"bad argument {message}")):
            bridge.execute(f"require('image').{call}")


def test_tds_sorts_elements_that_are_nil_and_counts_integers(bridge: LuaBridge) -> None:
    code = """
    local tds = require 'tds'
    local v, c = tds.Vec(), tds.AtomicCounter()
    v[1], v[3] = 3, 2
    v:sort(function(a, b) return (a or 0) < (b or 0) end)
    c:set(-1.5)
    return {v:concat(' '), #v, c:get(), select(2, pcall(c.set, c, 'a'))}
    """
    refused = "bad argument #1 to 'set' (cannot convert 'string' to 'int64_t')"
    assert bridge.execute(code) == ["nil 2 3", 3, -1, refused]


def test_a_checkout_of_paths_wins_over_the_stand_in(tmp_path: Path) -> None:
    (tmp_path / "paths").mkdir()
    (tmp_path / "paths" / "init.lua").write_text("require 'libpaths' paths.mine = paths.cwd() return paths")
    assert LuaBridge(tmp_path).execute("return paths.mine, require('sys').clock() > 0") == (str(Path.cwd()), True)


def test_json_there_and_back(bridge: LuaBridge) -> None:
    code = r"""
    local cjson = require 'cjson'
    local value = cjson.decode([[{"a": [1, 2.5, null], "b": {"c": "\u00fc\n"}, "d": true}]])
    local again = cjson.decode(cjson.encode(value))
    local ok, message = require('cjson.safe').decode('{')
    return {again.a[2], again.a[3] == cjson.null, again.b.c == '\195\188\n', again.d, ok == nil, type(message),
            cjson.encode {1, 2}, pcall(cjson.encode, {f = print})}
    """
    assert bridge.execute(code)[:8] == [2.5, True, True, True, True, "string", "[1,2]", False]


def test_lfs(bridge: LuaBridge, tmp_path: Path) -> None:
    code = """
    local lfs, folder = require 'lfs', ...
    lfs.mkdir(folder .. '/inner')
    local names = {}
    for name in lfs.dir(folder) do names[#names + 1] = name end
    return names, lfs.attributes(folder, 'mode'), lfs.attributes(folder .. '/none') == nil,
           pcall(lfs.dir, folder .. '/none')
    """
    names, mode, missing, ok, *_ = bridge.execute(code, str(tmp_path))
    assert (names, mode, missing, ok) == ([".", "..", "inner"], "directory", True, False)


def test_tds_keeps_what_it_is_given(bridge: LuaBridge) -> None:
    code = """
    local tds = require 'tds'
    local hash, vec = tds.Hash {x = 1, y = {5, 6}}, tds.Vec(1, 2)
    hash.z = 'word' vec:insert(3) vec:insert(1, 0)
    local count, sum = 0, 0
    for k in pairs(hash) do count = count + 1 end
    for _, v in ipairs(vec) do sum = sum + v end
    local read = torch.deserialize(torch.serialize(hash))
    local c = tds.AtomicCounter(4)
    return #hash, count, hash.y[2], #vec, sum, read.z, #read, c:inc(), c:get(), torch.type(vec)
    """
    assert bridge.execute(code) == (3, 3, 6, 4, 6, "word", 3, 0, 1, "tds.Vec")


def test_threads_run_jobs_in_order(bridge: LuaBridge) -> None:
    code = """
    local out, pool, made = {}, require('threads')(2, function(id) started = id return id * 10 end)
    for i = 1, 3 do pool:addjob(function(x) return x * 2, i end, function(x, i) out[i] = x end, i) end
    pool:synchronize()
    return out, started, made[2][1]
    """
    assert bridge.execute(code) == ([2, 4, 6], 2, 20)


def test_csv(bridge: LuaBridge, tmp_path: Path) -> None:
    code = """
    local csvigo = require 'csvigo'
    csvigo.save {path = ..., data = {name = {'a, b', 'say "x"'}, size = {1, 2}}}
    local read = csvigo.load(...)
    return read.name, read.size
    """
    assert bridge.execute(code, str(tmp_path / "t.csv")) == (["a, b", 'say "x"'], ["1", "2"])


def test_pictures(bridge: LuaBridge, tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    code = """
    local image, path = require 'image', ...
    local picture = torch.range(0, 23):div(255):view(1, 4, 6)
    image.save(path, picture)
    local read = image.load(path)
    return (read - picture):abs():max(), image.crop(read, 1, 1, 3, 4):size():totable(),
           image.hflip(read)[1][1][1] * 255,
           image.scale(read, 3, 2), image.scale(torch.Tensor {{0, 1}}, 3, 1)
    """
    off, cropped, flipped, smaller, larger = bridge.execute(code, str(tmp_path / "x.png"))
    assert off < 1e-12
    assert cropped == [1, 3, 2]
    assert flipped == pytest.approx(5)
    assert (smaller * 255)[0, 0].tolist() == pytest.approx([3.5, 5.5, 7.5])  # averages of blocks
    assert larger[0].tolist() == pytest.approx([0, 0.5, 1])


def test_pictures_have_the_numbers_of_libimage(bridge: LuaBridge, tmp_path: Path) -> None:
    """What Torch7's image computes: bytes are rounded after each pass, and intermediate results are floats."""
    image = pytest.importorskip("PIL.Image")
    image.fromarray(np.array([[0, 256, 65535], [1000, 40000, 300]], dtype=np.uint16)).save(tmp_path / "deep.png")
    code = """
    local image, folder = require 'image', ...
    local x = torch.range(1, 60):mul(37):fmod(251):view(3, 4, 5):byte()
    local d = x:double():div(251)
    local path, deep = folder .. '/q.png', folder .. '/deep.png'
    image.save(path, x)
    return {image.scale(x[1], 3, 2), image.rgb2y(x)[1], image.scale(d[1], 3, 2), image.crop(d[1], 1, 1, 3, 2),
            image.load(path, 1, 'byte'), image.load(deep), image.load(deep, 1, 'byte')}, image.load(path, 2):size(1),
            image.load(path, 4):size(1), torch.type(image.getSize(path)), select(2, pcall(image.crop, x, 3, 1, 9, 2))
    """
    tensors, *rest = bridge.execute(code, str(tmp_path))
    luminance = [[26, 63, 100, 137, 174], [211, 173, 34, 71, 108], [145, 182, 219, 34, 42], [79, 116, 153, 190, 227]]
    expected = [
        [[94, 78, 137], [138, 172, 131]],
        luminance,
        [[0.374900401, 0.310756952, 0.546613574], [0.549003959, 0.684860587, 0.520717144]],
        [[0.0318725109, 0.179282874]],
        luminance,
        [[[0, 0.00390630961, 1], [0.0152590219, 0.610360876, 0.00457770657]]],
        [[[0, 1, 255], [3, 156, 1]]],
    ]
    for found, values in zip(tensors, expected, strict=True):
        torch.testing.assert_close(found.double(), torch.tensor(values, dtype=torch.float64), rtol=1e-8, atol=0)
    assert rest == [3, 3, "torch.LongTensor", "image.crop: crop goes outside bounds of src"]


def test_gray_pictures_of_one_bit_or_with_alpha_have_the_channels_of_the_file(
    bridge: LuaBridge, tmp_path: Path
) -> None:
    image = pytest.importorskip("PIL.Image")
    for mode in ("1", "LA"):
        image.new(mode, (3, 2), 1).save(tmp_path / f"{mode}.png")
    code = """
    local image, folder, found = require 'image', ..., {}
    for _, depth in ipairs {0, 1, 3} do
       for _, mode in ipairs {'1', 'LA'} do
          table.insert(found, table.concat(image.load(folder .. '/' .. mode .. '.png', depth):size():totable(), 'x'))
       end
    end
    return found
    """
    assert bridge.execute(code, str(tmp_path)) == ["1x2x3", "2x2x3", "1x2x3", "1x2x3", "3x2x3", "3x2x3"]


def test_grids_of_pictures(bridge: LuaBridge) -> None:
    pytest.importorskip("PIL")
    code = """
    local image = require 'image'
    local x = torch.range(1, 140):view(7, 5, 4)
    local turned = image.toDisplayTensor {input = x:transpose(1, 3), padding = 1, min = 0, max = 140}
    return image.toDisplayTensor(x, 2, 3), turned,
           image.toDisplayTensor(torch.range(1, 96):view(2, 3, 4, 4), 0, 1)
    """
    grid, turned, colours = bridge.execute(code)
    assert grid.shape == (21, 18)
    assert grid[0, 0] == 1  # the gap has the largest value
    assert grid[1, 1] == 0
    assert turned.shape == (6, 32)
    assert turned[0, 0] == pytest.approx(1 / 140)
    assert colours.shape == (3, 8, 4)


def test_the_name_of_an_experiment(bridge: LuaBridge, capfd: pytest.CaptureFixture[str]) -> None:
    code = """
    local cmd = torch.CmdLine()
    cmd:option('-a', 1) cmd:option('-b', true) cmd:option('-c', 'x') cmd:argument('f', 'file')
    local given = cmd:parse {'data', '-a', '4', '-b'}
    return cmd:string('exp', given, {c = true}), cmd:string(nil, cmd:default(), {}), cmd:string('e', {f = 1}, {})
    """
    assert bridge.execute(code) == ("exp,f=data,a=4,b=f", "", "e,f=1,")
    assert "-- ignore option c\n" in capfd.readouterr().out


def test_files_of_hdf5(bridge: LuaBridge, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "data.h5"
    with h5py.File(path, "w") as file:
        file["train/x"] = np.arange(24, dtype=">f4").reshape(2, 3, 4)
        file["labels"] = np.array([1, 2, 250], np.uint8)
        file["big"] = np.array([1, 2**40], np.uint64)
        file["words"] = np.array([b"a", b"b"])
    code = """
    local hdf5, path, folder = require 'hdf5', ...
    local file = hdf5.open(path, 'r')
    local x = file:read('/train/x')
    local all = file:read('train'):all()
    local results = {x:dataspaceSize(), all.x:type(), x:partial({2, 2}, {1, 2}, 3), file:read('labels'):all(),
       file:read('big'):all(), torch.type(file:read('train'))}
    local errors = {}
    for i, f in ipairs {function() file:read('none') end, function() x:partial({1, 1}) end,
                        function() x:partial({1, 3}, 1, 1) end, function() file:read('words'):all() end,
                        function() hdf5.open(folder .. '/no.h5', 'r') end} do
       errors[i] = select(2, pcall(f))
    end
    file:close()
    local made = hdf5.open(folder .. '/made.h5', 'w')
    local options = hdf5.DataSetOptions():setChunked(2, 8):setDeflate()
    made:write('a/b', torch.range(1, 8):view(2, 4), options)
    made:append('a/b', torch.ones(1, 4))
    made:write('/', {c = {d = torch.LongTensor {5}}, e = torch.ByteTensor {1, 2}})
    made:close()
    made = hdf5.open(folder .. '/made.h5')
    local read = made:all()
    made:close()
    return results, errors, read.a.b, read.c.d, read.e
    """
    results, errors, grown, number, small = bridge.execute(code, str(path), str(tmp_path))
    assert results[:2] == [[2, 3, 4], "torch.FloatTensor"]
    assert results[2].tolist() == [[[14], [18]]]
    assert results[3].tolist() == [1, 2, 250]
    assert results[4].tolist() == [1, 2**40]
    assert results[5] == "hdf5.HDF5Group"
    words = (
        "no such child",
        "dimension mismatch. Expected 3 but 1",
        "no indices 1 to 3",
        "there is no tensor type",
        "no.h5",
    )
    for error, text in zip(errors, words, strict=True):
        assert text in error
    assert grown.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8], [1, 1, 1, 1]]
    assert (number.tolist(), number.dtype, small.dtype) == ([5], torch.int64, torch.uint8)
    with h5py.File(tmp_path / "made.h5") as file:
        assert file["a/b"].compression == "gzip"


def test_without_h5py_hdf5_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(LuaBridgeError, match=r"hdf5 needs h5py, which is not installed: pip install "):
        LuaBridge().execute("require('hdf5').open('x.h5', 'r')")


def test_cutorch_says_what_it_is(bridge: LuaBridge) -> None:
    assert bridge.execute("return require('cutorch').getDeviceCount()") == 0
    with pytest.raises(LuaBridgeError, match="run the script on the CPU"):
        bridge.execute("cutorch.setDevice(1)")


def test_bits_and_sums(bridge: LuaBridge) -> None:
    code = """
    local bit32, md5 = require 'bit32', require 'md5'
    return bit32.band(0xff00, 0x0ff0), bit32.bnot(0), bit32.lshift(1, 31), bit32.rshift(0xf0, 4),
           bit32.bxor(5, 1), md5.sumhexa('a')
    """
    assert bridge.execute(code) == (0xF00, 0xFFFFFFFF, 1 << 31, 15, 4, "0cc175b9c0f1b6a831c399e269772661")


@pytest.mark.parametrize("name", ["SpatialUpSampling", "SpatialReSamplingEx"])
def test_kernels_of_nnx_sum_what_they_spread(bridge: LuaBridge, name: str) -> None:
    code = f"""
    local nnx = require 'libnnx'
    local layer = {{dW = 2, dH = 3, oheightCurrent = 5, owidthCurrent = 7, iheight = 3, iwidth = 4, mode_c = 2}}
    local x = torch.randn(2, 3, 4, 1)
    local size = '{name}' == 'SpatialUpSampling' and {{2, 9, 8, 1}} or {{2, 5, 7, 1}}
    layer.output, layer.gradInput = torch.zeros(unpack(size)), torch.zeros(2, 3, 4, 1)
    nnx.{name}_updateOutput(layer, x)
    local g = torch.randn(unpack(size))
    local up = '{name}' == 'SpatialUpSampling'
    nnx.{name}_updateGradInput(layer, up and x or g, up and g or nil)
    return torch.cmul(layer.output, g):sum() - torch.cmul(x, layer.gradInput):sum(),
           layer.output[1][1][1][1] - x[1][1][1][1]
    """
    inner, corner = bridge.execute(code)  # <f(x), g> = <x, f'(g)> for what is linear
    assert abs(inner) < 1e-9
    assert corner == 0


PAIRS = {
    "SpatialGraph": [{"dist": d, "normalize": n} for d in (0, 1) for n in (0, 1)],
    "SpatialMatching": [{"window": w, "full_output": f} for w in ((3, 3), (4, 2), (1, 5)) for f in (True, False)],
    "SpatialRadialMatching": [{"window": 3}],
    "SpatialMaxSampling": [{"size": s} for s in ((2, 3), (5, 6), (9, 7))],
}


@pytest.mark.parametrize(
    ("name", "arguments"), [(n, a) for n, cases in PAIRS.items() for a in cases], ids=lambda v: str(v)
)
def test_kernels_of_nnx_are_its_layers(bridge: LuaBridge, name: str, arguments: dict[str, Any]) -> None:
    """The formulas of the converted modules, whose gradients autograd finds."""
    generator = torch.Generator().manual_seed(3)
    first = torch.rand(2, 5, 6, dtype=torch.float64, generator=generator)
    width = 6 if name == "SpatialRadialMatching" else 10
    second = torch.rand(2, 8, width, dtype=torch.float64, generator=generator)
    pair = "Matching" in name
    inputs = [t.clone().requires_grad_() for t in ([first, second] if pair else [first])]
    expected = getattr(nnx, name)(**arguments)(inputs if pair else inputs[0])
    grad = torch.rand(expected.shape, dtype=torch.float64, generator=generator)
    gradients = torch.autograd.grad(expected, inputs, grad)
    window = arguments.get("window", 1)
    height, width = window if isinstance(window, tuple) else (window, 1)
    oheight, owidth = arguments.get("size", (1, 1))
    layer = {"maxh": height, "maxw": width, "oheight": oheight, "owidth": owidth} | arguments
    code = f"""
    local nnx, layer, size, x, g, y = require 'libnnx', ...
    for _, name in ipairs {{'output', 'gradInput', 'gradInput1', 'gradInput2', 'indices'}} do
       layer[name] = torch.Tensor()
    end
    layer.output:resize(torch.LongStorage(size))
    layer.gradInput:resizeAs(x)
    layer.gradInput1:resizeAs(x):zero()
    if y then layer.gradInput2:resizeAs(y):zero() end
    nnx.{name}_updateOutput(layer, x, y)
    if y then nnx.{name}_updateGradInput(layer, x, y, g) else nnx.{name}_updateGradInput(layer, x, g) end
    return layer.output, y and layer.gradInput1 or layer.gradInput, layer.gradInput2
    """
    plain = {key: value for key, value in layer.items() if key not in ("window", "size")}
    found = bridge.execute(code, plain, list(expected.shape), first, grad, *([second] if pair else []))
    for ours, theirs in zip(found, [expected.detach(), *gradients], strict=False):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_criterions_and_odd_inputs_of_nnx(bridge: LuaBridge) -> None:
    """The margins follow the formula; of four dimensions, C averages the first elements of the last one."""
    code = """
    local nnx = require 'libnnx'
    local x, t = torch.Tensor {{0.5, -1, 2}, {1, 0.2, -0.3}}, torch.Tensor {{1, 3, 0}, {2, 0, 0}}
    local margin = {sizeAverage = true, gradInput = torch.Tensor()}
    local loss = nnx.DistMarginCriterion_updateOutput(margin, x, t)
    nnx.DistMarginCriterion_updateGradInput(margin, x, t)
    local down = {rW = 2, rH = 2, output = torch.Tensor(1, 1, 1), gradInput = torch.Tensor(1, 2, 2, 3)}
    nnx.SpatialDownSampling_updateOutput(down, torch.range(1, 12):view(1, 2, 2, 3))
    nnx.SpatialDownSampling_updateGradInput(down, torch.Tensor(1, 1, 1):fill(4))
    local radial = {maxh = 2, output = torch.Tensor(3, 3, 2)}
    local ok, message = pcall(nnx.SpatialRadialMatching_updateOutput, radial, torch.ones(1, 3, 3), torch.ones(1, 3, 3))
    return loss, margin.gradInput, down.output[1][1][1], down.gradInput, ok, message
    """
    loss, slopes, average, spread, ok, message = bridge.execute(code)  # type: ignore[misc]
    assert loss == pytest.approx(2.3 / 3)
    torch.testing.assert_close(slopes, torch.tensor([[0, 0, 0], [1, -2, 1]]).double() / 3)
    assert average == (1 + 4 + 7 + 10) / 4
    assert spread.tolist() == [[[[1, 0, 0], [1, 0, 0]], [[1, 0, 0], [1, 0, 0]]]]
    assert not ok
    assert "the second input is 3x3, the window needs 4x3" in message


def test_the_tree_of_nnx_is_its_layer(bridge: LuaBridge) -> None:
    layer = nnx.SoftMaxTree.from_hierarchy(4, {6: [7, 8], 7: [1, 2, 3], 8: [4, 5]}, root=6).double()
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(3, 4, dtype=torch.float64, generator=generator, requires_grad=True)
    target, grad = torch.tensor([2, 5, 1], dtype=torch.int32), torch.rand(3, dtype=torch.float64, generator=generator)
    expected = layer([x, target])
    gradients = torch.autograd.grad(expected, [x, layer.weight, layer.bias], grad)
    code = """
    local nnx, layer, x, target, g = require 'libnnx', ...
    for _, name in ipairs {'output', '_gradInput'} do layer[name] = torch.Tensor() end
    layer._nodeBuffer, layer._multiBuffer, layer.updates = torch.Tensor(3), torch.Tensor(3 * 5), {}
    layer.gradWeight, layer.gradBias = torch.zeros(layer.weight:size()), torch.zeros(layer.bias:size())
    nnx.SoftMaxTree_updateOutput(layer, x, target)
    nnx.SoftMaxTree_updateGradInput(layer, x, g, target)
    nnx.SoftMaxTree_accGradParameters(layer, x, g, target, 0.5)
    return layer.output:clone(), layer._gradInput, layer.gradWeight * 2, layer.gradBias * 2, layer.updates[6],
           (select(2, pcall(nnx.SoftMaxTree_updateOutput, layer, x:narrow(1, 1, 1), torch.IntTensor {6})))
    """
    fields = {"inputSize": 4, "rootId": 6, "maxFamilyPath": 5, "childParent": layer.child_parent}
    fields |= {"parentChildren": layer.parent_children, "weight": layer.weight.data, "bias": layer.bias.data}
    *found, updates, error = bridge.execute(code, fields, x.detach(), target, grad)
    for ours, theirs in zip(found, [expected.detach(), *gradients], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    assert updates == 1.5
    assert "no parent in tree" in error


def test_what_th_gives_scripts(tmp_path: Path) -> None:
    (tmp_path / "Penlight" / "lua" / "pl").mkdir(parents=True)
    (tmp_path / "Penlight" / "lua" / "pl" / "init.lua").write_text(
        "path = {join = function(a, b) return a .. '/' .. b end}"
    )
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "value.lua").write_text("return 5")
    (tmp_path / "main.lua").write_text(
        "import 'math' return path.join('a', 'b'), require './inner/value', floor(2.5), tostring(print) ~= nil"
    )
    bridge = LuaBridge(tmp_path)
    bridge.require("trepl")
    assert bridge.run_file(tmp_path / "main.lua") == ("a/b", 5, 2, True)


def test_print_shows_tables(capfd: pytest.CaptureFixture[str]) -> None:
    bridge = LuaBridge()
    bridge.require("trepl")
    bridge.execute("print({a = {1, 'x'}, b = torch.ones(2, 3)}) print('plain', 1) setprintlevel(0) print({})")
    shown = (
        '{\n  a : \n    {\n      1 : 1\n      2 : "x"\n    }\n  b : DoubleTensor - size: 2x3\n}\nplain\t1\t\ntable: 0x'
    )
    assert capfd.readouterr().out.startswith(shown)


def test_layers_of_a_gpu_are_those_of_nn() -> None:
    code = """
    local none = pcall(require, 'cunn')  -- scripts look whether it is there
    require 'cunn-on-cpu'
    require 'cunn'
    local cudnn = require 'cudnn'
    local layer = cudnn.ReLU()
    local ok, message = pcall(function() return cudnn.NoSuchLayer end)
    return torch.type(layer), cudnn.convert(layer, nn) == layer, ok or none, message
    """
    name, same, ok, message = LuaBridge().execute(code)
    assert (name, same, ok) == ("nn.ReLU", True, False)
    assert "has no equivalent in nn" in message


@pytest.mark.parametrize(
    ("package", "advice"),
    [
        ("pl.path", "git clone https://github.com/lunarmodules/Penlight"),
        ("optim", "git clone https://github.com/torch/optim beside the Lua file; LuaBridge, dpnn-lua and"),
        ("mattorch", "convert the data once in Python"),
        ("cudnn", "-l cunn-on-cpu"),
        ("clnn", "run the script on the CPU"),
        ("display", "turn plotting off"),
        ("mine.own", "not found in the folders of lua_path= (--lua-path), in package.path"),
    ],
)
def test_a_package_that_is_missing_says_what_to_do(package: str, advice: str) -> None:
    with pytest.raises(LuaBridgeError, match=re.escape(advice)):
        LuaBridge().require(package)


def test_globals_of_penlight_say_where_they_come_from() -> None:
    with pytest.raises(LuaBridgeError, match=r"in th this global is part of Penlight: .*git clone"):
        LuaBridge().execute("return path.join('a', 'b')")


def test_xlua(bridge: LuaBridge, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("learningRate", "0.5")
    monkeypatch.setenv("nesterov", "false")
    code = """
    local xlua = require 'xlua'
    local opt = xlua.envparams {learningRate = 0.1, nesterov = true, name = 'x'}
    for i = 1, 3 do xlua.progress(i, 3) end
    return {opt.learningRate, opt.nesterov, opt.name, xlua.formatTime(3725.5), xlua.formatTime(0),
            xlua.table2string {1, a = 'b'}, xlua.require 'none' == false, ('a, b, c'):split(', ')[3],
            table.splice({1, 2, 3}, 2)[2], ('math.pi'):tosymbol() > 3}
    """
    assert bridge.execute(code) == [0.5, False, "x", "1h2m", "0ms", '{1,a="b"}', True, "c", 3, True]
    out = capfd.readouterr().out
    assert " 3/3 \n" in out
    assert "could not be loaded" in out


def test_progress_bars_have_the_bytes_of_xlua(bridge: LuaBridge, capfd: pytest.CaptureFixture[str]) -> None:
    """Expected: what the original xlua wrote in Torch7, with the same clock."""
    bridge.execute(
        """
        require 'xlua'
        local seconds, timer = 0, torch.Timer
        local function time() seconds = seconds + 0.25 return {real = seconds} end
        torch.Timer = function() return {time = time} end
        for i = 1, 2 do xlua.progress(i, 2) end
        xlua.progress(2, 2) xlua.progress(0, 3) xlua.progress(7, 3)
        torch.Timer = timer
        """
    )

    def shown(bar: str, times: str, number: str) -> str:
        return f" [{bar}] {' ' * 30}{chr(8) * 30} {times}{chr(8) * (29 + len(times))} {number} "

    first = shown(f"{'=' * 22}>{'.' * 23}", "ETA: 0ms | Step: 0ms", "1/2")
    whole = shown(f"{'=' * 45}>", "Tot: 750ms | Step: 500ms", "2/2")
    none = shown("." * 46, "ETA: 0ms | Step: 0ms", "0/3")
    beyond = shown("=" * 46, "Tot: 1s500ms | Step: 71ms", "7/3")
    assert capfd.readouterr().out == f"{first}\r\r{whole}\n\r\r{none}\r\r{beyond}\r"


def test_options_and_seconds_of_xlua(bridge: LuaBridge, capfd: pytest.CaptureFixture[str]) -> None:
    code = """
    local xlua = require 'xlua'
    arg = {[0] = 'my.lua', '--rate=0.5', 'file', '-q', '-n', '3'}
    local parser = xlua.OptionParser('%prog [options]')
    parser:option {'-r', '--rate', dest = 'rate', default = 0.1, help = 'learning rate'}
    parser:option {'-n', '--number', dest = 'number', metavar = 'N', help = 'how many'}
    parser:option {'-q', '--quiet', action = 'store_false', dest = 'loud', default = true, help = 'no output'}
    local options, rest = parser:parse()
    parser:help()
    local profiler = xlua.Profiler()
    profiler:start('a', 'fps')
    local real, cpu = profiler:lap('a')
    return {options.rate, options.number, options.loud, rest[1], parser:tostring(true, {'-r', '-n'}),
            real >= 0 and cpu >= 0, (profiler:formatAll():gsub('%-?[%d.]+', '#')),
            table.concat(table.prune {1, 1, 1}, ',')}
    """
    report = "$ profiler report:\n$ real # | cpu # <a> = # fps"
    assert bridge.execute(code) == ["0.5", "3", False, "file", "-r=0.5,-n=3", True, report, "1"]
    assert capfd.readouterr().out.splitlines() == [  # as Torch7's xlua printed it
        "Usage: my.lua [options]",
        "",
        "Options:",
        "  -h, --help            show this help message and exit",
        "  -r RATE, --rate=RATE  learning rate [default = 0.1]",
        "  -n N, --number=N      how many",
        "  -q, --quiet           no output [default = true]",
    ]


def test_moses_is_whole(bridge: LuaBridge) -> None:
    code = """
    local _ = require 'moses'
    local doubled = _.chain({1, 2, 3}):map(function(_, v) return v * 2 end)
    local sum = doubled:reduce(function(a, b) return a + b end):value()
    return {_._VERSION, _.memoize and true, sum, _.range(3)[3], _.isEqual({1, {2}}, {1, {2}}), _.find({5, 6}, 6)}
    """
    assert bridge.execute(code) == ["Moses v1.6.1", True, 12, 2, True, 2]


def test_jobs_of_threads_wait_for_others(bridge: LuaBridge) -> None:
    code = """
    local Threads, tds = require 'threads', require 'tds'
    local pool, counter, order = Threads(2), tds.AtomicCounter(0), {}
    local function ended(name) order[#order + 1] = name end
    pool:addjob(function() repeat until counter:get() > 0 return 'first' end, ended)
    pool:addjob(function() counter:inc() return 'second' end, ended)
    pool:synchronize()
    pool:addjob(function() error('mine') end)
    local ok, message = pcall(function() pool:synchronize() end)
    local storage = torch.serializeToStorage({5})
    return {order[1], order[2], ok, message:match('mine'), torch.deserializeFromStorage(torch.CharTensor(storage))[1]}
    """
    assert bridge.execute(code) == ["second", "first", False, "mine", 5]


def test_no_element_is_copied_from_an_empty_tensor(bridge: LuaBridge) -> None:
    code = "local x = torch.ones(3) x[x:gt(2)] = torch.Tensor() return x:sum()"
    assert bridge.execute(code) == 3


def test_functions_of_image(bridge: LuaBridge) -> None:
    code = """
    local image = require 'image'
    local kernel = image.gaussian1D {size = 3, normalize = true}
    local ok, message = pcall(image.warp)
    return kernel[2] / kernel[1], kernel:sum(), image.gaussian1D(5)[3], ok, message
    """
    ratio, total, top, ok, message = bridge.execute(code)
    assert ratio == pytest.approx(math.exp((1 / 0.75) ** 2 / 2))  # what Torch7's formula gives
    assert (total, top, ok) == (pytest.approx(1), 1, False)
    assert "do this step in Python" in message


def test_json_has_the_numbers_and_escapes_of_lua_cjson(bridge: LuaBridge) -> None:
    code = """
        local cjson = require 'cjson'
        return cjson.decode('[12345678901234567890123, -0, 1e2]'), cjson.encode{'a/b', '\\127'}
    """
    numbers, text = bridge.execute(code)
    assert numbers == [12345678901234567890123.0, 0, 100]
    assert text == r'["a\/b","\u007f"]'


def test_a_disk_file_seeks_beyond_its_end(bridge: LuaBridge, tmp_path: Path) -> None:
    code = """
        local f = torch.DiskFile(..., 'rw')
        f:writeString('abc')
        f:seek(6)
        f:writeString('z')
        f:close()
        local m = torch.MemoryFile()
        m:writeString('abc')
        m:seek(4)
        return pcall(m.seek, m, 5)
    """
    ok, message = bridge.execute(code, str(tmp_path / "f"))
    assert (tmp_path / "f").read_bytes() == b"abc\0\0z"
    assert not ok
    assert "unable to seek at position 4" in message


def test_an_hdf5_file_that_was_closed_is_not_written(bridge: LuaBridge, tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    code = "local f = require('hdf5').open(..., 'w') f:close() f:write('x', torch.ones(2))"
    with pytest.raises(LuaBridgeError, match="this file was closed"):
        bridge.execute(code, str(tmp_path / "f.h5"))
