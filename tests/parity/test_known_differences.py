"""fixtures/known_differences.json: all of it is needed, and with it every fixture verifies."""

from __future__ import annotations

import json
import os
import runpy
import time
import tracemalloc
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import formula
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from conftest import FIXTURES, KNOWN, KNOWN_FILE, manifest
from rnn_replay import Replay

import dpnn_bridge
from dpnn_bridge import parity
from dpnn_bridge.cli.verify import verify_command
from dpnn_bridge.compare.differences import Difference
from dpnn_bridge.compare.verdict import Verdict
from dpnn_bridge.errors import T7LimitError
from dpnn_bridge.objects import LuaTable, LuaTensor
from dpnn_bridge.parity import verification
from dpnn_bridge.parity.known_differences import (
    KnownDifference,
    Matching,
    known_reasons,
    mark_known,
    read_known_differences,
)
from dpnn_bridge.parity.verify import verify

#: the script that writes the table by verdict
TABLE = runpy.run_path(str(Path(__file__).parents[2] / "docs" / "generate_verdicts.py"))
WEIGHTS_LOST = (
    FIXTURES / "dpnn/2016/SpatialBinaryConvolution/2016.SpatialBinaryConvolution.forward_twice_train.train.double.t7"
)
WEIGHTS_SHARED = FIXTURES / "nn/nn.Sequential/Sequential__net_siamese_weightonly__double_train.t7"


def run(*args: object) -> Result:
    return CliRunner().invoke(verify_command, [str(WEIGHTS_LOST), *map(str, args)])


#: whether all fixtures are verified, and the table in docs/parity.md: in the nightly run, because it takes a minute
ALL = "DPNN_VERDICTS" in os.environ


@pytest.mark.parametrize("package", ["dpnn", "nn", "rnn", "third"])
def test_fixtures_of_the_repository_verify(package: str) -> None:
    """Every third one; ``test_parity.py`` runs every fixture."""
    files = [FIXTURES / e["file"] for e in manifest(kind=("module", "criterion"), set=package)]
    results = [verify(file, known=KNOWN) for file in files[:: 1 if ALL else 3]]
    assert {r.model: verification.summary(r) for r in results if not r.ok} == {}
    shown = sum(bool(known_reasons(r.differences)) for r in results)
    assert 0 < shown < len(results) / 10
    if ALL and Path(TABLE["FIXTURES"]) == FIXTURES:
        assert TABLE["rows"](f"fixtures of {package}", results) in TABLE["TARGET"].read_text()


@pytest.mark.skipif(not ALL, reason="DPNN_VERDICTS is not set")
def test_the_table_by_verdict_has_every_published_architecture() -> None:
    assert TABLE["rows"]("published architectures", TABLE["published"]()) in TABLE["TARGET"].read_text()


def test_every_known_difference_is_there() -> None:
    """An entry that nothing needs any more is to be removed."""
    fixtures = manifest(kind=("module", "criterion", "sequence"))
    for entry in KNOWN:
        names = [f for f in fixtures if entry.applies_to(f["name"])]
        for pattern in entry.compared if names else ():  # some stand in the larger set only
            alone = replace(entry, compared=(pattern,))
            assert any(alone.covers(f["name"], d) for f in names for d in failures(f)), (entry.files, pattern)


@pytest.mark.parametrize("entry", KNOWN, ids=lambda entry: entry.files[0])
def test_another_reference_value_is_not_excused(entry: KnownDifference) -> None:
    """Every entry says what differs, by a message or in numbers."""
    assert entry.message or entry.measured
    fixtures = manifest(kind=("module", "criterion", "sequence"))
    for f in [f for f in fixtures if entry.applies_to(f["name"])][:3]:
        fixture = dpnn_bridge.read_t7(FIXTURES / f["file"])
        changed = [tensor for name in ("output", "gradInput", "gradParams", "params") for tensor in held(fixture, name)]
        for call in fixture["calls"].as_list() if f["kind"] == "sequence" else []:
            changed += [tensor for name in ("output", "gradInput") for tensor in held(call, name)]
        for tensor in changed:
            values = tensor.torch()
            values[tuple(values.isfinite().nonzero()[-1])] += 1e-3
        for name in {"forward_error", "backward_error", "backwardError"} & set(fixture):
            fixture[name] = "another one"
        if fixture.get("output") is None:
            fixture["output"] = 1.0
        result = outcome(fixture, f["kind"])
        mark_known(result.differences, [entry], f["name"])
        assert result.failures, f["name"]
        excused = {d.name for d in result.differences if d.verdict is Verdict.KNOWN}
        assert not {d.name for d in failures(f) if d.index is not None} & excused, f["name"]


