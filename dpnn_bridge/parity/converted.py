"""Compares a model with a file that was made from it, whatever the format: its tensors, and what every layer gives."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from dpnn_bridge.base.atomic import StrPath
from dpnn_bridge.base.boundary import raises
from dpnn_bridge.base.regular import MOST_BYTES, check_file
from dpnn_bridge.compare import nested
from dpnn_bridge.compare.bits import same_bits
from dpnn_bridge.compare.differences import Difference, Tolerance, compare, scale_of
from dpnn_bridge.compare.precision import full_precision
from dpnn_bridge.compare.verdict import Verdict
from dpnn_bridge.conversion.lua_values import to_value
from dpnn_bridge.conversion.options import Options
from dpnn_bridge.errors import ConversionError, ConversionLimitError, ModelNotFoundError, T7Error
from dpnn_bridge.files import load_with_report
from dpnn_bridge.objects import LuaTable
from dpnn_bridge.outputs.format import Format
from dpnn_bridge.outputs.formats import format_of
from dpnn_bridge.outputs.verification import traceable
from dpnn_bridge.outputs.written import Results, Written, run_modules
from dpnn_bridge.parity.bounded import Bounds
from dpnn_bridge.parity.judge import draws_of
from dpnn_bridge.parity.layers import tree
from dpnn_bridge.parity.rounding import distances
from dpnn_bridge.parity.verification import Layer, Verification

#: what a traced graph may differ by, since it computes in another order
TRACED = Tolerance(1e-8, 1e-4)
#: in single precision no more than so much, or so many times our own distance from the result in double precision
TRACED_LEAST, TRACED_MARGIN = 32 * torch.finfo(torch.float32).eps, 5
#: units in the last place that weights may differ by that were multiplied by those of a batch normalization
FOLDED_UNITS = 16


def compare_converted(
    result: Verification,
    module: nn.Module,
    path: StrPath,
    table: LuaTable,
    options: Options,
    dtype: torch.dtype | None,
    key: str,
    running: Bounds,
) -> None:
    """Adds the comparisons with a converted file to the layers of ``result``.

    Args:
        result: with its layers, in the order of the tree.
        module: the model, as it is to run.
        path: the file.
        table: holds the ``input``, where there is one.
        options: how the model was converted.
        dtype: what the model was cast to; None leaves both as they are.
        key: path of the model in the file it came from, for files that hold several.
        running: bounds what a run may take.
    """
    path = Path(path)
    format = format_of(path)
    traced = format.traced
    if traced:
        module = traceable(module)
    written = _opened(path, format, module, options, dtype, key, running)
    if written.note:
        result.notes.append(f"{path.name} {written.note}.")
    _as_in_file(result, module, written, path)
    layers = _Layers(result, module)
    absent = _compare_tensors(layers, module, written)
    _compare_results(layers, module, written, table, path, traced, running)
    if absent:
        names = ", ".join(absent[:6]) + (f" and {len(absent) - 6} more" if absent[6:] else "")
        result.notes.append(f"{path.name} holds no tensor like {names}: compared by what the layers return alone.")


def _opened(
    path: Path,
    format: Format,
    module: nn.Module,
    options: Options,
    dtype: torch.dtype | None,
    key: str,
    running: Bounds,
) -> Written:
    if format.rebuilt:
        other = _loaded(path, options, key).to(next(_devices(module), torch.device("cpu")), dtype)
        other.train(module.training)
        names = {name: m.training for name, m in module.named_modules()}
        modules = dict(other.named_modules())
        for name, m in modules.items():
            m.training = names.get(name, m.training)

        def run(value: Any, given: Results) -> Results:
            with torch.no_grad(), running(other):
                return run_modules(modules, lambda: other(value), given)

        return Written(other.state_dict(), run=run)
    check_file(path, MOST_BYTES if format.suffix == ".py" else None)
    return raises(T7Error, f"reading {path}")(format.open)(path, module)


def _loaded(path: Path, options: Options, key: str) -> nn.Module:
    """The module of a file; ``key`` chooses it where the file holds several."""
    try:
        return load_with_report(path, key or None, options)[0]
    except ModelNotFoundError:
        return load_with_report(path, None, options)[0]


def _devices(module: nn.Module) -> Any:
    return (t.device for t in [*module.parameters(), *module.buffers()])


def _as_in_file(result: Verification, module: nn.Module, written: Written, path: Path) -> None:
    """Casts the model to the precision of a file that was written in another one."""
    state = module.state_dict()
    theirs = {t.dtype for name, t in written.tensors.items() if name in state and t.is_floating_point()}
    ours = {t.dtype for t in state.values() if t.is_floating_point()}
    if len(theirs) == 1 and theirs != ours:
        (dtype,) = theirs
        module.to(dtype)
        result.notes.append(f"{path.name} holds {str(dtype).removeprefix('torch.')}; the model was cast to it.")


class _Layers:
    """The layers of a result by the names of PyTorch's modules."""

    def __init__(self, result: Verification, module: nn.Module) -> None:
        nodes = {id(node.module): layer for node, layer in zip(tree(module), result.layers, strict=True)}
        self.result = result
        self.by_name: dict[str, Layer] = {n: nodes[id(m)] for n, m in module.named_modules() if id(m) in nodes}
        self.modules = {n: m for n, m in module.named_modules() if id(m) in nodes}

    def of(self, name: str) -> Layer:
        """The layer that a module, or one that is hidden in it, stands for."""
        while name not in self.by_name:
            name = name.rpartition(".")[0]
        return self.by_name[name]


