"""Skip an output only if everything that decides it is as it was."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import dpnn_bridge
from dpnn_bridge import batch, parity
from dpnn_bridge.files.converting import is_converted

SUFFIXES = (".pt", ".t7", ".npz", ".safetensors", ".py")


def statuses(source: Path, suffix: str, **options: Any) -> list[str]:
    """Convert one file with a manifest; return what became of it."""
    tasks = batch.tasks_for([source], source.parent / "out", suffix)
    outcomes = batch.run(tasks, manifest=source.parent / f"{suffix[1:]}.jsonl", **options)
    return [outcome.status for outcome in outcomes]


def write(path: Path, width: int) -> None:
    dpnn_bridge.write_t7(path, nn.Sequential(nn.Linear(4, width), nn.Tanh()), force=True)


@pytest.mark.parametrize("suffix", [".py", ".onnx"])
def test_options_without_a_checksum_do_not_identify_a_result(suffix: str, tmp_path: Path) -> None:
    """A function makes the input, so that equal options may give another file; the source is another one for sure."""
    if suffix == ".onnx":
        pytest.importorskip("onnxscript", reason="optional extra is not installed")
    source, options = tmp_path / "a.t7", {"input": lambda model: torch.randn(2, 4)}
    write(source, 3)
    assert statuses(source, suffix, **options) == ["converted"]
    checked = parity.check_manifest(tmp_path / f"{suffix[1:]}.jsonl", trusted=True)
    assert Counter(line.verdict for line in checked) == {"equal": 1}  # the manifest has the checksum of the source
    write(source, 5)
    assert statuses(source, suffix, **options) == ["failed"]
    assert statuses(source, suffix, **options, force=True) == ["converted"]


def test_an_input_that_moved_gets_a_new_line(tmp_path: Path) -> None:
    write(tmp_path / "a.t7", 3)
    (moved := tmp_path / "moved").mkdir()
    manifest, target = tmp_path / "done.jsonl", tmp_path / "out" / "a.pt"
    assert [o.status for o in batch.run([batch.Task(tmp_path / "a.t7", target)], manifest=manifest)] == ["converted"]
    (tmp_path / "a.t7").rename(moved / "a.t7")
    for _ in range(2):
        assert [o.status for o in batch.run([batch.Task(moved / "a.t7", target)], manifest=manifest)] == ["skipped"]
        assert [line.verdict for line in parity.check_manifest(manifest)] == ["equal"]
    assert len(manifest.read_text().splitlines()) == 2


@pytest.mark.parametrize("suffix", SUFFIXES[:-1])
def test_a_lua_runtime_does_not_identify_a_result(suffix: str, tmp_path: Path) -> None:
    lua = pytest.importorskip("dpnn_bridge.lua", reason="optional extra is not installed")
    pytest.importorskip("lupa", reason="optional extra is not installed")
    bridge, source = lua.LuaBridge(), tmp_path / "a.t7"
    write(source, 3)
    assert statuses(source, suffix, lua=bridge) == ["converted"]
    write(source, 5)
    assert statuses(source, suffix, lua=bridge) == ["failed"]


def test_the_output_of_shards_is_their_index(tmp_path: Path) -> None:
    source = tmp_path / "a.t7"
    write(source, 3)
    assert statuses(source, ".safetensors", max_shard_size="1KB") == ["converted"]
    assert statuses(source, ".safetensors", max_shard_size="1KB") == ["skipped"]
    checked = parity.check_manifest(tmp_path / "safetensors.jsonl")
    assert [(Path(line.target).name, line.verdict) for line in checked] == [("a.safetensors.index.json", "equal")]


def test_a_folder_is_no_output_that_is_done(tmp_path: Path) -> None:
    source = tmp_path / "a.t7"
    write(source, 3)
    assert statuses(source, ".pt") == ["converted"]
    (tmp_path / "out" / "a.pt").unlink()
    (tmp_path / "out" / "a.pt").mkdir()
    assert statuses(source, ".pt") == ["failed"]


@pytest.mark.parametrize("suffix", [".safetensors", ".py"])
def test_an_edited_output_is_an_error_each_time(suffix: str, tmp_path: Path) -> None:
    source, target = tmp_path / "a.t7", tmp_path / "out" / f"a{suffix}"
    write(source, 3)
    assert statuses(source, suffix) == ["converted"]
    written = target.read_bytes()
    target.write_bytes(written.replace(b"Tanh", b"Sqrt"))
    assert [statuses(source, suffix) for _ in range(2)] == [["failed"]] * 2
    target.write_bytes(written)
    assert statuses(source, suffix) == ["skipped"]
    verdicts = [line.verdict for line in parity.check_manifest(tmp_path / f"{suffix[1:]}.jsonl", trusted=True)]
    assert verdicts == ["equal"]


def test_an_edited_program_is_an_error_without_a_manifest(tmp_path: Path) -> None:
    source, target = tmp_path / "a.t7", tmp_path / "a.py"
    write(source, 3)
    dpnn_bridge.convert(source, target)
    assert is_converted(source, target)
    written = target.read_bytes()
    target.write_bytes(written.replace(b"Tanh", b"Sqrt"))
    assert target.read_bytes() != written
    assert not is_converted(source, target)
    target.write_bytes(written.rpartition(b" ")[0] + b"\n")  # as earlier versions wrote it
    assert is_converted(source, target)


def test_a_safetensors_file_of_this_input_is_not_converted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = tmp_path / "a.t7", tmp_path / "a.safetensors"
    write(source, 3)
    dpnn_bridge.convert(source, target)
    monkeypatch.setattr("dpnn_bridge.files.converting.convert", None)
    assert is_converted(source, target)


@pytest.mark.parametrize("options", [{}, {"dtype": torch.float64}])
def test_the_provenance_in_an_edited_pt_file_does_not_count(options: dict[str, Any], tmp_path: Path) -> None:
    source, target = tmp_path / "a.t7", tmp_path / "out" / "a.pt"
    dpnn_bridge.write_t7(source, nn.Sequential(nn.Linear(4, 3)).double())
    assert statuses(source, ".pt") == ["converted"]
    assert statuses(source, ".pt", **options) == ["skipped"]
    weight = dpnn_bridge.load(source).state_dict()["0.weight"].numpy().tobytes()
    with zipfile.ZipFile(target) as archive:
        entries = {name: archive.read(name).replace(weight, bytes(len(weight))) for name in archive.namelist()}
        comment = archive.comment
    with zipfile.ZipFile(target, "w") as archive:
        archive.comment = comment
        for name, content in entries.items():
            archive.writestr(name, content)
    assert is_converted(source, target)  # without the manifest, the provenance decides
    assert [statuses(source, ".pt") for _ in range(2)] == [["failed"]] * 2


def test_a_pt_file_that_was_saved_again_is_complete(tmp_path: Path) -> None:
    source, target = tmp_path / "a.t7", tmp_path / "out" / "a.pt"
    write(source, 3)
    assert statuses(source, ".pt") == ["converted"]
    content = torch.load(target, weights_only=True)
    torch.save(content, target)
    assert statuses(source, ".pt") == ["skipped"]
    content["state_dict"]["0.weight"][0, 0] += 1
    torch.save(content, target)
    assert [statuses(source, ".pt") for _ in range(2)] == [["failed"]] * 2


SCRIPT = """
import sys
from pathlib import Path

