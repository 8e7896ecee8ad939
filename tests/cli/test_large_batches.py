"""Many models of one file, and many files: the work for each does not grow with their number."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import dpnn_bridge
from dpnn_bridge import batch
from dpnn_bridge.base.atomic import check_output, protecting
from dpnn_bridge.base.file_set import FileSet
from dpnn_bridge.errors import OutputError
from dpnn_bridge.files import source_cache
from dpnn_bridge.files.converting import convert
from dpnn_bridge.objects import LuaTable

KEYS = ["a", "b", "c", "d"]


def several(path: Path, seed: int = 0) -> Path:
    """A file with a model for each key; two of them share a weight."""
    torch.manual_seed(seed)
    models = {key: dpnn_bridge.to_lua(nn.Sequential(nn.Linear(3, 2))) for key in KEYS}
    models["b"]["modules"][1]["weight"] = models["a"]["modules"][1]["weight"]
    dpnn_bridge.write_t7(path, LuaTable(models))
    return path


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is read, and what gets a checksum, as often as it does."""
    done: list[str] = []

    def counted(name: str) -> Any:
        function = getattr(source_cache, name)
        return lambda *arguments: done.append(name) or function(*arguments)

    for name in ("read_source", "checksum_of"):
        monkeypatch.setattr(source_cache, name, counted(name))
    return done


@pytest.mark.parametrize("suffix", ["pt", "py", "t7"])
def test_the_models_of_a_file_are_converted_from_one_reading(suffix: str, reads: list[str], tmp_path: Path) -> None:
    source = several(tmp_path / "m.t7")
    tasks = batch.tasks_for_models(source, tmp_path / f"out.{suffix}", KEYS)
    (tmp_path / "alone").mkdir()
    outcomes = list(batch.run(tasks, manifest=tmp_path / "done.jsonl"))
    assert [o.status for o in outcomes] == ["converted"] * 4
    assert sorted(reads) == ["checksum_of", "read_source"]
    for task in tasks:
        alone = tmp_path / "alone" / Path(task.target).name
        convert(source, alone, key=task.key, checksum=True)
        assert Path(task.target).read_bytes() == alone.read_bytes()
    reads.clear()
    assert [o.status for o in batch.run(tasks, manifest=tmp_path / "done.jsonl")] == ["skipped"] * 4
    assert reads == ["checksum_of"]


def test_a_file_that_changes_between_two_models_is_read_again(reads: list[str], tmp_path: Path) -> None:
    source = several(tmp_path / "m.t7")
    outcomes = batch.run(batch.tasks_for_models(source, tmp_path / "out.pt", KEYS))
    next(outcomes)
    several(source, seed=1)
    list(outcomes)
    assert reads == ["read_source"] * 2
    last = dpnn_bridge.load(source, key="d").state_dict()
    assert all(t.equal(last[name]) for name, t in dpnn_bridge.load(tmp_path / "out.d.pt").state_dict().items())


def test_present_outputs_are_compared_with_all_inputs_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts, stat = [], os.stat
    for number in (50, 200):
        asked: list[object] = []
        (tmp_path / f"{number}/out").mkdir(parents=True)
        sources = [tmp_path / f"{number}/{i}.t7" for i in range(number)]
        for source in sources:
            source.touch()
            (source.parent / "out" / f"{source.stem}.pt").touch()
        monkeypatch.setattr(os, "stat", lambda *given, **more: asked.append(given) or stat(*given, **more))  # noqa: B023
        assert len(batch.tasks_for(sources, tmp_path / f"{number}/out", ".pt")) == number
        monkeypatch.undo()
        counts.append(len(asked))
    assert counts[1] < 6 * counts[0], counts  # it was 15 times


def test_a_file_is_found_by_its_name_and_by_what_it_is(tmp_path: Path) -> None:
    for name in ("input", "other", "new"):
        (tmp_path / name).write_text(name)
    (tmp_path / "symbolic").symlink_to("input")
    os.link(tmp_path / "input", tmp_path / "hard")
    kept = FileSet([tmp_path / "input", tmp_path / "missing"])
    with protecting(lambda: kept):
        check_output(tmp_path / "other", True)
        for name in ("input", "symbolic", "hard"):
            with pytest.raises(OutputError, match="is the input"):
                check_output(tmp_path / name, True)
        os.replace(tmp_path / "new", tmp_path / "input")  # another program writes it again
        (tmp_path / "missing").touch()
        for name in ("input", "symbolic", "missing"):
            with pytest.raises(OutputError, match="is the input"):
                check_output(tmp_path / name, True)
        check_output(tmp_path / "hard", True)
