"""Escapes that succeed in a Lua that is not confined, each shown to do so, and fail in the sandbox."""
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("lupa")

from dpnn_bridge.errors import LuaBridgeError
from dpnn_bridge.lua import LuaBridge
from dpnn_bridge.lua.runtime import Runtime
from dpnn_bridge.lua.sandbox import Sandbox
from dpnn_bridge.lua.state import Host, LuaState

pytestmark = pytest.mark.usefixtures("warm_sandboxes")

SECRET = "return 'secret'"

#: each gives what it got at; FOLDER holds secret.lua, data.t7 and path, BYTECODE is a compiled function
ESCAPES = {
    # ---- files
    "read a file": "return io.open(FOLDER .. '/secret.lua'):read('*a'):match('secret')",
    "read the lines of a file": "return io.lines(FOLDER .. '/secret.lua')():match('secret')",
    "read a file as the standard input": "io.input(FOLDER .. '/secret.lua') return io.read('*a'):match('secret')",
    "write a file": "return io.open(FOLDER .. '/new', 'w'):write('x') and is_there('new')",
    "write a file as the standard output": """
        local before = io.output()
        io.output(FOLDER .. '/new') io.write('x') io.output():close() io.output(before)
        return is_there('new')""",
    "methods of files": "return getmetatable(io.stdout).__index.seek",
    "remove a file": "return os.remove(FOLDER .. '/secret.lua')",
    "rename a file": "return os.rename(FOLDER .. '/secret.lua', FOLDER .. '/moved')",
    "make a file that is temporary": "return os.tmpname()",
    "run a file of Lua": "return dofile(FOLDER .. '/secret.lua')",
    "load a file of Lua": "return loadfile(FOLDER .. '/secret.lua')()",
    "include a file": "return include(FOLDER .. '/secret.lua')",
    "another package.path": "package.path = FOLDER .. '/?.lua' return require('secret')",
    "require through a link to a file": "return require('linked')",
    "require through a link to a folder": "return require('folder.secret')",
    "torch.load": "return torch.load(FOLDER .. '/data.t7')[1]",
    "torch.save": "torch.save(FOLDER .. '/new', 1) return is_there('new')",
    "DiskFile reads": "return torch.DiskFile(FOLDER .. '/secret.lua'):readString('*a'):match('secret')",
    "DiskFile writes": "local f = torch.DiskFile(FOLDER .. '/new', 'w') f:writeInt(1) f:close() return is_there('new')",
    "list a folder by paths": "for name in paths.files(FOLDER) do if name == 'secret.lua' then return name end end",
    "make a folder by paths": "paths.mkdir(FOLDER .. '/new') return is_there('new')",
    "list a folder by lfs": """
        for name in require('lfs').dir(FOLDER) do if name == 'secret.lua' then return name end end""",
    # ---- programs, the process, the environment
    "run a program by os": "os.execute('touch ' .. FOLDER .. '/new') return is_there('new')",
    "run a program by PipeFile": "return torch.PipeFile('echo it ran'):readString('*a'):match('it ran')",
    "variables of the environment": "return os.getenv('DPNN_SECRET')",
    "libraries of C": "return package.loadlib('libm.so.6', 'cos')",
    # ---- what is inside
    "bytecode as a Lua module": "return require('compiled')",
    "upvalues": "local hidden = 'it' local f = function() return hidden end return debug.getupvalue(f, 1)",
    "upvalues that change": """
        local hidden = 'kept'
        local f = function() return hidden end
        debug.setupvalue(f, 1, 'changed')
        return f() == 'changed' and f()""",
    "upvalues by serialize": """
        local hidden = 'it was hidden'
        local f = function() return hidden end
        return torch.serialize(f):match('it was hidden')""",
    "the registry": "return debug.getregistry()[1] ~= nil or next(debug.getregistry())",
    "locals of who calls": """
        local mine, found = 'it', nil
        local function look() for i = 1, 9 do if debug.getlocal(2, i) == 'mine' then found = 'it' end end end
        look()
        return found""",
    "all attributes of a thread": "return coroutine.running and debug.getinfo(1, 'f').func",
    "what a script prints": "return io.stdout:write('') and io.stdout",
    "the hook that counts instructions": """
        debug.sethook(function() end, '', 1000)
        local hook = debug.gethook()
        debug.sethook()
        return hook""",
    "a metatable for numbers": """
        debug.setmetatable(0, {__index = function() return 'it' end})
        local found = (5).x
        debug.setmetatable(0, nil)
        return found""",
    "the environment of a function": "return setfenv(loadstring('return x'), {x = 'it'})()",
    "the globals of a function": "return getfenv(print).io",
    "userdata with a finalizer": """
        local caught
        local p = newproxy(true)
        getmetatable(p).__gc = function() caught = 'it ran' end
        p = nil collectgarbage() collectgarbage()
        return caught""",
    "debug in a finalizer": """
        local caught
        torch.getmetatable('torch.Timer').__gc = function() caught = debug or package or io.open end
        torch.Timer() collectgarbage() collectgarbage()
        return caught""",
    "debug in another environment": "return load('return debug.getinfo', 'x', 't', _G)()",
    "libraries that are loaded": "return package.loaded.os.execute",
    "libraries by require": "return require('io').open or require('os').execute",
    "a loader of one's own": """
        package.preload.mine = function() return 'it ran' end
        return require('mine')""",
    "the traceback": "return debug.traceback()",
}


