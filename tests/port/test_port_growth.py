"""The work of a port is linear in the number of layers."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dpnn_bridge
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor
from dpnn_bridge.porting.flow import parts_of
from dpnn_bridge.porting.networks import call_source, double_copy
from dpnn_bridge.porting.notes import _first_single
from dpnn_bridge.porting.source import Layer, Source
from dpnn_bridge.porting.tape import Slot
from dpnn_bridge.porting.values import (
    DOUBLE,
    SINGLE,
    Fingerprint,
    References,
    RowIndex,
    _Reference,
    matching_rows,
)


class Chain(nn.Module):
    def __init__(self, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(3, 3) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return x


def test_a_layer_is_compared_with_few_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = 0
    outputs_for = Layer.outputs_for

    def counted(self: Layer, rows: Tensor, form: tuple) -> Tensor | None:
        nonlocal asked
        asked += 1
        return outputs_for(self, rows, form)

    monkeypatch.setattr(Layer, "outputs_for", counted)
    counts = []
    for layers in (20, 40):
        torch.manual_seed(layers)
        source = nn.Sequential(*(m for _ in range(layers) for m in (nn.Linear(3, 3), nn.Tanh())))
        dpnn_bridge.write_t7(tmp_path / "m.t7", source)
        asked = 0
        assert dpnn_bridge.port(tmp_path / "m.t7", Chain(layers), torch.randn(2, 3)).equal
        counts.append(asked)
    assert counts[1] <= 2.5 * counts[0]


@pytest.mark.parametrize("tolerance", [DOUBLE, SINGLE])
def test_an_index_misses_nobody_whose_rows_match(tolerance: float) -> None:
    """Also where they differ as far as the tolerance allows, and where values are zero or infinite."""
    torch.manual_seed(0)
    owned = [torch.randn(4, 6, dtype=torch.float64) * 10.0 ** (i - 3) for i in range(6)]
    owned += [torch.zeros(2, 6), torch.randn(3, 6).masked_fill(torch.eye(3, 6).bool(), torch.inf)]
    index = RowIndex(list(range(len(owned))), owned)
    for owner, rows in enumerate(owned):
        finite = rows[rows.isfinite()].abs().max()
        for sign in (torch.ones(rows.shape), torch.randn(rows.shape).sign()):
            moved = rows.double() + 0.9 * tolerance * finite * sign
            assert matching_rows(moved, rows, tolerance) is not None
            assert owner in index.owners(moved, tolerance)
    assert index.owners(torch.randn(2, 6) * 50, tolerance) in ({0}, set())


def test_a_weight_that_is_read_twice_at_every_step_takes_no_longer() -> None:
    class Repeated(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            for _ in range(40):
                weight = weight * 0.9 + weight * 0.1
            return weight

    layer = nn.Linear(4, 3)
    torch.nn.utils.parametrize.register_parametrization(layer, "weight", Repeated())
    report = dpnn_bridge.port(nn.Sequential(nn.Linear(4, 3)), layer, torch.randn(2, 4))
    assert not report.equal
    assert "is computed from parameters by add, which port cannot invert" in str(report)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_value_that_is_expanded_is_added_up_once(dtype: torch.dtype) -> None:
    value = torch.randn(3, 1, 4, dtype=dtype, generator=torch.Generator().manual_seed(1))
    expanded = value.expand(3, 1000, 4)
    assert Fingerprint.of(expanded).matches(Fingerprint.of(expanded.clone()))
    assert Fingerprint.of(value.expand(3, 1 << 40, 4)).count == 12 << 40  # neither 96 TB nor as many additions


class Counting:
    """Counts the reads of an attribute of a class."""

    def __init__(self, name: str) -> None:
        self.name, self.reads = f"_{name}", 0

    def __get__(self, obj: Any, _: Any = None) -> Any:
        self.reads += 1
        return obj.__dict__[self.name]

    def __set__(self, obj: Any, value: Any) -> None:
        obj.__dict__[self.name] = value


@pytest.mark.parametrize("after", ["batch norm", "bias"])
def test_the_layer_after_another_is_found_at_once(after: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All layers were searched for the one that an event belongs to."""
    events = Counting("events")
    monkeypatch.setattr(Layer, "events", events, raising=False)
    counts = []
    for layers in (20, 40):
        torch.manual_seed(0)
        pairs = [
            (nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)) if after == "batch norm" else (nn.Linear(3, 3, bias=False), add())
            for _ in range(layers)
        ]
        model, example = nn.Sequential(*chain(*pairs)), torch.randn(2, 2, 3, 3)
        source = Source(lambda name: name)
        events.reads = 0
        source.record(double_copy(model, "the model"), call_source, example.double())
        counts.append(events.reads)
    assert counts[1] < 2.5 * counts[0]


