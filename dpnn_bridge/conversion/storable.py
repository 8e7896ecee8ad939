"""Refuse modules with tensors that no file can store, before a file is written."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, fx, nn
from torch.nn.parameter import is_lazy

from dpnn_bridge.conversion.deferred import deferred_of
from dpnn_bridge.conversion.distributed import FSDP, FULL_STATE, is_distributed
from dpnn_bridge.errors import ConversionError

#: packages of PyTorch that define layers with integer weights
_QUANTIZED = ("torch.ao.nn.quantized.", "torch.ao.nn.intrinsic.quantized.", "torch.ao.nn.sparse.quantized.")


def check_tensors(root: nn.Module, *, layers: bool = False, gathers: bool = False) -> None:
    """Refuse a model that contains a tensor without values or with another layout than ``torch.strided``.

    Args:
        root: the model.
        layers: whether the file describes layers; then scripted, traced and quantized modules and complex tensors are
            refused too, and sharded ones unless ``gathers``.
        gathers: whether the writer gathers distributed parameters.

    Raises:
        ConversionError: the model contains such a tensor or module.
    """
    for path, module in root.named_modules():
        tensors = ((name, t) for name, t in _tensors(module) if not (gathers and is_distributed(t)))
        reason = (_class_problem(module, gathers) if layers else "") or _tensor_problem(tensors, real=layers)
        if reason:
            raise ConversionError(reason, path=path, class_name=type(module).__name__)


def problem_of(tensor: Tensor) -> str:
    """Return why the elements of a tensor cannot be read from its memory, and what to do; empty if they can."""
    if tensor.is_meta and deferred_of(tensor) is None:
        return "on the meta device, without values; load them (to_empty, load_state_dict)"
    if tensor.is_nested:
        return "a nested tensor; write the tensors that unbind() returns"
    if tensor.layout != torch.strided or tensor.is_quantized:
        kind = "quantized" if tensor.is_quantized else tensor.layout
        return f"{kind}; convert it with to_dense() or dequantize()"
    if tensor.is_neg() or tensor.is_conj():
        return "a lazily negated or conjugated view; convert it with resolve_neg().resolve_conj()"
    return ""


def _class_problem(module: nn.Module, gathers: bool) -> str:
    if isinstance(module, torch.jit.ScriptModule):
        return "it is TorchScript, whose layers cannot be read; save the module that was scripted or traced"
    if isinstance(module, fx.GraphModule):
        return "it is a traced graph, which has no Lua class; save the module that was traced"
    if type(module).__module__.startswith(_QUANTIZED):
        return "it is quantized, and no file can store its weights; save the model before its quantization"
    sharded = {t.__name__ for t in type(module).__mro__ if t.__module__.startswith(FSDP)}
    if sharded and not (gathers and "FSDPModule" in sharded):  # of FSDP2
        return f"its weights are sharded (FSDP); {FULL_STATE}"
    return ""


def _tensors(module: nn.Module) -> Iterable[tuple[str, Tensor]]:
    return ((n, t) for n, t in (*module._parameters.items(), *module._buffers.items()) if t is not None)


def _tensor_problem(tensors: Iterable[tuple[str, Tensor]], *, real: bool) -> str:
    for name, tensor in tensors:
        if is_lazy(tensor):
            return "it has no shape yet; run the model once"
        if reason := problem_of(tensor):
            return f"its {name} is {reason}"
        if real and _computes(type(tensor)):
            kind = type(tensor).__name__
            return f"its {name} is a {kind}, a subclass of tensors with operations of its own; store an ordinary tensor"
        if real and tensor.is_complex():
            dtype = str(tensor.dtype).removeprefix("torch.")
            return f"its {name} is complex, and Torch7 has no tensor of type {dtype}; write an .npz or .pt2 file"
    return ""


def _computes(kind: type[Tensor]) -> bool:
    """Return whether a subclass of tensors replaces operations, as ``DTensor`` and quantized tensors do."""
    functions = {getattr(t.__torch_function__, "__func__", t.__torch_function__) for t in (Tensor, nn.Parameter)}
    function = getattr(kind.__torch_function__, "__func__", kind.__torch_function__)
    dispatches = getattr(kind, "__torch_dispatch__", None) is not getattr(Tensor, "__torch_dispatch__", None)
    return dispatches or function not in functions
