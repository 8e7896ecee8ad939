"""No output of a command replaces one of its inputs, by whatever name or link it is reached."""

from __future__ import annotations

import json
import os
import sys
import uuid
import zipfile
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner
from torch import nn

import dpnn_bridge
from dpnn_bridge.__main__ import main
from dpnn_bridge.base import atomic
from dpnn_bridge.base.file_set import find_same
from dpnn_bridge.base.remote import url_place
from dpnn_bridge.base.shards import shards_of
from dpnn_bridge.batch import running
from dpnn_bridge.cli.convert import convert_command
from dpnn_bridge.cli.inspect import inspect_command
from dpnn_bridge.cli.lua import lua_command
from dpnn_bridge.cli.verify import verify_command
from dpnn_bridge.errors import OutputError

#: the command and its arguments, in which OUT is another name of the file behind it
CASES = [
    (inspect_command, "model.t7 --plugin plugin.py --html OUT", "plugin.py"),
    (inspect_command, "model.t7 --html OUT", "model.t7"),
    (inspect_command, "model.t7 --input x.npy --html OUT", "x.npy"),
    (verify_command, "model.t7 --html OUT", "model.t7"),
    (verify_command, "model.t7 model.pt --html OUT", "model.pt"),
    (verify_command, "model.t7 model.safetensors.index.json --html OUT", "a shard"),
    (verify_command, "model.t7 model.onnx --html OUT", "weights.data"),
    (verify_command, "model.t7 --plugin plugin.py --html OUT", "plugin.py"),
    (verify_command, "model.t7 --reference ref.t7 --html OUT", "ref.t7"),
    (verify_command, "model.t7 --known-differences known.json --html OUT", "known.json"),
    (verify_command, "model.t7 --input x.npy --html OUT", "x.npy"),
    (verify_command, "model.t7 --input x.npy --output y.npy --html OUT", "y.npy"),
    (verify_command, "model.t7 --input x.npy --torch7 program --html OUT", "program"),
    (verify_command, "model.t7 --input x.npy --lua-path lua --html OUT", "lua/Layer.lua"),
    (convert_command, "model.t7 OUT --to pt --force", "model.t7"),
    (convert_command, "model.t7 OUT --to pt --force --plugin plugin.py", "plugin.py"),
    (convert_command, "model.t7 OUT --to pt --force --lua layer.lua", "layer.lua"),
    (convert_command, "model.t7 OUT --to pt --force --input x.npy", "x.npy"),
    (convert_command, "model.t7 new.pt --force --report OUT", "model.t7"),
    (convert_command, "model.t7 new.pt --force --plugin plugin.py --report OUT", "plugin.py"),
    (convert_command, "model.t7 new.pt --force --lua layer.lua --report OUT", "layer.lua"),
    (convert_command, "model.t7 --out-dir new --manifest OUT --plugin empty.py", "empty.py"),
    (convert_command, "model.t7 --out-dir new --manifest OUT", "model.t7"),
    (convert_command, "model.t7 --out-dir . --force --plugin model.pt", "model.pt"),
    (convert_command, "model.t7 --out-dir . --to py --force --jobs 2 --input model.py", "model.py"),
    (convert_command, "model.t7 --out-dir . --to json --force --manifest model.json", "model.json"),
    (convert_command, "model.safetensors.index.json OUT --force --to pt", "a shard"),
    (convert_command, "model.t7 new.pt --into net.py:Net --input 1x3 --report OUT", "net.py"),
    (convert_command, "model.t7 new.pt --into net.py:Net --input 1x3 --report OUT", "helper.py"),
    (convert_command, "model.t7 new.pt --into net.py:Net --input x.npy --report OUT", "x.npy"),
    (convert_command, "model.t7 new.pt --into net:Net --input 1x3 --report OUT", "net.py"),
    (convert_command, "model.t7 OUT --to pt --force --plugin importing.py", "helper.py"),
    (convert_command, "model.t7 new.pt --lua layer.lua --report OUT", "lua/Layer.lua"),
    (inspect_command, "model.t7 --plugin importing.py --html OUT", "helper.py"),
    (convert_command, "model.t7 new.pt --into net.py:Net --input 1x3 --report new.pt", "model.t7"),
    (convert_command, "model.t7 model.pt --into net.py:Net --force --input model.pt", "model.pt"),
    (verify_command, "model.t7 net.py:Net --input 1x3 --html OUT", "net.py"),
    (verify_command, "model.t7 net.py:Net --input 1x3 --weights model.pt --html OUT", "model.pt"),
]


