"""Loops in Python over numbers, which run no operation of PyTorch, take their steps from the limits of a run too."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from dpnn_bridge.base.steps import STEPS_PER_ELEMENT, spend_steps, steps_taken
from dpnn_bridge.conversion.limits import ResourceLimitMode, ResourceLimits
from dpnn_bridge.errors import ConversionLimitError
from dpnn_bridge.loaders import write_t7
from dpnn_bridge.modules.nn import GModule, MapTable
from dpnn_bridge.modules.nn.nngraph import GraphNode
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor
from dpnn_bridge.parity.verify import verify
from dpnn_bridge.torch7.quicksort import positions, select_positions, sort_positions
from dpnn_bridge.torch7.random import Generator
from dpnn_bridge.zoo.densecap_sampler import BoxSamplerHelper

COUNT = 40_000


class _Drawn(nn.Module):
    """Draws the boxes of a sampler: no positive one, and the same negative one many times."""

    def forward(self, _: list[torch.Tensor]) -> list[torch.Tensor]:
        none = torch.zeros(0, dtype=torch.int64)
        return [none, none, torch.ones(COUNT, dtype=torch.int64)]


def _seeded() -> Generator:
    generator = Generator()
    generator.manual_seed(1)
    return generator


def _graph(edges: int, nodes: int) -> GModule:
    """A graph without modules: nodes that read the input, the last one many times."""
    chain = [GraphNode((0,)) for _ in range(nodes)]
    return GModule(nodes=[GraphNode(), *chain, GraphNode((0,) * edges)])


def sample() -> None:
    boxes = torch.zeros(1, 1, 4)
    BoxSamplerHelper(_Drawn())([[boxes], [boxes]])


#: work of about COUNT elements, with few operations of PyTorch
LOOPS: dict[str, Callable[[], object]] = {
    "a sort": lambda: sort_positions([1.0] * COUNT),
    "a sort of NaN": lambda: sort_positions([float("nan")] * COUNT),
    "a selection": lambda: select_positions([1.0] * COUNT, COUNT // 2),
    "an order of equal numbers": lambda: positions(torch.ones(COUNT), sort_positions),
    "normal numbers": lambda: _seeded().normals(COUNT),
    "other draws": lambda: _seeded().draws(COUNT, _seeded().exponential, 1.0),
    "uniform numbers": lambda: _seeded().uniforms(16 * COUNT),
    "nodes of a graph": lambda: _graph(2, COUNT)(1),
    "edges of a graph": lambda: _graph(COUNT, 1)(1),
    "clones": lambda: MapTable(nn.Identity())([1] * 100),
    "boxes": sample,
}


def limits(steps: int) -> ResourceLimits:
    found = ResourceLimits()
    found.steps = steps
    return found


@pytest.mark.parametrize("name", LOOPS)
def test_the_work_of_a_loop_is_limited(name: str) -> None:
    with pytest.raises(ConversionLimitError, match="steps"), ResourceLimitMode(limits(5 << 20)):
        LOOPS[name]()
    LOOPS[name]()  # without limits
    with ResourceLimitMode(ResourceLimits(more=10_000)):
        LOOPS[name]()


def test_one_long_sort_ends_before_it_is_done() -> None:
    total = 0

    def count(steps: int) -> None:
        nonlocal total
        total += steps

    with steps_taken(count):
        sort_positions([float(i * i % 1009) for i in range(COUNT)])
    assert 10 * COUNT < total // STEPS_PER_ELEMENT < 100 * COUNT  # n log n
    with pytest.raises(ConversionLimitError), ResourceLimitMode(limits(total // 2)):
        sort_positions([float(i * i % 1009) for i in range(COUNT)])


def test_loops_in_another_thread_are_not_counted() -> None:
    other = threading.Thread(target=lambda: spend_steps(1 << 40))
    with ResourceLimitMode(limits(1 << 20)):
        other.start()
        other.join()
        spend_steps(1)


def test_a_layer_that_sorts_again_and_again_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count = 4000
    layer = LuaObject(
        "nn.TemporalDynamicKMaxPooling",
        LuaTable({"_type": "torch.FloatTensor", "train": False, "minK": 1, "factor": 0}),
    )
    for rho in (2, 3000):
        fields = {"rho": rho, "modules": LuaTable.from_list([layer])}
        table = {
            "module": LuaObject("nn.Repeater", LuaTable(fields)),
            "input": LuaTensor.from_numpy(np.ones((count, 1), np.float32)),
            "output": LuaTable.from_list([LuaTensor.from_numpy(np.ones((1, 1), np.float32))] * 2),
        }
        write_t7(tmp_path / f"{rho}.t7", LuaTable(table))
    assert verify(tmp_path / "2.t7").ok
    sorts = []

    def sort(values: list[float]) -> list[int]:
        sorts.append(len(values))
        return sort_positions(values, descending=True)

    monkeypatch.setattr("dpnn_bridge.modules.nn.pooling_special._descending", sort)
    with pytest.raises(ConversionLimitError, match="steps, the limit for the size"):
        verify(tmp_path / "3000.t7")
    assert 100 < len(sorts) < 1000  # their operations alone allow all 3,000
