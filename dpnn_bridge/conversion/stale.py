"""Detect layers of ``torch.nn`` that were changed after construction so that their settings do not describe them.

A ``Conv2d`` with circular padding computes its padding in the constructor and ignores later changes of ``padding``.
Slicing a weight does not change ``out_channels``. A file contains the settings, so a layer that is created from the
file would differ.
"""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from dpnn_bridge.conversion.constructor import attribute_of
from dpnn_bridge.conversion.fields import own_tensor, record_of
from dpnn_bridge.conversion.parametrized import weight_hooks, weight_norms
from dpnn_bridge.conversion.skip_init import SkipInit
from dpnn_bridge.conversion.ties import ATTRIBUTES
from dpnn_bridge.errors import ConversionError

#: constructor arguments for the device and dtype of new tensors
_FACTORY_ARGUMENTS = {"device", "dtype"}
#: layers whose sizes, but not numbers of dimensions, most output formats take from the tensors, not from attributes
_SIZED_BY_TENSORS = (nn.Linear, nn.Embedding, nn.PReLU)
#: attribute of convolutions with the padding for padding modes other than ``zeros``
_REVERSED_PADDING = "_reversed_padding_repeated_twice"
#: attributes of every module
_COMMON = frozenset(vars(nn.Module()))


def is_stock(module: nn.Module) -> bool:
    """Return whether a module is a layer of ``torch.nn`` without modules inside, unmodified except by weight norm."""
    kind = parametrize.type_before_parametrizations(module)
    is_layer = kind.__module__.startswith("torch.nn.modules.") and kind is not nn.Module
    if not parametrize.is_parametrized(module):
        return is_layer and not module._modules
    return is_layer and len(module._modules) == 1 and len(weight_norms(module)) == len(module.parametrizations)  # type: ignore[arg-type]


def arguments_of(module: nn.Module, kind: type[nn.Module] | None = None) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Reconstruct the constructor arguments of a layer from its attributes.

    Args:
        module: the layer.
        kind: the class whose constructor takes the arguments; default: the layer's own class.

    Returns:
        The arguments that are not tensors, and the arguments that are tensors, by name.
    """
    kind = kind or parametrize.type_before_parametrizations(module)
    attributes = {name: attribute_of(kind, name) for name in _names(kind) if name not in _FACTORY_ARGUMENTS}
    found = {name: getattr(module, attribute) for name, attribute in attributes.items() if hasattr(module, attribute)}
    # a method is not an argument: nn.ModuleList has the argument `modules` and the method `modules`
    values = {name: value for name, value in found.items() if not inspect.ismethod(value)}
    tensors = {name: tensor for name in values if (tensor := module._buffers.get(name)) is not None}
    others = {name: value for name, value in values.items() if name not in tensors}
    # the argument `bias` is a flag, and the attribute a parameter, or a computed tensor if it is tied or pruned
    is_flag = {name for name, v in others.items() if name in module._parameters or isinstance(v, Tensor)}
    plain = {name: value is not None if name in is_flag else value for name, value in others.items()}
    return plain, tensors


@cache
def _names(module_class: type[nn.Module]) -> tuple[str, ...]:
    """Return the argument names of a layer's constructor; for recurrent layers, which take ``*args``, of its base."""
    if not issubclass(module_class, nn.RNNBase):
        named = [*inspect.signature(module_class.__init__).parameters.values()][1:]
        return (*(p.name for p in named if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)),)
    own = {nn.LSTM: ("proj_size",), nn.RNN: ("nonlinearity",)}.get(module_class, ())
    names = [*inspect.signature(nn.RNNBase.__init__).parameters][1:]
    return (*(name for name in names if name not in ("mode", "proj_size")), *own)


def check_settings(
    module: nn.Module, kind: type[nn.Module], path: str = "", *, complete: bool = False, sized: bool = True
) -> None:
    """Refuse a layer that was changed after construction so that its settings do not describe it.

    Args:
        module: the layer.
        kind: the class as which it is written. Only classes of ``torch.nn`` are checked.
        path: path of the layer in the model, for the message.
        complete: whether the file contains only the constructor arguments and the tensors of the layer.
        sized: whether the file takes the sizes of linear and similar layers from their tensors.

    Raises:
        ConversionError: a new layer with the same settings has other attributes or shapes.
    """
    if kind.__module__.startswith("torch.nn.modules.") and (found := _difference(module, kind, complete, sized)):
        own = parametrize.type_before_parametrizations(module)
        changed, advice = "construction", "create a new layer with the right settings, and copy the weights"
        if own is not kind:
            changed, advice = f"the constructor of {kind.__name__}", "pass the right settings to this constructor"
        raise ConversionError(
            f"{found}: the layer was changed after {changed}, which this format cannot store; {advice}",
            path=path,
            class_name=own.__name__,
        )