def held(table: Any, name: str) -> list[LuaTensor]:
    """The tensors of floating point in a field."""
    value = table.get(name)
    if isinstance(value, LuaTensor):
        return [value] if 0 not in value.shape and value.shape and "Long" not in value.class_name else []
    return [t for key in value for t in held(value, key)] if isinstance(value, LuaTable) else []


def outcome(fixture: Any, kind: str) -> parity.Result:
    return Replay(fixture, "cpu", parity.Tolerance()).run() if kind == "sequence" else parity.check(fixture)


@cache
def _failures(file: str, kind: str) -> tuple[parity.Difference, ...]:
    return tuple(outcome(dpnn_bridge.read_t7(FIXTURES / file), kind).failures)


def failures(entry: dict[str, Any]) -> tuple[parity.Difference, ...]:
    return _failures(entry["file"], entry["kind"])


def test_known_differences_are_reported_with_their_reason(tmp_path: Path) -> None:
    assert run().exit_code == 4
    result = run("--known-differences", KNOWN_FILE)
    assert result.exit_code == 0, result.output
    assert "≠" in result.stdout
    assert "known difference: output, gradInput: Torch7 loses the weights for good" in result.stdout
    assert result.stdout.splitlines()[-1].startswith("PASS: forward known difference, gradients known difference")
    data = json.loads(run("--known-differences", KNOWN_FILE, "--json").stdout)
    assert (data["ok"], data["verdict"]) == (True, "known")
    assert [d["name"] for d in data["whole"] if d["reason"].startswith("Torch7 loses")] == ["output", "gradInput"]
    other = tmp_path / "known.json"
    other.write_text('[{"files": ["*forward_twice*"], "compared": ["gradInput"], "reason": "one of two"}]')
    result = run("--known-differences", other)
    assert result.exit_code == 4
    assert "FAIL: forward different, gradients known difference; 1 of " in result.stdout


def test_a_parameter_whose_gradients_torch7_keeps_apart_has_their_sum(tmp_path: Path) -> None:
    result = verify(WEIGHTS_SHARED)
    assert (result.forward, result.gradients) == (Verdict.EQUAL, Verdict.KNOWN)
    known = [d for d in result.differences if d.verdict is Verdict.KNOWN]
    assert len(known) == 4
    assert all("one gradient, which combines them" in d.reason for d in known)
    fixture = dpnn_bridge.read_t7(WEIGHTS_SHARED)
    fixture["gradParams"][1].torch()[0, 0] += 1e-6
    dpnn_bridge.write_t7(tmp_path / "changed.t7", fixture)
    assert verify(tmp_path / "changed.t7").gradients is Verdict.DIFFERENT


