"""What notebooks show: small HTML without scripts, short texts, and the notebook of the documentation runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import FIXTURES
from networks import resnet20
from samples import SAMPLES

import dpnn_bridge
from dpnn_bridge.conversion import convert_object
from dpnn_bridge.conversion.options import Options
from dpnn_bridge.objects import LuaTable
from dpnn_bridge.pictures import model_graph

LENET = SAMPLES / "torch-demos__mnist_convnet"
NOTEBOOK = FIXTURES.parent / "docs" / "notebook.ipynb"


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    obj = dpnn_bridge.read_t7(LENET / "model.t7")
    return {
        "summary": dpnn_bridge.inspect(LENET / "model.t7"),
        "checkpoint": dpnn_bridge.load_checkpoint(SAMPLES / "char-rnn__lstm" / "model.t7"),
        "report": convert_object(obj, Options())[1],
        "verification": dpnn_bridge.verify(LENET / "model.t7", reference=LENET / "ref.t7"),
        "graph": model_graph(dpnn_bridge.load(LENET / "model.t7").eval(), torch.zeros(1, 1, 32, 32)),
    }


def test_every_result_is_small_html_without_scripts(results: dict[str, Any]) -> None:
    for name, value in results.items():
        html = value._repr_html_()
        assert 100 < len(html) < 40_000, name
        assert "<script" not in html, name
        assert "http" not in html, name
    shown = {name: value._repr_html_() for name, value in results.items()}
    assert "nn.SpatialConvolutionMM" in shown["report"]
    assert "✓ equal" in shown["verification"]
    assert "PASS: forward equal" in shown["verification"]
    assert "vocabulary" in shown["checkpoint"]
    assert "<details" in shown["graph"]
    assert "5×5" in shown["graph"]
    assert "convolution" in shown["graph"]
    assert "recurrent" not in shown["graph"]  # the legend names the kinds of layers that there are
    assert "169,506" in shown["summary"]


def test_texts_are_short(results: dict[str, Any]) -> None:
    for name, value in results.items():
        assert len(repr(value)) < 300, name
        assert "\n" not in repr(value), name


def test_text_from_files_stays_text() -> None:
    obj = dpnn_bridge.read_t7(LENET / "model.t7")
    obj["modules"][1].fields["name"] = "<script>alert(1)</script>"
    model = dpnn_bridge.to_torch(obj)
    assert "<script" not in model_graph(model)._repr_html_()
    checkpoint = dpnn_bridge.load_checkpoint(dpnn_bridge.loaders.dumps(LuaTable({"<script>": obj, "<b>": 1})))
    assert "<script" not in checkpoint._repr_html_()


def test_large_graphs_stay_small() -> None:
    deep = torch.nn.Sequential(*(resnet20() for _ in range(20)))
    html = model_graph(deep)._repr_html_()
    assert len(html) < 200_000
    assert "more layers" in html


def test_the_notebook_of_the_documentation_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat = pytest.importorskip("nbformat", reason="needs the extra docs")
    nbclient = pytest.importorskip("nbclient", reason="needs the extra docs")
    pytest.importorskip("ipykernel", reason="needs the extra docs")
    (tmp_path / "model.t7").symlink_to(LENET / "model.t7")
    (tmp_path / "ref.t7").symlink_to(LENET / "ref.t7")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    stored = _texts(notebook)
    assert len(stored) >= 6
    nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert _texts(notebook) == stored, "run the notebook again and store its outputs"


def _texts(notebook: Any) -> list[str]:
    """The text of each result without its numbers, which rounding decides, and whether it is shown as HTML."""
    outputs = [output["data"] for cell in notebook.cells for output in cell.get("outputs", ()) if "data" in output]
    return [f"{'text/html' in data} {re.sub(r'[0-9][0-9.,e+-]*', '#', data['text/plain'])}" for data in outputs]