def _new_layer(module: Any, kind: type[nn.Module]) -> nn.Module:
    """Construct a new layer with the settings of a layer, on the meta device if the class supports it."""
    plain, tensors = arguments_of(module, kind)
    device = {"device": "meta"} if "device" in _names(kind) else {}
    with SkipInit():
        return kind(**plain, **tensors, **device)


def _difference(module: nn.Module, kind: type[nn.Module], complete: bool, sized: bool) -> str:
    """Return a description of the first difference between a layer and a new layer with its settings, or ``""``."""
    own_class = parametrize.type_before_parametrizations(module) is kind
    if own_class and not is_stock(module):
        return ""
    try:
        reference = _new_layer(module, kind)
    except Exception as error:  # PyTorch's constructors raise errors of many types
        if module._modules:  # a container, whose modules are arguments
            return ""
        return f"its constructor does not accept its settings ({error})"
    if reference._modules:
        return ""
    complete = complete and own_class
    return _attribute_difference(module, reference, complete) or _shape_difference(
        module, reference, complete, sized and isinstance(module, _SIZED_BY_TENSORS)
    )


def _attribute_difference(module: nn.Module, reference: nn.Module, complete: bool) -> str:
    unused = {_REVERSED_PADDING} if vars(reference).get("padding_mode") == "zeros" else set()
    own = {name for name in vars(module) if complete and not name.startswith("_")} - ATTRIBUTES
    own -= reference._parameters.keys()  # a plain tensor in place of a parameter has its own message
    for name in [*vars(reference), *sorted(own - vars(reference).keys())]:
        if name in _COMMON | unused or not (name in own or is_plain(vars(reference)[name])):
            continue
        if inspect.isdatadescriptor(getattr(type(module), name, None)):
            continue  # a property of a subclass, which is refused by name
        if name not in vars(reference):
            return f"its {name} is {vars(module)[name]!r:.80}, and a new layer with its settings has no {name}"
        actual, new = vars(module).get(name), vars(reference)[name]
        named = (actual, new) == (type(module).__name__, type(reference).__name__)  # nn.Upsample
        if not (named or _equal(actual, new)):
            return f"its {name} is {actual!r:.80}, and a new layer with its settings has {new!r:.80}"
    return ""


def _shape_difference(module: nn.Module, reference: nn.Module, complete: bool, sized: bool) -> str:
    more = (*module._parameters, *module._buffers) if complete else ()
    for name in dict.fromkeys((*reference._parameters, *reference._buffers, *more)):
        if name not in module._parameters and name not in module._buffers:
            if isinstance(vars(module).get(name), Tensor) and not weight_hooks(module):
                return f"its {name} is a tensor, and a new layer has a parameter (nn.Parameter)"
            continue  # computed by weight_norm or pruning
        actual, new = own_tensor(module, name), own_tensor(reference, name)
        if name in module._buffers and name in reference._parameters:
            return f"its {name} is a buffer, and a new layer has a parameter (nn.Parameter(…, requires_grad=False))"
        shapes = [None if t is None else tuple(t.shape) for t in (actual, new)]
        lacks = shapes[0] is None or record_of(module) is not None
        if None in shapes and lacks and name in module._parameters and not complete:
            continue  # files of older versions may lack the weight or the bias
        dims = [None if shape is None else len(shape) for shape in shapes]
        if shapes[0] != shapes[1] and (complete or dims[0] != dims[1] or not sized):
            return f"its {name} has shape {shapes[0]}, but shape {shapes[1]} in a new layer with its settings"
    bias = own_tensor(module, "bias") if isinstance(module, nn.Linear) else None
    if bias is not None and tuple(bias.shape) != tuple(module.weight.shape[:1]):  # type: ignore[union-attr]
        return f"its bias has shape {tuple(bias.shape)}, but its weight has {module.weight.shape[0]} rows"  # type: ignore[union-attr]
    return ""


def is_plain(value: Any) -> bool:
    """Return whether an attribute is a setting: a number, a string, a dtype, None, or a list of them."""
    if isinstance(value, (tuple, list)):
        return all(map(is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str, torch.dtype))


def _equal(a: Any, b: Any) -> bool:
    """Return whether two settings are equal; NaN equals NaN."""
    return a == b or (isinstance(a, float) and isinstance(b, float) and a != a and b != b)
