"""What a new user types: one screen about a file, addresses and pipes, wrong usage, formats with options."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from conftest import FIXTURES
from samples import SAMPLES

import dpnn_bridge
from dpnn_bridge.__main__ import main
from dpnn_bridge.cli.convert import convert_command
from dpnn_bridge.cli.inputs import example_input
from dpnn_bridge.cli.inspect import inspect_command
from dpnn_bridge.cli.terminal import Command, in_options
from dpnn_bridge.cli.verify import verify_command
from dpnn_bridge.conversion.lua_values import lua_value, to_value
from dpnn_bridge.errors import ConversionError, LuaBridgeError
from dpnn_bridge.loaders import write_all, write_t7
from dpnn_bridge.modules.inputs import input_options, input_shapes
from dpnn_bridge.modules.nn.arithmetic import CAddTable, MixtureTable
from dpnn_bridge.modules.nn.container import ParallelTable
from dpnn_bridge.modules.nn.convolution_special import SpatialConvolutionMap
from dpnn_bridge.modules.nn.lookup import LookupTable
from dpnn_bridge.modules.nn.nngraph import GModule, GraphNode
from dpnn_bridge.modules.nn.reshape import View
from dpnn_bridge.objects import LuaObject, LuaStorage, LuaTable, LuaTensor

LENET = SAMPLES / "torch-demos__mnist_convnet" / "model.t7"
RNN = SAMPLES / "char-rnn__lstm" / "model.t7"


def run(command: click.Command, *arguments: object, piped: bytes | None = None) -> Result:
    return CliRunner().invoke(command, list(map(str, arguments)), input=piped)


# ---------------------------------------------------------------------- one screen
@pytest.mark.parametrize("name", sorted(p.parent.name for p in SAMPLES.glob("*/model.t7")))
def test_every_sample_fits_on_a_screen(name: str) -> None:
    result = run(inspect_command, SAMPLES / name / "model.t7")
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) <= 45
    assert "next: dpnn-convert" in result.stdout


def test_a_checkpoint() -> None:
    text = run(inspect_command, RNN).stdout
    assert "a table of 8 with 1 model" in text
    assert "model protos.rnn: nn.gModule, 39 modules, 11,047 parameters (44.2 kB of float32)\nsupported\n" in text
    assert "vocab: a table of 31" in text


def test_shapes_of_an_input() -> None:
    text = run(inspect_command, LENET, "--input", "1x1x32x32").stdout
    assert "nn.SpatialConvolutionMM  Conv2d             832  1x32x28x28" in text
    wrong = run(inspect_command, LENET, "--input", "1x3x32x32").stdout
    assert "supported; does not run on this input: modules[1], Conv2d(" in wrong
    assert "--plugin" not in wrong


def test_data_unknown_classes_and_several_objects(tmp_path: Path) -> None:
    write_t7(tmp_path / "d.t7", LuaTable({"x": 1}))
    text = run(inspect_command, tmp_path / "d.t7").stdout
    assert "a table of 1, no model" in text
    assert "d.json" in text
    dpnn_bridge.write_t7(tmp_path / "d.t7", {"x": {"y": torch.zeros(2)}})
    assert "d.npz" in run(inspect_command, tmp_path / "d.t7").stdout
    torch.save({"x": 1}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert "the format of torch.save before PyTorch 1.6" in run(inspect_command, tmp_path / "old.pth").output
    unknown = LuaObject("nn.Mystery", LuaTable({"gradInput": 1}))
    write_t7(tmp_path / "u.t7", unknown)
    assert "NOT supported: nn.Mystery" in run(inspect_command, tmp_path / "u.t7").stdout
    write_all(tmp_path / "two.t7", [LuaTable({"a": 1}), LuaTable({"b": 1})])
    assert "the first of 2 consecutive objects" in run(inspect_command, tmp_path / "two.t7").stdout
    (tmp_path / "two.t7").write_bytes((tmp_path / "two.t7").read_bytes()[:-2])
    note = "at byte [0-9]+: truncated: expected 8 bytes, found 6; .*dpnn_bridge.loaders.read_all"
    assert re.search(note, run(inspect_command, tmp_path / "two.t7").stdout)
    write_t7(tmp_path / "tanh.t7", dpnn_bridge.to_lua(torch.nn.Tanh()))
    assert "nn.Tanh, 1 module, 0 parameters\nsupported" in run(inspect_command, tmp_path / "tanh.t7").stdout


def test_data_with_the_field_input_are_data(tmp_path: Path) -> None:
    source, target = tmp_path / "d.t7", tmp_path / "d.npz"
    dpnn_bridge.write_t7(source, {"input": torch.ones(2), "target": torch.ones(1)})
    assert run(convert_command, source, target).exit_code == 0
    assert run(verify_command, source, target).stdout.startswith("PASS: data without a model")
    manifest = tmp_path / "done.jsonl"
    run(convert_command, source, "--out-dir", tmp_path / "out", "--to", "npz", "--manifest", manifest)
    assert "1 equal" in run(verify_command, manifest).stdout
    assert "is a reference without a module" in run(verify_command, source).stderr


@pytest.mark.parametrize("suffix", ["pt", "npz", "json", "safetensors", "t7"])
def test_data_are_verified_as_models_are(suffix: str, tmp_path: Path) -> None:
    if suffix == "safetensors":
        pytest.importorskip("safetensors")
    source, target = tmp_path / "d.t7", tmp_path / f"out.{suffix}"
    dpnn_bridge.write_t7(source, {"a": {"x": torch.arange(3.0), "name": "cat"}, "b": torch.ones(2)})
    assert run(convert_command, source, target, "--key", "a").exit_code == 0
    equal = run(verify_command, source, target, "--key", "a")
    assert (equal.exit_code, equal.stdout) == (
        0,
        f"PASS: data without a model; {target} contains the data of {source}\n",
    )
    assert json.loads(run(verify_command, source, target, "--key", "a", "--json").stdout)["ok"] is True
    other = run(verify_command, source, target, "--json")
    assert (other.exit_code, json.loads(other.stdout)["verdict"]) == (4, "different")
    dpnn_bridge.write_t7(source, {"a": {"x": torch.tensor([0.0, 1.0, 2.5]), "name": "cat"}, "b": torch.ones(2)})
    other = run(verify_command, source, target, "--key", "a")
    assert f"differs from the data of {source}: x[3]: expected 2.5, found 2.0. Convert it again" in other.stderr
    nothing = run(verify_command, source, target, "--key", "c")
    assert (nothing.exit_code, "no entry at key" in nothing.stderr) == (5, True)


def test_a_compressed_archive_is_refused_with_the_reason(tmp_path: Path) -> None:
    source, target = tmp_path / "d.t7", tmp_path / "d.npz"
    dpnn_bridge.write_t7(source, {"x": torch.ones(2, dtype=torch.float64)})
    for save, message in ((np.savez, ""), (np.savez_compressed, "or write arrays with numpy.savez\n")):
        save(target, x=np.ones(2))
        result = run(verify_command, source, target)
        assert (result.exit_code, result.stderr.endswith(message)) == (4 if message else 0, True)
        assert "differs" not in result.stderr


def test_converted_files_and_parts(tmp_path: Path) -> None:
    dpnn_bridge.convert(RNN, tmp_path / "rnn.pt")
    assert "converted from model.t7" in run(inspect_command, tmp_path / "rnn.pt").stdout
    assert "a table of 31, no model" in run(inspect_command, RNN, "--key", "vocab").stdout
    assert run(inspect_command, RNN, "--key", "nothing").exit_code == 5
    assert run(inspect_command, tmp_path / "none.t7").exit_code == 3


# ---------------------------------------------------------------------- from anywhere
def test_addresses_and_pipes(tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    assert run(convert_command, f"file://{LENET}", tmp_path / "a.pth").exit_code == 0
    assert run(convert_command, "-", tmp_path / "b.pt", piped=gzip.compress(LENET.read_bytes())).exit_code == 0
    done = run(convert_command, "-", "-", "--to", "pt", piped=LENET.read_bytes())
    model = dpnn_bridge.load(io.BytesIO(done.stdout_bytes))
    x = torch.randn(1, 1, 32, 32)
    for other in (tmp_path / "a.pth", tmp_path / "b.pt"):
        torch.testing.assert_close(dpnn_bridge.load(other)(x), model(x), rtol=0, atol=0)
    assert run(convert_command, LENET, tmp_path / "c.pt", "--sha256", "0" * 64).exit_code == 4
    assert not (tmp_path / "c.pt").exists()


# ---------------------------------------------------------------------- wrong usage
@pytest.mark.parametrize(
    "arguments",
    [
        (LENET, "out.foo"),
        (LENET, "out.pt", "--jobs", "-3"),
        (LENET, "-"),
        (LENET, "out.pt", "--dynamic"),
        (LENET, "out.onnx", "--input", "1xx"),
        (LENET, "out.onnx", "--input", "x" * 300),
        (LENET, "out.onnx", "--opset", "1"),
    ],
)
def test_wrong_usage_gives_2(arguments: tuple[Any, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(convert_command, *arguments).exit_code == 2
    assert not list(tmp_path.iterdir())


def test_interrupted_gives_130() -> None:
    @click.command(cls=Command)
    def command() -> None:
        raise KeyboardInterrupt

    assert run(command).exit_code == 130


def test_a_message_with_text_of_a_file_takes_linear_time() -> None:
    text, start = "a= (--" * 20_000, time.process_time()
    assert in_options(text) == text
    assert time.process_time() - start < 2


def test_messages_speak_of_options(tmp_path: Path) -> None:
    (tmp_path / "m.pt").write_bytes(b"x")
    assert "use --force to replace it" in run(convert_command, LENET, tmp_path / "m.pt").output
    assert in_options("key= (--key) chooses one") == "--key chooses one"
    assert in_options("use sandbox='partial' (--partial-sandbox)") == "use --partial-sandbox"
    assert in_options("index_base=0 (--index-base 0) too") == "--index-base 0 too"
    assert in_options("the folders of lua_path= (--lua-path), in") == "the folders of --lua-path, in"
    for key in ("protos.rn", "rnn"):
        assert "; did you mean protos.rnn?" in run(convert_command, RNN, tmp_path / "r.pt", "--key", key).output
    result = run(main, "konvert")
    assert (result.exit_code, "; did you mean convert?" in result.output) == (2, True)


def test_the_error_of_a_key_of_a_file_with_one_model_says_to_omit_it(tmp_path: Path) -> None:
    for command, *files in ((convert_command, LENET, tmp_path / "m.pt"), (inspect_command, LENET)):
        message = "no entry at key 'protos.rnn'. The file itself is the module (nn.Sequential); omit --key.\n"
        assert run(command, *files, "--key", "protos.rnn").stderr.endswith(message)


def test_a_key_of_all_models_is_refused(tmp_path: Path) -> None:
    result = run(convert_command, LENET, tmp_path / "m.pt", "--all", "--key", "protos.rnn")
    assert (result.exit_code, result.stderr.count("Error: --all converts every model")) == (2, 1)
    assert list(tmp_path.iterdir()) == []


def test_nil_has_no_next_command(tmp_path: Path) -> None:
    write_t7(tmp_path / "nil.t7", None)
    assert "next: " not in run(inspect_command, tmp_path / "nil.t7").stdout
    assert run(convert_command, tmp_path / "nil.t7", tmp_path / "nil.json").exit_code == 5
    write_t7(tmp_path / "number.t7", 5)
    assert "next: dpnn-convert" in run(inspect_command, tmp_path / "number.t7").stdout


@pytest.mark.usefixtures("forked_workers")
def test_errors_of_many_files_name_each_once(tmp_path: Path) -> None:
    bad = tmp_path / "bad.t7"
    bad.write_bytes(b"")
    result = run(convert_command, bad, LENET, "--out-dir", tmp_path / "out")
    (line,) = [line for line in result.output.splitlines() if line.startswith("error")]
    assert line.count("bad.t7") == 1
    one = run(convert_command, LENET, "--out-dir", tmp_path / "out", "--all")
    assert (one.exit_code, "--all and --report take IN.t7 OUT, not --out-dir" in one.output) == (2, True)
    write_t7(tmp_path / "data.t7", LuaTable({"x": 1}))
    shutil.copy(LENET, tmp_path / "lenet.t7")
    files = [tmp_path / name for name in ("bad.t7", "lenet.t7", "data.t7")]
    result = run(convert_command, *files, "--out-dir", tmp_path / "all", "--jobs", "2", "--json")
    assert result.exit_code == 3, result.output
    found = [(entry["status"], entry.get("modules")) for entry in json.loads(result.stdout)]
    assert found == [("failed", None), ("converted", 12), ("converted", 0)]


# ---------------------------------------------------------------------- formats
def test_conversion_counts_what_it_wrote_and_says_what_it_left(tmp_path: Path) -> None:
    data = LuaTable({"options": LuaTable({"lr": 0.1})})
    write_t7(tmp_path / "one.t7", data)
    done = run(convert_command, tmp_path / "one.t7", tmp_path / "one.pt").stdout
    assert "0 tensors, 1 other value, " in done
    assert "note" not in done
    write_all(tmp_path / "two.t7", [data, LuaTable({"b": 1})])
    done = run(convert_command, tmp_path / "two.t7", tmp_path / "two.npz").stdout
    assert "after the first object of the file are not read (dpnn_bridge.loaders.read_all" in done
    write_all(tmp_path / "model.t7", [dpnn_bridge.to_lua(torch.nn.Linear(2, 2)), data])
    for name in ("model.pt", "model.py"):
        done = run(convert_command, tmp_path / "model.t7", tmp_path / name).stdout
        assert "after the first object" in done


def test_data_in_a_pt_is_left_to_torch(tmp_path: Path) -> None:
    write_t7(tmp_path / "d.t7", LuaTable({"x": 1}))
    run(convert_command, tmp_path / "d.t7", tmp_path / "d.pt")
    with pytest.raises(ConversionError, match=r"contains no model of dpnn_bridge; read it with torch\.load"):
        dpnn_bridge.load(tmp_path / "d.pt")


def test_inspection_names_unknown_layers_and_cuts_between_entries(tmp_path: Path) -> None:
    linear = dpnn_bridge.to_lua(torch.nn.Linear(2, 2))
    unknown = LuaObject("nn.Mystery", LuaTable({"gradInput": 1}))
    model = LuaObject("nn.Sequential", LuaTable({"modules": LuaTable({1: linear, 2: unknown})}))
    write_t7(
        tmp_path / "m.t7", LuaTable({"model": model, "state": LuaTable({f"a_long_name_{i}": i for i in range(4)})})
    )
    text = run(inspect_command, tmp_path / "m.t7").stdout
    assert "nn.Mystery  Placeholder" in text
    assert "--plugin my_layers.py     # or --lua my_layers.lua; docs/how-to/custom-class.md" in text
    assert "state: a table of 4: a_long_name_" in text
    assert "(a number), …\n" in text
    assert "more characters" not in text
    failed = run(convert_command, tmp_path / "m.t7", tmp_path / "m.pt")
    assert failed.exit_code == 5
    assert "1 Lua class without a mapping" in failed.stderr


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_verification_runs_a_shape_in_the_type_of_the_model(
    dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []

    def torch7_reference(torch7: Any, obj: Any, module: Any, table: LuaTable, **_: Any) -> LuaTable:
        given.append(to_value(table["input"]).dtype)
        return table

    monkeypatch.setattr("dpnn_bridge.parity.verify.torch7_reference", torch7_reference)
    dpnn_bridge.write_t7(tmp_path / "m.t7", torch.nn.Linear(2, 2).to(dtype))
    result = run(verify_command, tmp_path / "m.t7", "--input", "3x2", "--torch7", "th")
    assert result.exit_code == 0, result.output
    assert given == [dtype]


def test_examples_follow_the_model() -> None:
    assert example_input(["2x3"], torch.nn.Linear(3, 3).double()).dtype == torch.float64
    rnn = dpnn_bridge.load(SAMPLES / "torch-rnn__lstm" / "model.t7")
    assert example_input(["2x3"], rnn).dtype == torch.int64
    assert example_input(["2x3:float16"], rnn).dtype == torch.float16


def test_onnx_with_any_batch_names_and_metadata(tmp_path: Path) -> None:
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    path = tmp_path / "m.onnx"
    options = ("--dynamic", "--input-names", "image", "--opset", "18", "-q")
    result = run(convert_command, LENET, path, "--input", "1x1x32x32", *options)
    assert (result.exit_code, result.output) == (0, "")
    session = runtime.InferenceSession(str(path))
    assert [i.name for i in session.get_inputs()] == ["image"]
    assert session.run(None, {"image": np.zeros((5, 1, 32, 32), np.float32)})[0].shape == (5, 10)
    model = onnx.load(str(path))
    assert next(o.version for o in model.opset_import if not o.domain) == 18
    assert {p.key: p.value for p in model.metadata_props}["dpnn_bridge.source"] == "model.t7"


def test_onnx_carries_what_stood_beside_the_model(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    table = LuaTable({"model": dpnn_bridge.read_t7(LENET), "classes": LuaTable.from_list(["a", "b"])})
    write_t7(tmp_path / "c.t7", table)
    dpnn_bridge.convert(tmp_path / "c.t7", tmp_path / "c.onnx", input=torch.zeros(1, 1, 32, 32))
    properties = {p.key: p.value for p in onnx.load(str(tmp_path / "c.onnx")).metadata_props}
    assert json.loads(properties["dpnn_bridge.checkpoint"])["classes"] == ["a", "b"]


def test_safetensors_say_what_loaders_of_the_ecosystem_ask_for(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors")
    dpnn_bridge.convert(LENET, tmp_path / "m.safetensors")
    with safetensors.safe_open(tmp_path / "m.safetensors", "pt") as file:
        assert (file.metadata()["format"], file.metadata()["dpnn_bridge"]) == ("pt", "dpnn_bridge")
    assert isinstance(dpnn_bridge.load(tmp_path / "m.safetensors"), torch.nn.Sequential)


def test_inspection_reads_every_format_fixture() -> None:
    for path in sorted((FIXTURES / "format").glob("*.t7"))[::5]:
        if not path.name.startswith("bad_"):
            assert run(inspect_command, path).exit_code == 0, path


# ---------------------------------------------------------------------- advice that fits the model
INPUTS = {
    "torch-demos__mnist_convnet": "--input 1x1x32x32",
    "char-rnn__lstm": "--input 1:int64 --input 1x24 --input 1x24 --input 1x24 --input 1x24",
    "torch-rnn__lstm": "--input 1x9:int64",
    "DeepDeblur_release__ResNet_scale": "--input 1x3x32x32",
}


@pytest.mark.parametrize("name", INPUTS)
def test_advice_names_an_input_that_the_model_takes(name: str, tmp_path: Path) -> None:
    path = SAMPLES / name / "model.t7"
    assert f"shapes of the outputs: {INPUTS[name]}\n" in run(inspect_command, path).stdout
    shown = run(inspect_command, path, *INPUTS[name].split()).stdout
    assert "does not run" not in shown
    dpnn_bridge.convert(path, tmp_path / "m.pt")
    assert f"m.onnx {INPUTS[name]}\n" in run(inspect_command, tmp_path / "m.pt").stdout


def test_a_network_of_lists_gets_advice_for_lists(tmp_path: Path) -> None:
    lookup, experts = LookupTable(20, 5), MixtureTable()
    branches = torch.nn.Sequential(ParallelTable(lookup, torch.nn.Linear(4, 5)), CAddTable())
    assert input_shapes(branches) == ["1:int64", "1x4"]
    assert input_options(experts) == "--input list_of_inputs.t7"
    dpnn_bridge.write_t7(tmp_path / "m.t7", experts)
    assert "--input list_of_inputs.t7" in run(convert_command, tmp_path / "m.t7", tmp_path / "m.pt2").stderr
    given = run(convert_command, tmp_path / "m.t7", tmp_path / "m.pt2", "--input", "1x3")
    assert "MixtureTable(), got 1x3: it takes a list of inputs; repeat --input" in given.stderr


def test_inputs_of_small_nets() -> None:
    nets = {
        "1x7": torch.nn.Sequential(torch.nn.Linear(7, 2)),
        "1x1x48x48": torch.nn.Sequential(torch.nn.Conv2d(1, 4, 5, 3), torch.nn.Flatten(), torch.nn.Linear(900, 1)),
        "1x3x96x96": torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, 32), torch.nn.Flatten(), torch.nn.Linear(36, 1)),
        "1x5x1x1": torch.nn.Sequential(torch.nn.ConvTranspose2d(5, 2, 4)),
        "1x2x16x112x112": torch.nn.Sequential(torch.nn.Conv3d(2, 1, 3)),
    }
    assert {shape: input_shapes(net) for shape, net in nets.items()} == {shape: [shape] for shape in nets}
    image = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 5, 5), torch.nn.MaxPool2d(8, 4), View(4))
    assert input_shapes(image) == ["1x1x40x40"]  # one of 64x64, in a batch or alone, becomes four samples
    net = nets["1x7"].train()
    input_shapes(net)
    assert net.training
    assert input_shapes(torch.nn.Sequential(torch.nn.Bilinear(2, 2, 2))) == []


@pytest.mark.parametrize(
    ("layers", "options"),
    [
        ([torch.nn.Conv2d(6, 2, 3)], "--input 1x6x32x32"),
        ([torch.nn.Conv2d(6, 1, 3), torch.nn.Flatten(), torch.nn.Linear(31 * 33, 1)], "--input 1x6x224x224"),
        ([torch.nn.Embedding(5, 2), torch.nn.Flatten(), torch.nn.Linear(10, 1)], "--input 1x9:int64"),
    ],
)
def test_every_hint_about_the_input_is_about_this_model(
    layers: list[Any], options: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dpnn_bridge.modules.inputs.MAX_SECONDS", 0.1)
    dpnn_bridge.write_t7(tmp_path / "m.t7", torch.nn.Sequential(*layers))
    fits = re.escape(options.removeprefix("--input "))
    assert re.search(f"--input (SHAPE    # such as )?{fits}\n", run(inspect_command, tmp_path / "m.t7").stdout)
    (tmp_path / "net.py").write_text(
        "import dpnn_bridge\n\ndef net():\n    return dpnn_bridge.load(__file__[:-6] + 'm.t7')\n"
    )
    for command, arguments in (
        (convert_command, [tmp_path / "m.onnx"]),
        (convert_command, [tmp_path / "m.pt2"]),
        (convert_command, [tmp_path / "m.pt", "--into", f"{tmp_path}/net.py:net"]),
        (verify_command, ["--torch7", sys.executable]),
    ):
        result = run(command, tmp_path / "m.t7", *arguments)
        assert result.exit_code in (2, 3), result.output
        assert f"such as {options}" in result.stderr


def test_inputs_of_maps_between_planes_and_of_graphs_whose_inputs_differ() -> None:
    assert input_shapes(SpatialConvolutionMap(16, 4, 8, (5, 5))) == ["1x16x32x32"]
    inputs = [GraphNode(), GraphNode((0,), splits=2), GraphNode((1,), select=1), GraphNode((1,), select=2)]
    nodes = [*inputs, GraphNode((3,), "0"), GraphNode((2, 4), "1")]
    graph = GModule(torch.nn.Linear(3, 1), CAddTable(), nodes=nodes, num_inputs=2)
    assert input_shapes(graph) == ["1x1", "1x3"]


def seen(*size: int, **fields: Any) -> LuaObject:
    """A Lua object that was saved after a backward pass on an input of this size."""
    return LuaObject("nn.Sequential", LuaTable({"gradInput": lua_value(torch.ones(size or 0)), **fields}))


def test_an_input_as_large_as_the_last_one_that_the_file_saw() -> None:
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.Flatten(), torch.nn.Linear(2 * 5 * 38, 1))
    assert input_shapes(net) == []
    assert input_shapes(net, source=seen(64, 1, 7, 40)) == ["1x1x7x40"]
    noted = LuaStorage("torch.LongStorage", 4, np.array([64, 1, 7, 40]))
    assert input_shapes(net, source=seen(modules=LuaTable.from_list([seen(iSize=noted)]))) == ["1x1x7x40"]
    assert input_shapes(net, source=seen(64, 3, 32, 32)) == []  # it is tried as all others are
    assert input_shapes(torch.nn.Linear(3, 2), source=seen(3)) == ["3"]
    turned = seen()
    turned["modules"] = LuaTable.from_list([turned])
    assert input_shapes(net, source=turned) == []


@pytest.mark.parametrize("name", ["torch-demos__mnist_convnet", "rnn__recurrent-visual-attention"])
def test_commands_count_modules_alike(name: str, tmp_path: Path) -> None:
    path = SAMPLES / name / "model.t7"
    (counted,) = [word for word in run(inspect_command, path).stdout.split(", ") if word.endswith(" modules")]
    assert f" {counted}, " in run(convert_command, path, tmp_path / "m.pt").stdout


@pytest.mark.parametrize(("name", "last"), [("torch-rnn__lstm", 25), ("char-rnn__lstm", 31)])
@pytest.mark.parametrize("index", [0, 99])
def test_an_index_outside_says_where_counting_starts(name: str, last: int, index: int) -> None:
    model = dpnn_bridge.load(SAMPLES / name / "model.t7").eval()
    if name == "torch-rnn__lstm":
        model.reset_states()  # type: ignore[operator]
    tokens = torch.full((1, 3), index) if name == "torch-rnn__lstm" else torch.tensor([index])
    value = tokens if name == "torch-rnn__lstm" else [tokens, *[torch.zeros(1, 24)] * 4]
    with pytest.raises(
        IndexError,
        match=rf"[^.]: indices start at 1, as in Lua, and end at {last}; index_base=0 \(--index-base",
    ):
        model(value)


def test_lua_files_that_forget_to_require_are_told(tmp_path: Path) -> None:
    pytest.importorskip("lupa")
    write_t7(tmp_path / "m.t7", LuaObject("nn.Mystery", LuaTable({"gradInput": 1})))
    code = "local L = torch.class('nn.Mystery', 'nn.Module')\nfunction L:updateOutput(x) return x:nosuch() end\n"
    (tmp_path / "a.lua").write_text(code)
    text = run(convert_command, tmp_path / "m.t7", tmp_path / "m.pt", "--lua", tmp_path / "a.lua").output
    assert "begin the Lua file with require 'nn'" in text
    assert re.search(r"called from \S*a\.lua:1", text)
    assert "stack traceback" not in text
    assert "\\t" not in text
    (tmp_path / "a.lua").write_text(f"require 'nn'\n{code}")
    model = dpnn_bridge.load(tmp_path / "m.t7", lua=tmp_path / "a.lua")
    with pytest.raises(LuaBridgeError, match=r"attempt to call method 'nosuch'[^\t]*lua_path=[^\t]*$"):
        model(torch.zeros(2))


def test_a_whole_module_in_a_pt_is_told_how_to_come_here(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "whole.pt")
    result = run(convert_command, tmp_path / "whole.pt", tmp_path / "out.t7")
    assert result.exit_code == 3
    assert "weights_only=False" in result.stderr
    assert "dpnn_bridge.save or write_t7" in result.stderr


def test_a_folder_is_no_output(tmp_path: Path) -> None:
    result = run(convert_command, LENET, tmp_path)
    assert result.exit_code == 2
    assert f"--out-dir {tmp_path}" in result.stderr


def test_patterns_that_a_shell_leaves_are_files(tmp_path: Path) -> None:
    for name in ("a.t7", "b.t7"):
        (tmp_path / name).write_bytes(LENET.read_bytes())
    result = run(convert_command, tmp_path / "*.t7", "--out-dir", tmp_path / "out")
    assert result.exit_code == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.pt", "b.pt"]


def test_safetensors_needs_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    result = run(convert_command, LENET, tmp_path / "out.safetensors")
    assert result.exit_code == 0
    assert run(convert_command, tmp_path / "out.safetensors", tmp_path / "again.pt").exit_code == 0


@pytest.mark.parametrize("suffix", [".npz", ".pt", ".safetensors", ".t7"])
def test_only_arrays_omit_tensors_of_placeholders(suffix: str, tmp_path: Path) -> None:
    weight = LuaTensor.from_numpy(np.ones(3))
    write_t7(tmp_path / "custom.t7", LuaObject("my.Scale", LuaTable([("weight", weight)])))
    result = run(convert_command, tmp_path / "custom.t7", tmp_path / f"out{suffix}", "--allow-unsupported")
    assert result.exit_code == 0
    assert ("are omitted" in result.output) == (suffix == ".npz")
    if suffix != ".npz":
        module: Any = dpnn_bridge.load(tmp_path / f"out{suffix}", allow_unsupported=True)
        assert module.obj["weight"].torch().tolist() == [1, 1, 1]


def test_a_criterion_stands_beside_the_model(tmp_path: Path) -> None:
    parts = [("model", LuaObject("nn.Tanh", LuaTable())), ("criterion", LuaObject("nn.MSECriterion", LuaTable()))]
    write_t7(tmp_path / "training.t7", LuaTable(parts))
    text = run(inspect_command, tmp_path / "training.t7").stdout
    assert "with 1 model\n" in text
    assert "criterion: an object of class nn.MSECriterion" in text


def test_a_suggested_command_takes_names_for_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name with a leading dash would be an option, such as ``--plugin=x.t7``."""
    monkeypatch.chdir(tmp_path)
    name = "--plugin=$(id).t7"
    write_t7(name, LuaObject("nn.Tanh", LuaTable()))
    lines = run(inspect_command, "--", name).stdout.splitlines()
    (command,) = [line.removeprefix("next: ") for line in lines if line.startswith("next: ")]
    assert shlex.split(command) == ["dpnn-convert", f"./{name}", "./--plugin=$(id).pt"]
    assert run(convert_command, *shlex.split(command)[1:]).exit_code == 0
    write_t7("latest.t7", LuaTable({"modelFile": "--html=model.t7"}))
    assert "dpnn-inspect ./--html=model.t7" in run(inspect_command, "latest.t7").stdout


