"""``--json`` of every command has the form that ``docs/schema/commands.json`` states."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from conftest import FIXTURES
from samples import SAMPLES

import dpnn_bridge
from dpnn_bridge.cli.convert import convert_command
from dpnn_bridge.cli.inspect import inspect_command
from dpnn_bridge.cli.verify import verify_command

jsonschema = pytest.importorskip("jsonschema", reason="needs jsonschema")
SCHEMA = json.loads((FIXTURES.parent / "docs" / "schema" / "commands.json").read_text(encoding="utf-8"))
LENET = SAMPLES / "torch-demos__mnist_convnet"
NET = """
from torch import nn

def net():
    return nn.Sequential(nn.Conv2d(1, 32, 5), nn.Tanh(), nn.MaxPool2d(3, 3, ceil_mode=True), nn.Conv2d(32, 64, 5),
                         nn.Tanh(), nn.MaxPool2d(2, 2), nn.Flatten(), nn.Linear(576, 200), nn.Tanh(),
                         nn.Linear(200, 10), nn.LogSoftmax(-1))
"""
COMMANDS: dict[str, Any] = {"convert": convert_command, "inspect": inspect_command, "verify": verify_command}
#: definition -> commands whose result has its form
CASES = {
    "inspect": ["inspect model.t7 --json", "inspect data.t7 --json -v"],
    "verify": [
        "verify model.t7 --json",
        "verify model.t7 --reference ref.t7 --json",
        "verify model.t7 other.t7 --json",
    ],
    "verify_data": ["verify data.t7 data.json --json", "verify data.t7 changed.json --json"],
    "convert": ["convert model.t7 a.pt --json", "convert unknown.t7 b.pt --allow-unsupported --json"],
    "convert_many": ["convert model.t7 broken.t7 --out-dir out --manifest m.jsonl --json"],
    "classes": ["convert --list-classes --json"],
    "verify_manifest": ["verify m.jsonl --json"],
    "port": [
        "convert model.t7 n.pt --into net.py:net --input 1x1x32x32 --json",
        "verify model.t7 net.py:net --input 1x1x32x32 --json",
    ],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("json")
    for name in ("model.t7", "ref.t7"):
        (home / name).symlink_to(LENET / name)
    dpnn_bridge.write_t7(home / "data.t7", {"x": [1.5, float("inf")], "y": "text"})
    dpnn_bridge.convert(home / "data.t7", home / "data.json")
    (home / "changed.json").write_text((home / "data.json").read_text().replace("text", "other"))
    model = dpnn_bridge.load(home / "model.t7")
    model[0].weight.data[0] += 1  # type: ignore[index]
    dpnn_bridge.write_t7(home / "other.t7", model)
    unknown = dpnn_bridge.read_t7(home / "model.t7")
    unknown["modules"][1].class_name = "nn.Unknown"
    dpnn_bridge.write_t7(home / "unknown.t7", unknown)
    (home / "broken.t7").write_bytes(b"\0" * 9)
    (home / "net.py").write_text(NET)
    return home


def test_every_form_is_stated(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    for name, commands in CASES.items():
        validator = jsonschema.Draft202012Validator({**SCHEMA, "$ref": f"#/$defs/{name}"})
        for words in commands:
            command, *arguments = words.split()
            result = CliRunner().invoke(COMMANDS[command], arguments)
            errors = [
                f"{'/'.join(map(str, e.path))}: {e.message[:200]}"
                for e in validator.iter_errors(json.loads(result.stdout))
            ]
            assert errors == [], words


def test_the_schema_is_one_and_the_page_names_its_forms() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    page = (FIXTURES.parent / "docs" / "json.md").read_text(encoding="utf-8")
    assert set(CASES) <= SCHEMA["$defs"].keys()
    assert [name for name in CASES if f"`{name}`" not in page] == []
