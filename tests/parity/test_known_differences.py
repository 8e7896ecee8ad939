"""fixtures/known_differences.json: all of it is needed, and with it every fixture verifies."""

from __future__ import annotations

import json
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from conftest import FIXTURES, KNOWN, KNOWN_FILE, manifest
from rnn_replay import Replay

import dpnn_bridge
from dpnn_bridge import parity
from dpnn_bridge.cli.verify import verify_command
from dpnn_bridge.parity import verification
from dpnn_bridge.parity.known_differences import known_reasons
from dpnn_bridge.parity.verify import verify

WEIGHTS_SHARED = FIXTURES / "nn" / "nn.Sequential" / "Sequential__net_siamese_weightonly__double_train.t7"


def run(*args: object) -> Result:
    return CliRunner().invoke(verify_command, [str(WEIGHTS_SHARED), *map(str, args)])


@pytest.mark.parametrize("package", ["dpnn", "nn", "rnn", "third"])
def test_every_fixture_of_the_repository_verifies(package: str) -> None:
    files = [FIXTURES / e["file"] for e in manifest(kind=("module", "criterion"), set=package)]
    results = {file.stem: verify(file, known=KNOWN) for file in files}
    assert {name: verification.summary(r) for name, r in results.items() if not r.ok} == {}
    shown = sum(bool(known_reasons(r.differences)) for r in results.values())
    assert 0 < shown < len(results) / 10


def test_every_known_difference_is_there() -> None:
    """An entry that nothing needs any more is to be removed."""
    fixtures = manifest(kind=("module", "criterion", "sequence"))
    for entry in KNOWN:
        names = [f for f in fixtures if any(fnmatchcase(f["name"], pattern) for pattern in entry.files)]
        for pattern in entry.compared if names else ():  # some stand in the larger set only
            alone = replace(entry, compared=(pattern,))
            assert any(alone.covers(f["name"], d.name) for f in names for d in failures(f)), (entry.files, pattern)


@cache
def _failures(file: str, kind: str) -> tuple[parity.Difference, ...]:
    fixture = dpnn_bridge.read_t7(FIXTURES / file)
    replay = Replay(fixture, "cpu", parity.Tolerance()) if kind == "sequence" else None
    result = replay.run() if replay else parity.check(fixture)
    return tuple(result.failures)


def failures(entry: dict[str, Any]) -> tuple[parity.Difference, ...]:
    return _failures(entry["file"], entry["kind"])


def test_known_differences_are_reported_with_their_reason(tmp_path: Path) -> None:
    assert run().exit_code == 4
    result = run("--known-differences", KNOWN_FILE)
    assert result.exit_code == 0, result.output
    assert "≠" in result.stdout
    assert "known difference: modules[1].modules[1].modules[1].gradWeight, " in result.stdout
    assert "the branches share weights and not gradients" in result.stdout
    assert result.stdout.splitlines()[-1].endswith("4 known differences from Torch7")
    data = json.loads(run("--known-differences", KNOWN_FILE, "--json").stdout)
    assert data["ok"] is True
    assert sum(d["known"].startswith("the branches share") for d in data["whole"]) == 4
    other = tmp_path / "known.json"
    other.write_text('[{"files": ["*siamese*"], "compared": ["gradParams?1?"], "reason": "one of four"}]')
    result = run("--known-differences", other)
    assert result.exit_code == 4
    assert "FAIL: 3 of " in result.stdout


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "line 1"),
        ("{}", "a list"),
        ("[7]", "entry 1"),
        ('[{"files": ["*"], "compared": ["*"], "reason": " "}]', "reason"),
        ('[{"files": "*", "compared": ["*"], "reason": "r"}]', "files"),
    ],
)
def test_a_damaged_file_of_known_differences_is_refused(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "known.json").write_text(content)
    result = run("--known-differences", tmp_path / "known.json")
    assert result.exit_code == 2
    assert message in result.stderr
