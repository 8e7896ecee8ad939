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

#: arguments for the device and the dtype of new tensors
_FACTORY_ARGUMENTS = {"device", "dtype"}
#: layers whose sizes every format reads from the tensors, not from attributes
_SIZED_BY_TENSORS = (nn.Linear, nn.Embedding, nn.PReLU)
#: attribute of convolutions with the padding for modes other than zeros
_REVERSED_PADDING = "_reversed_padding_repeated_twice"
#: attributes of every module
_COMMON = frozenset(vars(nn.Module()))


def is_stock(module: nn.Module) -> bool:
    """Return whether a module is an unmodified layer of ``torch.nn`` without modules inside."""
    kind = type(module)
    return kind.__module__.startswith("torch.nn.modules.") and kind is not nn.Module and not module._modules


def arguments_of(module: nn.Module) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the constructor arguments that a layer's attributes give, and separately those that are tensors."""
    names = [name for name in _names(type(module)) if name not in _FACTORY_ARGUMENTS and hasattr(module, name)]
    values = {name: value for name in names if not inspect.ismethod(value := getattr(module, name))}  # nn.ModuleList's
    passed = {name: tensor for name in values if (tensor := module._buffers.get(name)) is not None}
    stated = {name: value for name, value in values.items() if name not in passed}
    # bias=True, whether the bias is a parameter or computed, as a tied parameter or by pruning
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


def check_settings(module: nn.Module, path: str = "", *, complete: bool = False) -> None:
    """Refuse a layer of ``torch.nn`` that its settings do not describe.

    Args:
        module: The layer.
        path: Its path in the model, for the message.
        complete: The file has the arguments of the constructor and the tensors, and nothing else of the layer.

    Raises:
        ConversionError: A new layer with the same settings has other attributes or other shapes.
    """
    if is_stock(module) and not parametrize.is_parametrized(module) and (found := _difference(module, complete)):
        raise ConversionError(
            f"{found}: it was changed after construction, and no file can store that; create the layer with the "
            "settings that it should have, and copy its weights",
            path=path,
            class_name=type(module).__name__,
        )


def _twin_of(module: Any) -> nn.Module:
    """Construct a layer with the settings of another, without memory for its parameters where the class allows that."""
    plain, passed = arguments_of(module)
    device = {"device": "meta"} if "device" in _names(type(module)) else {}
    with SkipInit():
        return type(module)(**plain, **passed, **device)


def _difference(module: nn.Module, complete: bool) -> str:
    """Return how a layer differs from the one that its settings construct; empty if it does not."""
    try:
        twin = _twin_of(module)
    except Exception as error:  # of PyTorch's constructors
        return f"its constructor does not take its settings ({error})"
    return _other_attribute(module, twin, complete) or _other_shape(module, twin, complete)


def _other_attribute(module: nn.Module, twin: nn.Module, complete: bool) -> str:
    unused = {_REVERSED_PADDING} if vars(twin).get("padding_mode") == "zeros" else set()
    own = {name for name in vars(module) if complete and not name.startswith("_")}
    for name in [*vars(twin), *sorted(own - vars(twin).keys())]:
        if name in _COMMON | unused or not (name in own or _is_plain(vars(twin)[name])):
            continue
        if name not in vars(twin):
            return f"its {name} is {vars(module)[name]!r:.80}, and a new layer with its settings has no {name}"
        actual, new = vars(module).get(name), vars(twin)[name]
        if not _same(actual, new):
            return f"its {name} is {actual!r:.80}, and a new layer with its settings has {new!r:.80}"
    return ""


def _other_shape(module: nn.Module, twin: nn.Module, complete: bool) -> str:
    more = (*module._parameters, *module._buffers) if complete else ()
    for name in dict.fromkeys((*twin._parameters, *twin._buffers, *more)):
        if name not in module._parameters and name not in module._buffers:
            continue  # computed, by weight_norm or pruning
        actual, new = own_tensor(module, name), own_tensor(twin, name)
        if name in module._buffers and name in twin._parameters:
            return f"its {name} is a buffer, and a new layer has a parameter (nn.Parameter(…, requires_grad=False))"
        shapes = [None if t is None else tuple(t.shape) for t in (actual, new)]
        if None in shapes and name in module._parameters and not complete:
            continue  # files of older versions may lack the weight or the bias
        if shapes[0] != shapes[1] and (complete or not isinstance(module, _SIZED_BY_TENSORS)):
            return f"its {name} has shape {shapes[0]}, and that of a new layer with its settings has {shapes[1]}"
    return ""


def _is_plain(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))


def _same(a: Any, b: Any) -> bool:
    return a == b or (isinstance(a, float) and isinstance(b, float) and a != a and b != b)
