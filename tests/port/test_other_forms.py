"""Weights behind a mask, results with the outputs in another dimension, and arguments that do not fit together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import dpnn_bridge
from dpnn_bridge.errors import ConversionError, OptionError
from dpnn_bridge.modules.nn import CAddTable, ConcatTable
from dpnn_bridge.porting import events, judge, pieces
from dpnn_bridge.porting.search import Patch, Search
from dpnn_bridge.porting.source import Source
from dpnn_bridge.porting.tape import Slot


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Masked(nn.Module):
    """A linear layer whose weight is multiplied by a mask."""

    def __init__(self, mask: Tensor, product: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.layer, self.product = nn.Linear(3, 3), product
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.product(self.layer.weight, self.mask), self.layer.bias)


def source(zero: bool = False) -> nn.Sequential:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(3, 3))
    with torch.no_grad():
        model[0].weight[0, 1] *= not zero
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.bool])
@pytest.mark.parametrize("product", [lambda w, m: w * m, lambda w, m: m * w])
def test_a_weight_may_be_masked_on_either_side(product: Callable[[Tensor, Tensor], Tensor], dtype: torch.dtype) -> None:
    """``mask * weight`` wrote the weights into the mask; a zero in the mask made them NaN."""
    mask = torch.ones(3, 3, dtype=dtype)
    mask[0, 1] = 0
    model, net, x = source(zero=True), Masked(mask, product), randn(4, 3)
    report = dpnn_bridge.port(model, net, x)
    assert report.equal, report
    assert [m.parameter for m in report.matches] == ["layer.weight", "layer.bias"]
    assert torch.allclose(net(x), model(x), atol=1e-6)
    assert judge(model, net, x).equal


def test_a_judged_module_can_be_filled() -> None:
    """``apply`` filled a copy."""
    model, net, x = source(), nn.Linear(3, 3), randn(4, 3)
    report = judge(model, net, x)
    assert not report.equal
    assert not torch.equal(net.weight, model[0].weight)
    report.apply()
    assert torch.equal(net.weight, model[0].weight)


def test_a_mask_cannot_hide_a_weight_of_the_source() -> None:
    mask = torch.ones(3, 3)
    mask[0, 1] = 0
    report = dpnn_bridge.port(source(), Masked(mask, torch.mul), randn(4, 3))
    assert not report.equal
    assert "a product with 0 where the source's weight is not 0" in report.first.reason


class Weighted(nn.Module):
    """A linear layer whose weight and bias are computed."""

    def __init__(self, weight: Callable[[nn.Module], Tensor], bias: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.w, self.b, self.g = (nn.Parameter(torch.full(size, 0.5)) for size in ((3, 3), (3,), (3, 1)))
        self.weight, self.bias = weight, bias

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight(self), self.bias(self.b))


@pytest.mark.parametrize(
    ("weight", "bias"),
    [(lambda m: m.w * 0.3, lambda b: b * 0.1), (lambda m: m.g * m.w, lambda b: b), (lambda m: m.w * m.g, lambda b: b)],
)
def test_a_weight_may_be_scaled(weight: Callable[[nn.Module], Tensor], bias: Callable[[Tensor], Tensor]) -> None:
    """The weights were written into a smaller factor, which failed."""
    report = dpnn_bridge.port(source(), Weighted(weight, bias), randn(4, 3), allow_unset=["g"])
    assert report.equal, report
    assert {m.parameter for m in report.matches} == {"w", "b"}


def test_a_negative_weight_is_no_exponential() -> None:
    """The parameters became NaN."""
    report = dpnn_bridge.port(source(), Weighted(lambda m: m.w.exp(), lambda b: b), randn(4, 3))
    assert "computed from parameters by exp, and the source's weight is not positive" in report.first.reason


def test_a_layer_may_have_the_older_weight_norm() -> None:
    """The weight that its hook computes could not be copied."""
    model, net, x = source(), nn.utils.weight_norm(nn.Linear(3, 3)), randn(4, 3)
    report = dpnn_bridge.port(model, net, x)
    assert report.equal, report
    assert torch.allclose(net(x), model(x), atol=1e-6)
    assert judge(model, net, x).equal


def test_an_example_has_elements() -> None:
    """PyTorch could not reshape it."""
    with pytest.raises(OptionError, match="its tensors have no elements"):
        dpnn_bridge.port(source(), nn.Linear(3, 3), randn(0, 3))


@torch.inference_mode()
def inferred(module: nn.Module, x: Tensor) -> Tensor:
    return module(x)


def test_a_network_may_run_in_inference_mode() -> None:
    """PyTorch does not decompose composite operations there, so the layers were unknown."""
    layers = [nn.Conv1d(3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2)]
    model, net = nn.Sequential(*layers), nn.Sequential(nn.Conv1d(3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))
    report = dpnn_bridge.port(model, net, randn(2, 3, 4), source=inferred, target=inferred)
    assert report.equal, report


def test_a_note_names_autocast() -> None:
    """It does not change double precision, in which the networks are compared."""

    def cast(module: nn.Module, x: Tensor) -> Tensor:
        with torch.autocast("cpu"):
            return module(x)

    report = dpnn_bridge.port(source(), nn.Linear(3, 3), randn(4, 3), target=cast)
    assert report.equal
    assert ["under autocast" in note for note in report.notes] == [True]
    assert not dpnn_bridge.port(source(), nn.Linear(3, 3), randn(4, 3)).notes


class Added(nn.Module):
    """Two maps whose results are added; only the first has a bias."""

    def __init__(self, weight: Tensor, second: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.weight, self.last = nn.Linear(3, 4), nn.Parameter(weight), nn.Linear(4, 2)
        self.second = second

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(x) + self.second(self.weight, x)))


@pytest.mark.parametrize(
    ("weight", "second", "shape"),
    [
        (randn(4, 3), lambda w, x: (w @ x.t()).t(), (5, 3)),
        (randn(1, 4, 3), lambda w, x: torch.bmm(w.expand(len(x), 4, 3), x.transpose(1, 2)).transpose(1, 2), (2, 5, 3)),
    ],
)
def test_a_bias_moves_to_a_layer_whose_result_has_other_dimensions(
    weight: Tensor, second: Callable[[Tensor, Tensor], Tensor], shape: tuple[int, ...]
) -> None:
    """The bias was added to the wrong dimension, which failed or gave another result."""
    model = nn.Sequential(ConcatTable(nn.Linear(3, 4), nn.Linear(3, 4)), CAddTable(), nn.Tanh(), nn.Linear(4, 2))
    report = dpnn_bridge.port(model, Added(weight, second), randn(*shape))
    assert report.equal, report


class OneHot(nn.Module):
    """A sum of a linear layer and a linear layer on one-hot vectors, or an embedding."""

    def __init__(self, words: nn.Module) -> None:
        super().__init__()
        self.layer, self.words, self.last = nn.Linear(3, 4), words, nn.Linear(4, 2)

    def forward(self, x: Tensor, i: Tensor) -> Tensor:
        first = self.layer(x)
        words = self.words(i if isinstance(self.words, nn.Embedding) else F.one_hot(i, 6).to(x.dtype))
        return self.last(torch.tanh(first + words))


@pytest.mark.parametrize("shape", [(2, 5), (2, 4)])
def test_the_bias_of_an_embedding_in_a_sequence_moves(shape: tuple[int, int]) -> None:
    def example(seed: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return randn(*shape, 3, seed=seed), torch.randint(0, 6, shape, generator=generator)

    model, net = OneHot(nn.Linear(6, 4)), OneHot(nn.Embedding(6, 4))
    report = dpnn_bridge.port(model, net, example, source=lambda model, x: model(*x))
    assert report.equal, report


def test_a_layer_of_another_size_is_used_when_it_is_fixed() -> None:
    """A later deviation said that no parameter was set from the layer."""
    layers = [[nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, outputs)] for outputs in (5, 2)]
    model, net = (nn.Sequential(*own) for own in layers)
    report = dpnn_bridge.port(model, net, randn(5, 3), later=True)
    assert "weight of 2x3 here, of 5x3 in the source" in report.first.reason
    assert report.later == []


def test_the_reason_of_a_failure_is_that_of_pytorch() -> None:
    """It was the reason of a ``reshape`` in the recorder."""
    report = dpnn_bridge.port(source(), nn.Sequential(nn.Linear(2, 3)), randn(5, 3))
    assert "shapes cannot be multiplied (5x3 and 2x3)" in report.first.reason


@pytest.mark.parametrize(
    ("draw", "hint"), [(F.dropout, "F.dropout"), (lambda x: x + torch.randn(3), "only if self.training is true")]
)
def test_the_hint_for_random_numbers_depends_on_the_operation(draw: Callable[[Tensor], Tensor], hint: str) -> None:
    """It was always to change dropout."""
    with pytest.raises(ConversionError, match=hint):
        dpnn_bridge.port(source(), nn.Linear(3, 3), randn(5, 3), target=lambda module, x: draw(module(x)))


def test_a_counter_in_single_precision_is_no_note() -> None:
    """The note said that the networks are equal to single precision only."""
    net = nn.Linear(3, 3)
    net.register_buffer("calls", torch.zeros(()))
    report = dpnn_bridge.port(source(), net, randn(4, 3), target=lambda net, x: (net.calls.add_(1), net(x))[1])
    assert report.equal
    assert report.notes == []


def test_a_key_is_for_files() -> None:
    """It was ignored."""
    with pytest.raises(OptionError, match="key= selects a model of a file"):
        dpnn_bridge.port(source(), nn.Linear(3, 3), randn(4, 3), key="model")


def test_one_of_several_models_is_selected(tmp_path: Path) -> None:
    """The advice was to check the shape of the example."""
    dpnn_bridge.write_t7(tmp_path / "m.t7", {"a": source(), "b": source()})
    net, x = nn.Linear(3, 3), randn(4, 3)
    for function in (dpnn_bridge.port, judge):
        with pytest.raises(OptionError, match=r"several models; select one with key= \(--key\): a, b"):
            function(tmp_path / "m.t7", net, x)
    assert dpnn_bridge.port(tmp_path / "m.t7", net, x, source=lambda models, x: models["b"](x)).equal


def test_layers_are_told_apart_when_memory_is_used_again() -> None:
    """A weight at the address of an earlier one was taken for that one."""
    memory = np.zeros((2, 1, 1, 1))
    recorded = Source(lambda name: name)
    for order in ((0, 1), (1, 0)):
        net = nn.Sequential(nn.Conv1d(1, 1, 1, bias=False), nn.Conv1d(1, 1, 1, bias=False))
        for factor, (layer, at) in enumerate(zip(net, order, strict=True), 2):
            memory[at] = factor
            layer.weight = nn.Parameter(torch.from_numpy(memory[at]))
        recorded.record(net, lambda module, x: module(x), torch.ones(1, 1, 4, dtype=torch.float64))
        assert [layer.events[0].output.unique().tolist() for layer in recorded.layers] == [[2.0], [6.0]]


def test_a_replaced_operand_is_restored_when_the_operation_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """The value of the source then stayed for later operations."""
    search = Search.__new__(Search)
    search.patches, search.env = {0: Patch(torch.ones(1), Slot(0), None)}, [torch.zeros(1)]
    search.fingerprints = type("None_", (), {"drop": lambda self, number: None})()

    def fail(node: object) -> None:
        assert search.env[0].item() == 1
        raise ZeroDivisionError

    monkeypatch.setattr(search, "_step", fail, raising=False)
    with pytest.raises(ZeroDivisionError):
        search.step(type("Node_", (), {"index": 0})())
    assert search.env[0].item() == 0


def test_the_search_for_layers_that_fit_together_ends() -> None:
    def found(sizes: list[int], count: int, outputs: int) -> list[list[int]]:
        layers: Any = [SimpleNamespace(size=size) for size in sizes]
        return [[p.size for p in c] for c in pieces._with_outputs(layers, count, outputs)]

    assert found([1, 2, 3], 2, 4) == [[1, 3], [3, 1]]
    assert found([4] * 36, 12, 50) == []
    assert found([2, 4] * 18, 12, 37) == []  # an odd number


class Around(nn.Module):
    """A layer, with functions of its input and of its result."""

    def __init__(
        self, layer: nn.Module, before: Callable[[Tensor], Tensor], after: Callable[[Tensor], Tensor] = lambda y: y
    ) -> None:
        super().__init__()
        self.layer, self.before, self.after = layer, before, after

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.layer(self.before(x)))


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("copied", [True, False])  # whether the windows are few enough to be copied
@pytest.mark.parametrize(
    ("conv", "pads", "other"),
    [
        ({"padding": 1}, (1, 1, 1, 1), {}),
        ({"padding": 2}, (1, 1, 1, 1), {"padding": 1}),
        ({"padding": (1, 0)}, (0, 0, 1, 1), {}),
        ({"padding": 2, "dilation": 2}, (2, 2, 2, 2), {"dilation": 2}),
        ({"padding": 1, "stride": 3}, (1, 0, 1, 0), {"stride": 3}),  # the margin on the other side is in no window
    ],
)
def test_padding_before_a_convolution(
    conv: dict[str, Any],
    pads: tuple[int, ...],
    other: dict[str, Any],
    copied: bool,
    groups: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not copied:
        monkeypatch.setattr(events, "_MAX_IN_WINDOWS", 0)
    stock = nn.Sequential(nn.Conv2d(4, 8, 3, groups=groups, **conv))
    before = Around(nn.Conv2d(4, 8, 3, groups=groups, **other), lambda x: F.pad(x, pads))
    for source, target in ((stock, before), (before, stock)):
        report = dpnn_bridge.port(source, target, randn(2, 4, 9, 9))
        assert report.equal, report
        assert "padding" in str(report)
    report = dpnn_bridge.port(stock, Around(nn.Conv2d(4, 8, 3, groups=groups, **other), lambda x: x), randn(2, 4, 9, 9))
    assert not report.equal


@pytest.mark.parametrize("pads", [(1, 1, 0, 0), (0, 2, 0, 2), (2, 2, 2, 2)])
def test_other_padding_before_a_convolution(pads: tuple[int, ...]) -> None:
    net = Around(nn.Conv2d(4, 8, 3), lambda x: F.pad(x, pads))
    assert not dpnn_bridge.port(nn.Conv2d(4, 8, 3, padding=1), net, randn(2, 4, 9, 9)).equal


def test_a_strided_convolution_of_pixels() -> None:
    def every_second(x: Tensor) -> Tensor:
        return x[:, :, ::2, ::2]

    def pixels(x: Tensor) -> Tensor:
        return every_second(x).permute(0, 2, 3, 1)

    nets: list[Callable[[], nn.Module]] = [
        lambda: nn.Conv2d(3, 4, 1, stride=2),
        lambda: Around(nn.Conv2d(3, 4, 1), every_second),
        lambda: Around(nn.Linear(3, 4), pixels, lambda y: y.permute(0, 3, 1, 2)),
    ]
    for source in nets:
        for target in nets:
            report = dpnn_bridge.port(source(), target(), randn(2, 3, 8, 8))
            assert report.equal, report
            assert "permuted" not in str(report)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_norm_is_folded_into_a_transposed_convolution(groups: int) -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(6)
    nn.init.normal_(norm.running_mean)
    nn.init.uniform_(norm.weight)
    source = nn.Sequential(nn.ConvTranspose2d(4, 6, 3, groups=groups), norm).eval()
    target = nn.ConvTranspose2d(4, 6, 3, groups=groups)
    report = dpnn_bridge.port(source, target, randn(2, 4, 5, 5))
    assert report.equal, report
    torch.testing.assert_close(target(randn(1, 4, 6, 6, seed=1)), source(randn(1, 4, 6, 6, seed=1)))
