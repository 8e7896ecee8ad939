"""The shards of a model belong to one conversion: at any moment the whole old set or the whole new one is there."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from forkserver import FORKSERVER
from torch import nn

import dpnn_bridge
from dpnn_bridge.base import shards
from dpnn_bridge.base.atomic import protecting
from dpnn_bridge.base.shards import read_index, shards_of
from dpnn_bridge.errors import NotT7Error, OutputError, OutputExistsError, T7Error, T7FormatError
from dpnn_bridge.files.converting import convert
from dpnn_bridge.outputs import safetensors_file

INDEX = "m.safetensors.index.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Models whose weights are all 1 and all 2."""
    for name, value in (("one.t7", 1.0), ("two.t7", 2.0)):
        model = nn.Sequential(*[nn.Linear(8, 8) for _ in range(6)])
        for parameter in model.parameters():
            nn.init.constant_(parameter, value)
        dpnn_bridge.save(tmp_path / name, model)
    (tmp_path / "out").mkdir()
    return tmp_path


def written(folder: Path, name: str, **options: Any) -> Path:
    convert(folder / name, folder / "out" / "m.safetensors", max_shard_size=600, **options)
    return folder / "out" / INDEX


def values(index: Path) -> set[float]:
    return {float(v) for p in dpnn_bridge.load(index).parameters() for v in p.detach().unique()}


def names(index: Path) -> set[str]:
    return {p.name for p in index.parent.iterdir()}


def test_the_old_set_goes_when_the_new_one_is_there(folder: Path) -> None:
    index = written(folder, "one.t7")
    assert len(shards_of(index)) == 3
    old = names(index)
    written(folder, "two.t7", force=True)
    assert values(index) == {2.0}
    assert names(index) & old == {INDEX}
    assert names(index) == {INDEX, *(p.name for p in shards_of(index))}
    with pytest.raises(OutputExistsError):
        written(folder, "one.t7")
    assert values(index) == {2.0}


def test_the_set_of_an_earlier_version_goes_too(folder: Path) -> None:
    index = written(folder, "one.t7")
    content = json.loads(index.read_text())
    generation = content["metadata"].pop("generation")
    index.write_text(json.dumps(content).replace(f"-{generation}", ""))
    for shard in index.parent.glob("*.safetensors"):
        shard.rename(shard.with_name(shard.name.replace(f"-{generation}", "")))
    assert values(index) == {1.0}
    written(folder, "two.t7", force=True)
    assert names(index) == {INDEX, *(p.name for p in shards_of(index))}
    assert values(index) == {2.0}


KILLED = """
import itertools, os, pathlib, shutil, signal
from dpnn_bridge.files.converting import convert
count = stop = 0

def killing(function):
    def call(*args, **kwargs):
        global count
        count += 1
        if count == stop:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return call

for owner, name in ((os, "link"), (os, "rename"), (pathlib.Path, "replace"), (pathlib.Path, "unlink")):
    setattr(owner, name, killing(getattr(owner, name)))
for stop in itertools.count(1):
    shutil.copytree("out", f"out{stop}")
    child = os.fork()
    if child == 0:
        convert("two.t7", f"out{stop}/m.safetensors", max_shard_size=600, force=True)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(code)
    if code != -signal.SIGKILL:
        break
"""


def test_a_kill_leaves_one_whole_set(folder: Path) -> None:
    index = written(folder, "one.t7")
    run = subprocess.run([sys.executable, "-c", KILLED], cwd=folder, capture_output=True, text=True)
    codes = run.stdout.split()
    assert codes == ["-9"] * (len(codes) - 1) + ["0"], run.stderr
    found = [values(folder / f"out{stop}" / index.name) for stop in range(1, len(codes) + 1)]
    assert found == sorted(found, key=list)
    assert {1.0} in found[:-1]
    assert {2.0} in found[:-1]
    assert all(len(v) == 1 for v in found)
    killed = folder / f"out{len(codes) - 1}"
    convert(folder / "one.t7", killed / "m.safetensors", max_shard_size=600, force=True)
    assert values(killed / index.name) == {1.0}


