"""The sandbox: attacks that must fail, limits that must hold, and that layers still train inside it."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import math
import os
import platform
import re
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from click.testing import CliRunner

pytest.importorskip("lupa")

import dpnn_bridge
from dpnn_bridge.cli.convert import convert_command
from dpnn_bridge.cli.lua import lua_command
from dpnn_bridge.errors import LuaBridgeError
from dpnn_bridge.lua import LuaBridge, sandbox, wire
from dpnn_bridge.lua.sandbox import RemoteValue, _text
from dpnn_bridge.lua.sandboxed_bridge import SandboxedBridge
from dpnn_bridge.lua.wire import Channel, WireError

ROOT = Path(dpnn_bridge.__file__).parents[1]
EXAMPLE = ROOT / "examples" / "scaled_power.lua"
pytestmark = pytest.mark.usefixtures("warm_sandboxes")
linux = pytest.mark.skipif(sys.platform != "linux", reason="the filter of system calls is Linux's")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lua_path with a module, a secret beside it, and links that lead to the secret."""
    home = tmp_path_factory.mktemp("sandbox")
    (home / "path" / "inner").mkdir(parents=True)
    (home / "path" / "good.lua").write_text("return {answer = 42}")
    (home / "secret.lua").write_text("return 'secret'")
    (home / "path" / "linked.lua").symlink_to(home / "secret.lua")
    (home / "path" / "folder").symlink_to(home)
    (home / "path" / "circle.lua").symlink_to(home / "path" / "circle.lua")
    return home


@pytest.fixture(scope="module")
def shared(folder: Path) -> Iterator[LuaBridge]:
    bridge = LuaBridge(folder / "path", sandbox=True, max_seconds=30, max_memory=256 << 20, max_instructions=50_000_000)
    yield bridge
    bridge.close()


# ---------------------------------------------------------------------- attacks
#: what the hooks of writeObject, __index and the like got at in the first version, and relatives. Each gives what it
#: caught, or nil; SECRET is the path of a file, PATH its name without .lua
ATTACKS = {
    "python": "return python or select(2, pcall(require, 'python')).eval",
    "require of an absolute path": "return require(PATH)",
    "require of an absolute path behind a dot": "return require('x.' .. PATH)",
    "require of the folder above": "return require('../secret')",
    "require of the folder above, by a module": "return require('inner/../../secret')",
    "require of a name with a zero": "return require('good\\0/../../secret')",
    "require of a name that no file can have": "return require(('x'):rep(1e5)) or require('\\255\\1')",
    "require through a circle of links": "return require('circle')",
    "require of no text": "return require(setmetatable({}, {__tostring = function() return PATH end}))",
    "upvalues by writeObject's hook": """
        local got
        torch.MemoryFile():writeObject(require, 'x', function(o)
           if type(o) == 'function' then return o end
           if type(o) == 'table' and o[1] and o[1].name then got = o end
           return 0
        end)
        return got""",
    "upvalues by serialize": "return torch.serialize(require)",
    "upvalues of a function in a table": "return torch.serialize({require})",
    "upvalues of a function in an object": """
        local class = torch.class('Holder') function class:__init() self.f = require end
        local object = torch.deserialize(torch.serialize(Holder()))
        return object.f""",
    "bytecode": "return loadstring('\\27Lua')",
    "bytecode with another string.sub": """
        string.sub, string.byte = function() return 'x' end, function() return 1 end
        return loadstring('\\27Lua\\81\\0\\1\\4\\8\\4\\8\\0')""",
    "bytecode in parts": """
        local parts, i = {'', '\\27', 'Lua'}, 1
        return load(function() i = i + 1 return parts[i] end)""",
    "bytecode with another table.concat": """
        table.concat = function() return '\\27Lua\\81\\0\\1\\4\\8\\4\\8\\0' end
        local n = 0
        return load(function() n = n + 1 return n == 1 and '\\27Lua' or nil end)""",
    "bytecode from a file's function": """
        local f = torch.deserialize(FUNCTION)
        return select(2, pcall(f)):find('never run') == nil""",
    "the metatable of an exception": """
        local ok, e = pcall(torch.deserializeFromStorage, 1)
        local mt = type(e) == 'userdata' and getmetatable(e)
        return mt and mt.__gc""",
    "an exception as an object": """
        for _, f in ipairs {torch.Timer.time, torch.data, torch.ones(2).split, torch.MemoryFile().writeObject} do
           local ok, e = pcall(f, {}, {}, {})
           if type(e) == 'userdata' then return e end
           ok, e = xpcall(function() f({}, {}) end, function(x) return x end)
           if type(e) == 'userdata' then return e end
           ok, e = coroutine.resume(coroutine.create(f), {}, {})
           if type(e) == 'userdata' then return e end
        end""",
    "the metatable of a tensor's __gc": """
        local mt = getmetatable(torch.Timer())
        return mt and mt.__metatable ~= mt and mt.__metatable""",
    "attributes of Python": "local t = torch.Timer() return t.__class__ or t.__init__ or t._now",
    "attributes of a generator": "local g = torch.Generator() return g.__class__ or g.set_state",
    "cdata": "return torch.ones(1):cdata().__class__ or pcall(torch.pushudata, 1, 'torch.Timer') and 1",
    "a class over an existing one": "return torch.metatype and pcall(torch.metatype, 'x', getmetatable('')) and typeof",
    "setmetatable of tensors": "return pcall(setmetatable, torch.ones(1), {}) and 1",
    "the environment of torch": "local e = torch.getenv(require) return e ~= _G and e",
    "xlua's and nn's packages": "local x = require('xlua') return x.file or x.filesize or x.io",
}


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_gives_nothing(name: str, shared: LuaBridge, folder: Path) -> None:
    (folder / "path" / "compiled.lua").write_bytes(b"\x1bLua\x51\x00\x01\x04\x08\x04\x08\x00")
    secret = folder / "secret.lua"
    function = dpnn_bridge.loaders.t7_writer.dumps(dpnn_bridge.objects.LuaFunction(b"\x1bLJ\x02"))
    code = f"""
        local SECRET, PATH, FUNCTION = ...
        local kept = {{sub = string.sub, byte = string.byte, concat = table.concat}}
        local ok, caught = pcall(function() {ATTACKS[name]} end)
        string.sub, string.byte, table.concat = kept.sub, kept.byte, kept.concat
        return ok and caught and tostring(caught) or nil
    """
    assert shared.execute(code, str(secret), str(secret)[:-4], function) is None
    assert secret.read_text() == "return 'secret'"
    assert sorted(p.name for p in folder.iterdir()) == ["path", "secret.lua"]
    assert shared.require("good") == {"answer": 42}