def _compare_tensors(layers: _Layers, module: nn.Module, written: Written) -> list[str]:
    """The bits of every parameter and buffer; returns the names of those that a traced graph does not hold."""
    renamed = list(written.renamed)
    state = module.state_dict()
    absent: dict[str, None] = {}
    for name, ours in state.items():
        owner, _, leaf = name.rpartition(".")
        layer = layers.of(owner)
        theirs = written.tensors.get(name)
        if theirs is None and not written.complete:
            theirs = _most_alike(ours, renamed)
        if theirs is None:
            if written.complete:
                layer.converted.append(_failed(leaf, "the converted file has no such tensor"))
            elif ours.is_floating_point() and ours.any():  # zeros may be left out
                absent[name] = None
            continue
        layer.converted.append(_identical(leaf, ours, theirs))
    if not written.complete:
        for name in _compare_folded(layers, module, written):
            absent.pop(name, None)
    if written.complete:
        for name in written.tensors.keys() - state.keys():
            layers.result.whole.append(_failed(f"converted {name}", "the model has no such tensor"))
    return list(absent)


def _compare_folded(layers: _Layers, module: nn.Module, written: Written) -> Iterator[str]:
    """Weights into which a tracer folded the batch normalization behind them, whose own tensors are gone then.

    Which one that was, the graph no longer says: it is the one that explains the weights best.
    """
    left = {
        name: m
        for name, m in module.named_modules()
        if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.running_mean is not None
        if not any(n.startswith(f"{name}.") for n in written.tensors)
    }
    for name, first in module.named_modules():
        layer, weight = layers.of(name), first._parameters.get("weight")
        failed = {d.name for d in layer.converted if not d.ok and d.name in ("weight", "bias")}
        if not failed or weight is None or name in left:
            continue
        found: dict[str, list[Difference]] = {}
        for gone, behind in left.items():
            channels = weight.shape[1] if isinstance(first, nn.modules.conv._ConvTransposeNd) else weight.shape[0]
            if behind.num_features == channels:
                what = f"with {layers.of(gone).path} folded in"
                theirs = {leaf: written.tensors.get(f"{name}.{leaf}") for leaf in ("weight", "bias")}
                folded = _folded(first, behind).items()
                found[gone] = [_near(f"{k} {what}", t, *each) for k, each in folded if (t := theirs[k]) is not None]
        if found:
            gone = min(found, key=lambda n: sum(d.error / (d.error + 1) for d in found[n]))
            if not all(d.ok for d in found[gone]):
                gone = next((n for n in _behind(module, name) if n in found), gone)
            layer.converted = [d for d in layer.converted if d.name not in failed]
            theirs = written.tensors.get(f"{name}.weight")
            scaled = theirs is not None and _only_scaled(theirs, _folded(first, left[gone])["weight"][0], first)
            (layers.of(gone) if scaled else layer).converted += found[gone]
            yield from (f"{name}.bias", *(f"{gone}.{n}" for n in left.pop(gone).state_dict()))


def _only_scaled(found: Tensor, expected: Tensor, module: nn.Module) -> bool:
    """Whether weights differ by one factor for each channel, so that it is the normalization that is another one."""
    if found.shape != expected.shape or found.numel() == 0:
        return False
    channel = 1 if isinstance(module, nn.modules.conv._ConvTransposeNd) else 0
    f, e = (t.detach().double().movedim(channel, 0).flatten(1) for t in (found, expected))
    ratio = f / e.where(e != 0, torch.nan)
    spread, middle = (ratio - ratio.nanmean(1, keepdim=True)).abs().nan_to_num(0.0).amax(1), ratio.nanmean(1)
    off = (middle - 1).abs()
    return f.shape[1] > 1 and bool((off > 1e-6).any()) and bool((spread <= 0.01 * off + 1e-6).all())


