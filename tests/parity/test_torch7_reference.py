"""``dpnn-verify --torch7``: a real Torch7 runs the user's model. Without one, what is said when it cannot."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import FIXTURES
from torch import nn

import dpnn_bridge
from dpnn_bridge.cli.verify import verify_command
from dpnn_bridge.compare.verdict import Verdict
from dpnn_bridge.errors import LuaBridgeError
from dpnn_bridge.loaders import dumps
from dpnn_bridge.lua.torch7 import run_torch7
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor
from dpnn_bridge.parity import torch7_jobs, torch7_reference
from dpnn_bridge.parity.torch7_reference import Torch7
from dpnn_bridge.parity.verify import verify as verify_model

PROGRAM = os.environ.get("DPNN_TORCH7", "")
NET = FIXTURES / "nn" / "nn.Sequential" / "Sequential__net_style_residual__float_train.t7"


def verify(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(verify_command, [str(a) for a in arguments])
    return result.exit_code, result.output + result.stderr


@pytest.fixture
def model(tmp_path: Path) -> Path:
    dpnn_bridge.write_t7(tmp_path / "model.t7", dpnn_bridge.read_t7(NET)["module"])
    return tmp_path / "model.t7"


def test_a_missing_program_is_named(model: Path, tmp_path: Path) -> None:
    code, said = verify(model, "--input", "1x2x5x5", "--torch7", tmp_path / "th")
    assert code == 2
    assert f"{tmp_path / 'th'} cannot be run" in said


def test_a_result_that_cannot_be_read_is_the_error_of_its_job(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []

    def run(code: str, jobs: LuaTable, folder: str, program: str | None) -> None:
        runs.append(len(jobs))
        for number, obj in enumerate(jobs.as_list(), 1):
            if len(runs) == 2 and number == 2:
                raise LuaBridgeError("crashed")
            result = b"\4\0\0\0" if len(runs) == number == 1 else dumps(LuaTable({"file": obj["file"]}))
            Path(folder, f"{number}.t7").write_bytes(result)

    monkeypatch.setattr(torch7_jobs, "run_torch7", run)
    first, second, third = torch7_jobs.run_jobs([torch7_jobs.job(Path(name), []) for name in "abc"])
    assert "truncated" in first["load"]["error"]
    assert second["file"] == "b"
    assert third["load"]["error"] == "crashed"  # and not the result of b, which the first process stored as its second
    assert runs == [3, 2]


def test_a_mode_that_torch7_cannot_set_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    done, failed = LuaTable({"value": 1}), LuaTable({"error": "no evaluate"})
    results = LuaTable({"load": done, "cast": done, "mode": failed, "forward": done, "after": done})
    monkeypatch.setattr(torch7_reference, "run_jobs", lambda jobs, program: [results])
    obj = dpnn_bridge.to_lua(nn.Tanh())
    with pytest.raises(LuaBridgeError, match="Torch7 cannot set the mode of the model: no evaluate"):
        torch7_reference.torch7_reference(Torch7("th"), obj, nn.Tanh().eval(), LuaTable({"input": 1}), gradients=False)


def test_a_program_that_is_not_torch7_is_named(model: Path) -> None:
    code, said = verify(model, "--input", "1x2x5x5", "--torch7", "true")
    assert code == 7
    assert "is it Torch7's th" in said


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("exec sleep 60", "took longer than 1 second"),
        ("yes", "printed more than 256 MB without a result"),
        ("head -c 100000 /dev/urandom; exit 3", "failed (exit code 3)"),
        ("kill -9 $$", "failed (killed by signal 9)"),
        ("(sleep 60; touch left) & sleep 60", "took longer"),
        ("echo nothing", "returned no result"),
    ],
)
def test_whatever_the_program_does_the_error_is_ours(script: str, message: str, tmp_path: Path) -> None:
    program = tmp_path / "th"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    with pytest.raises(LuaBridgeError) as error:
        run_torch7("return 1", program=str(program), timeout=1 if "sleep" in script else 60)
    assert message in str(error.value)
    assert len(str(error.value)) < 10_000


def test_two_makers_of_a_reference_are_one_too_many(model: Path, tmp_path: Path) -> None:
    code, said = verify(model, "--input", "1x2x5x5", "--torch7", "th", "--lua-path", tmp_path)
    assert code == 2
    assert "--lua-path and --torch7" in said


@pytest.mark.torch7
@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_layer_is_compared(model: Path, mode: str, dtype: str) -> None:
    code, said = verify(model, "--input", "1x2x5x5", "--torch7", PROGRAM, "--mode", mode, "--dtype", dtype, "--json")
    assert code == 0, said
    layers = json.loads(said)["layers"]
    assert all(layer["differences"] for layer in layers)


@pytest.mark.torch7
def test_a_class_of_the_user_is_compared_with_its_lua_file(tmp_path: Path) -> None:
    (tmp_path / "factor.lua").write_text("return 3")
    (tmp_path / "scale.lua").write_text(
        """
        require 'nn'
        local Scale = torch.class('nn.MyScale', 'nn.Module')
        local factor = require 'factor'
        function Scale:updateOutput(input) self.output = input * factor return self.output end
        function Scale:updateGradInput(input, gradOutput)
            self.gradInput = gradOutput * factor
            return self.gradInput
        end
        """
    )
    script = f"package.path = '{tmp_path}/?.lua;' .. package.path dofile('{tmp_path}/scale.lua')"
    net = run_torch7(f"{script} return nn.Sequential():add(nn.Linear(3, 2)):add(nn.MyScale())", program=PROGRAM)
    dpnn_bridge.write_t7(tmp_path / "model.t7", net[0])
    arguments = (tmp_path / "model.t7", "--input", "2x3", "--torch7", PROGRAM, "--lua", tmp_path / "scale.lua")
    code, said = verify(*arguments)
    assert code == 0, said
    code, said = verify(*arguments, "--sandbox")  # the user does not trust the file: Torch7 does not run it
    assert code == 7, said
    assert "no class nn.MyScale" in said


@pytest.mark.torch7
@pytest.mark.parametrize("class_name", ["LSTM", "FastLSTM", "GRU", "MuFuRu"])
def test_a_sequence_that_the_file_begins_is_continued(class_name: str, tmp_path: Path) -> None:
    script = f"""
    require 'rnn'
    local net = nn.Sequential():add(nn.Linear(3, 3)):add(nn.{class_name}(3, 2))
    for _ = 1, 2 do net:forward(torch.randn(4, 3)) end
    return net
    """
    dpnn_bridge.write_t7(tmp_path / "model.t7", run_torch7(script, program=PROGRAM))
    for mode in ("train", "eval"):
        for dtype in (None, torch.float32):
            value = torch.randn(4, 3).double()
            assert verify_model(tmp_path / "model.t7", input=value, torch7=Torch7(PROGRAM), mode=mode, dtype=dtype).ok


@pytest.mark.torch7
def test_torch7_counts_and_not_what_the_file_holds(deviating: Path) -> None:
    """The weight is another than the one with which the stored values were made."""
    assert verify(deviating)[0] == 4
    code, said = verify(deviating, "--torch7", PROGRAM)
    assert code == 0, said


@pytest.mark.torch7
def test_a_missing_package_is_named(model: Path, tmp_path: Path) -> None:
    net = dpnn_bridge.read_t7(model)
    net["modules"] = LuaTable.from_list([LuaObject("cudnn.ReLU", LuaTable({"inplace": False}))])
    dpnn_bridge.write_t7(tmp_path / "cuda.t7", net)
    code, said = verify(tmp_path / "cuda.t7", "--input", "1x2x5x5", "--torch7", PROGRAM)
    assert code == 7
    assert "no class cudnn.ReLU" in said
    assert re.search(r"\(without [\w, ]*cudnn[\w, ]*\); install the package, or .* \(--lua-path\)", said)


@pytest.mark.torch7
def test_tensors_of_a_gpu_are_read_without_one(tmp_path: Path) -> None:
    def weights(*shape: int) -> LuaTensor:
        return LuaTensor.from_numpy(torch.randn(shape).numpy(), "torch.CudaTensor")

    fields = {"weight": weights(2, 3), "bias": weights(2), "_type": "torch.CudaTensor"}
    empty = {name: weights(0) for name in ("output", "gradInput")}
    gradients = {"gradWeight": weights(2, 3), "gradBias": weights(2)}
    dpnn_bridge.write_t7(tmp_path / "cuda.t7", LuaObject("nn.Linear", LuaTable({**fields, **empty, **gradients})))
    code, said = verify(tmp_path / "cuda.t7", "--input", "4x3", "--torch7", PROGRAM)
    assert code == 0, said
    assert "gradients equal" in said
    counts = {n: LuaTensor.from_numpy(np.zeros(0, np.int64), "torch.CudaLongTensor") for n in ("_count", "_input")}
    table = {"weight": weights(5, 3), "gradWeight": weights(5, 3), "_type": "torch.CudaTensor", **empty, **counts}
    dpnn_bridge.write_t7(tmp_path / "cuda.t7", LuaObject("nn.LookupTable", LuaTable(table)))
    code, said = verify(tmp_path / "cuda.t7", "--input", "2x4:int64", "--torch7", PROGRAM)
    assert code == 0, said
    assert "gradients equal" in said


@pytest.fixture
def cancelling(tmp_path: Path) -> Path:
    """A net in single precision that adds a large number and takes it away again, after sums of many terms."""
    torch.manual_seed(0)
    large, back = nn.Linear(40, 40), nn.Linear(40, 40)
    with torch.no_grad():
        large.bias.add_(1e4)
        back.bias.copy_(-1e4 * back.weight.sum(1))
    dpnn_bridge.write_t7(tmp_path / "cancelling.t7", nn.Sequential(nn.Linear(40, 40), large, back))
    return tmp_path / "cancelling.t7"


@pytest.mark.torch7
def test_rounding_is_settled_by_both_in_double_precision(cancelling: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(5, 40)
    result = verify_model(cancelling, input=x, torch7=Torch7(PROGRAM))
    assert result.forward is Verdict.ROUNDING
    assert {d.reason for d in result.differences if d.accepted} == {
        "the results agree when both are repeated in double precision"
    }
    linear = nn.functional.linear
    monkeypatch.setattr(nn.functional, "linear", lambda x, w, b=None: linear(x, w, b) * (1 + 1e-9))
    result = verify_model(cancelling, input=x, torch7=Torch7(PROGRAM))
    assert result.forward is Verdict.DIFFERENT