@pytest.mark.parametrize("name", ["two\nlines'\\", "\x1b[2J0", "it's", "a\udcff1"])
def test_the_words_of_a_suggested_command_are_those_of_the_file(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a name with control characters and of one that is not UTF-8, too: a shell reads the printed line."""
    monkeypatch.chdir(tmp_path)
    write_t7(f"{name}.t7", LuaObject("nn.Tanh", LuaTable()))
    lines = run(inspect_command, f"{name}.t7").stdout.splitlines()
    (command,) = [line.removeprefix("next: ") for line in lines if line.startswith("next: ")]
    assert command.isprintable()
    words = subprocess.run(["bash", "-c", f"printf '%s\\0' {command}"], capture_output=True, check=True).stdout
    assert os.fsdecode(words).split("\0")[:-1] == ["dpnn-convert", f"{name}.t7", f"{name}.pt"]


@pytest.mark.parametrize(
    ("name", "pattern"), [("old", "old/*.t7"), ("my files/", "'my files/'*.t7"), ("-x", "./-x/*.t7")]
)
def test_the_error_of_a_folder_has_a_pattern_of_its_files(
    name: str, pattern: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).mkdir()
    result = run(convert_command, "--out-dir", "out", "--", name)
    assert f"is a directory; name a file in it, or all files with {pattern}\n" in result.stderr
