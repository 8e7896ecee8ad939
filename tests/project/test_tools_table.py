"""The table of PyTorch's tools in docs/ecosystem.md. All of it takes minutes: ``DPNN_TOOLS=1`` runs it."""

from __future__ import annotations

import os
import re
from pathlib import Path

import generate_tools  # pyright: ignore[reportMissingImports]
import pytest
import torch
from torch import nn

PAGE = (Path(__file__).parents[2] / "docs" / "ecosystem.md").read_text(encoding="utf-8")
FAST = ["fx", "jit.trace, freeze", "bfloat16"]


def test_a_tool_works_if_it_computes_what_the_model_computes() -> None:
    torch.manual_seed(0)
    found = generate_tools.row(nn.Sequential(nn.Linear(4, 3), nn.Tanh()).eval(), torch.randn(2, 4), FAST)
    assert found["fx"] == found["jit.trace, freeze"] == "yes"
    assert re.fullmatch(r"\d\d dB", found["bfloat16"])

    class Branching(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if float(x.sum()) > 0 else -x

    class Wrong(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * (2 if torch.jit.is_tracing() else 1)

    assert generate_tools.row(Branching(), torch.randn(2, 4), ["fx"])["fx"].startswith("no: ")
    wrong = generate_tools.row(nn.Sequential(Wrong()).eval(), torch.randn(2, 4), ["jit.trace, freeze"])
    assert wrong["jit.trace, freeze"].startswith("no: computes something else")


def test_layers_are_listed_with_the_worst() -> None:
    rows = {"net": {tool: "no: the model prints" if tool == "compile" else "yes" for tool in generate_tools.TOOLS}}
    rows["net"]["int8 weights"] = "41 dB"
    text = generate_tools.document(rows, {"net": [("0", 44.4), ("1.fc", 39.6), ("2", float("inf"))]})
    assert "| net | 44 40 | `1.fc`: 40 | 41 |" in text
    assert "| 0 of 1 | 1 x the model prints (net) |" in text
    assert generate_tools._reason(RuntimeError("Tracer cannot infer type of [x]")).startswith("the output is a list")


def test_the_page_counts_at_least_forty_architectures_and_gives_reasons() -> None:
    section = PAGE.partition(generate_tools.BEGIN)[2].partition(generate_tools.END)[0]
    counts = re.findall(r"^\| .+ \| (\d+) of (\d+) \| (.+) \|$", section, re.M)
    assert len(counts) == len(generate_tools.TOOLS)
    for works, of, reasons in counts:
        assert int(of) >= 40
        listed = sum(int(n) for n in re.findall(r"(?:^|; )(\d+) x ", reasons))
        assert int(of) - int(works) == listed


@pytest.mark.skipif(not os.environ.get("DPNN_TOOLS"), reason="takes minutes: DPNN_TOOLS=1 runs it")
@pytest.mark.timeout(7200)
def test_every_tool_on_every_architecture() -> None:
    rows = {name: generate_tools.row(model, x) for name, model, x in generate_tools.models()}
    assert len(rows) >= 40
    found = generate_tools.document(rows, {})
    counts = re.findall(r"^\| .+ \| (\d+) of \d+ \|", found, re.M)
    stated = re.findall(r"^\| .+ \| (\d+) of \d+ \|", PAGE, re.M)
    assert [int(n) for n in counts] >= [int(n) for n in stated]
