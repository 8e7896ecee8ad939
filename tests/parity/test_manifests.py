"""dpnn-verify MANIFEST.jsonl: a manifest is data of anybody; it makes nothing run, and nothing is fetched for it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import tracemalloc
from concurrent.futures import Executor, Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from torch import nn

import dpnn_bridge
from dpnn_bridge.base.checksum import sha256_of
from dpnn_bridge.batch import executors
from dpnn_bridge.cli.verify import verify_command
from dpnn_bridge.parity import check_manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model, its files, and a program that says that it ran."""
    dpnn_bridge.write_t7(tmp_path / "model.t7", nn.Sequential(nn.Linear(3, 2), nn.Tanh()))
    dpnn_bridge.convert(tmp_path / "model.t7", tmp_path / "model.pt")
    dpnn_bridge.convert(tmp_path / "model.t7", tmp_path / "model.py")
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'RAN')!r}, 'w').close()\nraise SystemExit(0)\n")
    return tmp_path


def line(source: object, target: object, **more: Any) -> dict[str, Any]:
    sums = [sha256_of(p) if os.path.isfile(p := str(name)) else "" for name in (source, target)]
    found = {"source": str(source), "target": str(target), "verdict": "equal", "key": None}
    return {**found, "sha256": sums[0], "target_sha256": sums[1], **more}


def verified(folder: Path, *lines: dict[str, Any], options: tuple[str, ...] = ()) -> Any:
    manifest = folder / "done.jsonl"
    manifest.write_text("".join(json.dumps(each) + "\n" for each in lines))
    return CliRunner().invoke(verify_command, [str(manifest), *options])


def test_a_manifest_of_data_is_checked(folder: Path) -> None:
    result = verified(folder, line(folder / "model.t7", folder / "model.pt"))
    assert result.exit_code == 0, result.output
    assert "1 file: 1 equal" in result.stdout


@pytest.mark.parametrize("name", ["evil.py", "model.py", "model.onnx", "model.pt2", "model.so", "model"])
def test_a_program_is_not_run(name: str, folder: Path) -> None:
    (folder / name).touch()
    result = verified(folder, line(folder / "model.t7", folder / name))
    assert result.exit_code == 4, result.output
    assert "--trust-manifest" in result.stderr
    assert "1 refused" in result.stdout
    assert not (folder / "RAN").exists()


def test_programs_of_ones_own_manifest_are_run(folder: Path) -> None:
    result = verified(folder, line(folder / "model.t7", folder / "model.py"), options=("--trust-manifest",))
    assert result.exit_code == 0, result.output
    verified(folder, line(folder / "model.t7", folder / "evil.py"), options=("--trust-manifest",))
    assert (folder / "RAN").exists(), "the test above shows nothing if evil.py does not work"


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_traced_files_of_ones_own_manifest_are_checked(suffix: str, folder: Path) -> None:
    if suffix == ".onnx":
        pytest.importorskip("onnxscript", reason="optional extra is not installed")
    import torch

    dpnn_bridge.convert(folder / "model.t7", folder / f"m{suffix}", input=torch.zeros(1, 3))
    each = line(folder / "model.t7", folder / f"m{suffix}")
    assert verified(folder, each).exit_code == 4
    assert verified(folder, each, options=("--trust-manifest",)).exit_code == 0


