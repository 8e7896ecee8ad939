"""Compute and pickle weights with parametrizations, weight norm, spectral norm or pruning."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.parametrizations import _WeightNorm

from dpnn_bridge.conversion.fields import get_tensor
from dpnn_bridge.conversion.modes import evaluating


def make_picklable(module: nn.Module) -> None:
    """Let pickle and ``torch.save`` store a parametrized module, whose class PyTorch creates at run time."""
    type(module).__reduce_ex__ = _reduce  # type: ignore[method-assign, assignment]


def parametrizations(model: nn.Module) -> dict[nn.Module, nn.Module]:
    """Return each module of a parametrization in a model -> the layer whose tensor it computes."""
    layers = [m for m in model.modules() if parametrize.is_parametrized(m)]
    return {part: layer for layer in layers for part in layer.parametrizations.modules()}  # type: ignore[union-attr]


def weight_hooks(module: nn.Module) -> list[Any]:
    """Return the hooks that compute a weight of a module: pruning, and the older weight norm and spectral norm."""
    hooks = module._forward_pre_hooks.values()
    return [
        h for h in hooks if isinstance(h, prune.BasePruningMethod) or type(h).__name__ in ("SpectralNorm", "WeightNorm")
    ]


def weight_norms(module: nn.Module) -> dict[str, int | None]:
    """Return tensor name -> ``dim`` for the tensors of which PyTorch's ``weight_norm`` is the only parametrization.

    Recurrent layers have none: their list of parameters holds results of the computation, which cannot be copied.
    """
    normed = parametrize.is_parametrized(module) and not isinstance(module, nn.RNNBase)
    lists: Any = module.parametrizations if normed else {}
    return {name: parts[0].dim for name, parts in lists.items() if len(parts) == 1 and type(parts[0]) is _WeightNorm}


def normalize_weight(module: nn.Module, name: str, dim: int | None) -> None:
    """Let PyTorch's weight norm compute a tensor, in a module that can be pickled.

    :func:`torch.nn.utils.parametrizations.weight_norm` also adds a hook for older files, which cannot be pickled.
    """
    parametrize.register_parametrization(module, name, _WeightNorm(dim), unsafe=True)
    make_picklable(module)


def computed_weights(module: nn.Module) -> list[tuple[str, str, str]]:
    """Return the computed tensors of a module: name, computation such as ``WeightNorm``, and code that removes it."""
    lists: Any = module.parametrizations if parametrize.is_parametrized(module) else {}
    remove = "torch.nn.utils.parametrize.remove_parametrizations"
    found = [(name, type(parts[0]).__name__.strip("_"), remove) for name, parts in lists.items()]
    for hook in weight_hooks(module):
        kind = type(hook).__name__
        if isinstance(hook, prune.BasePruningMethod):
            found.append((hook._tensor_name, kind, "torch.nn.utils.prune.remove"))  # type: ignore[attr-defined]
        else:
            old = {"SpectralNorm": "remove_spectral_norm", "WeightNorm": "remove_weight_norm"}[kind]
            found.append((hook.name, kind, f"torch.nn.utils.{old}"))
    return [(name, kind, f"{call}(module, {name!r})") for name, kind, call in found]


def with_current_weights(module: nn.Module) -> nn.Module | None:
    """Return a copy of a module in which the current values of computed tensors are parameters.

    Computed tensors are results of parametrizations, weight norm, spectral norm and pruning. The copy shares the other
    parameters with ``module``.

    Returns:
        The copy, or None if the module has no computed tensor.
    """
    values: dict[str, Tensor] = {}
    if parametrize.is_parametrized(module):
        lists: Any = module.parametrizations
        values = {name: value for name in lists if (value := current(module, name)) is not None}
    for hook in weight_hooks(module):
        if isinstance(hook, prune.BasePruningMethod):
            values[hook._tensor_name] = hook.apply_mask(module)  # type: ignore[attr-defined]
        elif type(hook).__name__ == "SpectralNorm":
            values[hook.name] = hook.compute_weight(module, do_power_iteration=False)
        else:
            values[hook.name] = hook.compute_weight(module)
    if not values:
        return None
    kind: Any = parametrize.type_before_parametrizations(module)
    copy = kind.__new__(kind)
    sources = {name + end for name in values for end in ("_g", "_v", "_orig")}  # parameters of norm and pruning hooks
    own = {n: p for n, p in module._parameters.items() if n not in sources}
    copy.__dict__ |= {**module.__dict__, "_parameters": own, "_modules": {}, "_forward_pre_hooks": {}}
    for name, value in values.items():
        copy.__dict__.pop(name, None)
        copy.register_parameter(name, nn.Parameter(value.detach().clone()))
    return copy


def named_layers(module: nn.Module, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yield dotted name and module of each layer: a module without submodules or with parameters of its own.

    Parametrizations belong to their layer.
    """
    children = [(name, child) for name, child in module.named_children() if not _belongs(module, name)]
    if not children or any(p is not None for p in module._parameters.values()):
        yield path, module
    for name, child in children:
        yield from named_layers(child, f"{path}.{name}" if path else name)


def layer_parameters(module: nn.Module) -> Iterator[nn.Parameter]:
    """Yield the parameters of a module itself and of its parametrizations, without those of its submodules."""
    yield from module.parameters(recurse=False)
    for name, child in module.named_children():
        if _belongs(module, name):
            yield from child.parameters()


def _belongs(module: nn.Module, name: str) -> bool:
    return name == "parametrizations" and parametrize.is_parametrized(module)


def current(module: nn.Module, attribute: str) -> Tensor | None:
    """Return the tensor at a dotted attribute, without changing the state of parametrizations.

    In training mode, spectral normalization runs a power iteration whenever its weight is read.
    """
    lists = module._modules.get("parametrizations")
    with evaluating(lists) if lists is not None else nullcontext():
        return get_tensor(module, attribute)


def _reduce(module: Any, protocol: Any) -> tuple[Any, ...]:
    base = parametrize.type_before_parametrizations(module)
    return _restore, (base, tuple(module.parametrizations)), module.__dict__


def _restore(base: type[nn.Module], names: tuple[str, ...]) -> nn.Module:
    """Return an instance of a class like the class that PyTorch creates; pickle sets its state afterwards.

    Args:
        base: the class of the module before it was parametrized.
        names: names of the parametrized tensors.
    """
    body = {"__reduce_ex__": _reduce, **{name: _property(name) for name in names}}
    kind = type(f"Parametrized{base.__name__}", (base,), body)
    return kind.__new__(kind)


def _property(name: str) -> property:
    def read(module: Any) -> Tensor:
        return module.parametrizations[name]()

    def write(module: Any, value: Tensor) -> None:
        module.parametrizations[name].right_inverse(value)

    return property(read, write)
