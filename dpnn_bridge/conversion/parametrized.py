"""Pickle modules with :mod:`torch.nn.utils.parametrize` parametrizations."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

from dpnn_bridge.conversion.fields import get_tensor
from dpnn_bridge.conversion.modes import evaluating


def make_picklable(module: nn.Module) -> None:
    """Let pickle and ``torch.save`` store a parametrized module, whose class PyTorch creates at run time."""
    type(module).__reduce_ex__ = _reduce  # type: ignore[method-assign, assignment]


def weight_hooks(module: nn.Module) -> list[Any]:
    """Return the hooks that compute a weight of a module: pruning, and the older weight norm and spectral norm."""
    hooks = module._forward_pre_hooks.values()
    return [
        h for h in hooks if isinstance(h, prune.BasePruningMethod) or type(h).__name__ in ("SpectralNorm", "WeightNorm")
    ]


def computed_weights(module: nn.Module) -> list[tuple[str, str, str]]:
    """Return the tensors of a module that are computed: name, what computes it, and the call that undoes this."""
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


def baked(module: nn.Module) -> nn.Module | None:
    """Return a copy with the current results of parametrizations, weight norm, spectral norm and pruning as parameters.

    The copy shares its other parameters with ``module``. Return None if no weight is computed.
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
    twin = kind.__new__(kind)
    sources = {name + end for name in values for end in ("_g", "_v", "_orig")}  # of the older norms and of pruning
    own = {n: p for n, p in module._parameters.items() if n not in sources}
    twin.__dict__ |= {**module.__dict__, "_parameters": own, "_modules": {}, "_forward_pre_hooks": {}}
    for name, value in values.items():
        twin.__dict__.pop(name, None)
        twin.register_parameter(name, nn.Parameter(value.detach().clone()))
    return twin


def current(module: nn.Module, attribute: str) -> Tensor | None:
    """Return a tensor of a module by its attribute, without changing the state of parametrizations.

    Spectral normalization runs a power iteration whenever its weight is read in training mode.
    """
    lists = module._modules.get("parametrizations")
    with evaluating(lists) if lists is not None else nullcontext():
        return get_tensor(module, attribute)


def _reduce(module: Any, protocol: Any) -> tuple[Any, ...]:
    plain = parametrize.type_before_parametrizations(module)
    return _restore, (plain, tuple(module.parametrizations)), module.__dict__


def _restore(plain: type[nn.Module], names: tuple[str, ...]) -> nn.Module:
    """Return an instance of a class like the one that PyTorch creates; pickle sets its state afterwards."""
    body = {"__reduce_ex__": _reduce, **{name: _property(name) for name in names}}
    kind = type(f"Parametrized{plain.__name__}", (plain,), body)
    return kind.__new__(kind)


def _property(name: str) -> property:
    def read(module: Any) -> Tensor:
        return module.parametrizations[name]()

    def write(module: Any, value: Tensor) -> None:
        module.parametrizations[name].right_inverse(value)

    return property(read, write)
