"""Models larger than memory: shards with an index, written in pieces."""

from __future__ import annotations

import hashlib
import json
import os
import re
import resource
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from click.testing import CliRunner
from conftest import FIXTURES, manifest
from samples import SAMPLES
from sparse import sparse_model

import dpnn_bridge
from dpnn_bridge.base.shards import Index, read_index, shards_of
from dpnn_bridge.base.suffixes import INDEX
from dpnn_bridge.batch.manifest import last_lines
from dpnn_bridge.cli.convert import convert_command
from dpnn_bridge.cli.verify import verify_command
from dpnn_bridge.compare.bits import same_bits
from dpnn_bridge.conversion import deferred
from dpnn_bridge.errors import ConversionError, DpnnBridgeError, OptionError, T7FormatError, VerificationError
from dpnn_bridge.files.converting import convert, is_converted
from dpnn_bridge.loaders import read_t7, write_t7
from dpnn_bridge.objects import LuaTable
from dpnn_bridge.outputs import safetensors_file
from dpnn_bridge.outputs.formats.safetensors_index_json import parse_size

pytest.importorskip("safetensors", reason="optional extra is not installed")
MODEL = SAMPLES / "torch-demos__mnist_convnet" / "model.t7"


#: converts with so many bytes of address space beyond what PyTorch and the classes take
LIMITED = """
import resource, sys
import torch
from dpnn_bridge.files import converting
from dpnn_bridge.conversion import registry

torch.set_num_threads(1)
registry.discover()
import dpnn_bridge.outputs.formats.safetensors_index_json
with open("/proc/self/statm") as file:
    pages = int(file.read().split()[0])
limit = pages * resource.getpagesize() + int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
converting.convert(sys.argv[1], sys.argv[2], **({"max_shard_size": sys.argv[4]} if len(sys.argv) > 4 else {}))
"""


#: what ends the names of shards that were written together
GENERATION = re.compile(r"-[0-9a-f]{8}(?=\.safetensors$)")


def limited(*arguments: object) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", LIMITED, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_AS") or sys.platform != "linux", reason="needs Linux's limits")
def test_a_model_larger_than_memory(tmp_path: Path) -> None:
    source, target = tmp_path / "large.t7", tmp_path / "out" / "model.safetensors"
    target.parent.mkdir()
    sparse_model(source, 19)
    assert source.stat().st_size > 300_000_000
    done = limited(source, target, 150_000_000, "100MB")
    assert done.returncode == 0, done.stderr
    names = [f"model-{i:05d}-of-00004.safetensors" for i in range(1, 5)]
    written = sorted(GENERATION.sub("", p.name) for p in target.parent.iterdir())
    assert written == [*names, "model.safetensors.index.json"]
    whole = limited(source, target.with_name("whole.safetensors"), 150_000_000)
    assert whole.returncode != 0
    assert "Unable to allocate" in whole.stderr or "memory" in whole.stderr
    found = dpnn_bridge.load(f"{target}.index.json").state_dict()
    for name, tensor in dpnn_bridge.load(source).state_dict().items():
        assert same_bits(found[name], tensor), name


def test_shards_load_elsewhere(tmp_path: Path) -> None:
    hub = pytest.importorskip("huggingface_hub", reason="optional extra is not installed")
    target = tmp_path / "model.safetensors"
    result = CliRunner().invoke(convert_command, [str(MODEL), str(target), "--max-shard-size", "0.5MB"])
    assert result.exit_code == 0, result.output
    assert "model.safetensors.index.json: 12 modules" in result.output
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) == 2
    expected = dpnn_bridge.load(MODEL)
    other = dpnn_bridge.load(MODEL)
    for p in other.parameters():
        p.data.zero_()
    loaded = hub.load_torch_model(other, tmp_path, strict=False)
    assert loaded.missing_keys == []
    assert all(same_bits(a, b) for a, b in zip(other.parameters(), expected.parameters(), strict=True))
    again = dpnn_bridge.load(tmp_path / "model.safetensors.index.json")
    x = torch.randn(2, 1, 32, 32)
    assert torch.equal(again.eval()(x), expected.eval()(x))
    result = CliRunner().invoke(convert_command, [str(MODEL), str(target), "--max-shard-size", "0.5MB"])
    assert result.exit_code == 6


