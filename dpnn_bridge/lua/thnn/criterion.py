"""Kernels of criterions. The loss is written to an output of one element."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from dpnn_bridge.lua.tensor import Tensor, TorchError
from dpnn_bridge.lua.thnn.registry import LongTensor, check_count, kernel, like

_BCE_EPSILON = 1e-12


def _set(output: Tensor, value: torch.Tensor) -> None:
    output.assign(value.reshape(1))


def _share(count: int) -> float:
    """Return 1 / count as in C: infinity for 0."""
    return 1 / count if count else math.inf


def _positive(z: torch.Tensor) -> torch.Tensor:
    """Return z where it is positive, else 0, also for NaN, as THNN's ``z > 0`` does."""
    return torch.where(z > 0, z, 0.0)


def _pair(input: Tensor, target: Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    check_count(input, target, "target")
    return input.t, target.t.reshape(input.size or (0,))


def _pointwise(name: str, loss: Callable[..., torch.Tensor], slope: Callable[..., torch.Tensor]) -> None:
    """Register kernels for the sum or average of ``loss(input, target)``, whose derivative is ``slope``."""

    @kernel(f"{name}_updateOutput")
    def update_output(input: Tensor, target: Tensor, output: Tensor, average: bool, *options: float) -> None:
        total = loss(*_pair(input, target), *options).sum()
        _set(output, total / input.numel if average else total)

    @kernel(f"{name}_updateGradInput")
    def update_grad_input(input: Tensor, target: Tensor, grad_input: Tensor, average: bool, *options: float) -> None:
        norm = _share(input.numel) if average else 1.0
        grad_input.assign(norm * slope(*_pair(input, target), *options))


def _smooth(z: torch.Tensor) -> torch.Tensor:
    return torch.where(z < 1, 0.5 * z * z, z - 0.5)


def _soft_margin(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Compute the loss with an exponential in double precision, as in C, for all element types."""
    return torch.log(1 + torch.exp((-x * t).double())).to(x.dtype)


def _soft_margin_slope(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    z = torch.exp(-t * x)  # in the element type, unlike the loss: infinite beyond 88 in single precision
    return -t * z / (1 + z)


_pointwise("AbsCriterion", lambda x, t: (x - t).abs(), lambda x, t: torch.where(x - t >= 0, 1.0, -1.0).to(x.dtype))
_pointwise("MSECriterion", lambda x, t: (x - t) ** 2, lambda x, t: 2 * (x - t))
_pointwise("SmoothL1Criterion", lambda x, t: _smooth((x - t).abs()), lambda x, t: torch.clamp(x - t, -1, 1))
_pointwise("SoftMarginCriterion", _soft_margin, _soft_margin_slope)
_pointwise(
    "MarginCriterion",
    lambda x, t, margin: _positive(margin - x * t),
    lambda x, t, margin: torch.where(x * t < margin, -t, 0.0),
)
_pointwise(
    "DistKLDivCriterion",
    lambda x, t: torch.where(t > 0, t * (torch.log(t) - x), 0.0),
    lambda x, t: torch.where(t > 0, -t, 0.0),
)


@kernel("BCECriterion_updateOutput")
def bce(input: Tensor, target: Tensor, output: Tensor, average: bool, weights: Tensor | None = None) -> None:
    x, t = _pair(input, target)
    beyond = x[~((x >= 0) & (x <= 1))]
    if beyond.numel():
        value = beyond[0].item()
        raise TorchError(f"Assertion `x >= 0. && x <= 1.' failed. input value should be between 0~1, but got {value:f}")
    loss = torch.log(x + _BCE_EPSILON) * t + torch.log(1 - x + _BCE_EPSILON) * (1 - t)
    total = -(loss if weights is None else loss * weights.t.reshape(x.shape)).sum()
    _set(output, total / input.numel if average else total)


@kernel("BCECriterion_updateGradInput")
def bce_gradient(
    input: Tensor, target: Tensor, grad_input: Tensor, average: bool, weights: Tensor | None = None
) -> None:
    x, t = _pair(input, target)
    norm = _share(input.numel) if average else 1.0
    slope = -norm * (t - x) / ((1 - x + _BCE_EPSILON) * (x + _BCE_EPSILON))
    grad_input.assign(slope if weights is None else slope * weights.t.reshape(x.shape))


@kernel("L1Cost_updateOutput")
def l1_cost(input: Tensor, output: Tensor) -> None:
    _set(output, input.t.abs().sum())


@kernel("L1Cost_updateGradInput")
def l1_cost_gradient(input: Tensor, grad_output: Tensor | None, grad_input: Tensor) -> None:
    grad_input.assign(torch.sign(input.t))


# ---- classes


def _chosen(input: Tensor, target: Tensor, weights: Tensor | None, ignored: float | None) -> tuple[torch.Tensor, ...]:
    """Return per sample the scores, the class counted from 0, whether the sample counts, and its weight.

    A sample with the class ``ignored`` does not count.

    Dimension 1 of the input contains the scores of the classes.
    """
    x = input.t
    rows = x.reshape(1, -1) if x.dim() == 1 else x.movedim(1, -1).reshape(-1, x.shape[1])
    classes = target.t.reshape(-1) - 1
    counted = torch.ones_like(classes, dtype=torch.bool) if ignored is None else classes != int(ignored) - 1
    if bool((counted & ((classes < 0) | (classes >= rows.shape[1]))).any()):
        raise TorchError("Assertion `cur_target >= 0 && cur_target < n_classes' failed: target out of range")
    if weights is not None and weights.numel != rows.shape[1]:
        raise TorchError("weight tensor should be defined either for all or no classes")
    if input.dim > 1 and len(classes) != len(rows):
        raise TorchError(f"Assertion failed: {len(rows)} samples but {len(classes)} targets")
    counted = counted[: len(rows)]
    classes = torch.where(counted, classes[: len(rows)], 0)  # the class that is ignored may be out of range
    weight = torch.ones_like(rows[:, 0]) if weights is None else weights.t[classes]
    return rows, classes, counted, torch.where(counted, weight, 0.0)


def _nll_loss(
    input: Tensor,
    target: Tensor,
    output: Tensor,
    average: bool,
    weights: Tensor | None,
    total_weight: Tensor,
    ignored: float | None = None,
) -> None:
    rows, classes, _, weight = _chosen(input, target, weights, ignored)
    total = weight.sum()
    loss = -(rows.gather(1, classes[:, None]).squeeze(1) * weight).sum()
    _set(total_weight, total)
    _set(output, loss / total if average and float(total) != 0 else loss)


def _nll_gradient(
    input: Tensor,
    target: Tensor,
    grad_input: Tensor,
    average: bool,
    weights: Tensor | None,
    total_weight: Tensor,
    ignored: float | None = None,
) -> None:
    total = float(total_weight.t)
    if not total > 0:
        return
    rows, classes, counted, weight = _chosen(input, target, weights, ignored)
    if input.dim == 1:
        weight = weight if not average else torch.where(counted, torch.ones_like(weight), 0.0)
    elif average:
        weight = weight / total
    before = like(grad_input, input) if grad_input.numel == input.numel else torch.zeros_like(input.t)
    values = before.reshape(1, -1) if input.dim == 1 else before.movedim(1, -1).reshape(rows.shape)
    at = classes[:, None]
    weight = torch.where(counted, -weight, values.gather(1, at).squeeze(1))
    values = values.scatter(1, at, weight[:, None])  # THNN writes to the elements of the classes only
    if input.dim > 2:
        values = values.reshape(*input.size[:1], *input.size[2:], input.size[1]).movedim(-1, 1)
    grad_input.assign(values.reshape(input.size))


def _check_rows(input: Tensor, target: Tensor) -> None:
    if input.dim > 2:
        raise TorchError("input tensor should be 1D or 2D")
    if target.dim > 1:
        raise TorchError("multi-target not supported")


def _check_planes(input: Tensor, target: Tensor) -> None:
    if target.dim != 3:
        dims = f"but got targets of dimension: {target.dim}"
        raise TorchError(f"bad argument #3 (only batches of spatial targets supported (3D tensors) {dims})")
    if input.dim != 4:
        dims = f"but got input of dimension: {input.dim}"
        raise TorchError(f"bad argument #2 (only batches of spatial inputs supported (4D tensors), {dims})")
    if (input.size[0], *input.size[2:]) != target.size:
        sizes = (f"{name}: {'x'.join(map(str, t.size))}" for name, t in (("got input", input), ("target", target)))
        raise TorchError(f"size mismatch ({', '.join(sizes)})")


def _declare_nll(name: str, check: Callable[[Tensor, Tensor], None]) -> None:
    @kernel(f"{name}_updateOutput")
    def loss(input: Tensor, target: LongTensor, *rest: object) -> None:
        check(input, target)
        _nll_loss(input, target, *rest)  # type: ignore[arg-type]

    @kernel(f"{name}_updateGradInput")
    def gradient(input: Tensor, target: LongTensor, *rest: object) -> None:
        check(input, target)
        _nll_gradient(input, target, *rest)  # type: ignore[arg-type]


_declare_nll("ClassNLLCriterion", _check_rows)
_declare_nll("SpatialClassNLLCriterion", _check_planes)


def _as_rows(input: Tensor) -> torch.Tensor:
    if input.dim not in (1, 2):
        raise TorchError("bad argument #2 (vector or matrix expected)")
    return input.t.reshape(1, -1) if input.dim == 1 else input.t


def _margins(
    input: Tensor, target: Tensor, weights: Tensor | None, margin: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return margin - x[target] + x per row (0 at the target), the classes, and the weight per row."""
    x = _as_rows(input)
    if input.dim > 1 and target.size != (len(x),):
        raise TorchError("bad argument #3 (inconsistent target size)")
    classes = target.t.reshape(-1)[: len(x)] - 1
    if bool(((classes < 0) | (classes >= x.shape[1])).any()):
        raise TorchError("bad argument #3 (target out of range)")
    z = margin - x.gather(1, classes[:, None]) + x
    z = _positive(z.scatter(1, classes[:, None], 0.0))
    weight = torch.ones_like(x[:, :1]) if weights is None else weights.t[classes][:, None]
    return z, classes, weight


@kernel("MultiMarginCriterion_updateOutput")
def multi_margin(
    input: Tensor,
    target: LongTensor,
    output: Tensor,
    average: bool,
    p: float,
    weights: Tensor | None = None,
    margin: float = 1,
) -> None:
    z, _, weight = _margins(input, target, weights, margin)
    total = ((z if p == 1 else z * z) * weight).sum() / z.shape[1]
    _set(output, total / len(z) if average else total)


@kernel("MultiMarginCriterion_updateGradInput")
def multi_margin_gradient(
    input: Tensor,
    target: LongTensor,
    grad_input: Tensor,
    average: bool,
    p: float,
    weights: Tensor | None = None,
    margin: float = 1,
) -> None:
    z, classes, weight = _margins(input, target, weights, margin)
    norm = 1 / (z.numel() if average else z.shape[1])
    slope = norm * ((z > 0).to(z.dtype) if p == 1 else 2 * z) * weight
    slope = slope.scatter(1, classes[:, None], -slope.sum(1, keepdim=True))
    grad_input.assign(slope.reshape(input.size))


def _labels(input: Tensor, target: Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return per sample the scores, the labels counted from 0 and padded with -1, and a mask of the labels."""
    x = _as_rows(input)
    if target.size != input.size:
        raise TorchError("bad argument #3 (inconsistent target size)")
    labels = target.t.reshape(x.shape) - 1
    if bool(((labels < -1) | (labels >= x.shape[1])).any()):
        raise TorchError("bad argument #3 (target out of range)")
    labels = torch.where((labels < 0).cumsum(1) > 0, -1, labels)
    labels = labels[:, : int((labels >= 0).sum(1).max())]  # without columns of padding only
    marked = torch.zeros(len(x), x.shape[1] + 1, dtype=x.dtype).scatter_(1, labels + 1, 1.0)[:, 1:]
    return x, labels, marked


def _label_margins(x: torch.Tensor, labels: torch.Tensor, marked: torch.Tensor) -> torch.Tensor:
    """Return 1 - x[label] + x[other] for every label (dimension 1) and other class (dimension 2)."""
    z = 1 - x.gather(1, labels.clamp(min=0))[:, :, None] + x[:, None, :]
    valid = (labels >= 0)[:, :, None] & (marked == 0)[:, None, :]
    return torch.where(valid, _positive(z), 0.0)


@kernel("MultiLabelMarginCriterion_updateOutput")
def multi_label_margin(input: Tensor, target: LongTensor, output: Tensor, is_target: Tensor, average: bool) -> None:
    x, labels, marked = _labels(input, target)
    is_target.assign(marked.reshape(target.size))
    total = _label_margins(x, labels, marked).sum() / x.shape[1]
    _set(output, total / len(x) if average else total)


@kernel("MultiLabelMarginCriterion_updateGradInput")
def multi_label_margin_gradient(
    input: Tensor, target: LongTensor, grad_input: Tensor, is_target: Tensor, average: bool
) -> None:
    x, labels, marked = _labels(input, target)
    hits = (_label_margins(x, labels, marked) > 0).to(x.dtype) / (x.numel() if average else x.shape[1])
    slope = hits.sum(1)
    slope = slope.scatter_add(1, labels.clamp(min=0), -hits.sum(2))
    grad_input.assign(slope.reshape(input.size))
