"""The packages of Torch7 that the bridge has in Lua answer what Torch7's packages answered."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("lupa")

from dpnn_bridge.lua import LuaBridge

# ---- paths, sys


def test_paths_are_taken_apart_as_in_torch7(bridge: LuaBridge) -> None:
    code = """
    local missing = paths.tmpname()
    return {paths.basename('footxt', 'txt'), paths.basename('.txt', 'txt'), paths.basename('a.txt', 'txt'),
            paths.dirname('a//b'), paths.dirname('///'), paths.dirname('//a'), paths.extname('.bashrc'),
            paths.extname('foo.'), paths.extname('a.b/c'), paths.concat('//a'), paths.filep('/dev/null'),
            paths.filep(missing), paths.mkdir(missing), paths.rmdir(missing), paths.is_win() == nil,
            pcall(paths.getregistryvalue, 'HKEY_USERS', 'a', 'b')}
    """
    parts = ["footxt", "", "a", "a/", "///", "/", "bashrc", "", "b/c", "/a", True, False, True, True, True]
    assert bridge.execute(code)[: len(parts) + 1] == [*parts, False]


def test_sys(bridge: LuaBridge) -> None:
    code = r"""
    local sys = require 'sys'
    return {sys.prefix, sys.fexecute('printf "a\\nb\\n"', '*l'), table.concat(sys.split('a1b2c', '(%d)'), '|'),
            table.concat(sys.split(',a,,b,', ','), '|'), #sys.split('', ','), require('sys.colors') == sys.COLORS}
    """
    assert bridge.execute(code) == ["", "a", "a|b|c", "a||b", 0, True]


# ---- tds, threads


def test_every_name_is_a_key_of_a_hash(bridge: LuaBridge) -> None:
    code = """
    local tds = require 'tds'
    local counts = tds.Hash()
    for _, word in ipairs {'new', 'read', 'write', '__typename', 'new'} do counts[word] = (counts[word] or 0) + 1 end
    return counts.new, counts.read, #counts
    """
    assert bridge.execute(code) == (2, 1, 4)


#: how torch.serialize({tds.Hash{x = 1}, ...}, 'ascii') of Torch7 begins
TDS = """3
1
3
1
1
4
2
3
V 0
8
tds.Hash
1
2
1
x
1
1
"""


def test_files_of_tds_are_those_of_torch7(bridge: LuaBridge) -> None:
    code = """
    local tds = require 'tds'
    local counter, vec = tds.AtomicCounter(), tds.Vec(1, 'a', {2})
    counter:set(7) vec[5] = false
    local text = torch.serialize({tds.Hash {x = 1}, vec, counter}, 'ascii')
    local hash, v, c = unpack(torch.deserialize(text, 'ascii'))
    return text, hash.x, #v, v[2], v[3][1], v[4], v[5], c:get()
    """
    text, *values = bridge.execute(code)
    assert text.startswith(TDS)
    assert values == [1, 5, "a", 2, None, False, 7]


def test_positions_of_a_vec_are_truncated(bridge: LuaBridge) -> None:
    code = """
    local v = require 'tds'.Vec({1, 2, 3})
    v[0.5] = 0 v[1.5] = 4 v:insert(2.7, 9) v:remove(1.9) v:resize(2.7)
    return #v, v[1.2], v[2.9]
    """
    assert bridge.execute(code) == (2, 9, 2)


def test_a_vec_knows_its_size(bridge: LuaBridge) -> None:
    code = """
    local tds = require 'tds'
    local v, sizes, order = tds.Vec(), {}, {}
    local function note() sizes[#sizes + 1] = #v end
    v:resize(3) note() v[5] = 1 note() v[5] = nil v:insert('e') note() v:insert(2, 'i') note()
    v:remove(1) note() v:remove(9) v:remove() note()
    for k, x in ipairs(v) do order[#order + 1] = k .. tostring(x) end
    local ok, message = pcall(function() return v.foo end)
    return sizes, table.concat(order, ' '), tds.Vec(1, true, 'x'):concat('-'), tostring(tds.Vec {1, 'x'}), ok,
           tds.AtomicCounter(4):get(), tostring(tds.AtomicCounter()), tostring(tds.Hash {longer = 'two\\nlines'})
    """
    assert bridge.execute(code) == (
        [3, 5, 6, 7, 6, 5],
        "1i 2nil 3nil 4nil 5nil",
        "1-true-x",
        "tds.Vec[2]{\n    1 : 1\n    2 : x\n}",
        False,
        0,
        "tds.AtomicCounter=0",
        "tds.Hash[1]{\nlonger : two\n         lines\n}",
    )


def test_threads_check_and_end(bridge: LuaBridge) -> None:
    code = """
    local threads = require 'threads'
    local pool, made = threads.Threads(2, function() return 'first' end, function(i) return i, 'b' end)
    local seen, after = {}, {}
    pool:addjob(function() return __threadid end, function(id) seen[1], after[1] = id, __threadid == nil end)
    pool:specific(true)
    local bad = {pcall(pool.addjob, pool, function() end)}
    pool:specific(false)
    pcall(pool.addjob, pool, 5)
    pool:addjob(function() error('mine') end)
    local ok, message = pcall(pool.synchronize, pool)
    pool:terminate()
    return made[2], seen[1], after[1] and __threadid == nil, bad[1], message:match('^%[thread %d callback%]'),
           pool:isrunning(), pcall(pool.addjob, pool, function() end)
    """
    made, seen, none, bad, prefix, running, added, _ = bridge.execute(code)
    assert (made, seen, none, bad, prefix, running, added) == (
        [2, "b"],
        1,
        True,
        False,
        "[thread 1 callback]",
        False,
        False,
    )


# ---- xlua

DEFINITIONS = """
require 'xlua'
local function f(...)
   local args, a, b, c = xlua.unpack({...}, 'f', 'does it', {arg = 'a', type = 'number', help = 'first', default = 3},
                                     {arg = 'b', type = 'table', help = 'second', req = true},
                                     {arg = 'c', type = 'string', help = 'third', defaulta = 'a'})
   return {a, type(b), c, args.a, type(args[2]), tostring(args.usage)}
end
"""


def test_arguments_of_xlua(bridge: LuaBridge, capfd: pytest.CaptureFixture[str]) -> None:
    calls = "return f{b = {5}}, f(7, {1, 2}), {pcall(f, {1, 2, 3})}, {pcall(f)}, {pcall(f, {a = 1})}"
    named, ordered, listed, none, missing = bridge.execute(DEFINITIONS + calls)
    usage = (
        f"{'+' * 69}\n\x1b[1;35mf\x1b[0m\n\ndoes it\n\n\x1b[0;34m> \x1b[0musage:\n\x1b[0;36mf{{\n"
        "    [a = number]                        -- first  [default = 3]\n"
        "    b = table                           -- second\n"
        "    [c = string]                        -- third  [default == a]\n}\n"
        "\x1b[0m\n\x1b[0;36mf{b=table, a=number}\nf(number, ...)\x1b[0m\n" + "+" * 69
    )
    assert named == [3, "table", 3, 3, "table", usage]
    assert ordered[:5] == [7, "table", 7, 7, "table"]
    assert not listed[0]  # a list is the first argument, not named ones
    assert not none[0]
    assert not missing[0]
    assert capfd.readouterr().out.count("missing argument: b") == 2


def test_tools_of_xlua(bridge: LuaBridge) -> None:
    code = """
    local xlua, options, rest = require 'xlua', {}, nil
    arg = {[0] = 'x.lua', '-c', 'file'}
    local parser = xlua.OptionParser('%prog')
    parser:option {'-c', action = 'count', dest = 'count', default = 7, help = 'c'}
    options, rest = parser:parse()
    local pruned = table.prune({1, 2, 3}, function(x) return x > 2 end)
    return {xlua.table2string {1, 2, [1.5] = 'x'}, table.concat(('a1b2c'):split('(%d)'), '|'), options.count, rest[1],
            #pruned, xlua.formatTime(0.043), select(2, pcall(xlua.error, 'bad', 'dom', 'use')):match('\\27.*')}
    """
    assert bridge.execute(code) == ['{1,2,[1.5]="x"}', "a|b|c", 7, "file", 2, "43ms", "\x1b[1;31m<dom> bad\x1b[0m\nuse"]


# ---- csvigo, cjson, image, hdf5


def test_arguments_of_csvigo(bridge: LuaBridge, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text('skipped;\n1;2\n"a"b;3\n4;"x;""y"\n')
    code = """
    local csvigo, path = require 'csvigo', ...
    local tidy = csvigo.load {path = path, separator = ';', skip = 1, verbose = false}
    local raw, plain = csvigo.load(path, ';', 'raw'), csvigo.load {path = path, separator = ';', header = false}
    csvigo.save(path .. 2, {a = {1}, b = {1, 'x|y'}}, '|', 'tidy', true, false)
    return tidy['1'], tidy['2'], #raw, plain.var_1[2], csvigo.load(path .. 2, '|').b,
           pcall(csvigo.load, path, ';', 'query')
    """
    first, second, rows, plain, saved, known, message = bridge.execute(code, str(path))
    assert (first, second) == (["a", "4"], ["3", 'x;"y'])
    assert (rows, plain, saved, known) == (4, "1", ["1", "x|y"], False)
    assert "the bridge supports the modes raw and tidy, not query" in message
    assert (tmp_path / "t.csv2").read_text() == 'a|b\n1|1\n|"x|y"\n'


def test_settings_of_cjson(bridge: LuaBridge) -> None:
    code = r"""
    local cjson = require('cjson').new()
    local function message(f, ...) return select(2, pcall(f, ...)) end
    local results = {cjson.encode('a/b\127\255'), cjson.decode('"a\tb\255"'), cjson.decode('[12345678901234567890]')[1],
                     message(cjson.encode, {[50] = 1}):match('excessively'), message(cjson.encode, 0 / 0):match('NaN'),
                     message(cjson.encode_max_depth, 0):match('expected integer')}
    cjson.encode_sparse_array(true)
    cjson.encode_number_precision(3)
    cjson.encode_invalid_numbers('null')
    cjson.decode_max_depth(1)
    cjson.decode_invalid_numbers(false)
    for _, x in ipairs {cjson.encode {[50] = 1 / 3}, cjson.encode {1 / 0}, (cjson.encode_sparse_array()),
                        message(cjson.decode, '[[1]]'), message(cjson.decode, '[NaN]'),
                        require('cjson').encode(1 / 3)} do
       results[#results + 1] = tostring(x)
    end
    return results
    """
    assert bridge.execute(code) == [
        '"a\\/b\\u007f\xff"',
        "a\tb\xff",
        12345678901234567890.0,
        "excessively",
        "NaN",
        "expected integer",
        '{"50":0.333}',
        "[null]",
        "true",
        "Found too many nested data structures (2)",
        "Expected value but found invalid number NaN",
        "0.33333333333333",
    ]


def test_options_of_image(bridge: LuaBridge) -> None:
    pytest.importorskip("PIL")
    code = """
    local image = require 'image'
    local x = torch.range(0, 239):view(1, 12, 20)
    local function size(t) return table.concat(t:size():totable(), 'x') end
    local out, rgb = torch.Tensor(), torch.range(1, 12):view(3, 2, 2)
    image.hflip(out, x)
    local yuv = torch.Tensor()
    image.rgb2yuv(yuv, rgb)
    local bytes = image.minmax {tensor = torch.ByteTensor {0, 100, 200}}
    return {size(image.scale(x, '*2')), size(image.scale(x, '^7')), size(image.scale(x, 7)),
            size(image.scale(x, '*1/3')), size(image.scale(x, '30x15')),
            size(image.crop(torch.Tensor(1, 2, 2), x, 0, 0, 4, 4)), size(out), size(yuv),
            size(image.gaussian(3, 0.25, 1, false, 5)), image.gaussian {tensor = torch.Tensor(2, 4)}:dim(), bytes[2],
            image.minmax {tensor = torch.Tensor {-1, 1, 3}, min = 0, max = 2}[1],
            image.minmax {tensor = torch.Tensor {-1, 1, 3}, min = 0, max = 2, saturate = true}[1],
            image.minmax {tensor = torch.Tensor {-1, 0, 0.5}, symm = true}[2]}
    """
    assert bridge.execute(code) == [
        "1x24x40", "1x7x11", "1x4x7", "1x4x6", "1x15x30", "1x2x2", "1x12x20", "3x2x2", "3x5", 2, 0.5, -0.5, 0, 0.5,
    ]  # fmt: skip


def test_hdf5_appends_to_a_file_below_home(bridge: LuaBridge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    h5py = pytest.importorskip("h5py")
    monkeypatch.setenv("HOME", str(tmp_path))
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file["x"] = [1.0]
    bridge.execute("local f = require('hdf5').open('~/data.h5') f:write('y', torch.ones(2)) f:close()")
    with h5py.File(tmp_path / "data.h5") as file:
        assert sorted(file) == ["x", "y"]


def test_hdf5_writes_parts_and_whole_rows(bridge: LuaBridge, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    code = """
    local file = require('hdf5').open(...)
    file:write('x', torch.zeros(2, 3), require('hdf5').DataSetOptions():setChunked(2, 3))
    local x = file:read('x')
    local same = x:write(torch.ones(1, 2), 2, 2) == x
    local bad = {pcall(x.write, x, torch.ones(1, 2), 2), pcall(x.write, x, torch.ones(1, 2), 2, 3),
                 pcall(file.append, file, 'x', torch.ones(1, 1))}
    file:close()
    return same, bad[1], bad[2], bad[3]
    """
    assert bridge.execute(code, str(tmp_path / "x.h5")) == (True, False, False, False)
    with h5py.File(tmp_path / "x.h5") as file:
        assert file["x"][:].tolist() == [[0, 0, 0], [0, 1, 1]]


def test_attributes_of_lfs(bridge: LuaBridge, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    (tmp_path / "x").chmod(0o640)
    code = (
        "local lfs, p = require 'lfs', ... return lfs.attributes(p).permissions, lfs.attributes(p, 'size'), "
        "pcall(lfs.attributes, p, 'no')"
    )
    permissions, size, ok, message = bridge.execute(code, str(tmp_path / "x"))
    assert (permissions, size, ok) == ("rw-r-----", 3, False)
    assert "invalid option 'no'" in message


def test_bits_of_nothing(bridge: LuaBridge) -> None:
    assert bridge.execute("local b = require 'bit32' return b.bor(), b.bxor(), b.band()") == (0, 0, 2**32 - 1)


def test_packages_in_the_folder_of_th(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "init.lua").write_text("return 'lib'")
    (tmp_path / "values.json").write_text("[1, 2]")
    (tmp_path / "broken").write_text("error('mine')")
    monkeypatch.chdir(tmp_path)
    bridge = LuaBridge()
    bridge.require("trepl")
    found = bridge.execute("return require 'lib', require('values')[2], select(2, pcall(require, 'broken'))")
    assert found[:2] == ("lib", 2)
    assert "module 'broken' not found" in found[2]


def test_colours_are_a_terminals(tmp_path: Path) -> None:
    """A checkout of trepl has colours whatever the output is; Torch7's trepl empties them, in C."""
    (tmp_path / "trepl").mkdir()
    (tmp_path / "trepl" / "colors.lua").write_text("return {red = 'RED', none = 'NONE'}")
    code = "local c = require 'trepl.colorize' return c.red('x'), torch.isatty(io.stdout)"
    for bridge in (LuaBridge(), LuaBridge(tmp_path)):
        bridge.require("trepl")
        assert bridge.execute(code) == ("x", False)
