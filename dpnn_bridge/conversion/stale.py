"""Detect layers of ``torch.nn`` that were changed after construction so that their settings do not describe them.

A ``Conv2d`` with circular padding computes its padding once, and ignores a later value of ``padding``. Slicing a
weight leaves ``out_channels`` unchanged. Torch7, and the constructor that a file names, use the settings.
"""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize

from dpnn_bridge.conversion.fields import own_tensor
from dpnn_bridge.conversion.skip_init import SkipInit
from dpnn_bridge.errors import ConversionError

#: arguments that say where tensors are made, and of which type
_PLACES = {"device", "dtype"}
#: layers whose sizes all formats read from the tensors
_SIZED_BY_TENSORS = (nn.Linear, nn.Embedding, nn.PReLU)
#: attribute of convolutions with the padding that other modes than zeros use
_SIDES = "_reversed_padding_repeated_twice"
#: attributes of every module
_COMMON = frozenset(vars(nn.Module()))


def is_stock(module: nn.Module) -> bool:
    """Return whether a module is an unmodified layer of ``torch.nn`` without modules inside."""
    kind = type(module)
    return kind.__module__.startswith("torch.nn.modules.") and kind is not nn.Module and not module._modules


def arguments_of(module: nn.Module) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the arguments of a layer's constructor as its attributes state them, and those that are tensors."""
    names = [name for name in _names(type(module)) if name not in _PLACES and hasattr(module, name)]
    values = {name: value for name in names if not inspect.ismethod(value := getattr(module, name))}  # nn.ModuleList's
    passed = {name: tensor for name in values if (tensor := module._buffers.get(name)) is not None}
    stated = {name: value for name, value in values.items() if name not in passed}
    # bias=True, whether the bias is a parameter or computed, by a tie or by pruning
    is_flag = {name for name, v in stated.items() if name in module._parameters or isinstance(v, Tensor)}
    plain = {name: value is not None if name in is_flag else value for name, value in stated.items()}
    return plain, passed


@cache
def _names(kind: type[nn.Module]) -> tuple[str, ...]:
    """Return the arguments of a layer's constructor; recurrent layers pass theirs on."""
    if not issubclass(kind, nn.RNNBase):
        return (*[*inspect.signature(kind.__init__).parameters][1:],)
    own = {nn.LSTM: ("proj_size",), nn.RNN: ("nonlinearity",)}.get(kind, ())
    names = [*inspect.signature(nn.RNNBase.__init__).parameters][1:]
    return (*(name for name in names if name not in ("mode", "proj_size")), *own)


def twin_of(kind: Any, plain: dict[str, Any], passed: dict[str, Tensor]) -> nn.Module:
    """Construct a layer with these arguments, without memory for its parameters where the class allows that."""
    device = {"device": "meta"} if "device" in _names(kind) else {}
    with SkipInit():
        return kind(**plain, **passed, **device)


def check_settings(module: nn.Module, path: str = "") -> None:
    """Refuse a layer of ``torch.nn`` that its settings do not describe.

    Raises:
        ConversionError: A new layer with the same settings has other attributes or other shapes.
    """
    if is_stock(module) and not parametrize.is_parametrized(module) and (found := _difference(module)):
        raise ConversionError(
            f"{found}: it was changed after construction, and no file can store that; create the layer with the "
            "settings that it should have, and copy its weights",
            path=path,
            class_name=type(module).__name__,
        )


def _difference(module: nn.Module) -> str:
    """Return how a layer differs from the one that its settings construct; empty if it does not."""
    try:
        twin = twin_of(type(module), *arguments_of(module))
    except Exception as error:  # of PyTorch's constructors
        return f"its constructor does not take its settings ({error})"
    unused = {_SIDES} if vars(twin).get("padding_mode") == "zeros" else set()
    for name, value in vars(twin).items():
        found = vars(module).get(name)
        if name not in _COMMON | unused and _is_plain(value) and not _same(found, value):
            return f"its {name} is {found!r:.80}, and a new layer with its settings has {value!r:.80}"
    for name in (*twin._parameters, *twin._buffers):
        if name not in module._parameters and name not in module._buffers:
            continue  # computed, by weight_norm or pruning
        found, made = own_tensor(module, name), own_tensor(twin, name)
        if name in module._buffers and name in twin._parameters:
            return f"its {name} is a buffer, and a new layer has a parameter (nn.Parameter(…, requires_grad=False))"
        shapes = [None if t is None else tuple(t.shape) for t in (found, made)]
        if None in shapes and name in module._parameters:
            continue  # old files lack a factor or a bias
        if shapes[0] != shapes[1] and not isinstance(module, _SIZED_BY_TENSORS):
            return f"its {name} has shape {shapes[0]}, and that of a new layer with its settings has {shapes[1]}"
    return ""


def _is_plain(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))


def _same(a: Any, b: Any) -> bool:
    return a == b or (isinstance(a, float) and isinstance(b, float) and a != a and b != b)