def add() -> nn.Module:
    return dpnn_bridge.to_torch(LuaObject("nn.Add", LuaTable({"bias": LuaTensor.from_numpy(torch.randn(3).numpy())})))


def test_a_pooling_is_compared_with_few_others(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = 0
    matches = Fingerprint.matches

    def counted(self: Fingerprint, *args: Any) -> bool:
        nonlocal compared
        compared += 1
        return matches(self, *args)

    monkeypatch.setattr(Fingerprint, "matches", counted)
    counts = []
    for layers in (10, 20):
        torch.manual_seed(0)
        poolings = [m for _ in range(layers) for m in (nn.Conv2d(4, 4, 1), nn.MaxPool2d(1, 1), nn.Tanh())]
        model, compared = nn.Sequential(*poolings), 0
        assert dpnn_bridge.port(model, copy.deepcopy(model), torch.randn(2, 4, 3, 3)).equal
        counts.append(compared)
    assert counts[1] < 2.5 * counts[0]


def test_operations_before_many_outputs_are_visited_once() -> None:
    """The operations before each output were searched again."""
    visits = []

    class Inputs(list[Any]):
        def __iter__(self) -> Iterator[Any]:
            visits.append(self)
            return super().__iter__()

    nodes: list[Any] = []
    for index in range(50):
        nodes.append(SimpleNamespace(index=index, single=False, dtype=None, inputs=Inputs(nodes[-1:])))
    tape: Any = SimpleNamespace(output=[Slot(index) for index in range(50)], maker=dict(enumerate(nodes)))
    assert _first_single(tape) is None
    assert len(visits) == 50
    nodes[3].single = nodes[7].single = True
    assert _first_single(tape) is nodes[3]


def test_an_input_is_compared_with_few_inputs_of_a_layer_that_is_used_often(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(2, 3, dtype=torch.float64) for _ in range(200)] + [torch.zeros(0, 3), torch.randn(2, 4)]
    inputs += [inputs[7].clone(), *torch.full((90, 2, 3), torch.nan)]
    compared = 0
    equals = _Reference.equals

    def counted(self: _Reference, other: Tensor, tolerance: float) -> bool:
        nonlocal compared
        compared += 1
        return equals(self, other, tolerance)

    monkeypatch.setattr(_Reference, "equals", counted)
    references = References(inputs)
    for i, rows in enumerate(inputs[:202]):
        assert references.find(rows + DOUBLE / 4, DOUBLE) == i
    assert references.find(inputs[7], DOUBLE) == 7
    assert references.find(inputs[7] + 1, DOUBLE) is None
    assert compared < 250


def test_the_sums_of_a_residual_network_are_followed_to_a_limit() -> None:
    seen = 0

    class Add(SimpleNamespace):
        @property
        def consumers(self) -> list[Any]:
            nonlocal seen
            seen += 1
            return self.readers

    node = Add(op="add", event=None, readers=[])
    for _ in range(3000):
        node = Add(op="add", event=None, readers=[node])
    assert parts_of(node, 5, {}) == (5,)  # type: ignore[arg-type]
    assert seen < 1000