@pytest.mark.parametrize("place", ["source", "target"])
@pytest.mark.parametrize(
    "scheme", ["http://{}/", "https://{}/", "file://{}/", "simplecache::http://{}/", "//{}/", "\\\\{}\\"]
)
def test_nothing_is_fetched(scheme: str, place: str, folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        address = f"127.0.0.1:{server.getsockname()[1]}"
        each = line(folder / "model.t7", folder / "model.pt")
        each[place] = scheme.format(address) + Path(each[place]).name
        result = verified(folder, each)
        assert result.exit_code == 4
        assert "1 refused" in result.stdout
        assert "is not a local file" in result.stderr
        with pytest.raises(TimeoutError):
            server.accept()


@pytest.mark.parametrize("name", ["sha256", "target_sha256"])
def test_a_line_without_a_checksum(name: str, folder: Path) -> None:
    each = line(folder / "model.t7", folder / "model.pt")
    del each[name]
    result = verified(folder, each)
    assert (result.exit_code, f"different: the line has no {name}" in result.stderr) == (4, True)


def test_links_and_relative_names_lead_to_no_program(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (folder / "link.pt").symlink_to("evil.py")
    (folder / "link.safetensors").symlink_to("evil.py")
    inner = folder / "inner"
    inner.mkdir()
    (inner / "out").symlink_to("..")
    names = ["../model.pt", "out/model.pt"]
    monkeypatch.chdir(inner)
    result = verified(inner, *(line(folder / "model.t7", name) for name in names))
    assert "2 refused" in result.stdout
    assert "is outside the folder" in result.stderr
    assert verified(inner, line(folder / "model.t7", "../model.pt"), options=("--trust-manifest",)).exit_code == 0
    monkeypatch.chdir(folder)
    assert verified(folder, line("model.t7", "model.pt")).exit_code == 0
    for name in ("link.pt", "link.safetensors"):
        assert verified(folder, line(folder / "model.t7", folder / name)).exit_code == 4
    assert not (folder / "RAN").exists()


def test_a_pickle_is_not_unpickled(folder: Path) -> None:
    import pickle

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {folder / 'RAN'}",)

    for name in ("evil.pt", "evil.npz", "evil.t7", "evil.safetensors"):
        (folder / name).write_bytes(pickle.dumps(Evil(), protocol=2))
        assert verified(folder, line(folder / "model.t7", folder / name)).exit_code == 4
        assert verified(folder, line(folder / name, folder / "model.pt")).exit_code == 4
    assert not (folder / "RAN").exists()


def test_other_fields_have_no_meaning(folder: Path) -> None:
    more = {name: [str(folder / "evil.py")] for name in ("plugins", "plugin", "lua", "torch7", "lua_path", "reference")}
    each = line(folder / "model.t7", folder / "model.pt", **more)
    assert verified(folder, each).exit_code == 0
    assert not (folder / "RAN").exists()


@pytest.mark.parametrize("value", [None, 3, [], {}, "a\0b", "x" * 5000, "", ".", "\x1b[2J", "no/such.pt"])
@pytest.mark.parametrize("name", ["source", "target", "key", "sha256", "target_sha256", "verdict", "message"])
def test_any_value_is_one_error(name: str, value: object, folder: Path) -> None:
    each = {**line(folder / "model.t7", folder / "model.pt"), name: value}
    result = verified(folder, each)
    assert result.exit_code in (0, 3, 4), result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert "\x1b" not in result.output
    assert "Traceback" not in result.output


def test_shards_of_an_index_are_regular_files_beside_it(folder: Path) -> None:
    pytest.importorskip("safetensors", reason="optional extra is not installed")
    dpnn_bridge.convert(folder / "model.t7", folder / "m.safetensors", max_shard_size="1GB")
    index = folder / "m.safetensors.index.json"
    (shard,) = folder.glob("m-*.safetensors")
    content = index.read_text()
    for name in ("../model.pt", "http://127.0.0.1/x.safetensors", "/etc/hosts", str(shard)):
        index.write_text(content.replace(shard.name, name))
        assert verified(folder, line(folder / "model.t7", index)).exit_code == 4
    index.write_text(content)
    shard.unlink()
    os.mkfifo(shard)
    program = "import sys; from dpnn_bridge.cli.verify import verify_command; verify_command(sys.argv[1:])"
    (folder / "done.jsonl").write_text(json.dumps(line(folder / "model.t7", index)) + "\n")
    ended = subprocess.run([sys.executable, "-c", program, "done.jsonl"], cwd=folder, timeout=120, check=False)
    assert ended.returncode == 4


def test_time_is_linear_in_the_lines(folder: Path) -> None:
    """20,000 lines whose targets are not there took minutes."""
    lines = [line(folder / "model.t7", folder / f"gone{i}.pt") for i in range(20_000)]
    (folder / "done.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    start = time.process_time()
    assert sum(c.verdict == "missing" for c in check_manifest(folder / "done.jsonl")) == 20_000
    assert time.process_time() - start < 10


@pytest.mark.parametrize("place", ["source", "target"])
@pytest.mark.parametrize("name", ["\ud800.pt", "/proc/self/mem", "/proc/kmsg", "a\0.pt", "/" + "a/" * 3000])
def test_a_line_that_cannot_be_read_leaves_the_others(name: str, place: str, folder: Path) -> None:
    right = line(folder / "model.t7", folder / "model.pt")
    (folder / "other.pt").write_bytes((folder / "model.pt").read_bytes())
    result = verified(folder, {**right, "target": str(folder / "other.pt"), place: name}, right)
    assert result.exit_code == 4, result.output
    assert "1 equal" in result.stdout


@pytest.mark.parametrize("place", ["source", "target"])
def test_a_path_of_many_folders_takes_little_memory(place: str, folder: Path) -> None:
    right = line(folder / "model.t7", folder / "model.pt")
    tracemalloc.start()
    try:
        result = verified(folder, {**right, "target": "b.pt", place: "a/" * 20_000 + "x.pt"}, right)
        assert tracemalloc.get_traced_memory()[1] < 50 << 20  # the folders of the path alone have 400 MB
    finally:
        tracemalloc.stop()
    assert result.exit_code == 4, result.output
    assert "1 equal" in result.stdout


@pytest.mark.parametrize("name", ["key", "message"])
def test_a_nested_value_of_a_line_leaves_the_others(name: str, folder: Path) -> None:
    right = line(folder / "model.t7", folder / "model.pt")
    (folder / "other.pt").write_bytes((folder / "model.pt").read_bytes())
    wrong = json.dumps({**right, "target": str(folder / "other.pt"), "verdict": "failed", name: "@"})
    text = wrong.replace('"@"', "[" * 800 + "]" * 800) + "\n" + json.dumps(right) + "\n"
    (folder / "done.jsonl").write_text(text)
    result = CliRunner().invoke(verify_command, [str(folder / "done.jsonl"), "--json"])
    assert result.exit_code == 4, result.output
    assert json.loads(result.stdout)["verdicts"] == {"equal": 1, "failed": 1}


def test_a_line_prints_one_line(folder: Path) -> None:
    forged = "\n1 file: 1 equal\nPASS"
    lines = [line(folder / "model.t7", f"{folder}/x{forged}.pt")]
    lines += [line(folder / "model.t7", folder / "y.pt", verdict="failed", message=forged)]
    result = verified(folder, *lines, options=("-v",))
    assert result.exit_code == 4
    assert [text for text in result.output.split("\n") if text.startswith(("1 file", "PASS"))] == []


def test_lua_files_run_for_lines_whose_files_are_read(folder: Path) -> None:
    (folder / "a.lua").write_text("error('it ran')")
    model, options = folder / "model.t7", ("--lua", str(folder / "a.lua"))
    others = [line(model, folder / "evil.py"), line(model, folder / "none.pt"), line(model, 1, verdict="failed")]
    result = verified(folder, *others, options=options)
    assert result.exit_code == 4, result.output
    assert "it ran" not in result.output
    result = verified(folder, *others, line(model, folder / "model.pt"), options=options)
    assert result.exit_code == 7, result.output


class BrittlePool(Executor):
    """As a process pool whose worker dies on a line of ``bad.pt``: then it completes no call."""

    broken = False

    def submit(self, function: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future = Future[Any]()
        self.broken |= args[0]["target"].endswith("bad.pt")
        if self.broken:
            future.set_exception(BrokenProcessPool())
        else:
            future.set_result(function(*args, **kwargs))
        return future


def test_only_the_line_is_lost_that_kills_its_worker(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All lines without a result had failed."""
    monkeypatch.setattr(executors, "workers", lambda jobs: nullcontext(BrittlePool()))
    for name in ("bad.pt", "good.pt"):
        (folder / name).write_bytes((folder / "model.pt").read_bytes())
    lines = [line(folder / "model.t7", folder / name) for name in ("bad.pt", "good.pt", "model.pt")]
    result = verified(folder, *lines, options=("--jobs", "2"))
    assert result.exit_code == 4, result.output
    assert "3 files: 2 equal, 1 failed" in result.stdout
    (error,) = result.stderr.splitlines()
    assert error.startswith(f"error: {folder / 'bad.pt'}: failed: a worker process died")


def test_an_error_of_several_lines_has_several_lines(folder: Path) -> None:
    (folder / "m.t7").write_bytes((folder / "model.t7").read_bytes())
    failed = line(folder / "m.t7", folder / "model.pt", verdict="failed", message="one\ntwo\x1b")
    result = verified(folder, failed)
    assert result.exit_code == 4, result.output
    assert result.stderr.splitlines()[1:] == ["    two\\x1b"]