@dataclass
class Place:
    """A folder with what an escape is after.

    Attributes:
        home: the folder.
        bytecode: a function that Lua compiled.
    """

    home: Path
    bytecode: bytes

    def fill(self) -> None:
        """As it was, whatever the last escape did."""
        (self.home / "path").mkdir(exist_ok=True)
        (self.home / "secret.lua").write_text(SECRET)
        (self.home / "path" / "good.lua").write_text("return {answer = 42}")
        (self.home / "path" / "compiled.lua").write_bytes(self.bytecode)
        for name, target in (("linked.lua", "secret.lua"), ("folder", ".")):
            if not (self.home / "path" / name).is_symlink():
                (self.home / "path" / name).symlink_to(self.home / target)

    def caught(self, bridge: LuaBridge, name: str, *, confined: bool) -> str | None:
        """What an escape got at; None for nothing, or an error."""
        self.fill()
        there = sorted(self.home.iterdir())
        code = f"""
            local FOLDER, BYTECODE = ...
            local function is_there(name) return io.open(FOLDER .. '/' .. name) and name end
            local ok, caught = pcall(function() {ESCAPES[name]} end)
            return ok and caught and tostring(caught) or nil
        """
        found = bridge.execute(code, str(self.home), self.bytecode)
        if confined:
            assert sorted(self.home.iterdir()) == there
            assert (self.home / "secret.lua").read_text() == SECRET
        else:
            for new in set(self.home.iterdir()) - set(there):
                new.rmdir() if new.is_dir() else new.unlink()
        return found


@pytest.fixture(scope="module")
def outside() -> LuaBridge:
    return LuaBridge(runtime="lua51")


@pytest.fixture(scope="module")
def place(outside: LuaBridge, tmp_path_factory: pytest.TempPathFactory) -> Place:
    home = tmp_path_factory.mktemp("escapes")
    place = Place(home, outside.execute("return string.dump(function() return 'it ran' end)").encode("latin-1"))
    outside.execute("torch.save(..., {7})", str(home / "data.t7"))
    return place


class Program(Host):
    """Gives the Lua files of a path, as the program outside of a sandbox."""

    def __init__(self, lua_path: Path) -> None:
        self._outside: Any = SimpleNamespace(lua_path=[lua_path])

    def module(self, name: Any) -> tuple[str | None, str] | None:
        return Sandbox._find(self._outside, str(name))


@pytest.fixture(scope="module", params=["all barriers", "Lua's alone"])
def inside(request: pytest.FixtureRequest, place: Place) -> Iterator[LuaBridge]:
    """A sandbox; and its Lua in this process, where the kernel refuses nothing, as in a partial sandbox."""
    place.fill()
    path, limits = place.home / "path", {"max_memory": 256 << 20, "max_instructions": 1_000_000_000}
    if request.param == "all barriers":
        bridge = LuaBridge(path, sandbox=True, max_seconds=30, **limits)
        yield bridge
        bridge.close()
    else:
        yield LuaBridge.from_runtime(Runtime("lua51", sandbox=True, host=Program(path), **limits))


