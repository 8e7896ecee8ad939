"""Define the base class and functions that generated ``.py`` files use. They are copied into the files."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.utils import parametrize


class Graph(nn.Module):
    """Base class of graphs. Children have names here, but numbers in the ``state_dict`` that dpnn_bridge writes.

    Args:
        names: number of a child -> its name, for children with parameters or buffers.
    """

    def __init__(self, names: dict[str, str]) -> None:
        super().__init__()
        self.names = names

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for key in [k for k in state_dict if k.startswith(prefix)]:
            number, dot, rest = key[len(prefix) :].partition(".")
            if number in self.names:
                state_dict[prefix + self.names[number] + dot + rest] = state_dict.pop(key)
        super()._load_from_state_dict(state_dict, prefix, *args)


def load_weights(module: nn.Module, state_dict: dict[str, Any]) -> None:
    """Load a ``state_dict`` like ``module.load_state_dict``, but in time linear in the number of modules.

    Modules that have hooks for the end of loading are loaded by ``module.load_state_dict``.
    """
    if any(inner._load_state_dict_post_hooks for inner in module.modules()):
        module.load_state_dict(state_dict)
        return
    metadata = getattr(state_dict, "_metadata", {})
    missing: list[str] = []
    unexpected: list[str] = []
    errors: list[str] = []

    def load(module: nn.Module, own: dict[str, Any], prefix: str) -> None:
        module._load_from_state_dict(own, prefix, metadata.get(prefix[:-1], {}), True, missing, unexpected, errors)
        children: dict[str, dict[str, Any]] = {name: {} for name in module._modules}
        for name, value in own.items():
            child = name[len(prefix) :].partition(".")[0]
            if child in children:
                children[child][name] = value
        for name, inner in module._modules.items():
            if inner is not None:
                load(inner, children[name], f"{prefix}{name}.")

    load(module, dict(state_dict), "")
    for problem, names in (("missing", missing), ("unexpected", unexpected)):
        if names:
            errors.append(f"{problem}: {', '.join(names[:8])}{', ...' if names[8:] else ''}")
    if errors:
        raise RuntimeError(f"the state_dict does not fit {type(module).__name__}: {'; '.join(errors)}")


def parametrized(module: nn.Module, name: str, parametrization: nn.Module) -> nn.Module:
    """Register ``parametrization`` for the tensor ``name`` of ``module``, and return ``module``."""
    parametrize.register_parametrization(module, name, parametrization)
    return module


def tie(
    module: nn.Module,
    name: str,
    source: nn.Module,
    source_name: str,
    size: tuple[int, ...],
    stride: tuple[int, ...],
    offset: int = 0,
) -> None:
    """Make ``module.name`` a view of a parameter of ``source``, computed whenever it is read."""

    def view(self: Any) -> Any:
        elements = getattr(self.__dict__["tied_to"][name], source_name).reshape(-1)
        return elements[offset:].as_strided(size, stride)

    del module._parameters[name]
    module.__dict__.setdefault("tied_to", {})[name] = source
    module.__class__ = type(type(module).__name__, (type(module),), {name: property(view)})