def test_packages_of_the_bridge_are_there(shared: LuaBridge) -> None:
    shared.execute("_ = require 'moses'")
    assert shared.execute("return _.map({1}, function(_, x) return x + 1 end)[1]") == 2
    assert shared.execute("return type(require 'xlua'), require('bit32').band(6, 3)") == ("table", 2)


def test_a_layer_that_is_converted_inside_imports_nothing(shared: LuaBridge) -> None:
    """The files of the package cannot be opened any more."""
    code = "local m = nn.Sequential():add(nn.BatchNormalization(2)) return m:backward(torch.ones(3, 2), m:forward(...))"
    assert shared.execute(f"require 'nn' {code}", torch.ones(3, 2, dtype=torch.float64)).shape == (3, 2)
    with pytest.raises(LuaBridgeError, match="attempt to call field 'NoSuch'"):
        shared.execute("nn.NoSuch()")


def test_no_object_of_python_is_reachable(shared: LuaBridge) -> None:
    found = shared.execute("""
        local seen, found = {}, {}
        local function visit(value, path)
           if type(value) == 'userdata' and torch.typename(value) == nil then found[#found + 1] = path end
           if type(value) ~= 'table' and type(value) ~= 'userdata' or seen[value] then return end
           seen[value] = true
           local mt = getmetatable(value)
           if type(mt) == 'table' then visit(mt, path .. '<mt>') end
           if type(value) == 'table' then
              for k, v in next, value do visit(k, path .. '<key>') visit(v, path .. '.' .. tostring(k)) end
           end
        end
        require 'nn'
        local m = nn.Linear(2, 2)
        m:backward(torch.ones(1, 2), m:forward(torch.ones(1, 2)))
        visit(_G, '_G') visit(m, 'm') visit(getmetatable(''), 'string')
        return found
    """)
    assert not found


# ---------------------------------------------------------------------- what the kernel refuses, whatever Lua did
ATTEMPTS = """
import ctypes, json, os, resource, signal, socket, subprocess, sys, threading
from dpnn_bridge.lua.confinement import confine
marker, parent = sys.argv[1], os.getppid()
listening = socket.socket()
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *args):
    if libc.syscall(number, *args) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
x86 = os.uname().machine == "x86_64"
attempts = {
    "read a file": lambda: open(marker).read(),
    "write a file": lambda: open(marker + ".new", "w"),
    "list a folder": lambda: os.listdir("/"),
    "look at a file": lambda: os.stat(marker),
    "remove a file": lambda: os.unlink(marker),
    "rename a file": lambda: os.rename(marker, marker + ".moved"),
    "link a file": lambda: os.symlink(marker, marker + ".link"),
    "make a folder": lambda: os.mkdir(marker + ".folder"),
    "change a mode": lambda: os.chmod(marker, 0o777),
    "change the folder": lambda: os.chdir("/tmp"),
    "open a socket": lambda: socket.socket(),
    "open a socket of this machine": lambda: socket.socket(socket.AF_UNIX),
    "connect": lambda: listening.connect(("127.0.0.1", int(sys.argv[2]))),
    "make a pair of sockets": lambda: socket.socketpair(),
    "fork": lambda: os.fork() or os._exit(0),
    "start a program": lambda: subprocess.run(["true"]),
    "become a program": lambda: os.execv("/bin/true", ["true"]),
    "kill the parent": lambda: os.kill(parent, signal.SIGTERM),
    "look at the parent": lambda: os.kill(parent, 0),
    "raise a limit": lambda: resource.setrlimit(resource.RLIMIT_CPU, (resource.RLIM_INFINITY,) * 2),
    "handle a signal": lambda: signal.signal(signal.SIGXCPU, signal.SIG_IGN),
    "trace": lambda: call(101 if x86 else 117, 16, parent, 0, 0),
    "read memory of the parent": lambda: call(310 if x86 else 270, parent, 0, 0, 0, 0, 0),
    "a file in memory": lambda: os.memfd_create("x"),
    "a namespace": lambda: call(272 if x86 else 97, 0x10000000),
    "mount": lambda: call(165 if x86 else 40, b"none", b"/mnt", b"tmpfs", 0, 0),
    "bpf": lambda: call(321 if x86 else 280, 0, 0, 0),
    "io_uring": lambda: call(425, 1, 0),
    "keys": lambda: call(250 if x86 else 219, 0, 0, 0),
    "become root": lambda: call(105 if x86 else 146, 0),
    "a message queue": lambda: call(240 if x86 else 180, b"x", 0o102, 0o600, 0),
    "shared memory": lambda: call(29 if x86 else 194, 0, 4096, 0o1600),
    "another filter": lambda: call(317 if x86 else 277, 1, 0, 0),
    "a pipe": lambda: os.pipe(),
    "much memory": lambda: bytearray(1 << 30),
}
missing = confine(512 << 20)
escaped = []
for name, attempt in attempts.items():
    try:
        attempt()
        escaped.append(name)
    except (OSError, MemoryError, ValueError):
        pass
threads = []
for _ in range(3):  # computing goes on
    threads.append(threading.Thread(target=lambda: sum(range(1000))))
    threads[-1].start()
for t in threads:
    t.join()
os.write(1, json.dumps([missing, escaped]).encode())
os._exit(0)
"""