@pytest.mark.parametrize("name", ESCAPES)
def test_an_escape_succeeds_without_the_sandbox(name: str, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DPNN_SECRET", "it")
    place.fill()
    assert place.caught(LuaBridge(place.home / "path", runtime="lua51"), name, confined=False)


@pytest.mark.parametrize("name", ESCAPES)
def test_an_escape_fails(name: str, place: Place, inside: LuaBridge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DPNN_SECRET", "it")
    assert place.caught(inside, name, confined=True) is None
    assert inside.require("good") == {"answer": 42}


#: all that a script of a sandbox finds, beside the functions of tables, math and torch
NAMES = {
    "_G": """
        _G _VERSION assert collectgarbage coroutine error getmetatable io ipairs load loadstring math next os pairs
        pcall print rawequal rawget rawset require select setmetatable string table tonumber torch tostring type unpack
        xpcall
    """,
    "os": "clock date difftime time",
    "io": "flush stderr stdout write",
    "io.stdout": "flush write",
    "io.stderr": "flush write",
    "string": "byte char find format gfind gmatch gsub len lower match rep reverse sub upper",
    "coroutine": "create resume running status wrap yield",
}


def test_a_sandbox_has_these_names_and_no_others() -> None:
    bridge = LuaBridge.from_runtime(Runtime("lua51", sandbox=True, max_memory=256 << 20, max_instructions=10**9))
    for table, names in NAMES.items():
        code = f"local found = {{}} for name in pairs({table}) do found[#found + 1] = name end return found"
        assert sorted(bridge.execute(code)) == names.split(), table
    for name in ("_G", "debug", "io", "jit", "lfs", "os", "package", "paths", "python", "sys"):
        assert bridge.execute("return (pcall(require, ...))", name) is False, name


def test_a_storage_of_a_sandbox_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    bridge = LuaBridge.from_runtime(Runtime("lua51", sandbox=True, max_memory=256 << 20, max_instructions=10**9))
    code = "return torch.ByteStorage(..., false, 6)[1]"
    assert LuaBridge(runtime="lua51").execute(code, str(tmp_path / "secret")) == ord("s")
    with pytest.raises(LuaBridgeError):
        bridge.execute(code, str(tmp_path / "secret"))


def test_bytecode_is_refused_whatever_a_script_replaced(place: Place) -> None:
    bridge = LuaBridge.from_runtime(Runtime("lua51", sandbox=True, max_memory=256 << 20, max_instructions=10**9))
    code = """
        local whole, sub, n = ..., string.sub, 0
        string.byte, string.sub, table.concat = function() return 0 end, nil, function() return '' end
        local function part() n = n + 1 return sub(whole, n, n) end
        return type(loadstring(whole)), type(load(part))"""
    assert bridge.execute(code, place.bytecode) == ("nil", "nil")


def test_lua_holds_no_exception_and_no_metatable_of_python() -> None:
    runtime = Runtime("lua51", sandbox=True, max_memory=256 << 20, max_instructions=10**9)
    runtime.lua.globals()["raises"] = {}.__getitem__
    code = """
        local seen = {}
        local function see(_, e) seen[#seen + 1] = type(e) return e end
        see(pcall(raises, 1))
        see(xpcall(function() raises(1) end, function(e) return see(nil, e) end))
        see(coroutine.resume(coroutine.create(function() raises(1) end)))
        see(pcall(coroutine.wrap(function() raises(1) end)))
        return seen, getmetatable(raises)"""
    assert LuaBridge.from_runtime(runtime).execute(code) == (["string"] * 5, None)


def test_the_lua_of_a_sandbox_is_registered_without_python() -> None:
    """No part of the prelude has run, which takes away the table ``python``."""
    state = LuaState("auto", sandbox=True, max_memory=256 << 20)
    assert state.name == "lua51"
    assert state.lua.eval("python.eval") is state.lua.eval("python.builtins") is None
    state.lua.globals()["value"] = {}.__getitem__
    with pytest.raises(AttributeError, match="cannot access the attributes"):
        state.lua.eval("value.__self__")


def test_functions_for_files_say_what_they_refuse() -> None:
    bridge = LuaBridge.from_runtime(Runtime("lua51", sandbox=True, max_memory=256 << 20, max_instructions=10**9))
    for name in ("save", "load", "saveobj", "loadobj"):
        with pytest.raises(LuaBridgeError, match="a sandbox cannot read or write files"):
            bridge.execute(f"torch.{name}('x', 1)")
    assert bridge.execute("return pcall(require, {})")[1].endswith("bad argument #1 to 'require' (string expected)")


def test_the_prelude_of_a_sandbox_gets_no_function_for_files_and_programs() -> None:
    limits = {"max_memory": 256 << 20, "max_instructions": 10**9}
    inside = {*Runtime("lua51", sandbox=True, **limits)._api.keys()}
    assert {*Runtime("lua51")._api.keys()} - inside == {
        "DiskFile_methods",
        "PipeFile_methods",
        "discard_saved",
        "exists",
        "hdf5",
        "hdf5_lists",
        "image_load",
        "image_luminance",
        "image_save",
        "image_scale",
        "json",
        "lfs",
        "libpaths",
        "md5",
        "new_DiskFile",
        "new_PipeFile",
        "new_saved",
        "prelude",
    }


#: what LuaJIT alone has
LUAJIT = {
    "io.popen": "return io.popen('echo it ran'):read('*a'):match('it ran')",
    "sys.execute": "return require('sys').execute('echo it ran'):match('it ran')",
    "ffi": "local ffi = require('ffi') ffi.cdef('int getpid(void);') return ffi.C.getpid() > 1",
    "memory by ffi": "local ffi = require('ffi') return ffi.cast('uint8_t*', ffi.new('uint8_t[4]', 7))[0] == 7",
    "jit": "return jit.version",
}


@pytest.mark.parametrize("name", LUAJIT)
def test_an_escape_of_luajit(name: str, inside: LuaBridge) -> None:
    code = f"local ok, caught = pcall(function() {LUAJIT[name]} end) return ok and caught and tostring(caught) or nil"
    try:
        outside = LuaBridge(runtime="luajit21")
    except ImportError:
        pytest.skip("this lupa has no LuaJIT")
    assert outside.execute(code)
    assert inside.execute(code) is None
