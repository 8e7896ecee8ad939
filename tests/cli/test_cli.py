"""dpnn-convert as a user meets it: files, messages, exit codes."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from samples import SAMPLES

import dpnn_bridge
from dpnn_bridge.cli.convert import convert_command
from dpnn_bridge.objects import LuaTable

MODEL = SAMPLES / "DeepDeblur_release__ResNet_scale" / "model.t7"


def run(*args: object) -> Result:
    return CliRunner().invoke(convert_command, [str(a) for a in args])


def test_converts_and_says_so_in_one_line(tmp_path: Path) -> None:
    result = run(MODEL, tmp_path / "out.pt")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    (line,) = result.stdout.splitlines()
    assert line.startswith(f"{MODEL} -> {tmp_path / 'out.pt'}: ")
    assert "7,643 parameters" in line
    assert list(tmp_path.iterdir()) == [tmp_path / "out.pt"]


def test_models_that_are_left_behind_are_named(tmp_path: Path) -> None:
    parts = LuaTable((name, dpnn_bridge.to_lua(torch.nn.Linear(1, 1))) for name in ("netG", "netD"))
    dpnn_bridge.write_t7(tmp_path / "m.t7", parts)
    first, note = run(tmp_path / "m.t7", tmp_path / "out.pt").stdout.splitlines()
    assert "key netG, 1 module, 2 parameters" in first
    assert note.startswith("note: the file contains more models: netD (nn.Linear); ")
    assert len(run(tmp_path / "m.t7", tmp_path / "chosen.pt", "--key", "netD").stdout.splitlines()) == 1


def test_result_is_plain_data(tmp_path: Path) -> None:
    run(MODEL, tmp_path / "out.pt")
    content = torch.load(tmp_path / "out.pt", weights_only=True)
    assert content.keys() == {"format", "version", "graph", "constants", "state_dict", "metadata"}
    assert content["metadata"]["source"] == "model.t7"


def test_fresh_process_gives_bit_identical_outputs(tmp_path: Path, python: list[str]) -> None:
    run(MODEL, tmp_path / "out.pt")
    x = torch.randn(1, 3, 32, 40)
    torch.save(x, tmp_path / "x.pt")
    with torch.no_grad():
        expected = dpnn_bridge.load(MODEL)(x)
    code = (
        "import torch, dpnn_bridge\n"
        f"model, x = dpnn_bridge.load({str(tmp_path / 'out.pt')!r}), torch.load({str(tmp_path / 'x.pt')!r})\n"
        "with torch.no_grad(): y = model(x)\n"
        f"torch.save(y, {str(tmp_path / 'y.pt')!r})\n"
    )
    subprocess.run([*python, "-c", code], check=True)
    assert torch.equal(torch.load(tmp_path / "y.pt"), expected)


def test_existing_output_is_kept_without_force(tmp_path: Path) -> None:
    out = tmp_path / "out.pt"
    out.write_text("precious")
    result = run(MODEL, out)
    assert result.exit_code == 6
    assert "--force" in result.stderr
    assert out.read_text() == "precious"
    assert run(MODEL, out, "--force").exit_code == 0
    assert out.read_bytes()[:2] == b"PK"


def test_report(tmp_path: Path) -> None:
    run(MODEL, tmp_path / "out.pt", "--report", tmp_path / "report.json", "-q")
    report = json.loads((tmp_path / "report.json").read_text())
    assert {"path": "", "class_name": "nn.Sequential", "torch_type": "torch.nn.Sequential", "note": ""} in report[
        "mapped"
    ]
    assert report["metadata"]["source"] == "model.t7"
    assert report["sha256"] == hashlib.sha256(MODEL.read_bytes()).hexdigest()


def test_key_and_dtype(tmp_path: Path) -> None:
    sample = SAMPLES / "char-rnn__lstm" / "model.t7"
    result = run(sample, tmp_path / "out.pt", "--key", "protos.criterion", "--dtype", "float64")
    assert result.exit_code == 0, result.output
    assert "key protos.criterion" in result.stdout


def test_key_that_leads_nowhere(tmp_path: Path) -> None:
    result = run(SAMPLES / "char-rnn__lstm" / "model.t7", tmp_path / "out.pt", "--key", "protos.cnn")
    assert result.exit_code == 5
    assert "protos.rnn" in result.stderr
    assert not (tmp_path / "out.pt").exists()


def test_unknown_class_is_named_with_the_ways_on(tmp_path: Path) -> None:
    obj = dpnn_bridge.read_t7(MODEL)
    obj["modules"][1].class_name = "nn.SpatialConvolutio"
    dpnn_bridge.write_t7(tmp_path / "in.t7", obj)
    result = run(tmp_path / "in.t7", tmp_path / "out.pt")
    assert result.exit_code == 5
    assert "nn.SpatialConvolutio at modules[1]" in result.stderr
    assert "nearest known class: nn.SpatialConvolution" in result.stderr
    assert "--plugin" in result.stderr
    assert "--allow-unsupported" in result.stderr
    assert not (tmp_path / "out.pt").exists()


def test_allow_unsupported(tmp_path: Path) -> None:
    obj = dpnn_bridge.read_t7(MODEL)
    obj["modules"][1].class_name = "my.Layer"
    dpnn_bridge.write_t7(tmp_path / "in.t7", obj)
    result = run(tmp_path / "in.t7", tmp_path / "out.pt", "--allow-unsupported")
    assert result.exit_code == 0, result.output
    model = dpnn_bridge.load(tmp_path / "out.pt", allow_unsupported=True)
    with pytest.raises(dpnn_bridge.errors.ConversionError, match=r"modules\[1\] \(my.Layer\)"):
        model(torch.zeros(1, 3, 8, 8))


def test_plugin(tmp_path: Path) -> None:
    obj = dpnn_bridge.read_t7(MODEL)
    obj["modules"][1].class_name = "my.Convolution"
    dpnn_bridge.write_t7(tmp_path / "in.t7", obj)
    plugin = tmp_path / "layers.py"
    plugin.write_text(
        "from dpnn_bridge import lua_class\n"
        "from dpnn_bridge.modules.nn.convolution import SpatialConvolution\n"
        "@lua_class('my.Convolution')\n"
        "class MyConvolution(SpatialConvolution):\n"
        "    pass\n"
    )
    result = run(tmp_path / "in.t7", tmp_path / "out.pt", "--plugin", plugin)
    assert result.exit_code == 0, result.output
    assert dpnn_bridge.load(tmp_path / "out.pt")[0].lua_record.class_name == "my.Convolution"


def _zip() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as z:
        z.writestr("archive/data.pkl", b"")
    return file.getvalue()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
BAD = {
    "pytorch_zip": (_zip(), "PyTorch"),
    "pickle": (pickle.dumps({"a": 1}, protocol=2), "pickle"),
    "lfs": (LFS, "Git.LFS"),
    "html": (b"<!DOCTYPE html><html><body>404</body></html>", "HTML"),
    "text": (b"This file is a readme, not a model.\n", "text"),
    "empty": (b"", "empty"),
    "truncated": (MODEL.read_bytes()[:5000], "truncated|end"),
}


@pytest.mark.parametrize("name", [*BAD, "missing", "directory"])
def test_bad_input_gives_one_clear_line(name: str, tmp_path: Path) -> None:
    source = tmp_path / "in.t7"
    expected = {"missing": "no such file", "directory": "directory"}.get(name)
    if name == "directory":
        source.mkdir()
    elif name != "missing":
        data, expected = BAD[name]
        source.write_bytes(data)
    result = run(source, tmp_path / "out.pt")
    assert result.exit_code == 3, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert "in.t7" in line
    import re

    assert expected
    assert re.search(expected, line, re.I), line
    assert not (tmp_path / "out.pt").exists()


@pytest.mark.usefixtures("forked_workers")
def test_many_files(tmp_path: Path) -> None:
    names = ["DeepDeblur_release__ResNet_scale", "torch-demos__mnist_convnet"]
    bad = tmp_path / "bad.t7"
    bad.write_bytes(b"")
    sources = [SAMPLES / n / "model.t7" for n in names]
    result = run(*sources, bad, "--out-dir", tmp_path / "out", "--jobs", 2)
    assert result.exit_code == 3
    assert "bad.t7" in result.stderr
    assert result.stdout.splitlines()[-1] == "3 files: 2 converted, 1 failed"
    outputs = sorted((tmp_path / "out").rglob("*.pt"))
    assert [p.parent.name for p in outputs] == names
    stamps = [p.stat().st_mtime_ns for p in outputs]
    result = run(*sources, "--out-dir", tmp_path / "out")  # from another common parent: other outputs
    again = run(*sources, bad, "--out-dir", tmp_path / "out")
    assert again.stdout.splitlines()[-1] == "3 files: 1 failed, 2 skipped"
    assert stamps == [p.stat().st_mtime_ns for p in outputs]


def test_every_model_of_a_file(tmp_path: Path) -> None:
    result = run(SAMPLES / "mc-cnn__slow_net_te" / "model.t7", tmp_path / "net.pt", "--all")
    assert result.exit_code == 0, result.output
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net.1.pt", "net.2.pt"]


@pytest.mark.parametrize("suffix", ["safetensors", "npz", "py", "pt2"])
def test_suffix_chooses_the_format(suffix: str, tmp_path: Path) -> None:
    pytest.importorskip("safetensors" if suffix == "safetensors" else "torch", reason="optional extra is not installed")
    example = ("--input", "1x3x16x16") if suffix in ("py", "pt2") else ()
    result = run(MODEL, tmp_path / f"m.{suffix}", *example)
    assert result.exit_code == 0, result.output
    assert (tmp_path / f"m.{suffix}").stat().st_size > 0


def test_there_and_back(tmp_path: Path) -> None:
    run(MODEL, tmp_path / "m.pt")
    assert run(tmp_path / "m.pt", tmp_path / "m.t7").exit_code == 0
    first, second = dpnn_bridge.load(MODEL), dpnn_bridge.load(tmp_path / "m.t7")
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_surroundings_are_kept_as_metadata(tmp_path: Path) -> None:
    run(SAMPLES / "char-rnn__lstm" / "model.t7", tmp_path / "m.pt", "--key", "protos.criterion")
    metadata = torch.load(tmp_path / "m.pt", weights_only=True)["metadata"]
    assert {"opt", "vocab"} <= metadata["checkpoint"].keys()


@pytest.mark.parametrize("arguments", [[], ["one.t7"], ["a.t7", "b.t7", "c.t7"], ["a.t7", "a.t7"]])
def test_wrong_usage(arguments: list[str]) -> None:
    assert run(*arguments).exit_code == 2


def test_list_classes() -> None:
    result = run("--list-classes")
    assert result.exit_code == 0
    assert "nn.Linear\ttorch.nn.Linear" in result.stdout.splitlines()


def test_help_does_not_import_torch() -> None:
    code = "import sys; from dpnn_bridge.cli.convert import convert_command\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_tensors_in_metadata_are_sizes_in_a_report(tmp_path: Path) -> None:
    metadata = {"mean": torch.ones(3, 2), "raw": b"x\xff", "list": (1, [torch.ones(())]), "lowest": -float("inf")}
    dpnn_bridge.save(tmp_path / "a.pt", torch.nn.Sequential(torch.nn.Linear(1, 1)), metadata=metadata)
    run(tmp_path / "a.pt", tmp_path / "b.pt", "--report", tmp_path / "report.json", "-q")
    found = json.loads((tmp_path / "report.json").read_text())["metadata"]
    assert {name: found[name] for name in metadata} == {
        "mean": "float32 3x2",
        "raw": "x\\xff",
        "list": [1, ["float32 number"]],
        "lowest": "-inf",
    }