@linux
def test_the_kernel_refuses_everything_but_computing(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    marker.write_text("secret")
    with socket.create_server(("127.0.0.1", 0)) as server:
        done = subprocess.run(
            [sys.executable, "-c", ATTEMPTS, str(marker), str(server.getsockname()[1])],
            env=os.environ | {"PYTHONPATH": str(ROOT), "MALLOC_ARENA_MAX": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=True,
            timeout=120,
        )
    assert json.loads(done.stdout) == [[], []]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["marker"]


@linux
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the x32 numbers are those of x86-64")
def test_a_system_call_by_an_x32_number_ends_the_process(python: list[str]) -> None:
    """Bit 30 names the same call in another table, past every comparison with a number of the first."""
    program = """
import ctypes, os
from dpnn_bridge.lua.confinement import confine
for number in 0x40000000, 0x40000000 | 39, 0x40000000 | 257, 0x7FFFFFFF:
    pid = os.fork()
    if not pid:
        confine(512 << 20)
        ctypes.CDLL(None).syscall(number, 0, 0, 0)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    done = subprocess.run([*python, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == [str(-signal.SIGSYS)] * 4


@linux
def test_the_process_has_no_privileges_and_no_secrets(shared: LuaBridge) -> None:
    status = dict(line.split(":", 1) for line in Path(f"/proc/{shared._sandbox.pid}/status").read_text().splitlines())
    assert (status["Seccomp"].strip(), status["NoNewPrivs"].strip()) == ("2", "1")
    assert int(status["CapEff"], 16) == 0
    if os.geteuid() == 0:
        assert "0" not in status["Uid"].split()
        names = {v.partition(b"=")[0] for v in Path(f"/proc/{shared._sandbox.pid}/environ").read_bytes().split(b"\0")}
        assert b"HOME" not in names


@linux
def test_ctrl_c_at_a_terminal_reaches_the_program_only(shared: LuaBridge) -> None:
    assert os.getsid(shared._sandbox.pid) != os.getsid(0)


# ---------------------------------------------------------------------- limits
def test_a_single_element_of_any_stride_crosses(shared: LuaBridge) -> None:
    assert shared.execute("local x = ... return x:sum()", torch.arange(5.0).view(1, 5)[:, 3]) == 3


@pytest.mark.parametrize(
    "code",
    [
        "while true do end",
        "coroutine.wrap(function() while true do end end)()",
        "while true do pcall(function() while true do end end) end",
        "while true do coroutine.resume(coroutine.create(function() while true do end end)) end",
        "local t = {} for i = 1, 1e5 do t[i] = i end while true do table.sort(t, function(a, b) return a > b end) end",
        "while true do torch.Tensor(1e4):apply(function(x) return 1 end) end",
    ],
)
def test_endless_code_is_stopped(code: str, shared: LuaBridge) -> None:
    with pytest.raises(LuaBridgeError, match="limit of instructions"):
        shared.execute(code)
    assert shared.execute("return 1") == 1


@pytest.fixture(scope="module")
def remade() -> Iterator[Callable[[], LuaBridge]]:
    """Gives a bridge that lives: lack of memory may end one."""
    bridges: list[LuaBridge] = []

    def bridge() -> LuaBridge:
        if not bridges or bridges[-1]._sandbox._ended:
            bridges.append(LuaBridge(sandbox=True, max_memory=256 << 20, max_seconds=30))
        return bridges[-1]

    yield bridge
    bridges[-1].close()


@pytest.mark.parametrize(
    "code",
    [
        "local t = {} for i = 1, 1e9 do t[i] = {} end",
        "return #string.rep('x', 1e9)",
        "return torch.Tensor(3e8):nElement()",
        "local t = {} for i = 1, 100 do t[i] = torch.ones(1e6) end",
        "local s = torch.CharStorage(1) s:resize(2e9)",
    ],
)
def test_memory_is_limited_for_lua_and_tensors(code: str, remade: Callable[[], LuaBridge]) -> None:
    with pytest.raises(LuaBridgeError, match="memory"):
        remade().execute(code)
    assert remade().execute("return torch.ones(3):sum()") == 3


#: what no count of instructions stops, or what ends the process itself
ENDINGS = {
    "a pattern": ("return (('a'):rep(30)):find(('a*'):rep(14) .. 'b')", "more than 2 seconds"),
    "__gc": (
        "torch.getmetatable('torch.Timer').__gc = function() while true do end end torch.Timer() collectgarbage()",
        "more than 2 seconds",
    ),
    "an error handler": ("while true do xpcall(function() while true do end end, function() end) end", "."),
    "much deeper than the stack": (
        "local s = ('('):rep(1e5) .. '1' .. (')'):rep(1e5) return loadstring('return ' .. s) or error('no')",
        ".",
    ),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_what_cannot_be_counted_is_stopped_by_the_clock(name: str) -> None:
    code, message = ENDINGS[name]
    bridge = LuaBridge(sandbox=True, max_seconds=2)
    began = time.monotonic()
    with pytest.raises(LuaBridgeError, match=message):
        bridge.execute(code)
    assert time.monotonic() - began < 10
    bridge.close()
    with pytest.raises(LuaBridgeError, match="has ended"):
        bridge.execute("return 1")


def test_a_crash_is_an_error_and_leaves_no_process() -> None:
    bridge = LuaBridge(sandbox=True)
    os.write(bridge._sandbox._errors.fileno(), b"said before\nit crashed\x1b[2J\r\xe2\x80\xae")  # as the process may
    os.kill(bridge._sandbox.pid, 11)
    with pytest.raises(LuaBridgeError, match=r"its process ended \(killed by SIGSEGV\): it crashed") as caught:
        bridge.execute("return 1")
    assert str(caught.value).isprintable()
    assert bridge._sandbox._process.returncode == -11


def test_a_signal_without_a_name_has_its_number() -> None:
    assert [sandbox._signal_name(number) for number in (11, 40)] == ["SIGSEGV", "signal 40"]


def test_too_many_threads_are_no_crash(shared: LuaBridge) -> None:
    code = "torch.setnumthreads(100000) local n = torch.ones(5e5):add(1):sum() torch.setnumthreads(1) return n"
    assert shared.execute(code) == 1e6


@linux
@pytest.mark.parametrize("forked", [False, True], ids=["alone", "a forked process holds the pipes"])
@pytest.mark.parametrize("doing", ["sys.stdin.read()", "b.execute('while true do end')"])
def test_the_process_ends_with_the_program(doing: str, forked: bool) -> None:
    code = "import sys\nfrom dpnn_bridge.lua import LuaBridge\n"
    code += "b = LuaBridge(sandbox=True, max_seconds=600, max_instructions=10**12)\nprint(b._sandbox.pid, flush=True)\n"
    if forked:  # and goes on, with all pipes of the program but the one that this test waits for
        code += "import os, time\nif not os.fork():\n    os.close(1)\n    time.sleep(60)\n    os._exit(0)\n"
    code += doing
    program = subprocess.Popen(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    pid = int(program.stdout.readline())
    assert Path(f"/proc/{pid}").exists()
    time.sleep(0.2)  # it begins what it does
    program.kill()
    program.communicate()
    end = time.monotonic() + 20
    while _alive(pid) and time.monotonic() < end:
        time.sleep(0.05)
    assert not _alive(pid)


@linux
def test_the_process_ends_with_the_program_while_no_thread_of_python_runs() -> None:
    """An error of Lua's memory in a function of lupa leaves Python's lock taken, so that every thread waits."""
    alive, held = os.pipe()
    code = "import ctypes\nprint(flush=True)\nctypes.PyDLL(None).sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, pass_fds=(alive,)) as process:
        sandbox._end_with(alive, process.pid)
        os.close(alive)
        assert process.stdout.readline() == b"\n"
        assert process.poll() is None
        os.close(held)
        assert process.wait(20) == -signal.SIGIO


@linux
def test_a_forked_process_does_not_hold_the_pipe_that_ends_a_sandbox() -> None:
    """The process of the sandbox is stopped, so that only the signal of the pipe can end it."""
    code = """
import os, signal, time
from dpnn_bridge.lua import LuaBridge
b = LuaBridge(sandbox=True)
os.kill(b._sandbox.pid, signal.SIGSTOP)
if not os.fork():
    os.close(1)
    time.sleep(60)
    os._exit(0)
print(b._sandbox.pid, flush=True)
time.sleep(60)
"""
    program = subprocess.Popen(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE
    )
    pid = int(program.stdout.readline())
    program.kill()
    program.communicate()
    time.sleep(0.2)
    pending = int(re.search(r"^ShdPnd:\s*(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.M)[1], 16)
    os.kill(pid, signal.SIGKILL)
    assert pending >> (signal.SIGIO - 1) & 1


def test_the_process_outlives_the_thread_that_made_it() -> None:
    made: list[LuaBridge] = []
    thread = threading.Thread(target=lambda: made.append(LuaBridge(sandbox=True)))
    thread.start()
    thread.join()
    time.sleep(1.5)
    assert made[0].execute("return 42") == 42
    made[0].close()


def test_a_forked_process_leaves_the_sandbox_alone() -> None:
    """It may not talk to it, and its end is not that of the sandbox."""
    code = """
import os, sys, threading
from dpnn_bridge.errors import LuaBridgeError
from dpnn_bridge.lua import LuaBridge
b = LuaBridge(sandbox=True)
busy = threading.Thread(target=b.execute, args=("local t = os.time() + 3 while os.time() < t do end",))
busy.start()
pid = os.fork()
if not pid:
    try:
        b.execute("return 1")
    except LuaBridgeError as error:
        sys.exit(7 if "only in the process that created it" in str(error) else 1)
    sys.exit(2)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
busy.join()
print(b.execute("return 42"))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert result.stdout == "7\n42\n", result.stderr


def test_without_the_wall_of_the_kernel_it_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "from dpnn_bridge.lua import confinement\nconfinement._filter_system_calls = lambda: 'no seccomp here'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)  # which the process gets, as on a system without the filter
    with pytest.raises(LuaBridgeError, match=r"no seccomp here.*sandbox='partial'"):
        LuaBridge(sandbox=True)
    (tmp_path / "x.lua").write_text("print(6 * 7)")
    refused = CliRunner().invoke(lua_command, ["--sandbox", str(tmp_path / "x.lua")])
    assert (refused.exit_code, refused.stdout) == (7, "")
    assert "--partial-sandbox" in refused.stderr
    with pytest.warns(UserWarning, match="no seccomp here"):
        bridge = LuaBridge(sandbox="partial")
    assert bridge.execute("return 42") == 42
    bridge.close()
    went = CliRunner().invoke(lua_command, ["--partial-sandbox", str(tmp_path / "x.lua")])
    assert (went.exit_code, went.stdout, "no seccomp here" in went.stderr) == (0, "42\n", True), went.stderr


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# ---------------------------------------------------------------------- the protocol, if the process were taken over
def message(value: object, blobs: object = (), raw: bytes = b"") -> bytes:
    text = json.dumps({"value": value, "blobs": blobs}).encode()
    return struct.pack("<Q", len(text)) + text + raw


DEEP = b'{"blobs": [], "value": ' + b'{"l": [' * 100_000 + b"]}" * 100_000 + b"}"
HOSTILE = {
    "a pickle": b"\x80\x04cos\nsystem\n(S'true'\ntR.",
    "a length beyond everything": struct.pack("<Q", 1 << 63),
    "no JSON": struct.pack("<Q", 3) + b"abc",
    "another JSON": struct.pack("<Q", 2) + b"[]",
    "more fields": struct.pack("<Q", 37) + b'{"value": 1, "blobs": [], "more": 12}',
    "a nest": struct.pack("<Q", len(DEEP)) + DEEP,
    "a list that is no value": message([1, 2]),
    "an unknown kind": message({"x": 1}),
    "two kinds": message({"l": [], "s": []}),
    "a tensor that was not sent": message({"t": 0}),
    "a tensor before the first": message({"t": -1}, [["uint8", [1]]], b"a"),
    "a tensor by name": message({"t": "__class__"}),
    "a tensor of no type": message({"t": 0}, [["load", [1]]], b"a"),
    "a negative size": message({"t": 0}, [["uint8", [-1]]]),
    "a size that is none": message({"t": 0}, [["uint8", [1.5]]], b"a"),
    "true as a size": message({"t": 0}, [["uint8", [True]]], b"a"),
    "a size beyond the limit": message({"t": 0}, [["float64", [1 << 20, 1 << 20]]]),
    "many sizes": message({"t": 0}, [["uint8", [2] * 1000]]),
    "sizes that overflow": message({"t": 0}, [["uint8", [0] + [(1 << 48) - 1] * 60]]),
    "values without an end": message({"l": [{"l": []}] * 10_000}),
    "tensors without an end": message(None, [["uint8", [0]]] * 10_000),
    "bytes for a tensor": message({"t": 0}, [["bytes", [1]]], b"a"),
    "a tensor for bytes": message({"b": 0}, [["uint8", [1]]], b"a"),
    "a key that is none": message({"d": [[{"l": []}, 1]]}),
    "half a pair": message({"d": [[1]]}),
    "nothing more": b"\x01",
}


def channels(limit: int = 1 << 20) -> tuple[Channel, int, int]:
    """A channel, and the other ends of its pipes."""
    (read, theirs), (mine, write) = os.pipe(), os.pipe()
    return Channel(read, write, limit), theirs, mine


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_message_is_an_error(name: str) -> None:
    channel, theirs, _ = channels()
    writer = threading.Thread(target=lambda: (os.write(theirs, HOSTILE[name]), os.close(theirs)))
    writer.start()
    with pytest.raises(WireError):
        channel.receive(repr, time.monotonic() + 30)
    os.close(channel._source.fileno())
    writer.join()


NESTED = b'{"blobs": [], "value": ' + b'{"l": [' * 450 + b"]}" * 450 + b"}"
#: messages just beyond one limit, which memory and Python alone would bear
BEYOND = {
    "nested too deeply": struct.pack("<Q", len(NESTED)) + NESTED,
    "a text that is too long": struct.pack("<Q", (64 << 20) + 1),
    "more values than fit into its memory": message({"l": [0] * 2100}),
    "more bytes than fit into its memory": message(None, [["uint8", [600_000]]] * 2, bytes(600_000)),
    "an impossible shape": message({"t": 0}, [["uint8", [1] * 65]], b"a"),
    r"an invalid message \(ValueError\)": message(10**400),
}


@pytest.mark.parametrize("reason", BEYOND)
def test_a_message_has_limits(reason: str) -> None:
    channel, theirs, _mine = channels()
    writer = threading.Thread(target=_send, args=(theirs, BEYOND[reason]), daemon=True)
    writer.start()
    with pytest.raises(WireError, match=reason):
        channel.receive(repr, time.monotonic() + 30)
    os.close(channel._source.fileno())
    writer.join()


class Answers:
    """Stands for the process: gives answers, and notes until when the program waits for each message."""

    def __init__(self, *answers: Any) -> None:
        self.answers, self.deadlines = [*answers], []

    def send(self, value: Any, remote: Any, deadline: float = math.inf) -> None:
        self.deadlines.append(deadline)

    def write(self, message: Any, deadline: float = math.inf) -> None:
        self.deadlines.append(deadline)

    def receive(self, remote: Any, deadline: float = math.inf) -> Any:
        self.deadlines.append(deadline)
        return self.answers.pop(0)


def test_all_messages_of_a_call_have_one_deadline(shared: LuaBridge, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that asks for modules without an end, and does not read them, ends with the call."""
    channel = Answers(("module", "good"), ("print", ""), ("module", "none"), ("value", 7))
    monkeypatch.setattr(shared._sandbox, "_channel", channel)
    assert shared._sandbox._exchange(("x",), 123.0, "late") == 7
    assert channel.deadlines == [123.0] * 7


def test_files_that_require_finds_have_a_bounded_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find, program = sandbox.Sandbox._find, SimpleNamespace(lua_path=[tmp_path])
    (tmp_path / "long.lua").write_text("return 1" + " " * 100)
    os.mkfifo(tmp_path / "pipe.lua")
    assert find(program, "long") == (str(tmp_path / "long.lua"), "return 1" + " " * 100)
    assert find(program, "pipe") is None
    monkeypatch.setattr(sandbox, "_MAX_FILE", 100)
    path, error = find(program, "long")
    assert path is None
    assert error.startswith(f"{tmp_path}/long.lua: is larger than")


@pytest.mark.parametrize("act", ["stat", "open"])
def test_an_error_of_the_disk_names_the_file_that_require_finds(
    shared: LuaBridge, folder: Path, act: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "path" / f"on_bad_disk_{act}.lua").write_text("return 1")
    original, errors = getattr(os, act), [errno.EIO]

    def failing(path: Any, *arguments: Any, **keywords: Any) -> Any:
        if f"on_bad_disk_{act}.lua" in str(path) and errors:
            raise OSError(errors[0], os.strerror(errors.pop(0)), path)
        return original(path, *arguments, **keywords)

    monkeypatch.setattr(os, act, failing)
    with pytest.raises(LuaBridgeError, match=rf"path/on_bad_disk_{act}\.lua: reading: input/output error"):
        shared.require(f"on_bad_disk_{act}")
    errors.append(errno.EAGAIN)
    assert shared.require(f"on_bad_disk_{act}") == 1


@linux
def test_the_processor_time_of_a_call_is_limited(shared: LuaBridge, monkeypatch: pytest.MonkeyPatch) -> None:
    set_limits: list[Any] = []
    monkeypatch.setattr(resource, "prlimit", lambda *limits: set_limits.append(limits))  # root may not, in a container
    shared._sandbox._limited = 0.0
    shared.execute("return 1")
    ((pid, kind, (soft, _)),) = set_limits
    assert (pid, kind) == (shared._sandbox.pid, resource.RLIMIT_CPU)
    times = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    used = sum(map(int, times)) / os.sysconf("SC_CLK_TCK")
    assert 0 < soft - used <= 30 * (os.cpu_count() or 1) + 2  # max_seconds on each core


def test_answers_without_an_end_end_at_the_deadline() -> None:
    channel, theirs, _mine = channels()
    os.write(theirs, message({"s": ["print", "x"]}) * 3)
    assert channel.receive(repr, time.monotonic() + 30) == ("print", "x")
    with pytest.raises(TimeoutError):  # though there are more
        channel.receive(repr, time.monotonic() - 0.1)


#: answers that would keep the program busy. Hashes of numbers have no secret: these keys have one
BUSY = {
    "keys that collide": lambda: message({"d": [[i * (2**61 - 1) + 7, 0] for i in range(30_000)]}),
    "keys that collide in a list of keys": lambda: message(
        {"d": [[{"s": [i * (2**61 - 1) + 7]}, 0] for i in range(30_000)]}
    ),
    "few keys that are equal almost to the end": lambda: message(
        {"d": [[{"s": [0.5] * 500 + [-1 - (i >> k & 1) for k in range(12)]}, 0] for i in range(4000)]}
    ),
    "an object of many keys": lambda: message({str(i): 0 for i in range(200_000)}),
    "many digits": lambda: message({"l": [int("1" * 4000)] * 3000}),
    "a nest of dicts": lambda: DEEP.replace(b"l", b"d"),
}


@pytest.mark.parametrize("name", BUSY)
def test_an_answer_takes_no_more_time_than_its_size(name: str) -> None:
    channel, theirs, _mine = channels(1 << 30)
    data = BUSY[name]()
    writer = threading.Thread(target=_send, args=(theirs, data), daemon=True)
    writer.start()
    start = time.process_time()
    with pytest.raises(WireError):
        channel.receive(repr, time.monotonic() + 60)
    assert time.process_time() - start < 1.5  # those that collide took 6
    os.close(channel._source.fileno())
    writer.join()


def test_an_answer_is_taken_apart_until_the_deadline() -> None:
    values = message({"l": [{"l": []}] * 400_000})  # takes a second
    text = json.dumps({"value": None, "blobs": [["float64", [0]]] * 200_000}).encode()  # the same
    for seconds, data in ((0.02, values), (0.3, values), (0.3, struct.pack("<Q", len(text)) + text)):
        channel, theirs, _mine = channels(1 << 30)
        writer = threading.Thread(target=_send, args=(theirs, data), daemon=True)
        writer.start()
        start = time.thread_time()  # a busy machine takes longer, and does not do more
        with pytest.raises(TimeoutError):
            channel.receive(repr, time.monotonic() + seconds)
        assert time.thread_time() - start < seconds + 2
        os.close(channel._source.fileno())
        writer.join()


def test_a_text_that_would_take_until_the_deadline_is_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "_TEXT_SPEED", 1)  # bytes in a second
    channel, theirs, _mine = channels()
    os.write(theirs, message(None))
    with pytest.raises(TimeoutError):
        channel.receive(repr, time.monotonic() + 20)


def _send(target: int, data: bytes) -> None:
    with contextlib.suppress(BrokenPipeError):
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(target, rest) :]
    os.close(target)


def test_a_module_of_an_endless_name_is_not_looked_for(shared: LuaBridge) -> None:
    start = time.monotonic()
    assert shared.execute("return (pcall(require, ('a.'):rep(5e5) .. 'a'))") is False
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("sent", [4, 12, -1], ids=["a length", "a text", "a tensor"])
def test_a_part_that_does_not_come_ends_at_the_deadline(sent: int) -> None:
    channel, theirs, _mine = channels()
    os.write(theirs, message({"t": 0}, [["uint8", [4]]], b"abcd")[:sent])
    start = time.monotonic()
    with pytest.raises(TimeoutError):
        channel.receive(repr, start + 0.1)
    assert time.monotonic() - start < 20


def test_silence_ends_at_the_deadline() -> None:
    channel, _theirs, _mine = channels()
    with pytest.raises(TimeoutError):
        channel.receive(repr, time.monotonic() + 0.1)
    with pytest.raises(TimeoutError):  # nobody reads
        channel.send(torch.zeros(1 << 20), repr, time.monotonic() + 0.1)


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, 1, 1.5, float("inf"), "a\0\xff", b"\0\xff", [], (), {}, [1, [2.5, None]], (1, "x")),
        *({1: "a", "b": [True]}, torch.arange(6).reshape(2, 3), torch.ones(0, 3), torch.tensor(3.5)),
        torch.ones(3, 2, dtype=torch.bfloat16).t(),
    ],
    ids=str,
)
def test_values_cross(value: object) -> None:
    channel, theirs, mine = channels()
    Channel(mine, theirs, 1 << 20).send(value, repr)
    back = channel.receive(repr)
    if isinstance(value, torch.Tensor):
        assert back.dtype == value.dtype
        assert torch.equal(back, value)
    else:
        assert back == value
        assert type(back) is type(value)


def test_a_random_message_is_a_value_or_an_error() -> None:
    generator = __import__("random").Random(0)
    good = message({"l": [{"t": 0}, {"d": [["k", {"b": 1}]]}]}, [["float32", [2, 2]], ["bytes", [3]]], bytes(19))
    for _ in range(300):
        data = bytearray(good)
        for _ in range(generator.randint(1, 4)):
            data[generator.randrange(len(data))] = generator.randrange(256)
        channel, theirs, mine = channels()
        os.write(theirs, bytes(data))
        os.close(theirs)
        try:
            channel.receive(repr, time.monotonic() + 5)
        except WireError:
            pass
        finally:
            os.close(channel._source.fileno())
            os.close(channel._target)
            os.close(mine)


def test_what_lua_prints_does_not_act_on_a_terminal(shared: LuaBridge, capsys: pytest.CaptureFixture[str]) -> None:
    shared.execute("print('caf\\195\\169', 1) io.write('\\27[31mred\\7\\n') io.stderr:write('x\\n')")
    assert capsys.readouterr().out == "café\t1\n\N{REPLACEMENT CHARACTER}[31mred\N{REPLACEMENT CHARACTER}\nx\n"
    with pytest.raises(LuaBridgeError) as caught:
        shared.execute("error('\\27[2J')")
    assert "\x1b" not in str(caught.value)
    torch_type = "local kept = torch.type torch.type = function() return '\\27[2J\\r' end return print, kept"
    value, kept = shared.execute(torch_type)
    shared.execute("torch.type = ...", kept)
    assert repr(value).isprintable()
    for text in ("\r", "\x7f", "\x85", "\x9b", "\u061c", "\u200e", "\u2028", "\u202e", "\u2066", "\u2069", "\ud800"):
        assert (
            _text(text)
            == _text(text.encode("utf-8", "surrogatepass").decode("latin-1"))[:1]
            == "\N{REPLACEMENT CHARACTER}"
        )


def test_what_lua_prints_is_written_to_any_terminal(shared: LuaBridge, monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, "ascii", write_through=True))
    shared.execute("print('caf\\195\\169')")
    assert written.getvalue() == b"caf?\n"


# ---------------------------------------------------------------------- what works
def test_values_and_functions(shared: LuaBridge) -> None:
    add = shared.execute("return function(a, b) return a + b end")
    assert isinstance(add, RemoteValue)
    assert (add(1, 2), shared.call(add, 2, 3)) == (3, 5)
    assert shared.execute("return 1, 'x', {1, 2}, {a = 1}, nil") == (1, "x", [1, 2], {"a": 1}, None)
    x = torch.arange(4.0)
    assert torch.equal(shared.execute("return (...):mul(2)", x), x * 2)
    assert torch.equal(x, torch.arange(4.0))  # a copy went in
    held = shared.to_lua({"a": [1, x]})
    assert shared.type_of(held) == "table"
    assert torch.equal(shared.to_python(held)["a"][1], x)
    assert held["a"][0] == 1


@pytest.fixture(params=[False, True], ids=["here", "sandbox"])
def make(request: pytest.FixtureRequest) -> Callable[[], LuaBridge]:
    return lambda: LuaBridge.from_files([EXAMPLE], sandbox=request.param)


def test_a_layer_trains_as_outside(tmp_path: Path) -> None:
    """Forward, backward, optimizer, dtype, state_dict: the same numbers in the process and here."""

    def train(sandbox: bool) -> list[torch.Tensor]:
        bridge = LuaBridge.from_files([EXAMPLE], sandbox=sandbox)
        torch.manual_seed(0)
        layer = bridge.module("nn.ScaledPower", 3, 2)
        model = torch.nn.Sequential(torch.nn.Linear(4, 3).double(), layer)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        x = torch.randn(5, 4, dtype=torch.float64)
        losses = []
        for _ in range(5):
            optimizer.zero_grad()
            loss = model(x).square().mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        first = model(x)
        model(x + 1)  # a forward in between is run again
        first.sum().backward()
        layer.eval().train()
        state = {k: v.clone() for k, v in model.state_dict().items()}
        model.load_state_dict({k: v * 2 for k, v in state.items()})
        dpnn_bridge.write_t7(tmp_path / "m.t7", layer)
        written = dpnn_bridge.read_t7(tmp_path / "m.t7")["weight"].torch()
        out = model.float()(x.float())
        return [*losses, *state.values(), layer.weight.grad, written, out.detach()]

    for inside, outside in zip(train(True), train(False), strict=True):
        assert torch.equal(inside, outside)


def test_a_value_that_cannot_be_passed_does_not_end_the_sandbox(shared: LuaBridge) -> None:
    echo, circle = shared.execute("return function(x) return x end"), []
    circle.append(circle)
    deep: Any = []
    for _ in range(500):
        deep = [deep]
    released = shared.execute("return print")
    kept = shared._sandbox.released[:]
    del released
    for value, message in (
        (torch.ones(2, dtype=torch.complex64), "complex64"),
        (torch.ones(2).to_sparse(), "sparse_coo"),
        (circle, "contain themselves"),
        (deep, "nested too deeply"),
        (10**500, "too large"),
    ):
        with pytest.raises(LuaBridgeError, match=message):
            echo(value)
        assert len(shared._sandbox.released) == len(kept) + 1  # is sent with the next request
    assert echo(10**300) == 1e300
    assert shared.kind_of(5) == "number"
    assert not shared._sandbox.released


def test_an_interruption_before_a_request_loses_no_released_value(
    shared: LuaBridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    echo, released = shared.execute("return function(x) return x end"), shared.execute("return print")
    del released
    waiting = shared._sandbox.released[:]
    with monkeypatch.context() as patched:
        patched.setattr(shared._sandbox, "_exchange", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            echo(1)
    assert shared._sandbox.released == waiting != []
    assert echo(1) == 1
    assert not shared._sandbox.released


def test_weights_that_did_not_arrive_are_sent_again() -> None:
    bridge, obj, sent = object.__new__(SandboxedBridge), SimpleNamespace(number=1), []

    def ask(what: str, number: int, changed: dict[int, torch.Tensor]) -> None:
        sent.append(list(changed))
        if len(sent) == 1:
            raise LuaBridgeError("not enough memory (max_memory)")

    bridge._ask, bridge._remote_tensors = ask, {1: [torch.zeros(2), torch.zeros(2)]}
    weights = [torch.zeros(2), torch.ones(2)]
    with pytest.raises(LuaBridgeError):
        bridge.push(obj, weights)
    bridge.push(obj, weights), bridge.push(obj, weights)
    assert sent == [[1], [1]]


def test_a_running_mean_comes_back() -> None:
    code = """
        require 'nn'
        local C, parent = torch.class('nn.Mean', 'nn.Module')
        function C:__init(n) parent.__init(self) self.mean = torch.zeros(n) end
        function C:updateOutput(x)
           self.mean:mul(0.5):add(x:mean(1):mul(0.5))
           self.output = x:clone()
           return self.output
        end
        function C:updateGradInput(x, g) self.gradInput = g:clone() return self.gradInput end
    """
    bridge = LuaBridge(sandbox=True)
    bridge.execute(code)
    layer = bridge.module("nn.Mean", 2)
    layer(torch.ones(3, 2, dtype=torch.float64))
    assert layer.mean.tolist() == [0.5, 0.5]
    layer.mean.zero_()
    layer(torch.ones(3, 2, dtype=torch.float64))
    assert layer.mean.tolist() == [0.5, 0.5]


def test_load_with_lua_files_in_a_sandbox(tmp_path: Path) -> None:
    outside = LuaBridge.from_files([EXAMPLE])
    layer = outside.module("nn.ScaledPower", 3, 2)
    dpnn_bridge.write_t7(tmp_path / "m.t7", layer.obj)
    x = torch.randn(2, 3, dtype=torch.float64)
    model = dpnn_bridge.load(tmp_path / "m.t7", lua=EXAMPLE, sandbox=True)
    assert model.bridge.sandboxed
    assert torch.equal(model(x), layer(x))
    with pytest.raises(LuaBridgeError, match="not a sandbox"):
        dpnn_bridge.load(tmp_path / "m.t7", lua=outside, sandbox=True)


def test_the_commands_run_lua_in_a_sandbox(tmp_path: Path) -> None:
    marker, script = tmp_path / "marker", tmp_path / "x.lua"
    script.write_text("assert(arg[1] == 'a') print(io.open == nil, torch.ones(2):sum()) os.exit(5)")
    done = CliRunner().invoke(lua_command, ["--sandbox", str(script), "a"])
    assert (done.exit_code, done.stdout) == (5, "true\t2\n")
    script.write_text("while true do ('a'):rep(30):find(('a*'):rep(14) .. 'b') end")
    done = CliRunner().invoke(lua_command, ["--sandbox", "--max-seconds", "1", str(script)])
    assert (done.exit_code, "more than 1 seconds" in done.stderr) == (7, True)
    layers = tmp_path / "layers.lua"
    layers.write_text(EXAMPLE.read_text() + f"\nif io.open then io.open({str(marker)!r}, 'w'):close() end\n")
    dpnn_bridge.write_t7(tmp_path / "m.t7", LuaBridge.from_files([EXAMPLE]).module("nn.ScaledPower", 3, 2).obj)
    words = [str(tmp_path / "m.t7"), str(tmp_path / "m.pt"), "--lua", str(layers), "--sandbox"]
    done = CliRunner().invoke(convert_command, words)
    assert (done.exit_code, marker.exists(), (tmp_path / "m.pt").exists()) == (0, False, True), done.stderr


@pytest.mark.parametrize("replacement", ["nil", "function() error('mine') end"])
def test_a_value_has_its_lua_type_where_a_script_replaced_torch_type(replacement: str) -> None:
    with contextlib.closing(LuaBridge(sandbox=True)) as bridge:
        value = bridge.execute(f"torch.type = {replacement}; return print")
        assert isinstance(value, RemoteValue)
        assert (value.kind, value.type_name) == ("function", "function")
        assert bridge.execute("return 1") == 1


def test_classes_of_the_sandbox_are_known(shared: LuaBridge) -> None:
    shared.execute("require 'nn'; torch.class('nn.OfTheSandbox', 'nn.Module')")
    assert shared.has_class("nn.OfTheSandbox")
    assert not shared.has_class("nn.OfNobody")


@pytest.mark.parametrize("seconds", [math.inf, 1e10])
def test_a_sandbox_without_a_time_limit(seconds: float) -> None:
    bridge = LuaBridge(sandbox=True, max_seconds=seconds, max_memory=256e6, max_instructions=1e6)  # type: ignore[arg-type]
    assert bridge.execute("return 1 + 1") == 2


@pytest.mark.parametrize("limit", ["max_memory", "max_instructions"])
def test_other_limits_are_finite(limit: str) -> None:
    with pytest.raises(LuaBridgeError, match=f"{limit} must be positive and finite, not inf"):
        LuaBridge(sandbox=True, **{limit: math.inf})


@pytest.mark.parametrize("limit", ["max_seconds", "max_memory", "max_instructions"])
@pytest.mark.parametrize("value", [0, -1, math.nan])
def test_a_limit_is_positive(limit: str, value: float) -> None:
    with pytest.raises(LuaBridgeError, match=f"{limit} must be positive"):
        LuaBridge(sandbox=True, **{limit: value})


def test_a_request_to_a_process_that_has_ended_is_told_from_an_invalid_one() -> None:
    channel, theirs, mine = channels()
    os.close(mine), os.close(theirs)
    with pytest.raises(WireError, match=f"^{wire.ENDED}$"):
        channel.send(1, repr)
    with pytest.raises(WireError, match=f"^{wire.ENDED}$"):
        channel.receive(repr)


def test_what_replaces_torch_type_counts_as_instructions_of_the_call() -> None:
    bridge = LuaBridge(sandbox="partial", max_seconds=60, max_instructions=10**6)
    start = time.monotonic()
    bridge.execute("torch.type = function() while true do end end return function() end")
    assert time.monotonic() - start < 30
    assert bridge.execute("return 1") == 1


def test_a_call_within_a_call_of_the_same_thread_is_an_error(shared: LuaBridge) -> None:
    """The answers changed places."""
    found: list[Any] = []

    class Stream(io.StringIO):
        def write(self, text: str) -> int:
            try:
                found.append(shared.execute("return 'inner'"))
            except LuaBridgeError as error:
                found.append(str(error))
            return len(text)

    with contextlib.redirect_stdout(Stream()):
        assert shared.execute("print 'x' return 'outer'") == "outer"
    assert "a call of this Lua sandbox is running in this thread" in found[0]
    assert shared.execute("return 'next'") == "next"


def test_a_program_without_a_standard_output_prints_nothing(shared: LuaBridge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert shared.execute("print 'x' return 1") == 1


def test_the_pipe_of_a_program_that_closed_its_streams_is_no_stream() -> None:
    code = """
import os
for descriptor in range(3): os.close(descriptor)
from dpnn_bridge.lua.sandbox import _above_standard
moved = [_above_standard(descriptor) for descriptor in os.pipe()]
os._exit(0 if min(moved) > 2 else 1)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
