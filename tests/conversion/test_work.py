"""Operations whose work is a product of sizes, or more than their elements, are measured before they happen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from dpnn_bridge.conversion.limits import EagerMode, ResourceLimitMode, ResourceLimits, _is_known, _kind
from dpnn_bridge.conversion.work import _unknown, work_of
from dpnn_bridge.errors import ConversionLimitError


def indices(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.int64)


def attention_gradient(count: int) -> Any:
    query = torch.zeros(1, 1, count, 1)
    backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    return backward(query, query, query, query, query, torch.zeros(1, 1, count), 0.0, False)


def encoder(mask: Tensor | None = None, length: int = 4000) -> Tensor:
    layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    model = nn.TransformerEncoder(layer, 2).eval().requires_grad_(False)
    return model(torch.ones(2, length, 4), src_key_padding_mask=mask)


def attention() -> Any:
    value = torch.zeros(1, 3000, 64)
    return nn.MultiheadAttention(64, 1, batch_first=True).eval().requires_grad_(False)(value, value, value)


def sparse_gradient() -> None:
    layer = nn.EmbeddingBag(1, 2000, mode="sum", sparse=True)
    layer(indices(1, 20_000)).sum().backward()


#: operation -> call that takes seconds or more, although it reads and returns few elements
OPERATIONS: dict[str, Callable[[], object]] = {
    "embedding bag, sum": lambda: nn.EmbeddingBag(1, 30_000, mode="sum")(indices(1, 30_000)),
    "embedding bag, mean": lambda: nn.EmbeddingBag(1, 30_000)(indices(1, 30_000)),
    "embedding bag, max": lambda: nn.EmbeddingBag(1, 30_000, mode="max")(indices(1, 30_000)),
    "embedding, norms": lambda: nn.Embedding(1, 30_000, max_norm=1.0)(indices(30_000, 1)[:, 0]),
    "attention": lambda: functional.scaled_dot_product_attention(*[torch.zeros(1, 1, 16_000, 1)] * 3),
    "attention, gradient": lambda: attention_gradient(8000),
    "attention with heads": attention,
    "transformer": encoder,
    "indices that broadcast": lambda: torch.zeros(4, 4).index_put_(
        (indices(20_000, 1), indices(1, 20_000)), torch.ones(())
    ),
    "rows at indices": lambda: torch.zeros(1, 20_000).index_put((indices(20_000),), torch.ones(())),
    "fill at indices": lambda: torch.zeros(1, 30_000).index_fill_(0, indices(30_000), 1),
    "sum of products": lambda: torch.addbmm(torch.zeros(1000, 1000), *[torch.zeros(1, 1000, 1000)] * 2),
    "product in place": lambda: torch.zeros(1000, 1000).addmm_(*[torch.zeros(1000, 1000)] * 2),
    "products in place": lambda: torch.zeros(1, 1000, 1000).baddbmm_(*[torch.zeros(1, 1000, 1000)] * 2),
    "sum of products in place": lambda: torch.zeros(1000, 1000).addbmm_(*[torch.zeros(1, 1000, 1000)] * 2),
    "pooling, gradient": lambda: torch.ops.aten.avg_pool2d_backward(
        torch.zeros(1, 1, 1001, 1001), torch.zeros(1, 1, 2000, 2000), [1000, 1000], [1, 1], [0, 0], False, True, None
    ),
    "adaptive pooling, gradient": lambda: torch.ops.aten._adaptive_avg_pool2d_backward(
        torch.zeros(1, 1, 1 << 14), torch.zeros(1, 1 << 14, 1)
    ),
    "convolution with a large stride, gradient": lambda: torch.ops.aten.convolution_backward(
        *[torch.zeros(4, 1, 2), torch.zeros(4, 1, 100_000), torch.zeros(1, 1, 1), [1], [50_000], [0], [1]],
        *[False, [0], 1, [True, True, True]],
    ),
    "inverse": lambda: torch.linalg.inv(torch.eye(400)),
    "singular values": lambda: torch.linalg.svd(torch.eye(400)),
    "exponential of a matrix": lambda: torch.matrix_exp(torch.eye(400)),
    "distances": lambda: functional.pdist(torch.zeros(3000, 30)),
    "distances, power": lambda: torch.cdist(torch.zeros(1000, 20), torch.zeros(1000, 20), p=3.3),
    "distances, gradient": lambda: torch.ops.aten._cdist_backward(
        *[torch.zeros(1000, 1000)] * 3, 1.0, torch.zeros(1000, 1000)
    ),
    "sort": lambda: torch.zeros(1 << 21).sort(),
    "top": lambda: torch.zeros(1 << 21).topk(1 << 20),
    "unique rows": lambda: torch.zeros(2000, 2000).unique(dim=0),
    "selection": lambda: torch.zeros(30_000).kthvalue(1),
    "membership": lambda: torch.isin(indices(1 << 20), indices(1 << 20) + 1),
    "interpolation": lambda: functional.interpolate(
        torch.zeros(1, 1, 20_000, 2), (2, 20_000), mode="bilinear", antialias=True
    ),
    "many tensors": lambda: torch.cat([torch.zeros(1)] * (1 << 21)),
    "an operation that is not known": lambda: torch.segment_reduce(
        torch.zeros(1 << 15), "sum", lengths=torch.tensor([1 << 15])
    ),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_work_beyond_the_elements_is_measured(name: str) -> None:
    with pytest.raises(ConversionLimitError, match="steps"), ResourceLimitMode(ResourceLimits()):
        OPERATIONS[name]()


def test_values_of_a_sparse_gradient_are_measured() -> None:
    """20,000 rows for a weight of one row."""
    with pytest.raises(ConversionLimitError, match="MiB of results"), ResourceLimitMode(ResourceLimits()):
        sparse_gradient()


def test_a_transformer_with_nested_tensors_is_measured() -> None:
    """Their sizes were an error of PyTorch."""
    mask = torch.arange(20).expand(2, 20) > 15
    expected = encoder(mask, 20)
    with ResourceLimitMode(ResourceLimits()):
        assert encoder(mask, 20).shape == expected.shape
    with pytest.raises(ConversionLimitError, match="steps"), ResourceLimitMode(ResourceLimits()):
        encoder(torch.arange(4000).expand(2, 4000) > 3500)


class Recorder(EagerMode):
    """Records the operations that are not known."""

    def __init__(self) -> None:
        super().__init__()
        self.unknown: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if work_of(func, func.is_view or _is_known(func, _kind(func))) is _unknown:
            self.unknown.add(str(func))
        return func(*args, **(kwargs or {}))


def runs() -> Iterator[Callable[[], Any]]:
    """Yield calls of layers of ``torch.nn``."""
    for kind in ("ReLU", "GELU", "SiLU", "Mish", "Softplus", "LogSigmoid", "ELU", "CELU", "Hardswish", "Hardsigmoid"):
        yield lambda kind=kind: getattr(nn, kind)()(torch.rand(2, 4, requires_grad=True))
    for kind in ("Hardtanh", "Hardshrink", "Softshrink", "Tanhshrink", "RReLU", "Softmax2d", "GLU", "Dropout", "PReLU"):
        yield lambda kind=kind: getattr(nn, kind)()(torch.rand(1, 4, 4, 4, requires_grad=True))
    for dims in (1, 2, 3):
        for kind in ("MaxPool", "AvgPool", "AdaptiveAvgPool", "AdaptiveMaxPool", "ReflectionPad", "ReplicationPad"):
            yield lambda kind=kind, n=dims: getattr(nn, f"{kind}{n}d")(2)(
                torch.rand(1, 2, *(4,) * n, requires_grad=True)
            )
        for kind in ("Conv", "ConvTranspose"):
            yield lambda kind=kind, n=dims: getattr(nn, f"{kind}{n}d")(2, 2, 2)(
                torch.rand(1, 2, *(4,) * n, requires_grad=True)
            )
        for kind in ("BatchNorm", "InstanceNorm"):
            yield lambda kind=kind, n=dims: getattr(nn, f"{kind}{n}d")(2)(
                torch.rand(2, 2, *(4,) * n, requires_grad=True)
            )
        for mode in ("nearest", "nearest-exact", "area", {1: "linear", 2: "bicubic", 3: "trilinear"}[dims]):
            yield lambda mode=mode, n=dims: nn.Upsample(8, mode=mode)(torch.rand(1, 2, *(4,) * n, requires_grad=True))
        yield lambda n=dims: getattr(nn, f"MaxUnpool{n}d")(2)(
            *functional.__dict__[f"max_pool{n}d"](
                torch.rand(1, 2, *(4,) * n, requires_grad=True), 2, return_indices=True
            )
        )
    for kind in ("LSTM", "GRU", "RNN"):
        yield lambda kind=kind: getattr(nn, kind)(2, 2)(torch.rand(3, 1, 2, requires_grad=True))[0]
    for kind in ("LSTMCell", "GRUCell", "RNNCell"):
        yield lambda kind=kind: getattr(nn, kind)(2, 2)(torch.rand(3, 2, requires_grad=True))
    yield lambda: nn.FractionalMaxPool2d(2, output_size=2)(torch.rand(1, 1, 4, 4, requires_grad=True))
    yield lambda: nn.Fold(4, 2)(nn.Unfold(2)(torch.rand(1, 1, 4, 4, requires_grad=True)))
    yield lambda: nn.EmbeddingBag(2, 2)(indices(1, 3))
    yield lambda: nn.Embedding(2, 2, max_norm=1.0, scale_grad_by_freq=True)(indices(3))
    yield lambda: nn.MultiheadAttention(2, 1)(*[torch.rand(3, 1, 2, requires_grad=True)] * 3)[0]
    yield lambda: nn.TransformerDecoderLayer(2, 1, 2)(*[torch.rand(3, 1, 2, requires_grad=True)] * 2)
    yield lambda: encoder(length=4)
    for norm in (nn.LayerNorm(4), nn.RMSNorm(4), nn.GroupNorm(2, 4), nn.Bilinear(4, 4, 2)):
        value = torch.rand(2, 4, requires_grad=True)
        yield lambda norm=norm, value=value: norm(*[value] * (2 if isinstance(norm, nn.Bilinear) else 1))
    for loss in (nn.MultiMarginLoss(), nn.MultiLabelMarginLoss(), nn.CrossEntropyLoss()):
        target = indices(2, 4) if isinstance(loss, nn.MultiLabelMarginLoss) else indices(2)
        yield lambda loss=loss, target=target: loss(torch.rand(2, 4, requires_grad=True), target)
    for loss in (nn.L1Loss(), nn.MSELoss(), nn.SmoothL1Loss(), nn.HuberLoss(), nn.BCELoss(), nn.BCEWithLogitsLoss()):
        yield lambda loss=loss: loss(torch.rand(2, 4, requires_grad=True), torch.rand(2, 4))
    for loss in (nn.KLDivLoss(), nn.SoftMarginLoss(), nn.PoissonNLLLoss(), nn.MultiLabelSoftMarginLoss()):
        yield lambda loss=loss: loss(torch.rand(2, 4, requires_grad=True), torch.rand(2, 4))


def test_operations_of_layers_are_known() -> None:
    """Others count as products."""
    with Recorder() as recorder:
        for run in runs():
            result = run()
            values = result if isinstance(result, tuple) else (result,)
            total = sum(value.sum() for value in values if value.is_floating_point())
            if isinstance(total, Tensor) and total.requires_grad:
                total.backward()
    assert not recorder.unknown


IN_PLACE = "abs_ gt_ ge_ lt_ le_ eq_ ne_ floor_divide_ tril_ triu_ scatter_ scatter_add_ copysign_ xlogy_ gcd_"


@pytest.mark.parametrize("name", [*IN_PLACE.split(), "heaviside_", "lcm_", "one_hot"])
def test_a_plain_operation_is_known_in_place_too(name: str) -> None:
    packet = getattr(torch.ops.aten, name)
    for func in (getattr(packet, overload) for overload in packet.overloads()):
        assert work_of(func, _is_known(func, _kind(func))) is not _unknown, func


def test_many_words_in_a_large_vocabulary_are_no_product() -> None:
    words = torch.randint(1000, (50, 50))
    with ResourceLimitMode(ResourceLimits()):
        functional.one_hot(words, 1000)
        torch.zeros(2500, 1000).scatter_(1, words.reshape(-1, 1), 1.0)
