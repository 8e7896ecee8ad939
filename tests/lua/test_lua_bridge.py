"""Lua inside Python: values, memory, errors, safety."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

pytest.importorskip("lupa")

from dpnn_bridge.errors import LuaBridgeError
from dpnn_bridge.loaders.t7_writer import dumps
from dpnn_bridge.lua import LuaBridge, state, wire
from dpnn_bridge.lua.checkouts import find_module
from dpnn_bridge.objects import LuaFunction, LuaObject, LuaTable, LuaTensor


@pytest.fixture(scope="module")
def bridge() -> LuaBridge:
    return LuaBridge()


def test_values_cross_both_ways(bridge: LuaBridge) -> None:
    value = [1, 2.5, "text", True, [3, {"key": "value"}]]
    assert bridge.execute("return ...", value) == value
    assert bridge.execute("return nil, 1, 'a'") == (None, 1, "a")


@pytest.mark.parametrize("arguments", ["", "0", "nil, true"])
def test_lua_does_not_end_the_python_program(bridge: LuaBridge, arguments: str) -> None:
    with pytest.raises(LuaBridgeError, match=r"os\.exit\(.*\) does not end a Python program: remove the call, or run"):
        bridge.execute(f"os.exit({arguments})")


def test_a_tensor_is_the_same_memory_on_both_sides(bridge: LuaBridge) -> None:
    mine = torch.zeros(2, 3, dtype=torch.float64)
    theirs = bridge.execute("local t = ... t[1][2] = 7 return t:t()", mine)
    assert mine[0, 1] == 7
    theirs[2, 1] = 9
    assert mine[1, 2] == 9


def test_a_view_with_the_negative_bit_keeps_its_sign(bridge: LuaBridge) -> None:
    view = torch.complex(torch.ones(2), torch.tensor([2.0, 3.0])).conj().imag
    assert bridge.execute("return torch.add(..., 0)", view).tolist() == [-2, -3]
    encoded = wire.encoded(view, lambda _: None)
    assert torch.frombuffer(bytearray(encoded[1].tobytes()), dtype=torch.float32).tolist() == [-2, -3]


def test_a_default_dtype_without_a_type_in_lua_is_refused(bridge: LuaBridge) -> None:
    with pytest.raises(LuaBridgeError, match="bool"):
        bridge.default_dtype(torch.bool)


def test_a_view_that_is_not_contiguous_keeps_its_place(bridge: LuaBridge) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    bridge.execute("(...):fill(-1)", base[1:, ::2])
    assert base.tolist() == [[0, 1, 2, 3], [-1, 5, -1, 7], [-1, 9, -1, 11]]


def test_growing_a_storage_in_lua_leaves_python_valid_memory(bridge: LuaBridge) -> None:
    mine = torch.ones(3)
    grown = bridge.execute("local t = ... t:resize(1000):fill(5) return t", mine)
    assert grown.sum() == 5000
    assert mine.tolist() == [5, 5, 5]


def test_objects_of_a_file_become_live_objects(bridge: LuaBridge) -> None:
    bridge.execute("local C = torch.class('Counted') function C:total() return self.values:sum() + self.more[1] end")
    obj = LuaObject("Counted")
    obj["values"] = LuaTensor.from_numpy(torch.ones(4).numpy())
    obj["more"] = LuaTable.from_list([10])
    assert bridge.execute("return (...):total()", obj) == 14
    assert bridge.to_object(bridge.new("Counted")).class_name == "Counted"


def test_an_error_of_lua_names_file_line_and_callers(bridge: LuaBridge, tmp_path: Path) -> None:
    script = tmp_path / "broken.lua"
    code = ["local function add(a, b)", "local sum = a:add(b)", "return sum", "end"]
    script.write_text("\n".join([*code, "add(torch.Tensor(2), torch.Tensor(3))"]))
    with pytest.raises(LuaBridgeError, match=r"broken.lua:2: inconsistent tensor size(.|\n)*broken.lua:5: in main"):
        bridge.run_file(script)


def test_an_error_can_be_caught_in_lua_as_text(bridge: LuaBridge) -> None:
    ok, message = bridge.execute("return pcall(function() torch.Tensor(2):add('x') end)")
    assert ok is False
    assert "invalid arguments: DoubleTensor string" in message
    assert "expected arguments: [*DoubleTensor*] DoubleTensor [number] DoubleTensor | [*DoubleTensor*]" in message


def test_storages_keep_their_identity_while_lua_collects(bridge: LuaBridge) -> None:
    assert (
        bridge.execute(
            """
        local t = torch.DoubleTensor(3):fill(2)
        for i = 1, 20000 do
           local s = t:storage()
           if torch.typename(s) ~= 'torch.DoubleStorage' or s:size() ~= 3 or s[2] ~= 2 then return i end
        end
        return 'kept'
        """
        )
        == "kept"
    )


def test_no_grad_switch_is_left_behind(bridge: LuaBridge) -> None:
    bridge.execute("return torch.randn(3):add(1)")
    assert torch.is_grad_enabled()


def test_lua_path_finds_packages_and_checkouts(tmp_path: Path) -> None:
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "init.lua").write_text("pack = {} require 'pack.Part' return pack")
    (tmp_path / "pack" / "Part.lua").write_text("pack.part = 5")
    assert LuaBridge(tmp_path).execute("return require('pack').part") == 5
    assert LuaBridge(tmp_path / "pack").execute("return require('pack').part") == 5
    with pytest.raises(LuaBridgeError, match="not a folder"):
        LuaBridge(tmp_path / "missing")


@pytest.mark.parametrize(
    ("files", "folder"),
    [
        (["moses/moses.lua", "moses/Part.lua"], "."),
        (["Moses/moses.lua", "Moses/moses/Part.lua"], "."),
        (["Moses/moses.lua", "Moses/Part.lua"], "Moses"),
        (["lua---moses/init.lua", "lua---moses/Part.lua"], "."),
        (["torch-moses/src/init.lua", "torch-moses/src/Part.lua"], "."),
        (["moses-master/lua/moses/init.lua", "moses-master/lua/moses/Part.lua"], "."),
        (["moses.torch/moses/init.lua", "moses.torch/moses/Part/init.lua"], "."),
        (["other/a.rockspec:package = 'Moses'", "other/lib/moses.lua", "other/lib/Part.lua"], "."),
        (
            [
                "x/rockspec/a.rockspec:modules = {['moses'] = 'y/m.lua', ['moses.Part'] = 'p.lua'}",
                "x/y/m.lua",
                "x/p.lua",
            ],
            ".",
        ),
        (["moses/r.rockspec:modules = {['moses.Part'] = 'moses.lua'}", "moses/moses.lua", "moses/lua/Part.lua"], "."),
        (["share/lua/5.1/moses.lua", "share/lua/5.1/moses/Part.lua"], "."),
        (["moses/init.lua", "moses/test/Part.lua"], "."),
        (["any/lua/moses/init.lua", "any/lua/moses/Part.lua"], "."),
    ],
)
def test_checkouts_of_any_layout_are_found(tmp_path: Path, files: list[str], folder: str) -> None:
    for file in files:
        name, _, text = file.partition(":")
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text or f"return '{name}'")
    found = LuaBridge(tmp_path / folder).execute("return require 'moses', require 'moses.Part'")
    assert found == tuple(file for file in files if file.endswith(".lua"))


def test_a_file_beside_the_script_precedes_a_checkout_whose_name_differs_in_its_case(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """rnn and nngraph are checkouts, RNN.lua and GRU.lua files of a script: e-lab's RNN-train-sample."""
    (tmp_path / "checkouts" / "rnn").mkdir(parents=True)
    (tmp_path / "checkouts" / "rnn" / "init.lua").write_text("return 'package'")
    (tmp_path / "script").mkdir()
    monkeypatch.chdir(tmp_path / "script")
    bridge = LuaBridge(tmp_path / "checkouts")
    assert bridge.execute("return require 'Rnn'") == "package"
    for name in ("RNN", "rnn"):
        (tmp_path / "script" / f"{name}.lua").write_text("return 'file'")
    assert bridge.execute("return require 'RNN', require 'rnn'") == ("file", "package")
    assert bridge.execute("return torch.packageLuaPath 'rnn'") == str(tmp_path / "checkouts" / "rnn")


