"""An option that a command does not take in its form is one error with code 2; files beside the result are named."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import click
import pytest
import torch
from click.testing import CliRunner
from samples import SAMPLES

import dpnn_bridge
from dpnn_bridge.base.arguments import renamed
from dpnn_bridge.cli.convert import _chosen, convert_command
from dpnn_bridge.cli.inspect import inspect_command
from dpnn_bridge.cli.verify import verify_command
from dpnn_bridge.conversion.registry import known_names
from dpnn_bridge.errors import OptionError

LENET = SAMPLES / "torch-demos__mnist_convnet" / "model.t7"
COMMANDS: dict[str, click.Command] = {
    "convert": convert_command,
    "inspect": inspect_command,
    "verify": verify_command,
}
#: command -> words of its error
REFUSED = {
    "convert --list-classes --force": "--list-classes does not take --force",
    "convert --list-classes --json m.t7": "--list-classes takes no files",
    "convert": "pass IN and OUT",
    "convert --out-dir out": "pass IN and OUT",
    "convert m.t7 o.pt --jobs 2": "--jobs, --manifest and --dask need --out-dir or --all",
    "convert m.t7 o.pt --all --sha256 00": "need one input and one output",
    "convert m.t7 n.t7 --out-dir out --sha256 00": "need one input and one output",
    "convert m.t7 o.pt --all --report r.json": "need one input and one output",
    "convert m.t7 o.pt --into n.py:net --dtype float16 --card c.md": "--into does not take --dtype, --card",
    "convert m.t7 o.pt/": "'o.pt/' is not the name of a file; remove the end of the path",
    "convert m.t7 o.pt/. --force": "'o.pt/.' is not the name of a file",
    "convert m.t7 o.pt --report r.json/": "'r.json/' is not the name of a file",
    "convert m.t7 o.pt --card c.md/": "'c.md/' is not the name of a file",
    "convert d.t7 o.npz --dtype float16": "--dtype casts models, but the file contains only data",
    "inspect m.t7 --html o.html --json": "a picture does not take --json",
    "inspect m.t7 --dot --raw --limit 3": "a picture does not take --raw, --limit",
    "inspect m.t7 --html o.html/": "'o.html/' is not the name of a file",
    "inspect m.t7 --html o.html --unfold 1": "--unfold needs --dot or --mermaid",
    "inspect m.t7 --json --input 1x1x32x32": "the tree (--raw) does not take --input",
    "inspect m.t7 --raw --plugin p.py": "the tree (--raw) does not take --plugin",
    "inspect m.t7 --dot --mermaid": "omit one of them",
    "verify m.t7 --rtol nan": "--rtol is nan; pass a finite number",
    "verify m.t7 --gradient-rtol inf": "--gradient-rtol is inf; pass a finite number",
    "verify m.t7 --rtol -1": "--rtol",
    "verify m.t7 --partial-sandbox": "need --lua",
    "verify m.t7 --lua none.lua": "--lua: none.lua: cannot be opened",
    "verify m.t7 --output none.npy": "--output none.npy: not a file",
    "verify m.t7 n.py:net --torch7 th": "FILE.py:NET does not take --torch7",
    "verify https://example.com/m.t7": "is a URL, and this argument takes only local files; download it first",
    "verify m.t7 --known-differences https://example.com/k.json": "is a URL",
    "convert m.t7 o.pt --plugin https://example.com/p.py": "is a URL",
    "verify m.t7 s3://a/b.pt": "is a URL, and this argument takes only local files",
    "verify ''": "the name of the file is empty",
    "verify m.t7 --html o.html/": "'o.html/' is not the name of a file",
    "verify m.jsonl --html o.html": "a manifest does not take --html",
    "verify m.jsonl o.pt": "omit o.pt",
    "verify d.t7 d.npz --html o.html": "data without a model does not take --html",
}


def test_options_of_another_form_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("m.t7", "n.t7"):
        (tmp_path / name).symlink_to(LENET)
    dpnn_bridge.write_t7("d.t7", {"x": [1.5]})
    dpnn_bridge.convert("d.t7", "d.npz")
    Path("m.jsonl").write_text("")
    before = sorted(tmp_path.iterdir())
    wrong = []
    for words, expected in REFUSED.items():
        command, *arguments = shlex.split(words)
        result = CliRunner().invoke(COMMANDS[command], arguments)
        if (result.exit_code, expected in result.stderr, result.stdout) != (2, True, ""):
            wrong.append((words, result.exit_code, result.output[-200:]))
    assert wrong == []
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("arguments", [["", "o.pt"], ["m.t7", ""], ["m.t7", "o.pt", "--report", ""]])
def test_an_empty_name_is_called_empty(arguments: list[str]) -> None:
    """The error advised to remove the end of the path."""
    result = CliRunner().invoke(convert_command, arguments)
    assert result.exit_code == 2
    assert "the name of the file is empty; pass a name" in result.stderr


@pytest.mark.parametrize(
    "words", ["convert m.t7 o.onnx --input b.npy", "verify m.t7 --input b.npy", "verify m.t7 --output b.npy"]
)
def test_a_damaged_array_is_named_with_its_option(words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.t7").symlink_to(LENET)
    Path("b.npy").write_bytes(b"no array" * 9)
    command, *arguments = words.split()
    result = CliRunner().invoke(COMMANDS[command], arguments)
    assert result.exit_code == 3
    assert re.search(rf"error: {arguments[-2]} \S*b.npy: not a numpy array", result.stderr)


def test_files_beside_the_result_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.t7").symlink_to(LENET)
    done = CliRunner().invoke(convert_command, ["m.t7", "o.pt", "--report", "r.json", "--card", "c.md"]).stdout
    assert [line.rpartition(", ")[0] for line in done.splitlines()[1:]] == [
        "m.t7 -> r.json: report",
        "m.t7 -> c.md: model card",
    ]
    assert "m.t7 -> v.html: report, " in CliRunner().invoke(verify_command, ["m.t7", "--html", "v.html"]).stdout
    printed = CliRunner().invoke(inspect_command, ["m.t7", "--html", "p.html", "--dot"]).stdout
    assert "->" not in printed.partition("\n")[0], "the graph alone"
    assert CliRunner().invoke(inspect_command, ["m.t7", "--html", "q.html", "-q"]).stdout == ""


def test_list_of_classes_as_json() -> None:
    found = json.loads(CliRunner().invoke(convert_command, ["--json", "--list-classes"]).stdout)
    assert found["nn.Linear"] == ["torch.nn.Linear"]
    assert found.keys() == {name for name in known_names() if not name.startswith("dpnn_bridge.")}


def test_earlier_names_of_arguments_warn(tmp_path: Path) -> None:
    layer, x = torch.nn.Linear(3, 2), torch.zeros(1, 3)
    with pytest.warns(DeprecationWarning, match="save: example= is now input=") as caught:
        dpnn_bridge.save(tmp_path / "m.pt2", layer, example=x)  # type: ignore[call-arg]
    assert [w.filename for w in caught] == [__file__]
    with pytest.raises(OptionError, match="omit example="):
        dpnn_bridge.to_lua(layer, input=x, example=x)  # type: ignore[call-arg]
    assert renamed(old="new")(lambda new: new)(new=3) == 3


def test_zero_is_a_value_of_an_option() -> None:
    assert _chosen({"opset": 0, "key": None, "plugins": (), "inplace": False}) == {"opset": 0}


def test_a_file_without_a_value_is_no_output(tmp_path: Path) -> None:
    torch.save(None, tmp_path / "none.pt")
    arguments = [str(LENET), "--input", "1x1x32x32", "--output", str(tmp_path / "none.pt")]
    result = CliRunner().invoke(verify_command, arguments)
    assert (result.exit_code, "none.pt: expected a tensor" in result.output) == (2, True)
