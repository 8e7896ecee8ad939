"""Classify layers into kinds, each with a color, and describe their geometry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

#: kind of a layer -> color, from the palette of Okabe and Ito, which is suitable for color blindness
KINDS = {
    "convolution": "#0072b2",
    "linear": "#56b4e9",
    "norm": "#e69f00",
    "activation": "#009e73",
    "pooling": "#d55e00",
    "recurrent": "#cc79a7",
    "container": "#8a8f99",
    "other": "#b8a900",
}

#: last part of the name of the Python module that defines a layer, in PyTorch or dpnn_bridge -> kind
_FILES = {
    **dict.fromkeys(("conv", "convolution", "convolution_special"), "convolution"),
    **dict.fromkeys(("linear", "sparse", "lookup"), "linear"),
    **dict.fromkeys(("batchnorm", "instancenorm", "normalization", "batch_normalization"), "norm"),
    "local_normalization": "norm",
    **dict.fromkeys(("activation", "activation_smooth", "crelu"), "activation"),
    **dict.fromkeys(("pooling", "pooling_special", "unpooling", "subsampling"), "pooling"),
}


def kind_of(module: nn.Module) -> str:
    """Return the kind of a layer, a key of :data:`KINDS`."""
    if isinstance(module, nn.Identity):
        return "other"
    for base in type(module).__mro__:
        if isinstance(module, (nn.RNNBase, nn.RNNCellBase)) or ".modules.rnn." in base.__module__:
            return "recurrent"
        if kind := _FILES.get(base.__module__.rpartition(".")[2]):
            return kind
    return "container" if next(module.children(), None) is not None else "other"


def form_of(module: nn.Module) -> list[str]:
    """Return the geometry of a layer as lines of text: channels, then kernel, stride, padding, dilation and groups."""
    get = lambda *names: next((v for n in names if (v := getattr(module, n, None)) is not None), None)  # noqa: E731
    ends = get("in_channels", "in_features", "num_embeddings"), get("out_channels", "out_features", "embedding_dim")
    lines = [f"{ends[0]} → {ends[1]}"] if all(isinstance(n, int) for n in ends) else []
    kernel = get("kernel_size")
    if not _is_size(kernel):
        return lines
    parts = [_size(kernel)]
    for name, word, default in (
        ("stride", "stride", 1),
        ("padding", "pad", 0),
        ("dilation", "dilation", 1),
        ("groups", "groups", 1),
    ):
        value = get(name)
        if _is_size(value) and any(n != default for n in _numbers(value)):
            sizes = _numbers(value)
            parts.append(f"{word} {_size(value if len(set(sizes)) > 1 else sizes[0])}")
        elif isinstance(value, str):
            parts.append(f"{word} {value}")
    return [*lines, ", ".join(parts)]


def _is_size(value: Any) -> bool:
    numbers = _numbers(value)
    return bool(numbers) and all(type(n) is int for n in numbers)


def _numbers(value: Any) -> Sequence[Any]:
    return value if isinstance(value, (tuple, list)) else (value,)


def _size(value: Any) -> str:
    return "×".join(map(str, _numbers(value)))