import torch
from torch import nn

from dpnn_bridge import LuaClass, batch, lua_class


@lua_class("my.Scale")
class Scale(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x):
        return x * self.weight

    class Lua(LuaClass):
        tensors = {"weight": "weight"}
        sizes = {"weight": "size"}


suffixes = sys.argv[1:]
tasks = [task for suffix in suffixes for task in batch.tasks_for([Path("a.t7")], Path("out"), suffix)]
print(*(outcome.status for outcome in batch.run(tasks, manifest="done.jsonl")))
"""


def test_a_class_that_a_script_registers_is_part_of_the_input(tmp_path: Path) -> None:
    from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor

    weight = LuaTensor.from_numpy(np.ones(3))
    dpnn_bridge.write_t7(tmp_path / "a.t7", LuaObject("my.Scale", LuaTable([("weight", weight)])))
    script, suffixes = tmp_path / "convert.py", (".pt", ".npz", ".safetensors", ".py")

    def ran(text: str) -> list[str]:
        script.write_text(text)
        done = subprocess.run([sys.executable, script, *suffixes], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    assert ran(SCRIPT) == ["converted"] * 4
    assert ran(SCRIPT) == ["skipped"] * 4
    assert ran(SCRIPT.replace("self.weight", "self.scale").replace('"weight": "weight"', '"weight": "scale"')) == (
        ["failed"] * 4
    )
