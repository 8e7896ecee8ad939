"""Kernels of lookup tables and of linear layers for sparse inputs."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from dpnn_bridge.lua.tensor import Tensor, TorchError
from dpnn_bridge.lua.thnn.registry import IntTensor, LongTensor, kernel
from dpnn_bridge.modules.nn.sparse import normalized


def _rows(index: Tensor, count: int) -> torch.Tensor:
    """Return the rows of a table, counted from 0.

    Raises:
        TorchError: a row does not exist.
    """
    rows = index.t.reshape(-1).long() - 1
    beyond = rows[(rows < 0) | (rows >= count)]
    if len(beyond):
        value = int(beyond[0]) + 1
        raise TorchError(f"inputs need to be in the range 1 <= input < {count + 1}, but got input of value: {value}")
    return rows


@kernel("LookupTable_accGradParameters")
def lookup_parameters(
    input: LongTensor,
    grad_output: Tensor,
    grad_weight: Tensor,
    count: IntTensor | None,
    _sorted: Tensor | None,
    _indices: LongTensor | None,
    by_frequency: bool,
    padding: float = 0,
    scale: float = 1,
) -> None:
    if not grad_weight.is_contiguous():
        raise TorchError("gradWeight must be contiguous")
    rows = _rows(input, grad_weight.size[0])
    width = grad_weight.numel // grad_weight.size[0]
    if grad_output.numel < len(rows) * width:
        raise TorchError(f"gradOutput {grad_output.shape_text} has no {len(rows)} rows of {width} elements")
    g = grad_output.t.reshape(-1)[: len(rows) * width].reshape(len(rows), width) * scale
    if by_frequency:
        numbers = torch.bincount(rows, minlength=grad_weight.size[0])
        g = g / numbers[rows][:, None]
    used = rows + 1 != int(padding)
    grad_weight.t.index_add_(0, rows[used], g[used].reshape(-1, *grad_weight.size[1:]).to(grad_weight.t.dtype))


@kernel("LookupTable_renorm")
def lookup_renorm(index: LongTensor, weight: Tensor, limit: float, p: float) -> None:
    """Scale the rows in ``index`` whose norm exceeds the limit."""
    if p <= 0:
        raise TorchError("non-positive-norm not supported")
    rows = torch.unique(_rows(index, weight.size[0]))
    chosen = weight.t[rows]
    norms = torch.pow(torch.pow(chosen.abs(), p).sum(1, keepdim=True), 1 / p)
    weight.t[rows] = torch.where(norms > limit, chosen * (limit / (norms + 1e-7)), chosen)


# ---- SparseLinear: the input is COO rows (sample, feature, value); in the legacy format, (feature, value) per sample


def _coordinates(input: Tensor, features: int, legacy: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return samples and features, counted from 0, and values; entries with value 0 are omitted."""
    x = input.t
    if legacy:
        if x.dim() != 3 or x.shape[2] != 2:
            raise TorchError("input size must be batchsize x nnz x 2")
        sample = torch.arange(x.shape[0])[:, None].expand(x.shape[:2]).reshape(-1)
        feature, value = x[..., 0].reshape(-1).long() - 1, x[..., 1].reshape(-1)
    else:
        if x.dim() != 2 or x.shape[1] != 3:
            raise TorchError("input must be in coo format, nnz x 3")
        sample, feature, value = x[:, 0].long() - 1, x[:, 1].long() - 1, x[:, 2]
    used = value != 0
    if bool(((feature < 0) | (feature >= features))[used].any()):
        raise TorchError(f"index out of bound: features are between 1 and {features}")
    return sample[used], feature[used], value[used]


def _declare(prefix: str, legacy: bool) -> None:
    suffix = (lambda name: name[0].upper() + name[1:]) if legacy else (lambda name: name)

    @kernel(prefix + suffix("updateOutput"))
    def update_output(input: Tensor, output: Tensor, weight: Tensor, bias: Tensor) -> None:
        sample, feature, value = _coordinates(input, weight.size[1], legacy)
        if legacy:
            output.resize((input.size[0], weight.size[0]))
        y = torch.zeros_like(output.t)
        y.index_add_(0, sample, weight.t[:, feature].t() * value[:, None])
        output.t.copy_(y + bias.t)

    @kernel(prefix + suffix("accGradParameters"))
    def acc_grad_parameters(
        input: Tensor,
        grad_output: Tensor,
        grad_weight: Tensor,
        grad_bias: Tensor,
        weight: Tensor,
        bias: Tensor,
        decay: float,
        scale: float,
    ) -> None:
        sample, feature, value = _coordinates(input, weight.size[1], legacy)
        columns = grad_output.t[sample] * (scale * value)[:, None]
        grad_weight.t.index_add_(1, feature, columns.t())
        grad_bias.t.add_(grad_output.t.sum(0), alpha=scale)
        if decay:
            grad_weight.t.add_(weight.t, alpha=decay)

    @kernel(prefix + suffix("zeroGradParameters"))
    def zero_grad_parameters(grad_weight: Tensor, grad_bias: Tensor, last_input: Tensor) -> None:
        grad_bias.t.zero_()
        _, feature, _ = _coordinates(last_input, grad_weight.size[1], legacy)
        grad_weight.t[:, feature] = 0

    @kernel(prefix + suffix("updateParameters"))
    def update_parameters(
        weight: Tensor, bias: Tensor, grad_weight: Tensor, grad_bias: Tensor, last_input: Tensor, rate: float
    ) -> None:
        _, feature, _ = _coordinates(last_input, weight.size[1], legacy)
        if not len(feature):
            return
        bias.t.sub_(grad_bias.t, alpha=rate)
        feature = torch.unique(feature)
        weight.t[:, feature] -= rate * grad_weight.t[:, feature]