@pytest.mark.parametrize("failing", [1, 2, 3, 4])
def test_a_file_that_cannot_be_put_leaves_the_old_set(
    failing: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = written(folder, "one.t7")
    before = {p.name: p.read_bytes() for p in index.parent.iterdir()}
    calls = 0

    def refusing(function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == failing:
                raise OSError(5, os.strerror(5))
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr(os, "link", refusing(os.link))
    monkeypatch.setattr(os, "replace", refusing(os.replace))
    with pytest.raises(OutputError, match="nothing was written"):
        written(folder, "two.t7", force=True)
    assert {p.name: p.read_bytes() for p in index.parent.iterdir()} == before


@pytest.mark.parametrize("number", [errno.EIO, errno.EINTR])
def test_a_set_whose_files_are_moved_with_an_error_is_complete(
    number: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network file system may answer a repeated request for a move that it has made already."""
    index = written(folder, "one.t7")

    def moving_with_an_error(function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            function(*args, **kwargs)
            raise OSError(number, os.strerror(number))

        return call

    monkeypatch.setattr(os, "link", moving_with_an_error(os.link))
    monkeypatch.setattr(os, "replace", moving_with_an_error(os.replace))
    written(folder, "two.t7", force=True)
    assert values(index) == {2.0}
    assert names(index) == {INDEX, *(p.name for p in shards_of(index))}


def test_shards_that_a_read_only_disk_keeps_are_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that becomes read-only after an error keeps the new shards. "nothing was written" was not true."""
    index = written(folder, "one.t7")
    before = names(index)

    def refusing(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as read_only:
        read_only.setattr(os, "replace", refusing)
        read_only.setattr(Path, "unlink", refusing)
        with pytest.raises(OutputError) as raised:
            written(folder, "two.t7", force=True)
    first = min(names(index) - before)
    assert str(raised.value) == (
        f"cannot write {index}: Read-only file system; 3 new files could not be removed, the first is {first}; "
        "remove them"
    )
    assert values(index) == {1.0}


def test_an_old_shard_that_cannot_be_removed_does_no_harm(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = written(folder, "one.t7")
    old = shards_of(index)[1]
    unlink = Path.unlink

    def refusing(self: Path, missing_ok: bool = False) -> None:
        if self == old:
            raise PermissionError(1, os.strerror(1), str(self))
        unlink(self, missing_ok)

    monkeypatch.setattr(Path, "unlink", refusing)
    written(folder, "two.t7", force=True)
    assert values(index) == {2.0}


def write_often(source: Path, target: Path) -> None:
    for _ in range(6):
        convert(source, target, max_shard_size=600, force=True)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="starts writers with fork")
def test_of_two_writers_one_wins_whole(folder: Path) -> None:
    index = folder / "out" / INDEX
    target = folder / "out" / "m.safetensors"
    writers = [FORKSERVER.Process(target=write_often, args=(folder / name, target)) for name in ("one.t7", "two.t7")]
    for writer in writers:
        writer.start()
    seen = []
    while any(w.is_alive() for w in writers):
        if index.exists():
            try:
                seen.append(values(index))
            except dpnn_bridge.errors.T7Error:  # replaced while it was read
                continue
    assert [w.exitcode for w in writers] == [0, 0]
    assert all(v in ({1.0}, {2.0}) for v in [*seen, values(index)])


def test_a_mix_is_refused(folder: Path) -> None:
    one = written(folder, "one.t7")
    first = shards_of(one)
    shutil.copytree(folder / "out", folder / "kept")
    written(folder, "two.t7", force=True)
    shutil.copy(folder / "kept" / first[1].name, shards_of(one)[1])
    for reading in (dpnn_bridge.load, lambda path: convert(path, folder / "again.pt")):
        with pytest.raises(T7FormatError, match="belongs to another conversion than the index"):
            reading(one)
    assert not dpnn_bridge.files.converting.is_converted(folder / "two.t7", one)
    one.write_text(re.sub('"generation": "[0-9a-f]+"', '"by": "another program"', one.read_text()))
    with pytest.raises(T7FormatError, match="belongs to another conversion"):
        dpnn_bridge.load(one)


def test_a_set_that_is_replaced_while_it_is_read_is_one_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = written(folder, "one.t7")
    original = safetensors_file.opened

    def opened(path: Path) -> Any:
        monkeypatch.setattr(safetensors_file, "opened", original)
        written(folder, "two.t7", force=True)
        return original(path)

    monkeypatch.setattr(safetensors_file, "opened", opened)
    with pytest.raises(T7Error, match="changed while it was read; try again"):
        safetensors_file.read_index(index)


@pytest.mark.parametrize("name", ["x.pt", "x.t7", "x.npz"])
def test_a_shard_that_changes_while_it_is_read_is_one_error(name: str, folder: Path) -> None:
    index = written(folder, "one.t7")
    shard = shards_of(index)[-1]

    def change(step: str) -> None:
        if step.startswith("writing"):
            status = shard.stat()
            shard.write_bytes(shard.read_bytes()[:-1] + b"\0")
            os.utime(shard, ns=(status.st_atime_ns, status.st_mtime_ns))

    with pytest.raises(T7Error, match="changed while it was read"):
        convert(index, folder / name, progress=change)
    assert not (folder / name).exists()


def test_an_index_lists_the_tensors_of_each_of_its_shards(folder: Path) -> None:
    index = written(folder, "one.t7")
    found = json.loads(index.read_text())
    places = found["weight_map"]
    name, other = next(iter(places)), next(p for p in places.values() if p != next(iter(places.values())))
    for changed in ({**places, name: other}, {n: p for n, p in places.items() if n != name}):
        index.write_text(json.dumps({**found, "weight_map": changed}))
        with pytest.raises(T7FormatError, match="contains other tensors than the index lists"):
            dpnn_bridge.load(index)


@pytest.mark.parametrize("generation", ["../x", "0A", "a" * 65, "", 5, None, ["a"]])
def test_the_identifier_of_a_conversion_is_hexadecimal(generation: object, folder: Path) -> None:
    """It is part of the name of a shard."""
    (folder / INDEX).write_text(json.dumps({"weight_map": {}, "metadata": {"generation": generation}}))
    assert read_index(folder / INDEX).generation == ""
    assert shards_of(folder / INDEX) == [folder / "m-00001-of-00001.safetensors"]


def test_an_index_has_a_bounded_size(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / INDEX).write_text(json.dumps({"weight_map": {}}))
    monkeypatch.setattr(shards, "_MAX_BYTES", 10)
    with pytest.raises(NotT7Error, match="is larger than"):
        read_index(folder / INDEX)


def test_a_shard_that_is_an_input_stays(folder: Path) -> None:
    first, second, *_ = shards_of(written(folder, "one.t7"))
    with protecting(lambda: [first]):
        written(folder, "two.t7", force=True)
    assert (first.exists(), second.exists()) == (True, False)


def test_only_shards_of_its_own_go(folder: Path) -> None:
    index = folder / "out" / INDEX
    foreign = ["other.safetensors", "m.safetensors", "m-00001-of-00002-x.safetensors", "n-00001-of-00001.safetensors"]
    foreign.append("m-00001-of-00002.safetensors.kept.safetensors")
    for name in foreign:
        (index.parent / name).write_bytes(b"mine")
    index.write_text(json.dumps({"weight_map": dict(enumerate(foreign))}))
    written(folder, "one.t7", force=True)
    assert {(index.parent / name).read_bytes() for name in foreign} == {b"mine"}


def test_a_model_without_tensors(folder: Path) -> None:
    dpnn_bridge.save(folder / "relu.t7", nn.Sequential(nn.ReLU()))
    index = written(folder, "relu.t7")
    assert len(shards_of(index)) == 1
    assert torch.equal(dpnn_bridge.load(index)(-torch.ones(2)), torch.zeros(2))
    written(folder, "one.t7", force=True)
    assert values(index) == {1.0}