def same(file: Path) -> Path:
    return file


def through_a_folder(file: Path) -> Path:
    return file.parent / ".." / file.parent.name / file.name


def through_a_missing_folder(file: Path) -> Path:
    return file.parent / "missing" / ".." / file.name


def symbolic_link(file: Path) -> Path:
    (file.parent / "link").symlink_to(file.name)
    return file.parent / "link"


def hard_link(file: Path) -> Path:
    os.link(file, file.parent / "link")
    return file.parent / "link"


NAMES = (same, through_a_folder, symbolic_link, hard_link)
NAMED = [(*case, name) for case in CASES for name in (NAMES if "OUT" in case[1] else NAMES[:1])]
NAMED += [(*case, through_a_missing_folder) for case in CASES if "--manifest OUT" in case[1]]  # makes the folder
NAMED = [case for case in NAMED if case[2:] != ("lua/Layer.lua", hard_link)]  # replacing the link leaves the file
#: conversions of which two outputs are one file
TWICE = (
    "model.t7 new/o.pt --report linked/o.pt",
    "model.t7 linked/o.pt --card new/o.pt",
    "model.t7 o.pt --card page --report page",
    "model.t7 o.safetensors --max-shard-size 10 --report o.safetensors.index.json",
    "model.t7 o.safetensors --max-shard-size 10 --card o.safetensors.index.json",
    "model.t7 --out-dir new --manifest linked/model.pt",
    "model.t7 --out-dir new --manifest log.jsonl",
    "model.t7 o.pt --all --manifest o.model.pt",
    "model.t7 o.pt --all --manifest {here}/o.model.pt",
    "model.t7 new/o.pt --into torch.nn:Linear(3,2) --input 1x3 --report linked/o.pt",
)


@pytest.mark.parametrize(
    ("command", "arguments", "file", "name"), NAMED, ids=[f"{c.name} {a} {n.__name__}" for c, a, _, n in NAMED]
)
def test_inputs_stay(
    command: click.Command,
    arguments: str,
    file: str,
    name: Callable[[Path], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for imported in ("helper", "net"):
        monkeypatch.delitem(sys.modules, imported, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    model = nn.Sequential(nn.Linear(3, 2))
    dpnn_bridge.write_t7("model.t7", model)
    dpnn_bridge.write_t7("ref.t7", {"input": np.ones((1, 3)), "output": np.ones((1, 2))})
    dpnn_bridge.save("model.pt", dpnn_bridge.load("model.t7"))
    if ".safetensors" in arguments:
        pytest.importorskip("safetensors", reason="optional extra is not installed")
        dpnn_bridge.convert("model.t7", "model.safetensors", max_shard_size="1GB")
    if ".onnx" in arguments:
        onnx = pytest.importorskip("onnx", reason="optional extra is not installed")
        weight = onnx.numpy_helper.from_array(np.ones((2, 3), np.float32), "weight")
        node = onnx.helper.make_node("Constant", [], ["y"], value=weight)  # also inside a node
        result = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [2, 3])
        graph = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [], [result]))
        external = {"location": "weights.data", "size_threshold": 0, "convert_attribute": True}
        onnx.save(graph, "model.onnx", save_as_external_data=True, **external)
    np.save("x.npy", np.ones((1, 3), np.float32))
    np.save("y.npy", np.ones((1, 2), np.float32))
    (tmp_path / "lua").mkdir()
    texts = {
        "plugin.py": "import torch\n",
        "importing.py": "import helper\n",
        "known.json": "[]",
        "empty.py": "",
        "model.json": "",
        "model.py": "",
        "program": "#!/bin/sh",
        "helper.py": "from torch import nn\nLayer = nn.Linear\n",
        "net.py": "from helper import Layer\n\ndef Net():\n    return Layer(3, 2)\n",
    }
    for key, text in {**texts, "layer.lua": "local x = 1", "lua/Layer.lua": "local x = 1"}.items():
        (tmp_path / key).write_text(text)
    if file == "a shard":
        file = shards_of(tmp_path / "model.safetensors.index.json")[0].name
    before = (tmp_path / file).read_bytes()
    out = str(name(tmp_path / file)) if "OUT" in arguments else ""
    result = CliRunner().invoke(command, [out if word == "OUT" else word for word in arguments.split()])
    assert (tmp_path / file).read_bytes() == before
    assert result.exit_code in (2, 6), result.output
    assert "never replaced" in result.stderr or "the same file" in result.stderr
    assert atomic._protected.get() == ()  # the next command of this process begins without these inputs