def test_a_gradient_that_layers_share_counts_once_in_the_sum() -> None:
    """Layers 1 and 2 have one gradient in Torch7, layers 3 and 4 another one; all four have one weight."""
    weight = LuaTensor.from_numpy(np.eye(2) + 0.1)
    layers = [formula.lua("nn.Linear") for _ in range(4)]
    for layer in layers:
        layer["weight"] = weight
    net = formula.lua("nn.Sequential", *layers)
    module, x = dpnn_bridge.to_torch(net), torch.ones(1, 2, dtype=torch.float64)
    output = module(x)
    output.sum().backward()
    total = next(module.parameters()).grad
    assert total is not None
    first, second = (LuaTensor.from_numpy((total * part).numpy()) for part in (0.25, 0.75))
    values = {"input": x, "output": output.detach(), "gradOutput": torch.ones_like(output)}
    reference = LuaTable({k: LuaTensor.from_numpy(v.numpy()) for k, v in values.items()})
    reference["module"], reference["gradParams"] = net, LuaTable.from_list([first, first, second, second])
    assert parity.check(reference).ok
    first.torch()[0, 0] += 1e-6
    assert not parity.check(reference).ok


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "line 1"),
        ("{}", "a list"),
        ("[7]", "entry 1"),
        ('[{"files": ["*"], "compared": ["*"], "reason": " "}]', "reason"),
        (
            f'[{{"files": ["*"], "compared": ["*"], "reason": "{"r" * 2001}"}}]',
            "the reason has more than 2000 characters",
        ),
        ('[{"files": "*", "compared": ["*"], "reason": "r"}]', "files"),
        ('[{"files": ["*"], "compared": [], "reason": "r"}]', "compared must be a list of at least one pattern"),
        ('[{"files": ["*"], "compared": ["*"], "reason": "r", "message": 1}]', "message"),
        ('[{"files": ["*"], "compared": ["*"], "reason": "r", "measured": {"a b": {"found": 1}}}]', "snr"),
        (
            f'[{{"files": ["*"], "compared": ["*"], "reason": "r", "measured": {{"a b": {{"snr": 1{"0" * 400}}}}}}}]',
            "more than 400 digits",
        ),
    ],
)
def test_a_damaged_file_of_known_differences_is_refused(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "known.json").write_text(content)
    result = run("--known-differences", tmp_path / "known.json")
    assert result.exit_code == 2
    assert message in result.stderr


def test_brackets_in_a_pattern_are_those_of_a_name() -> None:
    entry = KnownDifference(("*",), ("gradParams[1]", "after.*[?]"), "a reason")
    names = ["gradParams[1]", "after.x[2]", "gradParams1", "gradParams[2]"]
    assert [entry.covers("a", Difference(name, 1.0, 0.0)) for name in names] == [True, True, False, False]


def test_a_long_pattern_takes_little_memory(tmp_path: Path) -> None:
    file = tmp_path / "known.json"
    patterns = ["*a" * 50_000, "*" * 100_000 + "b", "?" * 100_000]
    file.write_text(json.dumps([{"files": ["*"], "compared": patterns, "reason": "none"}]))
    difference = Difference("a" * 200, 1.0, 0.0)
    tracemalloc.start()
    try:
        mark_known([difference], read_known_differences(file), "x")
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    assert not difference.ok


@pytest.mark.parametrize(
    ("text", "pattern", "expected"),
    [
        ("", "", True),
        ("", "**", True),
        ("", "?", False),
        ("output[1]", "output[?]", True),
        ("output[1]", "*[1]", True),
        ("output1", "output[1]", False),
        ("abcabd", "*ab?d*", False),
        ("abcabd", "*ab*d", True),
        ("a*b", "a*b", True),
        ("ab", "a", False),
        ("a\nb", "a?b", True),
    ],
)
def test_patterns_match(text: str, pattern: str, expected: bool) -> None:
    assert KnownDifference((pattern,), (), "").applies_to(text) == expected


@pytest.mark.parametrize(("patterns", "length", "names"), [(1100, 6, 1100), (1, 20_000, 1)])
def test_the_comparison_of_patterns_with_names_has_a_limit(patterns: int, length: int, names: int) -> None:
    known = [KnownDifference(("*",), (f"*{'?' * (length // 2)}{i}x",), "a reason") for i in range(patterns)]
    failed = [Difference("k" * length, np.inf, 0.0)] * names
    with pytest.raises(T7LimitError, match="patterns of known differences with the names of one file takes more than"):
        mark_known(failed, known, "x")


@pytest.mark.parametrize("compared", [(), ("z",), ("*",)])
def test_each_entry_counts_however_short_its_patterns_are(compared: tuple[str, ...]) -> None:
    message = {} if compared != ("*",) else {"message": "never"}
    known = [KnownDifference(("*",), compared, "a reason", **message)] * 600
    with pytest.raises(T7LimitError):
        mark_known([Difference("k", np.inf, 0.0)] * 600, known, "x")
    mark_known([Difference("k", np.inf, 0.0)] * 60, known, "x")


def test_the_rest_of_a_pattern_is_not_searched() -> None:
    matching, pattern = Matching(), "?" * 12 + "*?" * 2_000_000
    start = time.process_time()
    assert not any(matching.matches("output[1000]", pattern) for _ in range(2000))
    assert time.process_time() - start < 2  # it took 20
    assert matching.matches("output", "output" + "*" * 1000)
