"""Functions of torch, the prompt and the sandbox that the bridge has in Lua answer what Torch7 answers."""

from __future__ import annotations

from contextlib import closing
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lupa")

from dpnn_bridge.lua import LuaBridge

# ---- torch


pytestmark = pytest.mark.usefixtures("warm_sandboxes")


def test_tables_are_equal_to_themselves(bridge: LuaBridge) -> None:
    assert bridge.execute("local t = {} return torch.isequal(t, t), torch.isequal({}, {})") == (True, False)


def test_save_and_load_check_their_options(bridge: LuaBridge, tmp_path: Path) -> None:
    code = """
    local path, messages = ..., {}
    local function try(f, ...) messages[#messages + 1] = select(2, pcall(f, path, ...)):match('[^:]*$') end
    try(torch.save, 1, 'binary', 'yes')
    try(torch.save, 1, 'b32')
    try(torch.load, 'b16')
    try(torch.load, 'binary', 1)
    return messages
    """
    assert [m.strip() for m in bridge.execute(code, str(tmp_path / "x.t7"))] == [
        "true or false (or nil) expected for referenced",
        '"binary" or "ascii" (or nil) expected for mode',
        '"binary", "b32", "b64" or "ascii" (or nil) expected for mode',
        "true or false (or nil) expected for referenced",
    ]


def test_include_counts_levels(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "value.lua").write_text("return 'inner'")
    (tmp_path / "value.lua").write_text("return 'outer'")
    (tmp_path / "inner" / "helper.lua").write_text("return function(f, d) local r = include(f, d) return r end")
    (tmp_path / "main.lua").write_text(
        "local helper = dofile(paths.thisfile('inner/helper.lua'))"
        " local a, b = helper('value.lua'), helper('value.lua', 1) return a, b"
    )
    assert LuaBridge().run_file(tmp_path / "main.lua") == ("inner", "outer")


def test_a_second_log_replaces_the_first(bridge: LuaBridge, tmp_path: Path) -> None:
    code = """
    local folder, cmd, old = ..., torch.CmdLine(), print
    cmd:silent()
    cmd:log(folder .. '/1', {}) print('one', 2) print()
    cmd:log(folder .. '/2') print('two')
    print = old
    """
    bridge.execute(code, str(tmp_path))
    assert (tmp_path / "1").read_text().split("[----------------------] \n")[1] == "one 2 \n\n"
    assert (tmp_path / "2").read_text().split("[----------------------] \n")[1] == "two \n"


def test_help_aligns_arguments_with_dashes(bridge: LuaBridge, capfd: pytest.CaptureFixture[str]) -> None:
    bridge.execute("local c = torch.CmdLine() c:argument('--in', 'file') c:option('-abcd', 1, 'number') c:help()")
    assert capfd.readouterr().out == "Usage: [options] <in>\n  <in>  file\n  -abcd number [1]\n"


def test_a_suite_says_what_it_takes(bridge: LuaBridge) -> None:
    code = """
    local suite, tester, messages = torch.TestSuite(), torch.Tester(), {}
    local function try(f, ...) messages[#messages + 1] = select(2, pcall(f, ...)):gsub('^.-%d+: ', '') end
    suite.a = print
    for _, pair in ipairs {{'a', print}, {'b', {}}, {'b', 5}} do try(function() suite[pair[1]] = pair[2] end) end
    tester:add(print, '_tearDown')
    try(tester.add, tester, print, '_tearDown')
    return messages
    """
    assert list(bridge.execute(code)) == [
        "Test a is already defined.",
        "Nested tables of tests are not supported",
        "Only functions are supported as members of a TestSuite",
        "Only one tear-down function allowed",
    ]


# ---- the sandbox, the prompt


def test_a_file_that_fails_fails_again(tmp_path: Path) -> None:
    (tmp_path / "broken.lua").write_text("error('mine')")
    code = "return (pcall(require, 'broken')), (pcall(require, 'broken')), require('xlua').table2string {1}"
    bridge: Any = LuaBridge(tmp_path, sandbox=True)
    with closing(bridge):
        assert bridge.execute(code) == (False, False, "{1}")