def test_a_script_does_not_replace_itself(tmp_path: Path) -> None:
    script = tmp_path / "script.txt"  # the suffix .lua alone would protect it
    script.write_text("torch.save(arg[0], {1, 2, 3})")
    result = CliRunner().invoke(lua_command, [str(script)])
    assert result.exit_code == 7
    assert "never replaced" in result.stderr
    assert script.read_text().startswith("torch.save")


ADDRESSES = (
    "local://",
    "simplecache::file://",
    "filecache::local://",
    "asyncwrapper::file://",
    "dir::file://",
)


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_of_an_input_is_no_way_around(address: str, tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec", reason="optional extra is not installed")
    if address.partition("::")[0].removesuffix("://") not in fsspec.available_protocols():
        pytest.skip("this version of fsspec has no such file system")
    source = tmp_path / "a.t7"
    dpnn_bridge.write_t7(source, nn.Sequential(nn.Linear(2, 2)))
    before = source.stat().st_ino
    result = CliRunner().invoke(convert_command, [str(source), f"{address}{source}", "--force"])
    assert (result.exit_code, "never replaced" in result.stderr or "pass its path" in result.stderr) == (6, True)
    assert source.stat().st_ino == before


@pytest.mark.parametrize("source", ["a.pt", "file://{here}/a.pt", "local://{here}/a.pt", "an open file"])
def test_an_input_that_is_an_address_or_an_open_file_stays(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    dpnn_bridge.save("a.pt", nn.Sequential(nn.Linear(2, 2)))
    before = Path("a.pt").stat().st_ino
    with open("a.pt", "rb") as file:
        origin = file if source == "an open file" else source.format(here=tmp_path)
        with pytest.raises(OutputError, match=r"a\.pt is the input .*, which is never replaced"):
            dpnn_bridge.convert(origin, "a.pt", force=True)
    if "://" in source:
        arguments = [source.format(here=tmp_path), "b.pt", "--report", "a.pt"]
        assert CliRunner().invoke(convert_command, arguments).exit_code == OutputError.exit_code
    assert Path("a.pt").stat().st_ino == before


@pytest.mark.parametrize(
    "address",
    ["file://{}", "local://{}", "simplecache::file://{}", "file://localhost{}", "/dev/stdin", "-"],
)
def test_an_input_named_by_an_address_stays(address: str, tmp_path: Path) -> None:
    """Only paths were compared with the outputs; stdin may be a file as well."""
    pytest.importorskip("fsspec", reason="optional extra is not installed")
    source = tmp_path / "a.t7"
    dpnn_bridge.write_t7(source, nn.Sequential(nn.Linear(2, 2)))
    before = source.stat().st_ino
    stdin, opened = os.dup(0), os.open(source, os.O_RDONLY)
    os.dup2(opened, 0)
    try:
        for command, words in (
            (convert_command, [str(source), "--force"]),
            (convert_command, ["--out-dir", str(tmp_path), "--to", "t7", "--force"]),
            (inspect_command, ["--html", str(source)]),
        ):
            if (address == "-" and command is not convert_command) or ("{}" not in address and "--out-dir" in words):
                continue
            result = CliRunner().invoke(command, [address.format(source), *words])
            assert result.exit_code in (2, 6), (words, result.output)
            assert source.stat().st_ino == before, words
    finally:
        os.dup2(stdin, 0)
        os.close(stdin)
        os.close(opened)
    if "{}" in address:
        with pytest.raises(OutputError, match="never replaced"):
            dpnn_bridge.convert(address.format(source), source, force=True)


@pytest.mark.parametrize(
    "words",
    [
        "convert a.t7 - --to pt",
        "inspect a.t7",
        "verify a.t7 --json",
        "verify m.jsonl",
        "verify n.jsonl",
        "convert --out-dir . ./a.t7 --force --to t7",
    ],
)
def test_an_input_to_which_the_output_is_redirected_stays(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    dpnn_bridge.write_t7("a.t7", nn.Sequential(nn.Linear(2, 2)))
    source = Path("m.jsonl" if "m.jsonl" in words else "a.t7")
    Path("m.jsonl").touch()
    Path("n.jsonl").write_text(json.dumps({"source": "a.t7", "target": "a.pt", "verdict": "equal"}))
    before = source.read_bytes()
    with open(source, "a") as stdout, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stdout)
        with pytest.raises(SystemExit) as end:
            main(words.split())
    assert end.value.code == OutputError.exit_code
    assert capsys.readouterr().err.startswith("error: stdout is the input ")
    assert source.read_bytes() == before


def test_an_input_in_a_store_stays() -> None:
    fsspec = pytest.importorskip("fsspec", reason="optional extra is not installed")
    store, folder = fsspec.filesystem("memory"), f"memory://{uuid.uuid4()}"
    source = f"{folder}/a.t7"
    dpnn_bridge.save(source, nn.Linear(2, 2))
    before = store.cat(source)
    store.pipe(f"{folder}/b.t7", before)
    for words in (
        [source, source],
        [source, source.replace("//", "///")],
        [source, f"simplecache::{folder}/./a.t7"],
        [f"simplecache::{source}", source],
        [f"{folder}/*.t7", "--out-dir", folder, "--to", "t7"],
        [f"{folder}/*.t7", "--out-dir", folder, "--to", "t7", "--jobs", "2"],
    ):
        result = CliRunner().invoke(convert_command, [*words, "--force"])
        assert result.exit_code == 6, (words, result.output)
        assert "never replaced" in result.output
        assert store.cat(source) == store.cat(f"{folder}/b.t7") == before
    with pytest.raises(OutputError, match="never replaced"):
        dpnn_bridge.convert(source, source, force=True)


@pytest.mark.parametrize(
    "same",
    [
        "s3a://b/x.t7",
        "s3:///b//x.t7",
        "filecache::s3://b/./x.t7",
        "s3://b/x.t7?versionId=1",
        "s3a://b//x.t7?versionId=",
    ],
)
def test_one_place_in_a_store_has_several_addresses(same: str) -> None:
    pytest.importorskip("fsspec", reason="optional extra is not installed")
    assert url_place(same) == url_place("s3://b/x.t7") != url_place("s3://b/y.t7")


@pytest.mark.parametrize(
    "same", ["hf://models/u/r/a@b/x.t7", "hf://u/r@main/a@b/x.t7", "hf://models/u/r@main/a@b/x.t7"]
)
def test_one_place_in_a_repository_has_several_addresses(same: str) -> None:
    others = ("hf://u/r@v1/a@b/x.t7", "hf://datasets/u/r/a@b/x.t7", "hf://u/r/a@main/x.t7", "hf://u/r/a/x.t7")
    assert url_place(same) == url_place("hf://u/r/a@b/x.t7") not in map(url_place, others)


@pytest.mark.parametrize("store", [False, True], ids=["local", "a store"])
def test_a_shard_of_an_input_stays(store: bool, tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec", reason="optional extra is not installed")
    folder = f"memory://{uuid.uuid4()}" if store else str(tmp_path)
    dpnn_bridge.save(f"{folder}/m.safetensors.index.json", nn.Linear(2, 2), max_shard_size="20B")
    files = fsspec.filesystem("memory" if store else "file")
    shard = next(name for name in files.ls(folder, detail=False) if name.endswith(".safetensors"))
    before = files.cat(shard)
    target = files.unstrip_protocol(shard) if store else shard
    with pytest.raises(OutputError, match="never replaced"):
        dpnn_bridge.convert(f"{folder}/m.safetensors.index.json", target, force=True)
    assert files.cat(shard) == before


def test_the_name_of_a_file_in_an_archive_is_no_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    dpnn_bridge.write_t7("a.t7", nn.Tanh())
    with zipfile.ZipFile("all.zip", "w") as archive:
        archive.write("a.t7")
    with zipfile.ZipFile("all.zip") as archive, archive.open("a.t7") as source:
        dpnn_bridge.convert(source, "a.t7", force=True)


def test_nothing_is_written_where_it_would_be_removed(tmp_path: Path) -> None:
    """An archive or a store may contain a folder with the name of our temporary ones."""
    name = ".dpnn-0123456789abcdef"
    for source in (tmp_path / "in" / name / "a.t7", tmp_path / "in" / "b.t7"):
        source.parent.mkdir(parents=True, exist_ok=True)
        dpnn_bridge.write_t7(tmp_path / "m.t7", nn.Sequential(nn.Linear(2, 2)), force=True)
        source.write_bytes((tmp_path / "m.t7").read_bytes())
    sources = [str(tmp_path / "in" / name / "a.t7"), str(tmp_path / "in" / "b.t7")]
    result = CliRunner().invoke(convert_command, [*sources, "--out-dir", str(tmp_path / "out")])
    assert (result.exit_code, "has the name of a temporary folder" in result.stderr) == (6, True)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["b.pt"]


@pytest.mark.skipif(sys.platform == "win32", reason="there, no temporary folder of another program is removed")
@pytest.mark.parametrize(
    "arguments", ["IN.t7 o.pt", "ALIAS.t7 o.pt", "a.t7 ALIAS.t7 --out-dir d", "a.t7 o.pt --lua IN.lua"]
)
def test_a_folder_of_an_input_is_not_removed(arguments: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if it has the name of a temporary folder, from which someone may rescue a file."""
    monkeypatch.chdir(tmp_path)
    inside, other = Path(".dpnn-0123456789abcdef"), Path(".dpnn-00000000000000ff")
    dpnn_bridge.write_t7("a.t7", nn.Sequential(nn.Linear(2, 2)))
    other.mkdir()
    inside.mkdir()
    (inside / "m.t7").write_bytes(Path("a.t7").read_bytes())
    (inside / "m.lua").write_text("require 'nn'")
    Path("alias.t7").symlink_to(inside / "m.t7")
    given = arguments.replace("IN", str(inside / "m")).replace("ALIAS", "alias")
    result = CliRunner().invoke(convert_command, given.split())
    assert result.exit_code == 0, result.output
    assert sorted(p.name for p in inside.iterdir()) == ["m.lua", "m.t7"]
    assert not other.exists() or "out-dir" in arguments
    dpnn_bridge.convert(inside / "m.t7", "api.pt")
    assert (inside / "m.t7").exists()
    result = CliRunner().invoke(convert_command, ["a.t7", str(inside / "out.pt"), "--lua", str(inside / "m.lua")])
    assert (result.exit_code, "has the name of a temporary folder" in result.stderr) == (6, True)


@pytest.mark.parametrize("arguments", TWICE)
def test_two_outputs_are_never_one_file(arguments: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    dpnn_bridge.write_t7("model.t7", nn.Sequential(nn.Linear(3, 2)))
    (tmp_path / "new").mkdir()
    (tmp_path / "linked").symlink_to("new")
    (tmp_path / "log.jsonl").symlink_to("new/model.pt")
    result = CliRunner().invoke(convert_command, arguments.replace("{here}", tmp_path.as_uri()).split())
    assert result.exit_code == 2, result.output
    assert "two outputs are the same file" in result.stderr
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["linked", "log.jsonl", "model.t7", "new"]


def test_two_outputs_are_one_file_if_the_file_system_ignores_case(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other, third = tmp_path / "Model.pt", tmp_path / "model.pt", tmp_path / "m.pt"
    (tmp_path / "A").touch()
    ignores_case = (tmp_path / "a").exists()
    assert find_same([one, third, other]) == ((one, other) if ignores_case else None)
    lower = lambda path: str(path).lower()  # noqa: E731
    monkeypatch.setattr(Path, "samefile", lambda a, b: lower(a) == lower(b))
    monkeypatch.setattr(Path, "exists", lambda path: lower(path) in map(lower, path.parent.iterdir()))
    assert find_same([one, third, other]) == (one, other)
    assert find_same([one, third]) is None
    assert [p.name for p in tmp_path.iterdir()] == ["A"]


def test_two_outputs_are_one_file_if_a_folder_is_mounted_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").symlink_to("a")
    monkeypatch.setattr(os.path, "realpath", str)  # so the link seems to be another folder
    pair = tmp_path / "a/new/m.pt", tmp_path / "b/new/m.pt"
    assert find_same(pair) == pair
    assert find_same([pair[0], tmp_path / "b/m.pt"]) is None


def test_a_worker_replaces_no_program_that_it_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "helper", raising=False)
    (tmp_path / "helper.py").write_text("# the only copy\n")
    (tmp_path / "importing.py").write_text("import helper\n")
    dpnn_bridge.write_t7(tmp_path / "model.t7", nn.Sequential(nn.Linear(3, 2)))
    task = running.Task(tmp_path / "model.t7", tmp_path / "helper.py", None)
    outcome = running._run_in_worker(task, None, force=True, plugins=[tmp_path / "importing.py"])
    assert "which is never replaced" in outcome.message
    assert (tmp_path / "helper.py").read_text() == "# the only copy\n"