_declare("SparseLinear_", legacy=False)
_declare("SparseLinear_legacy", legacy=True)


# ---- IndexLinear: a row of the weight per feature; with normalization, the first columns are its statistics


class _Keys:
    """The sample and the row of the weight of each key."""

    def __init__(self, keys: Tensor, offset: float, sizes: Tensor) -> None:
        self.rows = keys.t.reshape(-1) + int(offset)
        self.samples = torch.repeat_interleave(torch.arange(sizes.numel), sizes.t.reshape(-1))


@kernel("IndexLinear_updateOutput")
def index_linear(
    keys: LongTensor,
    offset: float,
    values: Tensor,
    sizes: LongTensor,
    _cumulative: LongTensor,
    output: Tensor,
    weight: Tensor,
    bias: Tensor,
    normalized_values: Tensor,
    train: float,
) -> None:
    at, v = _Keys(keys, offset, sizes), values.t.reshape(-1)
    skip = weight.size[1] - bias.numel
    if skip:
        v = normalized(weight.t, at.rows, v, bool(train)) + weight.t[at.rows, 3]
        normalized_values.assign(v)
    y = bias.t.reshape(1, -1).repeat(sizes.numel, 1)
    output.assign(y.index_add_(0, at.samples, weight.t[at.rows, skip:] * v[:, None]))


@kernel("IndexLinear_accGradParameters")
def index_linear_parameters(
    keys: LongTensor,
    offset: float,
    values: Tensor,
    sizes: LongTensor,
    _cumulative: LongTensor,
    grad_output: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    weight: Tensor,
    bias: Tensor,
    _buffer: Tensor,
    decay: float,
    scale: float,
) -> None:
    """Compute the gradient of each key, one row; with normalization, after a row of gradients of the offset."""
    at, v = _Keys(keys, offset, sizes), values.t.reshape(-1)
    skip = weight.size[1] - bias.numel
    g = grad_output.t.reshape(sizes.numel, -1)
    rows = g[at.samples]
    gradients = rows * (scale * v)[:, None]
    if skip:
        gradients = torch.stack([rows * scale, gradients], 1)
    grad_weight.assign(gradients.reshape(len(at.rows), -1))
    grad_bias.t.add_((scale * g.sum(0)).reshape(grad_bias.t.shape))


def _descend(weight: Tensor, skip: int, rows: torch.Tensor, gradients: torch.Tensor, decay: float, rate: float) -> None:
    """Subtract the gradient of each key, times the rate, from the key's row of the weight.

    If an update depends on the current row, keys with equal rows are applied one after the other.
    """
    w, outputs = weight.t, weight.size[1] - skip
    if not skip and not decay:  # an update does not depend on earlier ones
        w.index_add_(0, rows, gradients * -rate)
        return
    if skip and outputs == 1:
        decay = -decay  # as in THNN
    for entries in _rounds(rows):
        row, gradient = rows[entries], gradients[entries]
        scale = w[row, skip - 2, None] if skip else 1.0
        if skip:
            w[row, skip - 1] -= (gradient[:, :outputs] * w[row, skip:] * (rate * scale)).sum(1)
            gradient = gradient[:, outputs:]
        w[row, skip:] -= w[row, skip:] * (decay * scale) + gradient * (rate * scale)


def _rounds(rows: torch.Tensor) -> Sequence[torch.Tensor]:
    """Return groups of positions: the first occurrence of each row, the second occurrence …"""
    order = torch.argsort(rows, stable=True)
    counts = torch.unique(rows, return_counts=True)[1]
    number = torch.arange(len(rows)) - torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    return order[torch.argsort(number, stable=True)].split(torch.bincount(number).tolist())


@kernel("IndexLinear_updateParameters")
def index_linear_update(
    grad_weight: Tensor,
    grad_bias: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_keys: LongTensor,
    _cumulative: LongTensor,
    offset: float,
    decay: float,
    rate: float,
) -> None:
    skip = weight.size[1] - bias.numel
    bias.t.sub_(grad_bias.t.reshape(bias.t.shape), alpha=rate)
    rows = running_keys.t.reshape(-1) + int(offset)
    gradients = grad_weight.t.reshape(len(rows), -1)
    _descend(weight, skip, rows, gradients, decay, rate)


@kernel("IndexLinear_accUpdateGradParameters")
def index_linear_acc_update(
    keys: LongTensor,
    offset: float,
    values: Tensor,
    sizes: LongTensor,
    _cumulative: LongTensor,
    grad_output: Tensor,
    weight: Tensor,
    bias: Tensor,
    decay: float,
    scale: float,
) -> None:
    at, v = _Keys(keys, offset, sizes), values.t.reshape(-1)
    skip = weight.size[1] - bias.numel
    g = grad_output.t.reshape(sizes.numel, -1)
    rows = g[at.samples]
    gradients = rows * v[:, None]
    if skip:
        gradients = torch.cat([rows, gradients], 1)
    _descend(weight, skip, at.rows, gradients, decay, scale)
    if skip and bias.numel == 1:
        weight.t[at.rows, skip - 2] = 0
    bias.t.sub_((scale * g.sum(0)).reshape(bias.t.shape))