def test_lines_of_the_prompt(capfd: pytest.CaptureFixture[str]) -> None:
    source = (resources.files("dpnn_bridge.lua") / "prelude" / "prompt.lua").read_text()
    code = f"""
    local shown = {{}}
    local compile = (function(...) {source} end)(function(_, ...) shown[#shown + 1] = (...) end)
    compile('x = 1;')() compile('tostring(5);')() compile('= 2 + 2')() compile('x')()
    return shown
    """
    assert list(LuaBridge().execute(code)) == [4, 1]


def test_a_class_is_of_its_own_type(bridge: LuaBridge) -> None:
    """bAbI-tasks keeps classes where others keep objects, and asks for their type. Results of Torch7."""
    code = """
    typed = {}
    torch.class('typed.A') torch.class('typed.B', 'typed.A')
    local like = setmetatable({}, setmetatable({}, {__index = getmetatable(typed.B())}))
    local is = torch.isTypeOf
    return is(typed.B, 'typed.B'), is(typed.B, 'typed.A'), is(typed.A, 'typed.B'), is(typed.B, typed.A),
       is(like, 'typed.A'), is(like, 'typed.B'), is(setmetatable({}, {__metatable = 'no'}), 'typed.A'),
       is(torch.DoubleTensor, 'torch.DoubleTensor'), is('text', 'typed.A'), torch.type(typed.B)
    """
    assert bridge.execute(code) == (True, True, False, True, False, True, False, True, False, "table")


def test_functions_of_classes_check_their_arguments(bridge: LuaBridge) -> None:
    code = """
    local messages = {}
    local function try(f, ...) messages[#messages + 1] = select(2, pcall(f, ...)):gsub('^.-%d+: ', '') end
    try(torch.getmetatable) try(torch.factory, 5) try(torch.setmetatable, {}) try(torch.setmetatable, 5, 'torch.Tester')
    try(torch.newmetatable, 'Aa', {}) try(torch.newmetatable, 'Ab', nil, 5)
    try(torch.newmetatable, 'Ac', nil, nil, nil, 5)
    try(torch.newmetatable, 'Ad', nil, nil, nil, nil, 5) try(torch.metatype, 'Ae') try(torch.metatype, 'Ae', 5)
    try(torch.version) try(torch.pointer) try(torch.pointer, io.stdout) try(torch.getenv, {})
    try(torch.setenv, print, 5)
    return messages
    """
    assert list(bridge.execute(code)) == [
        "bad argument #1 (string expected, got nil)",
        "bad argument #1 (string expected, got number)",
        "bad argument #2 (string expected, got nil)",
        "bad argument #1 (table expected, got number)",
        "bad argument #2 (parent class name or nil expected)",
        "bad argument #3 (constructor function or nil expected)",
        "bad argument #5 (factory function or nil expected)",
        "bad argument #6 (module table or nil expected)",
        "expecting: string table [ctype]",
        "bad argument #2 (table expected, got number)",
        "bad argument #1 (value expected)",
        "Torch object, table, thread, cdata or function expected",
        "bad argument #1 (Torch object expected)",
        "bad argument #1 (function or userdata expected, got table)",
        "bad argument #2 (table expected, got number)",
    ]


def test_environments_and_destructors(bridge: LuaBridge) -> None:
    code = """
    local function f() return held end
    torch.setenv(f, {held = 5})
    local mt = torch.newmetatable('Destroyed', nil, nil, print)
    return f(), torch.getenv(f).held, mt.__gc == print, torch.setmetatable({}, 'Destroyed'),
           torch.data(nil), torch.cdata(nil)
    """
    assert bridge.execute(code) == (5, 5, True, "Destroyed", None, None)


def test_c_types_have_names() -> None:
    code = """
    local ffi, mt = require 'ffi', {__index = {}, __version = 2}
    ffi.cdef 'typedef struct { int x; } named_struct; typedef struct { int y; } other_struct;'
    torch.metatype('My.Struct', mt, 'named_struct')
    local struct = ffi.new('named_struct')
    return torch.typename(struct), torch.type(struct), torch.version(struct), torch.type(ffi.new('other_struct'))
    """
    if "LuaJIT" not in str(LuaBridge().execute("return jit and jit.version")):
        pytest.skip("needs LuaJIT")
    assert LuaBridge().execute(code) == ("My.Struct", "My.Struct", 2, "cdata")
