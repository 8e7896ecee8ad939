"""Attacks on the sandbox by what it must offer: strings, tables, coroutines, tensors, messages, layers."""
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import dpnn_bridge
from dpnn_bridge.errors import DpnnBridgeError, LuaBridgeError
from dpnn_bridge.loaders import write_t7
from dpnn_bridge.objects import LuaObject, LuaTable

pytest.importorskip("lupa")

from dpnn_bridge.lua import LuaBridge

pytestmark = pytest.mark.usefixtures("warm_sandboxes")
SECONDS, MEMORY = 3, 256 << 20


@pytest.fixture(scope="module")
def bridge() -> Iterator[LuaBridge]:
    bridge = LuaBridge(sandbox=True, max_seconds=30, max_memory=MEMORY, max_instructions=20_000_000)
    yield bridge
    bridge.close()


#: each gives what it got at that it should not have, or nil
ATTACKS = {
    "every name that is reachable": """
        local seen, todo, bad = {}, {_G}, {}
        local names = {debug = 1, ffi = 1, package = 1, io_open = 1, getfenv = 1, setfenv = 1, loadlib = 1, python = 1,
                       popen = 1, execute = 1, getupvalue = 1, getregistry = 1, sethook = 1, cdef = 1, dump = 1}
        while #todo > 0 do
           local t = table.remove(todo)
           if type(t) == 'table' and not seen[t] then
              seen[t] = true
              for k, v in next, t do
                 if names[k] and v then table.insert(bad, tostring(k)) end
                 todo[#todo + 1], todo[#todo + 2] = v, type(k) == 'table' and k or nil
              end
              local ok, mt = pcall(getmetatable, t)
              todo[#todo + 1] = ok and mt or nil
           end
        end
        return bad[1] and table.concat(bad, ' ')""",
    "the metatable of strings": """
        local mt = getmetatable('') return type(mt) == 'table' and (mt.__index.dump or mt.__index.rawlen)""",
    "a table in place of a tensor": "return torch.add(setmetatable({}, {__index = torch.ones(3)}), 1)",
    "reading behind a tensor": "local t = torch.ones(3) return t[1e6] or t[-1e6] or t[4]",
    "reading behind a storage": "local s = torch.DoubleStorage(3) return s[1e6] or s[0] or s[-7] or s[4]",
    "writing behind a storage": "local s = torch.DoubleStorage(3) s[1e6] = 1 s[-1e6] = 1 s[0] = 1 return true",
    "writing behind a tensor": "local t = torch.ones(3) t[1e6] = 1 t[0] = 1 return true",
    "a view behind its storage": """
        local s = torch.DoubleStorage(3)
        local t = torch.Tensor(s, 3, torch.LongStorage{1000})  -- as in Torch7 the storage grows
        return s:size() < 1002 and t:sum()""",
    "a view far behind": "return torch.Tensor(torch.DoubleStorage(3), 1e15, torch.LongStorage{2}):sum()",
    "a view before its storage": "return torch.Tensor(torch.DoubleStorage(3), -5, torch.LongStorage{2}):sum()",
    "a view with negative strides": """
        local s = torch.DoubleStorage(3):fill(0)  -- as in Torch7 these are worked out
        return torch.Tensor(s, 1, torch.LongStorage{3}, torch.LongStorage{-4000}):sum() ~= 0""",
    "a view with strides that overflow": """
        local big = torch.LongStorage{3, 3}
        return torch.Tensor(torch.DoubleStorage(9), 1, big, torch.LongStorage{2^62, 2^62}):sum()""",
    "narrow behind the end": "return torch.ones(5):narrow(1, 3, 1000):sum()",
    "narrow with a size that overflows": "return torch.ones(5):narrow(1, 2, 2^63):sum()",
    "select behind the end": "return torch.ones(2, 2):select(1, 99):sum()",
    "unfold beyond the end": "return torch.ones(5):unfold(1, 1000, 1):sum()",
    "a storage that shrinks below its view": """
        local t = torch.ones(1000) local s = t:storage() s:resize(1) collectgarbage()
        local x = t[1000] return x ~= 1 and x ~= 0 and x""",
    "a tensor that is resized while it is applied": """
        local t = torch.ones(1000) local n = 0
        t:apply(function(x)
           n = n + 1
           if n == 5 then t:resize(1) t:storage():resize(1) collectgarbage() end
           return x
        end)
        return n > 1e6""",
    "gather out of range": "return torch.ones(3):gather(1, torch.LongTensor{99}):sum()",
    "scatter out of range": "return torch.ones(3):scatter(1, torch.LongTensor{-99}, 1):sum()",
    "index out of range": "return torch.ones(3):index(1, torch.LongTensor{2^40}):sum()",
    "indexFill out of range": "return torch.ones(3):indexFill(1, torch.LongTensor{-4}, 7):sum()",
    "a pointer": "local t = torch.ones(3) return t.data and t:data()[100]",
    "a pointer of cdata": """
        local t = torch.ones(3)
        local c = t.cdata and t:cdata()
        return c and type(c.storage) ~= 'function' and c.storage""",
    "a serialized tensor behind its storage": "return torch.deserialize(BEYOND):sum()",
    "a serialized storage that is huge": "return torch.deserialize(HUGE)",
    "a metatable that is protected": "return getmetatable(setmetatable({}, {__metatable = 'x'})) ~= 'x'",
    "rawset on a tensor": "return rawset(torch.ones(2), 'x', 1) and nil or pcall(rawset, torch, 'load', print) and nil",
    "another os": "os.time = nil return os.exit and pcall(os.rename, 'a', 'b') and 'renamed' or nil",
    "tostring that gives no string": "return #tostring(setmetatable({}, {__tostring = function() return 5 end})) > 5",
    "a coroutine in a metamethod": """
        local t = setmetatable({}, {__index = function(t, k) return coroutine.yield(k) end})
        local c = coroutine.wrap(function() return t.x end)
        return c() ~= 'x'""",
    "functions that are replaced, by what they are given": """
        local kept, caught, busy = {}, nil, false
        local type, next, select, typename, rawset, tostring = type, next, select, torch.typename, rawset, tostring
        local ipairs, pairs, pcall = ipairs, pairs, pcall
        local inner = {debug = 1, python = 1, ffi = 1, module_source = 1, run_prelude = 1, start_counting = 1}
        local function look(value, name, depth)
           if type(value) == 'userdata' and typename(value) == nil then caught = name end
           if type(value) ~= 'table' or depth > 2 then return end
           for k, v in next, value do
              if inner[k] then caught = name .. ' ' .. k end
              look(v, name, depth + 1)
           end
        end
        local function wrap(f, name)
           local function seen(...)
              for i = 1, busy and 0 or select('#', ...) do
                 busy = true
                 pcall(look, (select(i, ...)), name, 0)
                 busy = false
              end
              return ...
           end
           return function(...) return seen(f(seen(...))) end
        end
        local function replace(t, place)
           for k, v in pairs(t) do
              if type(v) == 'function' then
                 kept[#kept + 1] = {t, k, v}
                 rawset(t, k, wrap(v, place .. '.' .. tostring(k)))
              end
           end
        end
        for _, name in ipairs {'string', 'table', 'math', 'coroutine', 'os', 'io', 'torch'} do
           replace(_G[name], name)
        end
        for _, name in ipairs {'torch.DoubleTensor', 'torch.DoubleStorage', 'torch.Timer', 'torch.MemoryFile'} do
           replace(torch.getmetatable(name), name)
        end
        replace(_G, '_G')
        for _, code in ipairs {
           'tostring(torch.randn(2, 2))', 'print(torch.Timer(), torch.DoubleStorage(3))', 'torch.ones(1):foo()',
           'torch.deserialize(torch.serialize({1, "x", torch.ones(2)}))', 'torch.add(1)', 'require "nothing"',
           'torch.MemoryFile():writeInt(1)', 'torch.class("Mine")', 'torch.CmdLine():parse({})', 'torch.manualSeed(1)',
           'torch.ones(2):apply(function(x) return x end)', 'coroutine.wrap(function() error({}) end)()',
           'torch.Tensor{{1}}[{1, {}}] = 3', 'torch.factory("torch.Timer")():time()', 'io.write(1)', 'error({})',
           'local t = torch.TestSuite() t.a = error torch.Tester():add(t):run()', 'torch.setdefaulttensortype("x")',
        } do pcall(loadstring(code)) end
        for _, entry in ipairs(kept) do rawset(entry[1], entry[2], entry[3]) end
        return caught""",
    "metatables of the registry by name": """
        for _, name in ipairs {'POBJECT', 'FILE*', '_LOADED', '_PRELOAD', '_LOADLIB', 'python', 'string', 1, ''} do
           local mt = torch.getmetatable(name)
           if mt then return name end
        end""",
    "libraries of another name": """
        for _, name in ipairs {'_G', 'os', 'lupa', 'python', 'builtins', 'torch.env', 'jit.util', 'posix', 'lfs'} do
           local ok, lib = pcall(require, name)
           lib = ok and type(lib) == 'table' and lib or {}
           if lib.open or lib.execute or lib.eval or lib.import or lib.dir then return name end
        end""",
    "names that lead out": """
        for _, name in ipairs {'..secret', '../secret', [[..\\\\secret]], './../secret', '.../secret', 'x/../../secret',
                               'file:///etc/passwd', '/etc/passwd', '/proc/self/environ', '~/x', '%2e%2e/secret', '',
                               '.', '..', ('a.'):rep(1e5), ('../'):rep(100) .. 'etc/passwd', 'C:secret', 'a\\n../b'} do
           local ok, value = pcall(require, name)
           if ok then return name end
        end""",
    "classes with names of Python's": """
        for _, name in ipairs {'__class__', '__init__', '__del__', 'builtins.object', 'os.system', '__import__'} do
           local class = torch.class(name)
           local object = torch.factory(name)()
           if object.mro or object.__subclasses__ or object.__globals__ then return name end
        end""",
    "a class that takes the place of tensors": """
        local name = 'torch.ByteTensor'
        local ok, class = pcall(torch.class, name)
        return ok and torch.ones(2):byte().__globals__""",
    "methods of one kind for another": """
        local objects = {torch.Timer(), torch.Generator(), torch.MemoryFile(), torch.ones(1), torch.DoubleStorage(1)}
        for _, a in ipairs(objects) do
           for _, method in pairs(torch.getmetatable(torch.typename(a))) do
              for _, b in ipairs(objects) do
                 local ok, value = pcall(method, b, a, '__class__')
                 if ok and type(value) == 'userdata' and not torch.typename(value) then return tostring(value) end
              end
           end
        end""",
    "operators on what is Python's": """
        local t = torch.Timer()
        for _, f in ipairs {function() return t() end, function() return #t end, function() return t .. '' end,
                            function() return -t end, function() return t[1] end, function() return t < t end,
                            function() for k in pairs(t) do return k end end,
                            function() for k in t do return k end end} do
           local ok, value = pcall(f)
           if ok and type(value) == 'userdata' then return tostring(value) end
        end""",
    "handlers of errors": """
        local caught
        local function keep(e) if type(e) == 'userdata' and not torch.typename(e) then caught = e end return e end
        local bad = {function() torch.ones(1):foo() end, function() torch.MemoryFile():readInt({}) end,
                     function() torch.deserialize('x') end, function() torch.ones(2):apply(error) end,
                     function() torch.Tensor(setmetatable({}, {__index = error})) end}
        for _, f in ipairs(bad) do
           for _, handler in ipairs {keep, tostring, error, type, print, rawequal, setmetatable, coroutine.yield} do
              keep(select(2, xpcall(f, handler)))
              keep(select(2, coroutine.resume(coroutine.create(xpcall), f, keep)))
           end
        end
        return caught""",
    "a coroutine within the kernels": """
        local thread = coroutine.create(function()
           torch.ones(3):apply(function(x) coroutine.yield(x) return x end)
           return 'through'
        end)
        local ok, value = coroutine.resume(thread)
        return ok and coroutine.status(thread) == 'suspended' and type(value) == 'userdata'""",
    "functions that go through serialize": """
        for _, f in ipairs {print, function() return 1 end, coroutine.wrap(function() end), torch.ones} do
           for _, mode in ipairs {'binary', 'ascii'} do
              local ok, text = pcall(torch.serialize, {f = f}, mode)
              if ok then return text end
           end
        end""",
    "the stack below a function of many arguments": """
        local names = {}
        for i = 1, 150 do names[i] = 'a' .. i end
        local f = loadstring('return function(' .. table.concat(names, ',') .. ', ...) return a150 end')()
        local threads = {}
        for i = 1, 200 do threads[i] = coroutine.wrap(function() return f(i), f(unpack(names)) end) end
        for i = 1, 200 do
           local none, last = threads[i]()
           if none ~= nil or last ~= 'a150' then return 'another value' end
        end""",
    "load with another environment": "local f = load and load('return debug', 'x', 't', {}) return f and f()",
    "loadstring of a name": "local f = loadstring('return 1', '=(debug)') return f() ~= 1",
    "require of what is loaded": "return require('torch') ~= torch",
    "an error that is a table": """
        local ok, e = pcall(error, setmetatable({}, {__tostring = function() error('x') end})) return ok""",
}


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_gives_nothing(name: str, bridge: LuaBridge) -> None:
    beyond = b"".join(
        [
            *(b"\4\0\0\0\1\0\0\0", b"\3\0\0\0V 1", b"\x12\0\0\0torch.DoubleTensor", b"\1\0\0\0"),
            *((1000).to_bytes(8, "little"), (1).to_bytes(8, "little"), (1).to_bytes(8, "little")),
            *(
                b"\4\0\0\0\2\0\0\0",
                b"\3\0\0\0V 1",
                b"\x13\0\0\0torch.DoubleStorage",
                (1).to_bytes(8, "little"),
                bytes(8),
            ),
        ]
    )
    huge = b"\4\0\0\0\2\0\0\0" + b"\3\0\0\0V 1" + b"\x13\0\0\0torch.DoubleStorage" + (1 << 50).to_bytes(8, "little")
    code = f"""
        local BEYOND, HUGE = ...
        local ok, caught = pcall(function() {ATTACKS[name]} end)
        return ok and caught and tostring(caught) or nil
    """
    assert bridge.execute(code, beyond, huge) is None
    assert bridge.execute("return torch.ones(3):sum()") == 3


