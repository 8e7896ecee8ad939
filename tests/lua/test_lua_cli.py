"""dpnn-lua."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

pytest.importorskip("lupa")

import dpnn_bridge
from dpnn_bridge.cli.convert import convert_command
from dpnn_bridge.cli.lua import lua_command
from dpnn_bridge.cli.verify import verify_command
from dpnn_bridge.errors import LuaBridgeError, OptionError
from dpnn_bridge.lua import LuaBridge
from dpnn_bridge.lua.torch7 import run_torch7
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor

pytestmark = pytest.mark.usefixtures("warm_sandboxes")
SCALED_POWER = str(Path(__file__).parents[2] / "examples" / "scaled_power.lua")


def _run(*arguments: str, input: str | None = None) -> tuple[int, str]:
    result = CliRunner().invoke(lua_command, list(arguments), input=input)
    return result.exit_code, result.stdout + result.stderr


def _script(folder: Path, code: str) -> str:
    path = folder / "script.lua"
    path.write_text(code)
    return str(path)


def test_a_script_gets_its_arguments(tmp_path: Path) -> None:
    script = _script(
        tmp_path,
        "assert(arg[0]:match('script.lua$') and arg[1] == '-lr' and arg[2] == '0.5' and select('#', ...) == 2)\n"
        "local cmd = torch.CmdLine() cmd:option('-lr', 0.1) assert(cmd:parse(arg).lr == 0.5)",
    )
    assert _run(script, "-lr", "0.5") == (0, "")


@pytest.mark.parametrize(("code", "status"), [("os.exit(3)", 3), ("os.exit(true)", 0), ("os.exit(false)", 1)])
def test_the_exit_code_is_the_scripts(tmp_path: Path, code: str, status: int) -> None:
    assert _run(_script(tmp_path, code))[0] == status


@pytest.mark.parametrize(("code", "kind"), [("'x'", "string"), ("{}", "table")])
def test_an_exit_code_that_is_no_number_is_an_error(tmp_path: Path, code: str, kind: str) -> None:
    status, text = _run(_script(tmp_path, f"os.exit({code})"))
    assert status == 7
    assert f"script.lua:1: bad argument #1 to 'exit' (number expected, got {kind})" in text


@pytest.mark.parametrize(
    "code",
    [
        "pcall(os.exit, 3)",
        "xpcall(function() os.exit(3) end, function() print('handled') end)",
        "coroutine.resume(coroutine.create(function() os.exit(3) end))",
        "coroutine.wrap(function() pcall(os.exit, 3) end)()",
    ],
)
@pytest.mark.parametrize("options", [[], ["--runtime", "lua51"], ["--sandbox"]])
def test_nothing_in_a_script_catches_its_exit(tmp_path: Path, options: list[str], code: str) -> None:
    assert _run(*options, _script(tmp_path, f"{code} error('the script went on')"))[0] == 3
    assert _run(*options, _script(tmp_path, "assert(not pcall(error, 'x') and pcall(tostring, 1)) os.exit(4)"))[0] == 4


def test_an_error_shows_file_and_line(tmp_path: Path) -> None:
    status, output = _run(_script(tmp_path, "\nlocal t = torch.Tensor(2)\nt:add(torch.Tensor(3))"))
    assert status == 7
    assert "script.lua:3: inconsistent tensor size" in output


def test_a_hash_bang_line_is_skipped(tmp_path: Path) -> None:
    assert _run(_script(tmp_path, "#!/usr/bin/env th\nos.exit(4)"))[0] == 4


@pytest.mark.skipif(sys.platform != "linux", reason="page faults are counted in /proc")
def test_new_tensors_use_the_memory_of_dead_ones(tmp_path: Path) -> None:
    script = _script(
        tmp_path,
        """
        local function faults()
           return tonumber(io.open('/proc/self/stat'):read('*a'):match('%) %S+' .. (' %S+'):rep(6) .. ' (%d+)'))
        end
        local function make()
           local kept = {}
           for i = 1, 12 do kept[i] = torch.zeros(1000000) end
           kept = nil
           collectgarbage() collectgarbage()
        end
        make() make()
        local before = faults()
        make()
        print(faults() - before)
        """,
    )
    code = "from dpnn_bridge.cli.lua import lua_command; lua_command()"
    done = subprocess.run([sys.executable, "-c", code, script], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 5000  # 12 tensors have 23438 pages


def test_a_runtime_that_no_sandbox_has_is_an_invalid_argument(tmp_path: Path) -> None:
    status, text = _run("--sandbox", "--runtime", "luajit21", _script(tmp_path, ""))
    assert status == OptionError.exit_code
    assert text.startswith("dpnn-lua: a sandbox needs runtime='lua51'")


def test_the_sandbox_has_no_files(tmp_path: Path) -> None:
    assert _run("--sandbox", _script(tmp_path, "os.exit(io.open == nil and 5 or 6)"))[0] == 5


def test_the_seed_is_torch7s(tmp_path: Path) -> None:
    assert _run("--seed", "1234", _script(tmp_path, "os.exit(torch.random() == 822569775 and 5 or 6)"))[0] == 5


def test_the_prompt_survives_errors() -> None:
    status, output = _run("-i", input="x = 5\nerror('oops')\nos.exit(x)\n")
    assert status == 5
    assert "oops" in output


def test_the_prompt_shows_values_and_ends_at_the_end(capfd: pytest.CaptureFixture[str]) -> None:
    assert _run("-i", input="=3 + 4, 'seven'\n\nfor i = 1, 2 do\nprint(i)\nend\nos.exit(5)\n")[0] == 5
    assert capfd.readouterr().out == "7\tseven\t\n1\t\n2\t\n"  # as th prints them
    assert _run("-i", input="{2, n = {k = 'v'}}\n")[0] == 0
    assert capfd.readouterr().out == '{\n  1 : 2\n  n : \n    {\n      k : "v"\n    }\n}\n'
    assert _run("-i", input="x = 1\n")[0] == 0


def test_code_on_the_command_line_runs_before_the_script(tmp_path: Path) -> None:
    assert _run("-e", "status = 9", _script(tmp_path, "os.exit(status)"))[0] == 9


def test_l_requires_a_package_first(tmp_path: Path) -> None:
    (tmp_path / "given.lua").write_text("status = 4")
    assert _run("-p", str(tmp_path), "-l", "given", _script(tmp_path, "os.exit(status)"))[0] == 4


def test_without_anything_to_do_it_says_how_to_use_it() -> None:
    status, output = _run()
    assert status == 2
    assert "pass a script" in output


def test_dpnn_convert_takes_a_lua_file_for_unknown_classes(tmp_path: Path) -> None:
    bridge = LuaBridge.from_files([SCALED_POWER])
    source = tmp_path / "net.t7"
    bridge.execute(f"torch.save({str(source)!r}, nn.Sequential():add(nn.ScaledPower(3, 2)):add(nn.Linear(3, 2)))")
    target = tmp_path / "net.pt"
    refused = CliRunner().invoke(convert_command, [str(source), str(target)])
    assert refused.exit_code == 5
    assert "--lua" in refused.stderr
    done = CliRunner().invoke(convert_command, [str(source), str(target), "--lua", SCALED_POWER])
    assert done.exit_code == 0, done.output
    x = torch.tensor([[1.0, -2.0, 3.0]], dtype=torch.float64)
    model: Any = dpnn_bridge.load(target, lua=bridge)
    torch.testing.assert_close(model[0](x), torch.tensor([[1.0, -4.0, 9.0]], dtype=torch.float64))


@pytest.fixture(scope="module")
def scaled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a layer in Lua, its results after a forward on two samples, converted files and manifests."""
    folder = tmp_path_factory.mktemp("scaled")
    LuaBridge.from_files([SCALED_POWER]).execute(
        f"""
        torch.manualSeed(1)
        local net = nn.Sequential():add(nn.ScaledPower(3, 2)):add(nn.Linear(3, 2))
        net:forward(torch.ones(5, 3))
        torch.save({str(folder / "net.t7")!r}, net)
        local x, dy = torch.randn(2, 3), torch.randn(2, 2)
        local y, dx = net:forward(x):clone(), net:backward(x, dy):clone()
        torch.save({str(folder / "ref.t7")!r}, {{input = x, output = y, gradOutput = dy, gradInput = dx, after = net}})
        """
    )
    for name, option in (("lua", ["--lua", SCALED_POWER]), ("placeholder", ["--allow-unsupported"])):
        target = ["--out-dir", str(folder / name), "--manifest", str(folder / f"{name}.jsonl")]
        done = CliRunner().invoke(convert_command, [str(folder / "net.t7"), *target, *option])
        assert done.exit_code == 0, done.output
    return folder


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("net.t7 lua/net.pt --input 2x3 --lua LUA", 0),
        ("net.t7 lua/net.pt --input 2x3", 5),
        ("net.t7 --reference ref.t7 --lua LUA", 0),
        ("lua/net.pt --reference ref.t7 --lua LUA", 0),
        ("lua.jsonl --lua LUA", 0),
        ("lua.jsonl", 4),
        ("placeholder.jsonl --allow-unsupported", 0),
        ("placeholder.jsonl", 4),
    ],
)
def test_dpnn_verify_takes_what_the_file_was_converted_with(
    words: str, code: int, scaled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(scaled)
    result = CliRunner().invoke(verify_command, words.replace("LUA", SCALED_POWER).split())
    assert result.exit_code == code, result.output
    assert "layers of PyTorch" not in result.output  # layers in Lua are none of PyTorch


def test_dpnn_verify_finds_a_changed_weight_of_a_lua_layer(scaled: Path) -> None:
    model: Any = dpnn_bridge.load(scaled / "net.t7", lua=[SCALED_POWER])
    with torch.no_grad():
        model[0].weight[1] += 1e-6
    dpnn_bridge.write_t7(scaled / "changed.t7", model)
    result = dpnn_bridge.verify(scaled / "changed.t7", reference=scaled / "ref.t7", lua=[SCALED_POWER])
    different = [layer.class_name for layer in result.layers if not layer.ok]
    assert different == ["nn.Sequential", "nn.ScaledPower"]
    result = dpnn_bridge.verify(scaled / "net.t7", scaled / "changed.t7", lua=[SCALED_POWER])
    assert not result.ok
    evidence = {found["class_name"]: found["evidence"] for found in result.classes()}
    assert evidence["nn.ScaledPower"] == "not tested: its Lua code runs"


@pytest.mark.parametrize("sandbox", [False, "partial"])
def test_a_checkpoint_takes_lua_files(scaled: Path, sandbox: Any) -> None:
    found = dpnn_bridge.load_checkpoint(scaled / "net.t7", lua=[SCALED_POWER], sandbox=sandbox)
    x = torch.randn(2, 3, dtype=torch.float64)
    assert torch.equal(found.model(x), dpnn_bridge.load(scaled / "net.t7", lua=[SCALED_POWER])(x))


def test_a_copy_of_a_lua_module_is_another_object(scaled: Path) -> None:
    model: Any = dpnn_bridge.load(scaled / "net.t7", lua=[SCALED_POWER])
    model[0].weight.requires_grad_(False)
    x = torch.randn(2, 3, dtype=torch.float64)
    expected, other = model(x), copy.deepcopy(model)
    assert torch.equal(other(x), expected)
    assert not other[0].weight.requires_grad
    other[0].weight.mul_(2)
    assert torch.equal(model(x), expected)
    assert not torch.equal(other(x), expected)


def test_run_torch7_brings_the_values_of_another_program(scripts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """dpnn-lua stands in for th, which it replaces."""
    (scripts / "dpnn-lua").rename(scripts / "th")
    monkeypatch.setenv("PATH", str(scripts))
    monkeypatch.delenv("DPNN_TORCH7", raising=False)
    calls = "calls = (calls or 0) + 1"
    count, none, tensor = run_torch7(f"{calls} return calls, nil, torch.range(1, 3)")
    assert (count, none, tensor.numpy().tolist()) == (1, None, [1, 2, 3])
    total, rest = run_torch7("local t, n, s = ... return t:sum() + s, n", LuaTensor.from_numpy(np.ones(3)), None, 4)
    assert (total, rest) == (7, None)


def test_run_torch7_says_what_is_wrong(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("DPNN_TORCH7", raising=False)
    with pytest.raises(LuaBridgeError, match=r"Torch7 failed \(exit code 1\): ."):
        run_torch7("return 1", program="false")
    with pytest.raises(LuaBridgeError, match="returned no result"):
        run_torch7("return 1", program="true")
    with pytest.raises(OptionError, match="cannot be run: No such file"):
        run_torch7("return 1", program=str(tmp_path / "th"))
    slow = tmp_path / "slow"
    slow.write_text("#!/bin/sh\nsleep 60 & wait\n")
    slow.chmod(0o755)
    with pytest.raises(LuaBridgeError, match=r"longer than 0\.2 seconds"):
        run_torch7("return 1", program=str(slow), timeout=0.2)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LuaBridgeError, match="Torch7 not found"):
        run_torch7("return 1")
    monkeypatch.setenv("DPNN_TORCH7", str(tmp_path / "th"))
    with pytest.raises(OptionError, match=r"DPNN_TORCH7: .*/th cannot be run: No such file"):
        run_torch7("return 1")


def test_an_input_that_a_lua_layer_refuses_is_no_question_of_data(tmp_path: Path) -> None:
    (lua := tmp_path / "my.lua").write_text(
        "require 'nn'; my = {}; local Layer = torch.class('my.Layer', 'nn.Module')\n"
        "function Layer:updateOutput(input) error('two dimensions, please') end"
    )
    model, output = tmp_path / "m.t7", tmp_path / "m.pt"
    dpnn_bridge.write_t7(model, LuaObject("my.Layer", LuaTable({"k": 1})))
    dpnn_bridge.convert(model, output, lua=[lua])
    result = CliRunner().invoke(verify_command, [str(a) for a in (model, output, "--lua", lua, "--input", "2")])
    assert (result.exit_code, "two dimensions, please" in result.stderr) == (5, True)
