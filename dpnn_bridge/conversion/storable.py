"""Refuse modules whose tensors no file can store, before one of them fails in the middle of a file."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, fx, nn
from torch.nn.parameter import is_lazy

from dpnn_bridge.conversion.deferred import deferred_of
from dpnn_bridge.errors import ConversionError

#: where PyTorch defines layers with integer weights
_QUANTIZED = ("torch.ao.nn.quantized.", "torch.ao.nn.intrinsic.quantized.", "torch.ao.nn.sparse.quantized.")


def check_tensors(root: nn.Module, *, layers: bool = False) -> None:
    """Refuse a model with a tensor that has no values or another layout.

    Args:
        root: The model.
        layers: The file describes layers: refuse those that are scripted, traced or quantized, and complex numbers.

    Raises:
        ConversionError: There is one.
    """
    for path, module in root.named_modules():
        reason = (_of_class(module) if layers else "") or _of_tensors(_tensors(module), real=layers)
        if reason:
            raise ConversionError(reason, path=path, class_name=type(module).__name__)


def of_tensor(tensor: Tensor) -> str:
    """Return what a tensor is whose elements cannot be read from its memory, and what to do; empty for others."""
    if tensor.is_meta and deferred_of(tensor) is None:
        return "on the meta device, without values; load them (to_empty, load_state_dict)"
    if tensor.is_nested:
        return "a nested tensor; write its parts, unbind()"
    if tensor.layout != torch.strided or tensor.is_quantized:
        kind = "quantized" if tensor.is_quantized else tensor.layout
        return f"{kind}; expected a plain tensor, such as its to_dense() or dequantize()"
    if tensor.is_neg() or tensor.is_conj():
        return "a view whose sign changes when it is read; expected a plain tensor, its resolve_neg().resolve_conj()"
    return ""


def _of_class(module: nn.Module) -> str:
    if isinstance(module, torch.jit.ScriptModule):
        return "it is TorchScript, whose layers cannot be read; save the module that was scripted or traced"
    if isinstance(module, fx.GraphModule):
        return "it is a traced graph, which has no Lua class; save the module that was traced"
    if type(module).__module__.startswith(_QUANTIZED):
        return "it is quantized, and its weights are no plain tensors; save the model as it was before"
    return ""


def _tensors(module: nn.Module) -> Iterable[tuple[str, Tensor]]:
    return ((n, t) for n, t in (*module._parameters.items(), *module._buffers.items()) if t is not None)


def _of_tensors(tensors: Iterable[tuple[str, Tensor]], *, real: bool) -> str:
    for name, tensor in tensors:
        if is_lazy(tensor):
            return "it has no shape yet; run the model once"
        if reason := of_tensor(tensor):
            return f"its {name} is {reason}"
        if real and tensor.is_complex():
            kind = str(tensor.dtype).removeprefix("torch.")
            return f"its {name} is complex: Torch7 has no tensor of type {kind}; .npz and .pt2 have"
    return ""