#: what would take the memory, the time or the output of the machine
RESOURCES = {
    "a string that doubles": "local s = 'x' while true do s = s .. s end",
    "a string of rep in rep": "return #(('x'):rep(1e5)):rep(1e6)",
    "format with a width": "return #string.format('%99999999d', 1)",
    "gsub that grows": "return #(('x'):rep(1e5)):gsub('x', ('y'):rep(1e5))",
    "coroutines without an end": "local t = {} while true do t[#t + 1] = coroutine.create(function() end) end",
    "pcall in pcall": "local function f() return pcall(f) end while true do f() end",
    "a limit that is caught": "while true do pcall(function() local t = {} while true do t[#t + 1] = {} end end) end",
    "an error in an error": "local function h() error('x') end while true do xpcall(h, h) end",
    "metamethods without an end": "local t = setmetatable({}, {}) getmetatable(t).__index = t return t.x",
    "huge tensors": "return torch.ones(1e6, 1e6)",
    "a tensor repeated": "return torch.ones(1):expand(1e5, 1e5):clone()",
    "repeatTensor": "return torch.ones(1e3):repeatTensor(1e6)",
    "linspace": "return torch.linspace(0, 1, 1e12)",
    "matrices that multiply": "local t = torch.ones(2000, 2000) while true do t = torch.mm(t, t) end",
    "print without an end": "while true do print(('x'):rep(1e4)) end",
    "a pattern that is deep": "return ('x'):rep(1e6):find(('x-'):rep(1e6) .. 'y')",
    "brackets in brackets": "return assert(loadstring('return ' .. ('('):rep(1e6)))",
    "unpack of everything": "return unpack({}, -2^31, 2^31 - 1)",
    "an answer that is huge": "return ('x'):rep(3e8)",
    "an answer that is deep": "local t = {} for i = 1, 1e6 do t = {t} end return t",
    "an answer that is in itself": "local t = {} t.t = t return t, error('it arrives or not')",
    "an answer with many values": "local t = {} for i = 1, 1e7 do t[i] = i end return t",
    "a key that is nan": "return {[0/0] = 1}",
    "an error that is huge": "error(('x'):rep(2e8))",
    "an error of control characters": "error('\\27[2J\\7\\0')",
}