def _behind(module: nn.Module, name: str) -> list[str]:
    """The names of the modules after one, in the order of the file."""
    names = [n for n, _ in module.named_modules()]
    return names[names.index(name) + 1 :]


def _folded(first: nn.Module, behind: nn.modules.batchnorm._BatchNorm) -> dict[str, tuple[Tensor, Tensor]]:
    """Weight and bias with a batch normalization folded in, and the size of the terms that each is a sum of."""
    weight, bias = first._parameters["weight"], first._parameters.get("bias")
    transposed = isinstance(first, nn.modules.conv._ConvTransposeNd)
    mean, beta = behind.running_mean, behind.bias

    def fused(*values: Tensor | None) -> tuple[Tensor, Tensor]:
        w, b, m, g, s = (v if v is None else v.detach().double() for v in values)
        return fuse_conv_bn_weights(w, b, m, behind.running_var.double(), behind.eps, g, s, transpose=transposed)  # type: ignore[arg-type, return-value, union-attr]

    def size(value: Tensor | None) -> Tensor | None:
        return None if value is None else value.detach().abs()

    exact = fused(weight, bias, mean, behind.weight, beta)
    terms = fused(size(weight), size(bias), -size(mean), size(behind.weight), size(beta))  # type: ignore[operator]
    return {leaf: (e.detach(), t.detach()) for leaf, e, t in zip(("weight", "bias"), exact, terms, strict=True)}


def _near(name: str, found: Tensor, expected: Tensor, size: Tensor) -> Difference:
    """Each element for itself, relative to the size of the terms that it is a sum of."""
    if found.shape != expected.shape:
        return _failed(name, f"shape {tuple(found.shape)} in place of {tuple(expected.shape)}")
    limit = FOLDED_UNITS * torch.finfo(found.dtype).eps
    relative = (found.double() - expected).abs() / size.clamp(min=torch.finfo(found.dtype).tiny)
    worst = int(relative.argmax()) if relative.numel() else 0
    error, f, e = (float(t.flatten()[worst]) if t.numel() else 0.0 for t in (relative, found, expected))
    index = tuple(int(i) for i in torch.unravel_index(torch.tensor(worst), relative.shape))
    message = "" if error <= limit else f"expected {e:.9g}, found {f:.9g} at {list(index)}, relative error {error:.3g}"
    return Difference(name, error, limit, message, abs(f - e), index, e, f)


def _most_alike(ours: Tensor, renamed: list[Tensor]) -> Tensor | None:
    """The tensor without a name that is this one, maybe transposed: most of its elements are equal."""
    flat = ours.detach().cpu()
    for theirs in renamed:
        if theirs.numel() != ours.numel() or theirs.dtype != ours.dtype or ours.numel() < 2:
            continue
        forms = [theirs.reshape(ours.shape)]
        if ours.dim() == 2:
            forms.append(theirs.reshape(ours.shape[::-1]).t())
        for form in forms:
            if (form == flat).double().mean() > 0.5:
                return form.contiguous()
    return None


def _compare_results(
    layers: _Layers, module: nn.Module, written: Written, table: LuaTable, path: Path, traced: bool, running: Bounds
) -> None:
    """What every layer returns; each of the file's gets what the model's gave, so that it answers for itself alone."""
    if written.run is None:
        return
    device = next(_devices(module), torch.device("cpu"))
    value = to_value(table["input"], device=device) if "input" in table else written.example
    if value is None:
        layers.result.notes.append("Only tensors were compared; with an input (--input) the layers run as well.")
        return
    floats = {t.dtype for t in module.state_dict().values() if t.is_floating_point()}
    value = nested.cast(value, floats.pop() if len(floats) == 1 else None)
    ran = copy.deepcopy(module)
    torch.manual_seed(0)
    with torch.no_grad(), full_precision():
        try:
            with running(ran):
                ours = run_modules({n: ran.get_submodule(n) for n in layers.modules}, lambda: ran(nested.copied(value)))
        except ConversionLimitError:
            raise
        except Exception as e:
            if "input" in table:
                raise ConversionError(f"the model cannot run on the input: {e}") from e
            layers.result.notes.append("Only tensors were compared; name an input (--input) to run the layers as well.")
            return
        torch.manual_seed(0)
        try:
            theirs = written.run(nested.copied(value), {name: v for name, v in ours.items() if name})
        except Exception as e:
            layers.result.whole.append(_failed("converted", f"{path.name} does not run on this input: {e}"))
            return
    _order(layers, ours)
    allowed = {} if written.exact else _rounding(ran, layers, value, ours)
    for name, found in theirs.items():
        if name not in ours or (name == "" and traced and any(v is found for n, v in theirs.items() if n)):
            continue  # the output of the whole is compared where it is that of a layer
        layer = layers.by_name.get(name)
        if layer is None or (name and traced and not isinstance(ours[name], Tensor)):
            continue  # of a table a graph shows the values that the layer computes, and not those that it hands on
        if written.exact:
            layer.converted.append(_identical("output", ours[name], found))
        else:
            layer.converted += _nearly(ours[name], found, module, value, allowed.get(name))
    if written.exact:
        for name in (ours.keys() - theirs.keys()) & layers.by_name.keys():
            layers.by_name[name].converted.append(_failed("output", "the layer does not run in the converted file"))