# ---- safety


def test_bytecode_in_a_file_is_never_run(bridge: LuaBridge) -> None:
    code = bridge.execute("return string.dump(function() executed = true end)").encode("latin-1")
    data = dumps(LuaTable({"f": LuaFunction(code + b"\0", LuaTable())})).decode("latin-1")
    with pytest.raises(LuaBridgeError, match="which is never run"):
        bridge.execute("torch.deserialize(...).f()", data)
    assert bridge.execute("return executed") is None


@pytest.mark.parametrize("runtime", ["luajit21", "lua51"])
def test_compiled_code_is_refused_everywhere(runtime: str, tmp_path: Path) -> None:
    bridge = LuaBridge(runtime=runtime)
    file = tmp_path / "compiled.lua"
    file.write_bytes(b"\x1bLJ\x02")
    with pytest.raises(LuaBridgeError, match=r"compiled\.lua is compiled Lua code, which is never run"):
        bridge.run_file(file)
    with pytest.raises(LuaBridgeError, match="compiled Lua code, which is never run: pass the source"):
        bridge.execute("\x1bLJ\x02")
    assert bridge.execute("return (loadstring('\\27Lua'))") is None
    assert (
        bridge.execute("local n = 0 return (load(function() n = n + 1 return n == 1 and '\\27Lua' or nil end))") is None
    )


def test_the_stack_is_as_deep_as_in_a_script(bridge: LuaBridge) -> None:
    """Level 6 is above the code of a caller's constructors, where nngraph looks for a name."""
    code = """
        local function third() return debug.getinfo(6, 'Sl') ~= nil end
        local function second() local found = third() return found end
        local function first() local found = second() return found end
        local found = first()
        return found
    """
    assert bridge.execute(code) is True


