"""The programs that record values of Torch7 add new ones and change no others. A script takes the place of Torch7."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path

import pytest
from add_fixtures import main as add_fixtures
from record_cases import main as record_cases

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the script that stands for Torch7 is run by its first line")

ROOT = Path(__file__).parents[2]
GENERATOR = """
import json, os, pathlib
out = pathlib.Path(os.environ["FX_OUT"])
files = {files}
for name, size in files.items():
    (out / name).parent.mkdir(parents=True, exist_ok=True)
    (out / name).write_bytes(b"x" * size)
parts = out.parent / "parts"
parts.mkdir()
entries = [{{"name": n, "file": n, "class": n.split("/")[0], "kind": "module", "bytes": s}} for n, s in files.items()]
(parts / "part.jsonl").write_text("".join(json.dumps(e) + "\\n" for e in entries))
(parts / "part.failures").write_text({failures!r})
"""


def torch7(folder: Path, monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    """Name a Python program as Torch7."""
    th = folder / "th"
    th.write_text(f"#!{sys.executable}\n{program}")
    th.chmod(0o755)
    monkeypatch.setenv("DPNN_TORCH7", str(th))


@pytest.fixture
def fixtures(tmp_path: Path) -> Path:
    folder = tmp_path / "fixtures"
    (folder / "gen" / "nn").mkdir(parents=True)
    old = {"class": "nn.Old", "file": "nn/nn.Old/a.t7", "set": "nn", "sha256": "as it was"}
    (folder / "manifest.json").write_text(json.dumps({"fixtures": [old]}))
    return folder


def test_new_fixtures_are_added(fixtures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"nn.Old/a.t7": 3, "nn.Old/b.t7": 3, "nn.New/a.t7": 4, "nn.New/b.t7": 5}
    torch7(tmp_path, monkeypatch, GENERATOR.format(files=files, failures=""))
    assert add_fixtures(fixtures, [str(fixtures / "gen" / "nn" / "some.lua"), "a.t7"]) == 0
    old, new = json.loads((fixtures / "manifest.json").read_text())["fixtures"]
    assert old["sha256"] == "as it was"
    assert new == {
        **{"name": "nn.New/a.t7", "class": "nn.New", "kind": "module", "file": "nn/nn.New/a.t7", "set": "nn"},
        "sha256": hashlib.sha256(b"x" * 4).hexdigest(),
    }
    assert [str(p.relative_to(fixtures)) for p in fixtures.rglob("*.t7")] == ["nn/nn.New/a.t7"]


def test_a_case_that_fails_adds_nothing(
    fixtures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch7(tmp_path, monkeypatch, GENERATOR.format(files={"nn.New/a.t7": 3}, failures="New__a\tbad size\n"))
    before = (fixtures / "manifest.json").read_text()
    assert add_fixtures(fixtures, [str(fixtures / "gen" / "nn" / "some.lua"), "New"]) == 1
    assert "New__a\tbad size" in capsys.readouterr().err
    assert (fixtures / "manifest.json").read_text() == before


def test_the_manifest_has_the_form_in_which_fixtures_are_added() -> None:
    text = (ROOT / "fixtures" / "manifest.json").read_text()
    assert text == json.dumps(json.loads(text), indent=0, sort_keys=True)


def test_new_cases_are_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def record(name: str, value: int) -> str:
        return json.dumps({"name": name, "ok": True, "values": [value]}) + "\n"

    def answer(text: str) -> None:
        torch7(tmp_path, monkeypatch, f"import sys\nopen(f'{{sys.argv[2]}}/some.jsonl', 'w').write({text!r})\n")

    expected = tmp_path / "some.jsonl"
    expected.write_text(record("a", 1))
    answer(record("b", 2) + record("a", 1))
    assert record_cases(["some"], tmp_path) == 0
    assert expected.read_text() == record("a", 1) + record("b", 2)
    answer(record("a", 3) + record("c", 4) + record("b", 2))
    assert record_cases(["some"], tmp_path) == 1
    assert expected.read_text() == record("a", 1) + record("b", 2) + record("c", 4)
    assert "some/a" in capsys.readouterr().err
