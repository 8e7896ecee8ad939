"""``dpnn-convert --card``: a model card that the Hugging Face Hub reads, with what was verified."""

from __future__ import annotations

import ast
import errno
import os
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from samples import SAMPLES
from torch import nn

import dpnn_bridge
from dpnn_bridge.base.checksum import sha256_of
from dpnn_bridge.cli.convert import convert_command
from dpnn_bridge.parity.card import _LOADING, _code, _loading, _text

MODEL = SAMPLES / "torch-demos__mnist_convnet" / "model.t7"


def converted(folder: Path, monkeypatch: pytest.MonkeyPatch, words: str) -> Result:
    monkeypatch.chdir(folder)
    if not (folder / "model.t7").exists():
        (folder / "model.t7").symlink_to(MODEL)
    return CliRunner().invoke(convert_command, words.split())


def test_a_card_compares_a_file_as_it_was_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dpnn_bridge.write_t7(tmp_path / "words.t7", nn.Sequential(nn.Embedding(5, 3)))
    words = "words.t7 words.pt2 --index-base 0 --input 2x3 --card README.md"
    assert converted(tmp_path, monkeypatch, words).exit_code == 0
    assert "PASS: forward equal" in (tmp_path / "README.md").read_text(encoding="utf-8")


def test_a_card_states_provenance_and_what_was_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = converted(tmp_path, monkeypatch, "model.t7 lenet.pt --card README.md")
    assert result.exit_code == 0, result.output
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlibrary_name: pytorch\n")
    assert sha256_of(MODEL) in card
    assert sha256_of(tmp_path / "lenet.pt") in card
    assert "169,506 parameters" in card
    assert "| 2 | `nn.SpatialConvolutionMM` | `torch.nn.Conv2d` |" in card
    assert "PASS: forward equal" in card
    assert "fixtures of Torch7" in card
    assert '```python\nimport dpnn_bridge\n\nmodel = dpnn_bridge.load("lenet.pt")\n```' in card
    assert 'torch.load("lenet.pt", weights_only=True)' in card


def test_a_card_of_shards_says_how_to_load_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = "model.t7 net.safetensors --max-shard-size 300kB --card README.md"
    result = converted(tmp_path, monkeypatch, words)
    assert result.exit_code == 0, result.output
    assert 'dpnn_bridge.load("net.safetensors.index.json")' in (tmp_path / "README.md").read_text(encoding="utf-8")


def test_a_card_that_was_completed_by_hand_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = tmp_path / "README.md"
    card.write_text("license: mit")
    words = "model.t7 lenet.pt --card README.md"
    refused = converted(tmp_path, monkeypatch, words)
    assert refused.exit_code == 6, refused.output
    assert card.read_text() == "license: mit"
    assert not (tmp_path / "lenet.pt").exists()
    assert converted(tmp_path, monkeypatch, f"{words} --force").exit_code == 0
    assert card.read_text(encoding="utf-8").startswith("---\nlibrary_name")


def test_a_card_that_another_program_writes_meanwhile_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dpnn_bridge.write_t7(tmp_path / "small.t7", nn.Sequential(nn.Linear(2, 2)))

    def card_after_another_writer(*_: object) -> str:
        (tmp_path / "c.md").write_text("license: mit")
        return "ours"

    monkeypatch.setattr("dpnn_bridge.parity.card.card", card_after_another_writer)
    result = converted(tmp_path, monkeypatch, "small.t7 a.pt --card c.md")
    assert result.exit_code == 6, result.output
    assert result.stderr == "error: a.pt was written, but c.md exists; use --force to replace it\n"
    assert (tmp_path / "c.md").read_text() == "license: mit"
    (tmp_path / "c.md").unlink()
    result = converted(tmp_path, monkeypatch, "small.t7 b.pt --report r.json --card c.md")
    assert result.stderr == "error: b.pt and r.json were written, but c.md exists; use --force to replace it\n"


def test_an_input_that_fails_after_the_output_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> str:
        raise OSError(errno.EIO, os.strerror(errno.EIO), "small.t7")

    dpnn_bridge.write_t7(tmp_path / "small.t7", nn.Sequential(nn.Linear(2, 2)))
    monkeypatch.setattr("dpnn_bridge.conversion.report.sha256_of", failing)
    result = converted(tmp_path, monkeypatch, "small.t7 a.pt --report r.json")
    written = "a.pt was written, but the files cannot be described"
    assert result.stderr.startswith(f"error: small.t7: {written}: input/output error")
    assert sorted(p.name for p in tmp_path.iterdir() if p.suffix in (".pt", ".json")) == ["a.pt"]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("model.t7 --out-dir out --card c.md", 2),
        ("model.t7 a.pt --card a.pt", 2),
        ("model.t7 a.pt --into net.py:Net --input 1x1x32x32 --card c.md", 2),
        ("model.t7 a.pt --card no/such/c.md", 6),
        ("data.t7 a.npz --card c.md", 5),
    ],
)
def test_wrong_use_writes_no_card(words: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dpnn_bridge.write_t7(tmp_path / "data.t7", {"x": 1.0})
    assert converted(tmp_path, monkeypatch, words).exit_code == code
    assert not (tmp_path / "c.md").exists()


def test_an_error_about_a_card_says_that_the_output_exists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dpnn_bridge.write_t7(tmp_path / "data.t7", {"x": 1.0})
    result = converted(tmp_path, monkeypatch, "data.t7 a.json --card c.md")
    assert result.exit_code == 5
    assert (tmp_path / "a.json").exists()
    assert result.stderr == "error: a.json was written, but c.md: a model card needs a model; a.json contains data\n"


@pytest.mark.parametrize(
    ("name", "text", "code"),
    [
        ("a\\|b", "a\\\\\\|b", "a\\¦b"),
        ("![x](http://h/p.png)", "!\\[x\\](http\\://h/p.png)", "![x](http://h/p.png)"),
        ("<img src=x>`", "\\<img src=x>\\`", "<img src=x>'"),
    ],
    ids=["pipe", "picture", "tag"],
)
def test_names_in_a_file_are_not_markdown(name: str, text: str, code: str) -> None:
    assert (_text(name), _code(name)) == (text, code)


def test_the_code_of_a_card_fits_its_language() -> None:
    assert "```lua\nmodel = torch.load(" in _loading(Path("m.t7"))
    assert "import runpy" in _loading(Path("class.py"))


@pytest.mark.parametrize("suffix", [suffix for suffix in _LOADING if suffix != ".t7"])
@pytest.mark.parametrize("stem", ["my-model", '");import os;("', "a\n```\nb\\", "\x1b[2J"])
def test_a_card_loads_files_of_any_name(stem: str, suffix: str) -> None:
    programs = re.findall(r"^```python\n(.*?)^```\n", _loading(Path(f"{stem}{suffix}")), re.S | re.M)
    assert len(programs) == len([program for program in _LOADING[suffix] if program])
    strings = [n.value for p in programs for n in ast.walk(ast.parse(p)) if isinstance(n, ast.Constant)]
    assert strings.count(f"{stem}{suffix}") == len(programs)
    assert "".join(programs).replace("\n", "").isprintable()


def test_text_of_a_file_is_no_link_in_a_card() -> None:
    assert _text("see https://a.b and WWW.a.b") == r"see https\://a.b and WWW\.a.b"