def test_true_is_another_key_than_one(bridge: LuaBridge) -> None:
    assert bridge.execute("return {[true] = 5}") == {True: 5}
    assert bridge.execute("return {[true] = 5, [false] = 6}") == {True: 5, False: 6}
    with pytest.raises(LuaBridgeError, match="keys 1 and true"):
        bridge.execute("return {7, [true] = 5}")


def test_a_table_or_list_that_contains_itself_is_one_error(bridge: LuaBridge) -> None:
    with pytest.raises(LuaBridgeError, match="contain themselves"):
        bridge.execute("local t = {} t[1] = t return t")
    circle: list[object] = []
    circle.append(circle)
    with pytest.raises(LuaBridgeError, match="contain themselves"):
        bridge.execute("return ...", circle)


@pytest.mark.parametrize("runtime", ["luajit21", "lua51"])
def test_numbers_and_text_beyond_lua_s_are_converted(runtime: str) -> None:
    bridge = LuaBridge(runtime=runtime)
    assert bridge.execute("return ...", 1 << 80) == float(1 << 80)
    assert bridge.execute("return ...", -(1 << 63) - 1) == -float(1 << 63)
    assert bridge.execute("return #(...)", "日本") == 6
    assert bridge.execute("return #'日本'") == 6
    assert bridge.execute("return ...", "\xff") == "\xff"
    with pytest.raises(LuaBridgeError):
        bridge.execute("return ...", 10**400)


def test_a_subclass_has_no_sandbox() -> None:
    class Mine(LuaBridge):
        pass

    assert Mine().execute("return 1") == 1
    with pytest.raises(LuaBridgeError, match="Mine is a subclass of LuaBridge"):
        Mine(sandbox=True)


def test_one_path_is_no_list_of_letters(tmp_path: Path) -> None:
    (tmp_path / "helpers").mkdir()
    (tmp_path / "helpers" / "seven.lua").write_text("return 7")
    (tmp_path / "main.lua").write_text("seven = require 'seven'")
    for path in (tmp_path / "helpers", str(tmp_path / "helpers")):
        bridge = LuaBridge.from_files(tmp_path / "main.lua", lua_path=path)
        assert bridge.execute("return seven") == 7


def test_a_rockspec_that_is_no_file_is_passed_over(tmp_path: Path) -> None:
    checkout = tmp_path / "torch-tool"
    (checkout / "folder.rockspec").mkdir(parents=True)
    (checkout / "endless.rockspec").symlink_to("/dev/zero")
    (checkout / "init.lua").write_text("return 5")
    assert LuaBridge(tmp_path).require("tool") == 5


def test_a_rockspec_of_empty_lines_takes_linear_time(tmp_path: Path) -> None:
    """The program outside of a sandbox searched 16 MB of them for days, beyond any limit of time."""
    (tmp_path / "a.rockspec").write_text(" package = 'tool'" + "\n" * 100_000)
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "tool.lua").write_text("")
    start = time.process_time()
    assert find_module([tmp_path], "tool") == str(tmp_path / "lib" / "tool.lua")
    assert time.process_time() - start < 2


@pytest.mark.parametrize("runtime", ["luajit21", "lua51"])
@pytest.mark.parametrize("resume", ["coroutine.resume", "function(c, ...) return pcall(coroutine.resume, c, ...) end"])
def test_python_calls_lua_while_a_coroutine_runs(runtime: str, resume: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "_COLLECT_AFTER", 1 << 16)
    found = LuaBridge(runtime=runtime).execute(
        f"local resume = {resume}"
        """
        local found = {}
        for k = 1, 5 do
           local thread = coroutine.create(function(a, b, c)
              local kept = {a, b, c}
              for i = 1, 20 do
                 local y = torch.add(torch.DoubleTensor(10000), 1)
                 kept[#kept + 1] = i
                 if i == 10 then kept[#kept + 1] = coroutine.yield('half', nil) end
              end
              return a + b + c, #kept
           end)
           local first = {resume(thread, 1, 2, 3)}
           local second = {resume(thread, 4)}
           found[k] = first[#first] == 'half' and second[#second - 1] + second[#second]
        end
        return found
        """
    )
    assert found == [30] * 5


def test_an_error_lists_the_callers_in_a_folder_that_is_called_like_the_package(tmp_path: Path) -> None:
    path = tmp_path / "dpnn_bridge" / "script.lua"
    path.parent.mkdir()
    path.write_text("local function f() error('x') end\nlocal function g() f() return 1 end\ng()\n")
    with pytest.raises(LuaBridgeError) as raised:
        LuaBridge(runtime="lua51").run_file(path)
    callers = [line for line in str(raised.value).split("\n")[1:] if "dpnn_bridge/script.lua:" in line]
    assert len(callers) == 3