def test_a_cast_and_a_url(tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec", reason="optional extra is not installed")
    with mock.patch.object(deferred, "MIN_BYTES", 0):
        convert(MODEL, tmp_path / "m.safetensors", max_shard_size="0.1MB", dtype="float16")
        convert(MODEL, "memory://shards/m.safetensors", max_shard_size=10**9)
    found = dpnn_bridge.load(tmp_path / "m.safetensors.index.json").state_dict()
    expected = dpnn_bridge.load(MODEL, dtype="float16").state_dict()
    assert all(same_bits(found[name], tensor) for name, tensor in expected.items())
    names = {name.rpartition("/")[2] for name in fsspec.filesystem("memory").find("memory://shards")}
    assert {GENERATION.sub("", name) for name in names} == {"m-00001-of-00001.safetensors", "m.safetensors.index.json"}


def test_shards_in_a_store_are_fetched_with_their_index(tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec", reason="optional extra is not installed")
    target, log = "memory://fetched/out", tmp_path / "m.jsonl"
    many = (MODEL, "--out-dir", target, "--to", "safetensors", "--max-shard-size", "0.1MB", "--manifest", log)
    assert command(*many)[0] == 0
    assert "1 file: 1 skipped" in command(*many)[1]
    found = dpnn_bridge.load(f"{target}/model{INDEX}").state_dict()
    assert all(same_bits(found[name], tensor) for name, tensor in dpnn_bridge.load(MODEL).state_dict().items())
    assert CliRunner().invoke(verify_command, [str(log), "--trust-manifest"]).exit_code == 0
    files = fsspec.filesystem("memory")
    shard = next(name for name in files.find(target) if "-00001-of-" in name)
    files.pipe(shard, files.cat(shard)[:-1] + b"?")
    assert CliRunner().invoke(verify_command, [str(log), "--trust-manifest"]).exit_code == 4


def command(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(convert_command, [str(a) for a in arguments])
    return result.exit_code, result.output


def test_an_index_is_an_output_too(tmp_path: Path) -> None:
    target = tmp_path / "m.safetensors.index.json"
    assert command(MODEL, target)[0] == 0
    shard = shards_of(target)[0]
    assert GENERATION.sub("", shard.name) == "m-00001-of-00001.safetensors"
    assert sorted(p.name for p in tmp_path.iterdir()) == [shard.name, target.name]
    assert is_converted(MODEL, target)
    assert not is_converted(MODEL.with_name("ref.t7"), target)
    assert CliRunner().invoke(verify_command, [str(MODEL), str(target)]).exit_code == 0
    shard.write_bytes(shard.read_bytes()[:-1])
    assert not is_converted(MODEL, target)


def test_many_files_and_many_models_in_shards(tmp_path: Path) -> None:
    sources = [tmp_path / name for name in ("a.t7", "b.t7")]
    for source in sources:
        source.write_bytes(MODEL.read_bytes())
    form = ("--max-shard-size", "0.5MB")
    many = (*sources, "--out-dir", tmp_path / "out", "--to", "safetensors", *form, "--manifest", tmp_path / "m.jsonl")
    assert command(*many)[0] == 0
    names = ["-00001-of-00002.safetensors", "-00002-of-00002.safetensors", ".safetensors.index.json"]
    written = sorted(GENERATION.sub("", p.name) for p in (tmp_path / "out").iterdir())
    assert written == [stem + name for stem in "ab" for name in names]
    code, output = command(*many)
    assert (code, "2 files: 2 skipped" in output) == (0, True)
    assert CliRunner().invoke(verify_command, [str(tmp_path / "m.jsonl")]).exit_code == 0
    shard = shards_of(tmp_path / "out" / f"a{INDEX}")[1]
    (line,) = (v for k, v in last_lines(tmp_path / "m.jsonl").items() if k.endswith(f"a{INDEX}"))
    files = sorted((tmp_path / "out").glob("a*"), key=lambda p: (not p.name.endswith("json"), p.name))
    summed = "".join(f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.name}\n" for p in files)
    assert line["target_sha256"] == hashlib.sha256(summed.encode()).hexdigest()
    whole, proof = shard.read_bytes(), (tmp_path / "m.jsonl").read_text()
    for damaged in (whole[:-1] + bytes([whole[-1] ^ 1]), None):  # of which the index knows nothing
        shard.unlink() if damaged is None else shard.write_bytes(damaged)
        result = CliRunner().invoke(verify_command, [str(tmp_path / "m.jsonl")])
        assert (result.exit_code, result.stdout) == (4, "2 files: 1 different, 1 equal\n")
        assert f"a{INDEX} has changed since the conversion" in result.stderr
        assert command(*many)[0] == 6
        (tmp_path / "m.jsonl").write_text(proof)
    shard.write_bytes(whole)
    assert command(*many[:-2])[0] == 0
    table = tmp_path / "two.t7"
    write_t7(table, LuaTable({"x": read_t7(MODEL), "y": read_t7(MODEL)}))
    (tmp_path / "all").mkdir()
    assert command(table, tmp_path / "all" / "m.safetensors", "--all", *form)[0] == 0
    assert {p.name for p in (tmp_path / "all").glob("*.json")} == {f"m.{key}.safetensors.index.json" for key in "xy"}


@pytest.mark.parametrize("arguments", [["a.t7", "a.pt"], ["a.t7", "b.t7", "--out-dir", "out"]])
def test_the_refusal_says_what_to_type(arguments: list[str]) -> None:
    code, output = command(*arguments, "--max-shard-size", "2GB")
    assert (code, "--to safetensors, or OUT.safetensors" in output) == (2, True)


def modules() -> list[Path]:
    """One fixture of each class."""
    found: dict[str, Path] = {}
    for entry in manifest():
        if "class" in entry:
            found.setdefault(entry["class"], FIXTURES / entry["file"])
    return list(found.values())


def test_every_class_is_the_same_in_pieces(tmp_path: Path) -> None:
    """Whatever mappings do with parameters: the same state, or an error."""
    refused, same = [], 0
    for path in modules():
        try:
            obj = read_t7(path)
            key = "module" if isinstance(obj, LuaTable) and "module" in obj else ""
            expected = dpnn_bridge.to_torch(obj[key] if key else obj).state_dict()
        except DpnnBridgeError:
            continue
        if not expected:  # nothing to cut
            continue
        try:
            with mock.patch.object(deferred, "MIN_BYTES", 0):
                convert(path, tmp_path / "m.safetensors", key=key, max_shard_size=1000, force=True)
        except ConversionError as error:
            refused.append((path.parent.name, "omit max_shard_size" in str(error)))
            continue
        found = dpnn_bridge.load(tmp_path / "m.safetensors.index.json").state_dict()
        assert found.keys() == expected.keys(), path
        assert all(same_bits(found[name], tensor) for name, tensor in expected.items()), path
        same += 1
    assert same > 160
    assert set(refused) <= {("nn.WeightNorm", True), ("nn.LinearWeightNorm", True), ("hidden", True)}


@pytest.mark.parametrize(("text", "size"), [("2GB", 2 * 10**9), ("1.5 MiB", 1572864), (7, 7), ("10", 10)])
def test_sizes(text: Any, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("name", ["a\u00a0b", "a\tb", "a\u200db"])
def test_shards_have_any_name_of_a_file(name: str, tmp_path: Path) -> None:
    convert(MODEL, target := tmp_path / f"{name}.safetensors", max_shard_size="0.5MB")
    again = dpnn_bridge.load(target.with_name(f"{name}.safetensors.index.json"))
    assert all(same_bits(a, b) for a, b in zip(again.parameters(), dpnn_bridge.load(MODEL).parameters(), strict=True))


def test_a_checksum_of_a_set_is_that_of_all_files(tmp_path: Path) -> None:
    convert(MODEL, tmp_path / "m.safetensors", max_shard_size="0.5MB")
    index = tmp_path / f"m{INDEX}"
    files = [index, *shards_of(index)]
    lines = "".join(f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files)
    expected = hashlib.sha256(lines.encode()).hexdigest()
    places: list[Any] = [index]
    with suppress(ImportError):
        import fsspec

        for file in files:
            fsspec.filesystem("memory").pipe(f"/summed/{file.name}", file.read_bytes())
        places.append(f"memory://summed/{index.name}")
    for place in places:
        dpnn_bridge.load(place, sha256=expected)
        with pytest.raises(VerificationError, match=rf"index and its shards\) is {expected}, expected "):
            dpnn_bridge.load(place, sha256=hashlib.sha256(index.read_bytes()).hexdigest())
    with files[1].open("r+b") as file:
        file.seek(-8, os.SEEK_END)
        file.write(b"replaced")
    with pytest.raises(VerificationError, match=rf"expected {expected}"):
        convert(index, tmp_path / "o.pt", sha256=expected)
    files[1].unlink()
    with pytest.raises(VerificationError, match="lacks a shard"):
        dpnn_bridge.load(index, sha256=expected)


def test_what_cannot_be(tmp_path: Path) -> None:
    for wrong in ("", "2 apples", "0", "-1GB"):
        with pytest.raises(OptionError, match="not a shard size"):
            convert(MODEL, tmp_path / "m.safetensors", max_shard_size=wrong)
    with pytest.raises(OptionError, match=r"m\.pt: max_shard_size= \(--max-shard-size\) is for \.safetensors"):
        convert(MODEL, tmp_path / "m.pt", max_shard_size="1GB")
    index = tmp_path / "m.safetensors.index.json"
    names = (
        "../m.safetensors",
        "/etc/m.safetensors",
        "a/m.safetensors",
        "m.pt",
        "",
        ".safetensors/",
        "a\0.safetensors",
    )
    names += ("x" * 300 + ".safetensors", "é" * 130 + ".safetensors", "\ud800.safetensors")
    for weights in (*({"a": name} for name in names), {"a": 1}, []):
        index.write_text(json.dumps({"weight_map": weights}))
        with pytest.raises(T7FormatError, match="the index is damaged"):
            dpnn_bridge.load(index)


def test_a_failing_disk_is_noticed(tmp_path: Path) -> None:
    from dpnn_bridge.outputs import safetensors_writer

    written = safetensors_writer.write

    def failing(path: Path, *args: Any) -> None:
        written(path, *args)
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)

    with (
        mock.patch.object(safetensors_writer, "write", failing),
        pytest.raises(VerificationError, match="differs after reading back"),
    ):
        convert(MODEL, tmp_path / "m.safetensors", max_shard_size="1MB")
    assert list(tmp_path.iterdir()) == []


def test_the_names_of_an_index_are_gone_through_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They were compared with each shard."""

    class Names(dict[str, str]):
        times = 0

        def items(self) -> Any:
            Names.times += 1
            return super().items()

    def read(path: Path) -> Index:
        index = read_index(path)
        return index._replace(weight_map=Names(index.weight_map))

    index = tmp_path / f"m{INDEX}"
    convert(MODEL, tmp_path / "m.safetensors", max_shard_size="100KB")
    monkeypatch.setattr(safetensors_file, "read_shard_index", read)
    assert len(shards_of(index)) > 3
    assert safetensors_file.read_index(index)[1]
    assert Names.times == 1
