"""Compare weights that an exporter folded with the following batch normalization."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from dpnn_bridge.compare.differences import Difference, errors
from dpnn_bridge.outputs.written import Written
from dpnn_bridge.parity.named_layers import NamedLayers, failed

#: accepted difference of weights that an exporter computed, in units in the last place of the largest term
FOLDED_UNITS = 16


def compare_folded(layers: NamedLayers, module: nn.Module, written: Written) -> Iterator[str]:
    """Compare weights that an exporter folded with a batch normalization.

    The graph does not contain the name of the batch normalization. The one that explains the weights best is chosen.

    Args:
        layers: the layers, whose comparisons are changed.
        module: the model.
        written: the converted file.

    Yields:
        Names of the tensors that a folded graph lacks.
    """
    present = {name.rpartition(".")[0] for name in written.tensors}
    missing = {
        name: m
        for name, m in module.named_modules()
        if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.running_mean is not None and name not in present
    }
    names = [name for name, _ in module.named_modules()]
    for at, (name, first) in enumerate(module.named_modules()):
        layer, weight = layers.of(name), first._parameters.get("weight")
        different = {d.name for d in layer.converted if not d.ok and d.name in ("weight", "bias")}
        if not different or weight is None or name in missing:
            continue
        found: dict[str, list[Difference]] = {}
        channels = weight.shape[1] if isinstance(first, nn.modules.conv._ConvTransposeNd) else weight.shape[0]
        in_file = {leaf: written.tensors.get(f"{name}.{leaf}") for leaf in ("weight", "bias")}
        for norm in (n for n in names[at:] + names[:at] if n in missing and missing[n].num_features == channels):
            suffix = f"with {layers.of(norm).path} folded in"
            folded = _folded(first, missing[norm]).items()
            compared = [compare_elements(f"{k} {suffix}", t, *e) for k, e in folded if (t := in_file[k]) is not None]
            if compared:
                found[norm] = compared
            if compared and all(d.ok for d in compared):
                break
        if found:
            norm = min(found, key=lambda n: sum(1 - 1 / (d.error + 1) for d in found[n]))
            if not all(d.ok for d in found[norm]):
                norm = next((n for n in names[at:] if n in found), norm)
            layer.converted = [d for d in layer.converted if d.name not in different]
            scaled = in_file["weight"] is not None and _only_scaled(
                in_file["weight"], _folded(first, missing[norm])["weight"][0], first
            )
            (layers.of(norm) if scaled else layer).converted += found[norm]
            yield from (f"{name}.bias", *(f"{norm}.{n}" for n in missing.pop(norm).state_dict()))


def _only_scaled(found: Tensor, expected: Tensor, module: nn.Module) -> bool:
    """Return whether weights differ by one factor per channel; then the batch normalization differs, not the layer."""
    if found.shape != expected.shape or found.numel() == 0:
        return False
    channel = 1 if isinstance(module, nn.modules.conv._ConvTransposeNd) else 0
    f, e = (t.detach().double().movedim(channel, 0).flatten(1) for t in (found, expected))
    ratio = f / e.where(e != 0, torch.nan)
    spread, middle = (ratio - ratio.nanmean(1, keepdim=True)).abs().nan_to_num(0.0).amax(1), ratio.nanmean(1)
    off = (middle - 1).abs()
    return f.shape[1] > 1 and bool((off > 1e-6).any()) and bool((spread <= 0.01 * off + 1e-6).all())


def _folded(layer: nn.Module, norm: nn.modules.batchnorm._BatchNorm) -> dict[str, tuple[Tensor, Tensor]]:
    """Return ``weight`` and ``bias`` of a layer folded with a batch normalization, each with the size of its terms."""
    weight, bias = layer._parameters["weight"], layer._parameters.get("bias")
    transposed = isinstance(layer, nn.modules.conv._ConvTransposeNd)
    mean, beta = norm.running_mean, norm.bias

    def fused(*values: Tensor | None) -> tuple[Tensor, Tensor]:
        w, b, m, g, s = (v if v is None else v.detach().double() for v in values)
        return fuse_conv_bn_weights(w, b, m, norm.running_var.double(), norm.eps, g, s, transpose=transposed)  # type: ignore[arg-type, return-value, union-attr]

    def size(value: Tensor | None) -> Tensor | None:
        return None if value is None else value.detach().abs()

    exact = fused(weight, bias, mean, norm.weight, beta)
    terms = fused(size(weight), size(bias), -size(mean), size(norm.weight), size(beta))  # type: ignore[operator]
    return {leaf: (e.detach(), t.detach()) for leaf, e, t in zip(("weight", "bias"), exact, terms, strict=True)}


def compare_elements(name: str, found: Tensor, expected: Tensor, size: Tensor) -> Difference:
    """Compare each element separately, relative to the sum of the absolute values of its terms, ``size``."""
    if found.shape != expected.shape:
        return failed(name, f"shape {tuple(found.shape)} instead of {tuple(expected.shape)}")
    limit = FOLDED_UNITS * torch.finfo(found.dtype).eps
    distance = errors(found.double(), expected)
    relative = distance / size.clamp(torch.finfo(found.dtype).tiny, torch.finfo(torch.float64).max)
    relative = torch.where(distance == 0.0, 0.0, relative.nan_to_num(nan=float("inf"), posinf=float("inf")))
    worst = int(relative.argmax()) if relative.numel() else 0
    values = (float(t.flatten()[worst]) if t.numel() else 0.0 for t in (relative, distance, found, expected))
    error, absolute, f, e = values
    index = tuple(int(i) for i in np.unravel_index(worst, tuple(relative.shape)))
    message = "" if error <= limit else f"expected {e:.9g}, found {f:.9g} at {list(index)}, relative error {error:.3g}"
    return Difference(name, error, limit, message, absolute, index, e, f)