def _order(layers: _Layers, ours: Results) -> None:
    for i, name in enumerate(name for name in ours if name):
        if name in layers.by_name:
            layers.by_name[name].order = layers.by_name[name].order or i + 1
    layers.by_name[""].order = layers.by_name[""].order or len(ours) + 1


def _rounding(module: nn.Module, layers: _Layers, value: Any, ours: Results) -> dict[str, float]:
    """How far a traced graph in single precision may be off in each layer, given the results of those before it."""
    if all(t.dtype != torch.float32 for t in nested.leaves(ours.get("")) if isinstance(t, Tensor)):
        return {}
    double = copy.deepcopy(module).double()
    modules = {n: double.get_submodule(n) for n in layers.modules}
    torch.manual_seed(0)
    try:
        with torch.no_grad():
            exact = run_modules(
                modules,
                lambda: double(nested.cast(nested.copied(value), torch.float64)),
                {name: nested.cast(v, torch.float64) for name, v in ours.items() if name},
            )
    except Exception:  # a layer that cannot be cast
        return {}

    def far(name: str, value: Any) -> float:
        size = min((scale_of(t.double(), TRACED) for t in nested.leaves(value) if isinstance(t, Tensor)), default=1.0)
        return max(distances("output", exact[name], value).values(), default=0.0) / size

    return {name: max(TRACED_LEAST, TRACED_MARGIN * far(name, v)) for name, v in ours.items() if name in exact}


def _nearly(ours: Any, theirs: Any, module: nn.Module, value: Any, allowed: float | None) -> list[Difference]:
    """The outputs of a traced graph, which computes the same in another order."""
    flat, others = list(nested.leaves(ours)), list(nested.leaves(theirs))
    if len(flat) == len(others) == 1 and isinstance(flat[0], Tensor) and isinstance(others[0], Tensor):
        flat, others = flat[0].detach().cpu(), others[0].detach().cpu()
        if flat.numel() == others.numel():
            others = others.reshape(flat.shape)
    limit = TRACED if allowed is None else replace(TRACED, single=min(TRACED.single, allowed))
    found = compare("output", others, flat, limit)
    for d in found:
        if d.ok or d.mismatched:
            continue
        if names := draws_of(module, value):
            d.excuse, d.reason = (
                Verdict.RANDOM,
                f"{', '.join(names)} draws random numbers, in the file others than here",
            )
        elif allowed is not None and d.error <= allowed:
            d.excuse, d.reason, d.rounding = Verdict.ROUNDING, "rounding errors explain it", allowed
    return found


def _failed(name: str, message: str) -> Difference:
    return Difference(name, math.inf, 0.0, message)


def _identical(name: str, ours: Any, theirs: Any) -> Difference:
    """Whether nested values are the same bits."""
    mine, others = list(nested.leaves(ours)), list(nested.leaves(theirs))
    if len(mine) != len(others):
        return _failed(name, f"the converted file has {len(others)} values in place of {len(mine)}")
    for a, b in zip(mine, others, strict=True):
        if isinstance(a, Tensor) and isinstance(b, Tensor):
            a, b = a.detach().cpu(), b.detach().cpu()
            if a.dtype != b.dtype:
                return _failed(name, f"{b.dtype} in place of {a.dtype}")
            if not same_bits(a, b):
                found = compare(name, b, a, Tolerance(0.0, 0.0, 1e-30))[0]
                return found if not found.ok else _failed(name, "signs of zeros or nans differ")
        elif a != b:
            return _failed(name, f"{b!r} in place of {a!r}")
    return Difference(name, 0.0, 0.0)
