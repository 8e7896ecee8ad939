"""Every pair gets the right verdict, the right reason, and a proof that does not use the engine's comparison."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from typing import Any

import corpus
import pytest
import torch
from conftest import FIXTURES
from corpus import EQUAL, pair
from torch import nn

import dpnn_bridge

EQUALS = [name for name in corpus.names() if pair(name).expect == EQUAL]
BUGS = [name for name in corpus.names() if pair(name).expect != EQUAL]


def port(name: str) -> tuple[nn.Module, Any]:
    """The user's module of a pair after :func:`dpnn_bridge.port`, and the report."""
    module, definition = corpus.target_of(name), pair(name)
    report = dpnn_bridge.port(
        FIXTURES / definition.model,
        module,
        definition.example(0),
        source=lambda model, x: corpus.run_source(name, model, x),
        target=lambda target, x: corpus.run_target(name, target, x),
        allow_unset=getattr(definition, "allow_unset", ()),
    )
    return module, report


@cache
def ported(name: str) -> tuple[nn.Module, Any]:
    """:func:`port`, once for each pair: a planted bug is proven with the weights of the pair without it."""
    return port(name)


def difference(name: str, module: nn.Module) -> float:
    """How far the user's module is from the Torch7 model on an input that the engine has not seen."""
    with torch.no_grad():
        example = pair(name).example(3)
        expected = corpus.run_source(name, corpus.source_of(name), example)
        return corpus.difference(corpus.run_target(name, module.double().eval(), pair(name).example(3)), expected)


def has(text: str, word: str | tuple[str, ...]) -> bool:
    return any(option in text for option in ((word,) if isinstance(word, str) else word))


def blamed_line(line: str) -> str:
    """The text of the line ``file:number`` that a report names."""
    file, _, number = line.rpartition(":")
    text = (corpus.PAIRS / file.rpartition("/")[2]).read_text(encoding="utf-8").splitlines()
    return text[int(number) - 1]


def test_the_corpus_is_large_enough() -> None:
    assert len(EQUALS) >= 30
    assert len(BUGS) >= 25


@pytest.mark.parametrize("name", EQUALS)
def test_equal(name: str) -> None:
    module, report = ported(name)
    assert report.equal, report.first
    assert report.first is None
    assert difference(name, module) <= getattr(pair(name), "tolerance", 1e-9)
    assert report.difference <= getattr(pair(name), "tolerance", 1e-9)
    for word in getattr(pair(name), "notes", ()):
        assert has(" ".join(map(str, report.notes)), word), report.notes


@pytest.mark.parametrize("name", BUGS)
def test_planted_bug(name: str) -> None:
    bug = pair(name).expect
    before = {key: value.clone() for key, value in corpus.target_of(name).state_dict().items()}
    module, report = port(name)
    assert not report.equal
    after = module.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key].to(before[key].dtype)) for key in before)
    first = report.first
    here = (first.layer in bug.layer) or bool(bug.line and first.line and bug.line in blamed_line(first.line))
    assert here, f"blames {first.layer!r} at {first.line}: {first.reason}"
    assert [word for word in bug.words if not has(first.reason, word)] == [], first.reason


@pytest.mark.parametrize("name", [name for name in BUGS if pair(name).expect.twin])
def test_planted_bug_matters(name: str) -> None:
    """With the weights of the pair without the bug, the module with it computes something else."""
    twin, report = ported(pair(name).expect.twin)
    assert report.equal
    module = corpus.target_of(name)
    weights = {
        k: v for k, v in twin.state_dict().items() if k in (own := module.state_dict()) and own[k].shape == v.shape
    }
    module.load_state_dict(weights, strict=False)
    assert difference(name, module) > 1e-8


def test_every_model_is_what_the_manifest_says() -> None:
    cases = json.loads((FIXTURES / "port" / "manifest.json").read_text())["cases"]
    digests = {case["file"]: case["sha256"] for case in cases}
    files = sorted((FIXTURES / "port").glob("*.t7"))
    assert {f"port/{path.name}": hashlib.sha256(path.read_bytes()).hexdigest() for path in files} == digests
    assert all(case["license"] and case["repository"] for case in cases)
    used = {pair(name).model for name in corpus.names()}
    assert set(digests) <= used
