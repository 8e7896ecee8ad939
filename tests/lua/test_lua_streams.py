"""Objects in files: LuaJIT reads and writes them without Python. Python finds the file where Lua left it."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("lupa")

from dpnn_bridge.errors import LuaBridgeError
from dpnn_bridge.lua import LuaBridge, files

BRIDGES = {name: LuaBridge(runtime=name) for name in ("luajit21", "lua51")}


@pytest.fixture(params=BRIDGES)
def bridge(request: pytest.FixtureRequest) -> LuaBridge:
    return BRIDGES[request.param]


def test_objects_larger_than_a_window_are_read_back(bridge: LuaBridge, tmp_path: Path) -> None:
    code = """
        local text, many, sparse = ('x'):rep(70000), torch.range(1, 20000), torch.IntTensor{{1, 2}, {3, 4}}:t()
        local object = {text, many, sparse, {}, {deep = {sparse, 0/0, true, nested = torch.ByteStorage{1, 255}}}}
        for i = 1, 3000 do object[4][i] = {i, 'row ' .. i, i % 2 == 0, torch.LongTensor{i, -i}} end
        local path, mode = ...
        torch.save(path, object, mode)
        local back = torch.load(path, mode)
        assert(back[1] == text and back[2]:equal(many) and back[3]:equal(sparse) and back[3]:stride(1) == 1)
        local deep = back[5].deep
        assert(deep[2] ~= deep[2] and deep[3] == true and deep.nested[2] == 255)
        back[3][1][1] = 9  -- one tensor in the file, one in memory
        assert(deep[1][1][1] == 9)
        for i = 1, 3000 do
           local a = back[4][i]
           assert(a[1] == i and a[2] == 'row ' .. i and a[3] == (i % 2 == 0) and a[4][2] == -i, i)
        end
        return #torch.serialize(object, mode)
    """
    for mode in ("binary", "ascii"):
        assert bridge.execute(code, str(tmp_path / "object.t7"), mode) == (tmp_path / "object.t7").stat().st_size


def test_methods_of_python_and_objects_alternate(bridge: LuaBridge, tmp_path: Path) -> None:
    code = """
        local file = torch.DiskFile(..., 'rw'):binary()
        file:writeInt(7) file:writeObject({1, torch.Tensor{1, 2}}) file:writeString('line\\n')
        local middle = file:position()
        file:writeObject('last') file:writeDouble(torch.DoubleStorage{1.5, 2.5})
        file:seek(1)
        local out = {file:readInt(), file:position(), file:readObject()[2][2], file:readString('*l')}
        out[5] = file:position() == middle
        out[#out + 1] = file:readObject()
        local place = file:position()
        out[#out + 1] = file:readDouble()
        file:seek(place) file:writeDouble(9)
        file:seek(place) out[#out + 1] = file:readDouble(2)[2]
        file:seek(place) out[#out + 1] = file:readDouble()
        file:seek(middle) file:writeObject('LAST') file:seek(middle)
        out[#out + 1] = file:readObject()
        file:littleEndianEncoding() file:seek(1) out[#out + 1] = file:readInt()
        file:bigEndianEncoding() file:seek(1) out[#out + 1] = file:readInt()
        file:nativeEndianEncoding() file:ascii() file:seek(middle - 5) out[#out + 1] = file:readString('*l')
        file:close()
        return unpack(out)
    """
    expected = (7, 5, 2, "line", True, "last", 1.5, 2.5, 9, "LAST", 7, 7 << 24, "line")
    assert bridge.execute(code, str(tmp_path / "file")) == expected


def test_what_was_written_before_an_error_is_in_the_file(bridge: LuaBridge) -> None:
    code = """
        local file = torch.MemoryFile():binary()
        local ok, message = pcall(file.writeObject, file, {1, coroutine.create(function() end)})
        assert(not ok and message:find('Unwritable object <thread>'))
        file:writeInt(5)
        return file:position(), (pcall(file.readObject, file))
    """
    assert bridge.execute(code) == (53, False)


def test_a_file_that_ends_early_is_an_error(bridge: LuaBridge) -> None:
    code = """
        local text = torch.serialize({torch.rand(50), 'text'})
        local refused = 0
        for n = 0, #text - 1, 7 do refused = refused + (pcall(torch.deserialize, text:sub(1, n)) and 0 or 1) end
        local file = torch.MemoryFile(torch.CharStorage():string('abc\\0'), 'r'):binary():quiet()
        return refused == math.ceil(#text / 7), file:readInt(), file:hasError()
    """
    assert bridge.execute(code) == (True, 0, True)


@pytest.mark.parametrize(
    ("offset", "size", "stride", "kind"),
    [(2, 3, 1, "Double"), (0, 1, 1, "Double"), (1, -1, 1, "Double"), (1, 2, -1, "Double"), (1, 1, 1, "Float")],
)
def test_a_tensor_beyond_its_storage_is_refused(
    bridge: LuaBridge, offset: int, size: int, stride: int, kind: str
) -> None:
    code = """
        local offset, size, stride, kind = ...
        local file = torch.MemoryFile():binary()
        local function text(s) file:writeInt(#s) file:writeChar(torch.CharStorage():string(s)) end
        file:writeInt(4) file:writeInt(9) text 'V 1' text 'torch.DoubleTensor'
        file:writeInt(1) file:writeLong(size) file:writeLong(stride) file:writeLong(offset)
        file:writeObject(torch[kind .. 'Storage']{1, 2, 3})
        file:seek(1)
        return file:readObject()
    """
    assert bridge.execute(code, 2, 2, 1, "Double").tolist() == [2, 3]
    with pytest.raises(LuaBridgeError, match=r"beyond its storage of 3 elements|DoubleStorage expected"):
        bridge.execute(code, offset, size, stride, kind)


@pytest.mark.parametrize("form", ["binary", "ascii"])
def test_objects_are_read_and_written_without_python(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for name in ("read", "read_number", "write", "write_number", "window", "put_bytes"):

        def counted(
            self: files.File, *args: object, name: str = name, code: object = getattr(files.File, name)
        ) -> object:
            calls.append(name)
            return code(self, *args)  # type: ignore[operator]

        monkeypatch.setattr(files.File, name, counted)
    code = """
        local object = {}
        for i = 1, 500 do object[i] = {name = 'a tensor', torch.Tensor(3, 3):fill(i)} end
        return torch.deserialize(torch.serialize(object, ...), ...)[500][1]:sum()
    """
    assert BRIDGES["luajit21"].execute(code, form) == 4500
    assert len(calls) < 20, calls


def test_classes_read_and_write_numbers_of_their_own(bridge: LuaBridge) -> None:
    code = """
        local types = {'Byte', 'Char', 'Short', 'Int', 'Long', 'Float', 'Double'}
        local Packed = torch.class('streams_Packed')
        Packed.write = function(self, file)
           for _, name in ipairs(types) do file['write' .. name](file, self[name]) end
           file:writeLong(torch.LongStorage{2 ^ 40, -3}) file:writeObject({self.child}) file:writeBool(true)
        end
        Packed.read = function(self, file, version)
           for _, name in ipairs(types) do self[name] = file['read' .. name](file) end
           local longs = torch.LongStorage(2)
           assert(file:readLong(longs) == 2)
           self.sum, self.child = longs[1] + longs[2], file:readObject()[1]
           self.flag = file:readBool()
        end
        local values = {Byte = 255, Char = -128, Short = -32768, Int = 2 ^ 31 - 1, Long = -2 ^ 53}
        values.Float, values.Double = 0.5, 0.1
        local function packed(child)
           local object = {child = child}
           for k, v in pairs(values) do object[k] = v end
           torch.setmetatable(object, 'streams_Packed')
           return object
        end
        local back = torch.deserialize(torch.serialize(packed(packed())))
        for _, object in ipairs {back, back.child} do
           for k, v in pairs(values) do assert(object[k] == v, k) end
           assert(object.flag == true and object.sum == 2 ^ 40 - 3)
        end
        return torch.type(back.child), back.child.child
    """
    assert bridge.execute(code) == ("streams_Packed", None)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_full_disk_is_the_same_error_for_strings_and_for_a_buffer(bridge: LuaBridge) -> None:
    code = """
        local function full() return torch.DiskFile('/dev/full', 'w') end
        local text, loud, quiet, buffered = ('x'):rep(100000), full(), full():quiet(), full()
        local _, message = pcall(loud.writeString, loud, text)
        local written = quiet:writeString(text)
        buffered:writeString('x')
        local _, flushed = pcall(buffered.synchronize, buffered)
        return message, flushed, written, loud:hasError(), quiet:hasError(), buffered:hasError()
    """
    message, flushed, *others = bridge.execute(code)
    assert message.endswith("cannot write /dev/full: No space left on device")
    assert flushed.endswith("cannot write /dev/full: No space left on device")
    assert others == [0, True, True, True]


def test_files_describe_themselves_as_in_torch7(bridge: LuaBridge, tmp_path: Path) -> None:
    code = """
        local name = ...
        local disk, memory, pipe = torch.DiskFile(name, 'w'), torch.MemoryFile('r'), torch.PipeFile('true')
        local texts = {tostring(disk), tostring(memory), tostring(pipe)}
        pipe:close()
        disk:close()
        for _, method in ipairs{'littleEndianEncoding', 'nativeEndianEncoding', 'noBuffer'} do
           assert(not pcall(disk[method], disk), method)
        end
        assert(not pcall(disk.longSize, disk, 8))
        assert(not disk:binary():isQuiet())  -- these do not look at the file
        return texts
    """
    name = tmp_path / "mode: r"
    assert bridge.execute(code, str(name)) == [
        f"torch.DiskFile on <{name}> [status: open -- mode  w]",
        "torch.MemoryFile [status: open -- mode: r ]",
        "torch.PipeFile on <true> [status: open -- mode: r ]",
    ]


def test_strings_that_are_numbers_are_written(bridge: LuaBridge) -> None:
    code = """
        local f = torch.MemoryFile()
        f:writeInt('0x10') f:writeFloat('1.5') f:writeByte('65')
        assert(not pcall(f.writeInt, f, 'x') and not pcall(f.writeInt, f, true))
        return f:storage():string()
    """
    assert bridge.execute(code) == "16\n1.5\nA\n\0"


def test_only_files_are_terminals(bridge: LuaBridge) -> None:
    code = "return torch.isatty(io.tmpfile()), (pcall(torch.isatty, 3)), (pcall(torch.isatty, torch.Tensor()))"
    assert bridge.execute(code) == (False, False, False)


def test_a_timer_is_written_as_nn_writes_it(bridge: LuaBridge, tmp_path: Path) -> None:
    code = """
        torch.save(..., {timer = torch.Timer(), 5})
        local back = torch.load(...)
        return torch.typename(back.timer), back.timer:time().real >= 0, back[1]
    """
    assert bridge.execute(code, str(tmp_path / "t.t7")) == ("torch.Timer", True, 5)


def test_the_metatable_of_a_file_is_printed(bridge: LuaBridge) -> None:
    assert bridge.execute("return tostring(getmetatable(torch.MemoryFile()))") == "torch.File"
