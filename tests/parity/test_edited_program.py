"""dpnn-verify MODEL MODEL.py notes what no result shows: the mode of the model, and code that does not run."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

import dpnn_bridge
from dpnn_bridge.modules.nn.dropout import Dropout
from dpnn_bridge.outputs.py.changed import changed_definitions
from dpnn_bridge.parity.verify import verify


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    module = nn.Sequential(nn.Linear(3, 2), Dropout(0.5, v2=False)).eval()
    dpnn_bridge.write_t7(tmp_path / "model.t7", module)
    dpnn_bridge.save(tmp_path / "model.py", dpnn_bridge.load(tmp_path / "model.t7"))
    return tmp_path / "model.t7", tmp_path / "model.py"


def _notes(model: Path, program: Path, old: str, new: str) -> str:
    text = program.read_text()
    assert old in text
    program.write_text(text.replace(old, new))
    result = verify(model, converted=program)
    assert result.ok
    return "\n".join(result.notes)


def test_a_file_as_it_was_written_gets_no_note(files: tuple[Path, Path]) -> None:
    notes = _notes(*files, '"""The model with fresh weights."""', '"""Another docstring."""  # and a comment')
    assert notes.startswith(
        "model.py was run to build the model; it contains no weights, so the weights of MODEL were loaded.\n"
    )
    assert "in the other mode" not in notes


def test_another_mode_is_noted(files: tuple[Path, Path]) -> None:
    notes = _notes(*files, "    model.eval()\n", "")
    assert "model.py has the model and 2 more modules in training mode, and MODEL in the other mode" in notes


def test_changed_code_that_did_not_run_is_noted(files: tuple[Path, Path]) -> None:
    notes = _notes(*files, "noise / (1 - self.p)", "noise / (2 - self.p)")
    line = files[1].read_text().split("class Dropout")[0].count("\n") + 1
    assert f"only code that ran is compared: Dropout (line {line})" in notes


def test_a_file_may_declare_its_encoding(files: tuple[Path, Path]) -> None:
    model, program = files
    program.write_bytes(b"# coding: latin-1\n# \xe9\n" + program.read_bytes())
    result = verify(model, converted=program)
    assert result.ok
    assert "Its code differs" not in "\n".join(result.notes)


def test_the_mode_of_a_model_that_was_saved_in_another_one_is_noted(files: tuple[Path, Path]) -> None:
    model, _ = files
    dpnn_bridge.save(model.with_suffix(".pt"), dpnn_bridge.load(model).train())
    note, *_ = verify(model, converted=model.with_suffix(".pt")).notes
    assert note.startswith("model.pt has the model and 2 more modules in training mode")


def test_definitions_that_only_one_file_has_are_no_changes() -> None:
    assert changed_definitions("def f():\n    return 1", "def g():\n    return 1") == []
    assert changed_definitions("x = 1\ndef f():\n    'a'\n    return 2", "def f():\n    return 1") == ["f (line 2)"]


class Renamed(nn.Linear):
    """A subclass that computes what its base class computes, as which all formats but ``.py`` write it."""


def test_a_subclass_of_a_layer_is_equal_to_the_layer_unless_it_was_edited(tmp_path: Path) -> None:
    net = nn.Sequential(Renamed(3, 2))
    for suffix in (".pt", ".py"):
        dpnn_bridge.save(tmp_path / f"m{suffix}", net)
    assert verify(tmp_path / "m.pt", tmp_path / "m.py").ok
    code = (tmp_path / "m.py").read_text()
    (tmp_path / "m.py").write_text(
        code.replace("class Renamed(nn.Linear):", "class Renamed(nn.Linear):\n    def forward(self, x): return x\n")
    )
    assert not verify(tmp_path / "m.pt", tmp_path / "m.py").ok


def test_a_batch_normalization_without_the_rules_of_torch7_is_noted(tmp_path: Path) -> None:
    model, program = tmp_path / "model.t7", tmp_path / "model.py"
    dpnn_bridge.write_t7(model, nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)))
    dpnn_bridge.save(program, dpnn_bridge.load(model))
    note = "Batch normalizations of MODEL accept single samples; those of the file do not."
    assert note not in verify(model, converted=program).notes
    assert note in _notes(model, program, "    accept_single_samples(model)\n", "")