@pytest.fixture(scope="module")
def remade() -> Iterator[Callable[[], LuaBridge]]:
    """Gives a bridge that lives; many of these end one."""
    bridges: list[LuaBridge] = []

    def bridge() -> LuaBridge:
        if not bridges or bridges[-1]._sandbox._ended:
            bridges.append(LuaBridge(sandbox=True, max_seconds=SECONDS, max_memory=MEMORY, max_instructions=20_000_000))
        return bridges[-1]

    yield bridge
    bridges[-1].close()


@pytest.mark.parametrize("name", RESOURCES)
def test_resources_end(name: str, remade: Callable[[], LuaBridge], capfd: pytest.CaptureFixture[str]) -> None:
    bridge = remade()
    began, pid = time.monotonic(), bridge._sandbox.pid
    with pytest.raises(LuaBridgeError) as caught:
        bridge.execute(RESOURCES[name])
    assert time.monotonic() - began < 15 * SECONDS  # of a clock that others use too
    assert len(str(caught.value)) < 100_000
    assert all(line.isprintable() for line in str(caught.value).split("\n"))
    capfd.readouterr()  # what it printed until its clock ended; how much depends on the machine
    if bridge._sandbox._ended:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert remade().execute("return torch.ones(3):sum()") == 3


#: a layer's results that no layer should give
LAYERS = {
    "nothing": "return nil",
    "a number": "return 7",
    "nan": "return torch.Tensor(2):fill(0/0)",
    "a string": "return ('x'):rep(1000)",
    "a table in itself": "local t = {} t[1] = t return t",
    "a table of everything": "return {1, 'x', true, {torch.ones(1)}, function() end}",
    "a function": "return function() end",
    "another type": "return torch.LongTensor{1}",
    "another size each time": "self.n = (self.n or 0) + 1 return torch.ones(self.n)",
    "no elements": "return torch.Tensor()",
    "a huge view": "return torch.ones(1):expand(2^40)",
    "an error": "error({})",
    "its own gradient": "self.gradInput = 5 return torch.ones(2)",
    "other parameters": "self.weight = torch.ones(1000) return self.weight",
    "parameters that lie": "self.parameters = function() return {1, 2}, 'x' end return torch.ones(2)",
    "a name that is no name": "self.__typename = {} return torch.ones(2)",
}


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("layers")
    classes = "\n".join(
        f"""
        do local class, parent = torch.class('Hostile{i}', 'nn.Module')
        function class:updateOutput(input) {code} end
        function class:updateGradInput(input, grad) {code} end end"""
        for i, code in enumerate(LAYERS.values())
    )
    (home / "hostile.lua").write_text(f"require 'nn'\n{classes}\n")
    for i in range(len(LAYERS)):
        write_t7(home / f"{i}.t7", LuaObject(f"Hostile{i}", LuaTable({"train": False})))
    return home


@pytest.mark.parametrize("name", LAYERS)
def test_a_hostile_layer(name: str, hostile: Path) -> None:
    place = list(LAYERS).index(name)
    model = dpnn_bridge.load(hostile / f"{place}.t7", lua=_bridge_of(hostile), sandbox=True)
    messages = []
    for _ in range(3):
        try:
            x = torch.ones(2, requires_grad=True)
            value = model(x)
            if isinstance(value, torch.Tensor) and value.requires_grad:
                value.sum().backward()
        except (DpnnBridgeError, RuntimeError, TypeError) as error:  # autograd has errors of its own
            messages.append(str(error))
    try:
        dpnn_bridge.save(hostile / f"{place}.pt", model)
        dpnn_bridge.to_lua(model)
    except DpnnBridgeError as error:
        messages.append(str(error))
    assert all(line.isprintable() for message in messages for line in message.split("\n"))


_BRIDGES: dict[Path, LuaBridge] = {}


def _bridge_of(folder: Path) -> LuaBridge:
    if folder not in _BRIDGES or _BRIDGES[folder]._sandbox._ended:
        _BRIDGES[folder] = LuaBridge.from_files([folder / "hostile.lua"], sandbox=True, max_seconds=20)
    return _BRIDGES[folder]
