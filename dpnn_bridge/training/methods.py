"""Provide dpnn's methods of modules that read and change parameters and gradients, as functions."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.base.arguments import checks_arguments
from dpnn_bridge.base.storage import storage_id
from dpnn_bridge.conversion import fields, registry
from dpnn_bridge.conversion.lua_values import new_tensor
from dpnn_bridge.conversion.tensors import as_dtype
from dpnn_bridge.loaders.serial import Mode, serial_form
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor
from dpnn_bridge.training.lua_parameters import (
    LuaParameter,
    all_parameters,
    changed_parameters,
    children,
    direction_outside,
    own_parameters,
    setting,
    stepped_parameters,
)

#: buffers that shared copies share with the original, from ``dpnn_parameters`` in dpnn
SHARED_BUFFERS = ("running_mean", "running_var", "unigrams", "Z", "alias", "keep")


@checks_arguments
def parameters(module: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """Return the parameters and their gradients in the order of Torch7's ``module:parameters()``.

    A module that occurs twice is listed twice. Tensors have Lua's shape and memory layout. They are detached views of
    the torch parameters if the layout permits a view, otherwise copies.

    Args:
        module: any module; parameters of submodules without a Lua class are listed in their order.

    Returns:
        ``(params, grads)``, two lists of the same length. A parameter without a gradient has a gradient of zeros.
    """
    entries = list(all_parameters(module))
    return [e.read() for e in entries], [e.read_gradient() for e in entries]


@checks_arguments
def check_parameters(module: nn.Module) -> None:
    """Raise an error if the sum of a parameter is NaN, ``m:checkParameters()``.

    As in Torch7, infinite elements of one sign are accepted, but not infinite elements of both signs.

    Args:
        module: Any module.

    Raises:
        FloatingPointError: The sum of a parameter is NaN. The message contains its index in :func:`parameters`,
            counted from 1, its Lua field and the type of its module.

    Lua:
        ``module:checkParameters()``, dpnn's Module.lua
    """
    for index, entry in enumerate(all_parameters(module), 1):
        if entry.read().sum(dtype=torch.float64).isnan():
            where = f"field {entry.name} of a {type(entry.module).__name__}"
            raise FloatingPointError(f"check_parameters: the sum of parameter {index} is NaN ({where})")


# ---------------------------------------------------------------------- training step
@checks_arguments
def update_parameters(module: nn.Module, learning_rate: float) -> None:
    """Subtract ``learning_rate`` times the gradient from every parameter, ``m:updateParameters(lr)``.

    As in Torch7, a module that occurs twice is updated twice, also by the following functions. Parameters that the
    clones of a ``MapTable`` share are updated once by this function, and once per clone by the following functions.
    """
    for entry in stepped_parameters(module):
        if not entry.repeats:
            entry.write(entry.read() - learning_rate * entry.read_gradient())


@checks_arguments
def zero_grad_parameters(module: nn.Module) -> None:
    """Set all gradients to zero in place, ``m:zeroGradParameters()``; shared gradients stay shared."""
    for entry in stepped_parameters(module):
        entry.write_gradient(torch.zeros_like(entry.read_gradient()))


@checks_arguments
def weight_decay(module: nn.Module, wd_factor: float, wd_min_dim: int = 2) -> None:
    """Add ``wd_factor`` times the parameter to each gradient, ``m:weightDecay(wdFactor, wdMinDim)``.

    Args:
        module: any module. Fields ``wdFactor`` and ``wdMinDim`` of a submodule override the arguments.
        wd_factor: factor; 0 or less has no effect.
        wd_min_dim: minimum number of dimensions in Torch7 of the parameters that are changed.
    """
    wd_factor = setting(module, "wdFactor", wd_factor)
    wd_min_dim = setting(module, "wdMinDim", wd_min_dim)
    if wd_factor <= 0:
        return
    for child in children(module):
        weight_decay(child, wd_factor, wd_min_dim)
    rows = visited_rows(module)
    for entry in changed_parameters(module):
        if (value := entry.read()).dim() >= wd_min_dim:
            gradient = entry.read_gradient()
            entry.write_gradient(in_rows(rows, gradient + wd_factor * value, gradient))


@checks_arguments
def momentum_grad_parameters(module: nn.Module) -> list[Tensor]:
    """Return the momentum buffers of a module's own parameters, ``m:momentumGradParameters()``.

    The first call creates the buffers, from the field ``momGradParams`` of the file or else from the gradients. Later
    calls return the same tensors, unless a cast has changed the dtype or device of the parameters.

    Args:
        module: any module.
    """
    is_leaf = children(module) == []
    entries = own_parameters(module) if is_leaf else list(all_parameters(module))
    buffers = module.__dict__.get("momentum_buffers")
    if buffers is None:
        record = fields.record_of(module)
        stored = record.fields.get("momGradParams") if record else None
        if isinstance(stored, LuaTable) and len(stored):
            buffers = [t.torch().clone() for t in stored.as_list()]
            if is_leaf:  # Torch7 also has a buffer for the computed weight of a layer in a WeightNorm
                buffers = buffers[-len(entries) :]
        else:
            buffers = [e.read_gradient().clone() for e in entries]
            if visited_rows(module) is not None:
                buffers = [torch.zeros_like(b) for b in buffers]
        if not buffers:
            return []
    for i, (buffer, entry) in enumerate(zip(buffers, entries, strict=False)):
        buffers[i] = buffer.to(entry.parameter.device, entry.parameter.dtype)
    module.__dict__["momentum_buffers"] = buffers
    return buffers


@checks_arguments
def update_grad_parameters(
    module: nn.Module, mom_factor: float, mom_damp: float | None = None, mom_nesterov: bool = False
) -> None:
    """Replace the gradients by their momentum, ``m:updateGradParameters(momFactor, momDamp, momNesterov)``.

    The momentum is :math:`v \\leftarrow \\mu v + (1 - d) g`. The gradient becomes :math:`v`, or :math:`g + \\mu v` with
    Nesterov's momentum.

    Args:
        module: any module. Fields ``momFactor``, ``momDamp`` and ``momNesterov`` of a submodule override the arguments.
        mom_factor: :math:`\\mu`; 0 or less has no effect.
        mom_damp: :math:`d`; default: ``mom_factor``.
        mom_nesterov: use Nesterov's momentum.
    """
    mom_factor = setting(module, "momFactor", mom_factor)
    if mom_factor <= 0:
        return
    mom_damp = setting(module, "momDamp", mom_factor if mom_damp is None else mom_damp)
    mom_nesterov = setting(module, "momNesterov", mom_nesterov)
    assert mom_damp is not None
    for child in children(module):
        update_grad_parameters(child, mom_factor, mom_damp, mom_nesterov)
    entries = changed_parameters(module)
    if not entries:
        return
    rows = visited_rows(module)
    for entry, momentum in zip(entries, momentum_grad_parameters(module), strict=True):
        gradient = entry.read_gradient()
        momentum.copy_(in_rows(rows, mom_factor * momentum + (1 - mom_damp) * gradient, momentum))
        entry.write_gradient(in_rows(rows, gradient + mom_factor * momentum if mom_nesterov else momentum, gradient))
    if (record := fields.record_of(module)) is not None:
        record.fields["momGradParams"] = LuaTable.from_list(map(_lua_tensor, _all_buffers(module, record)))


def _all_buffers(module: nn.Module, record: fields.LuaRecord) -> list[Tensor]:
    """Return the momentum buffers of Torch7, which has one more, without effect, for the weight of a WeightNorm."""
    buffers = list(module.__dict__["momentum_buffers"])
    if direction_outside(module) is not None:
        stored: Any = record.fields.get("momGradParams")
        if isinstance(stored, LuaTable) and len(stored) > len(buffers):
            weight = stored[1].torch()
        else:
            spec = registry.mapping_of(module).fields_of(module)["weight"]
            weight = torch.zeros_like(LuaParameter(module, "weight", spec).read())
        buffers.insert(0, weight.to(buffers[0]))
    return buffers


def visited_rows(module: nn.Module) -> Tensor | None:
    """Return a mask of the weight rows that the last backward pass used, for a SoftMaxTree; None for other modules."""
    families = getattr(module, "parent_children", None)
    if not isinstance(families, Tensor):
        return None
    (entry, *_) = own_parameters(module)
    seen = entry.read_gradient().flatten(1).any(1)
    rows = torch.zeros_like(seen)
    for first, count in families[families[:, 0] > 0].tolist():
        rows[first - 1 : first - 1 + count] = seen[first - 1 : first - 1 + count].any()
    return rows


def in_rows(rows: Tensor | None, changed: Tensor, unchanged: Tensor) -> Tensor:
    """Return a tensor with the changed values in some rows, see :func:`visited_rows`; None: in all rows."""
    return changed if rows is None else torch.where(rows.view(-1, *[1] * (changed.dim() - 1)), changed, unchanged)


def _lua_tensor(tensor: Tensor) -> LuaTensor:
    name = "torch.FloatTensor" if tensor.dtype == torch.float32 else "torch.DoubleTensor"
    return new_tensor(name, tensor)


@checks_arguments
def max_param_norm(module: nn.Module, max_out_norm: float | None = None, max_in_norm: float | None = None) -> None:
    """Bound the norms of weights, ``m:maxParamNorm(maxOutNorm, maxInNorm)``.

    Args:
        module: any module. Fields ``maxOutNorm`` and ``maxInNorm`` of a submodule override the arguments.
        max_out_norm: maximum norm of each slice along the first dimension (for a LookupTable the second); None: no
            bound.
        max_in_norm: maximum norm of each slice along the last dimension (for a LookupTable the first, and the default
            of ``max_out_norm``); None: no bound.
    """
    given = max_in_norm
    max_out_norm = setting(module, "maxOutNorm", max_out_norm)
    max_in_norm = setting(module, "maxInNorm", max_in_norm)
    if max_out_norm is None and max_in_norm is None:
        return
    for child in children(module):
        max_param_norm(child, max_out_norm, max_in_norm)
    rows = visited_rows(module)
    for entry in changed_parameters(module):
        value = entry.read()
        if isinstance(module, nn.Embedding):
            entry.write(renormed(value, max_in_norm if max_out_norm is None else max_out_norm, given, (1, 0)))
        elif value.dim() > 1:
            entry.write(in_rows(rows, renormed(value, max_out_norm, max_in_norm, (0, -1)), value))


def renormed(value: Tensor, max_out_norm: float | None, max_in_norm: float | None, dims: tuple[int, int]) -> Tensor:
    """Return ``value`` with its slices along ``dims`` scaled down to the given norms; None, 0 or less: no bound."""
    for norm, dim in zip((max_out_norm, max_in_norm), dims, strict=True):
        if norm is not None and norm > 0:
            value = value.renorm(2, dim, norm)
    return value


@checks_arguments
def grad_param_clip(module: nn.Module, cutoff_norm: float, module_local: bool = False) -> float | None:
    """Scale gradients down to a norm, ``m:gradParamClip(cutoffNorm, moduleLocal)``.

    Args:
        module: any module. Fields ``cutoffNorm`` and ``moduleLocal`` of a submodule override the arguments.
        cutoff_norm: maximum norm; 0 or less has no effect.
        module_local: bound the norm for each module without submodules, instead of the norm of all gradients together.

    Returns:
        The norm before the call; None if ``cutoff_norm`` has no effect.
    """
    cutoff_norm = setting(module, "cutoffNorm", cutoff_norm)
    module_local = setting(module, "moduleLocal", module_local)
    if cutoff_norm <= 0:
        return None
    if module_local and children(module):
        norms = [grad_param_clip(child, cutoff_norm, module_local) or 0.0 for child in children(module)]
        own = _clip(changed_parameters(module), cutoff_norm)
        return float(torch.tensor([*norms, own], dtype=torch.float64).norm())
    outside = direction_outside(module)
    if outside is not None:
        return _clip(own_parameters(module), cutoff_norm, outside.grad)
    return _clip(list(all_parameters(module)), cutoff_norm)


def _clip(entries: list[LuaParameter], cutoff_norm: float, counted: Tensor | None = None) -> float:
    norms = [e.read_gradient().double().norm() for e in entries]
    if counted is not None:
        norms.append(counted.double().norm())
    norm = float(torch.stack(norms).norm()) if norms else 0.0
    if norm > cutoff_norm:
        for entry in entries:
            entry.write_gradient(entry.read_gradient() * (cutoff_norm / norm))
    return norm


# ---------------------------------------------------------------------- copies, casts, files
@checks_arguments
def shared_clone(module: nn.Module, share_params: bool = True, share_grad_params: bool = True) -> nn.Module:
    """Return a copy that shares parameters, gradients or both, ``m:sharedClone(shareParams, shareGradParams)``.

    Args:
        module: any module.
        share_params: share the memory of parameters, and statistics of batch normalization. If ``share_grad_params``
            is also True, both modules contain the same parameter objects, which an optimizer updates once.
        share_grad_params: share the gradients. Reset them with :func:`zero_grad_parameters`, because ``zero_grad()``
            sets ``.grad`` to None, so that they are no longer shared.
    """
    memo: dict[int, Any] = {}
    for child in module.modules():
        for p in child._parameters.values():
            if p is None or id(p) in memo:
                continue
            if share_params and share_grad_params:
                memo[id(p)] = p
                continue
            data = p.detach() if share_params else p.detach().clone()
            copied = memo[id(p)] = nn.Parameter(data, requires_grad=p.requires_grad)
            if share_grad_params:
                p.grad = torch.zeros_like(p) if p.grad is None else p.grad
                copied.grad = p.grad
            elif p.grad is not None:
                copied.grad = p.grad.clone()
        if share_params:
            buffers = [child._buffers.get(name) for name in SHARED_BUFFERS]
            memo.update({id(b): b for b in buffers if b is not None})
    return copy.deepcopy(module, memo)


@checks_arguments
def cast(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Cast a module in place, ``m:type(...)``. Different parameters that share memory still share memory.

    ``module.to(dtype)`` preserves only the sharing of one parameter object. Parameters of :func:`shared_clone` are an
    example of different parameters that share memory.

    Raises:
        OptionError: ``dtype`` is not a floating point dtype.
    """
    as_dtype(dtype)  # raises the error
    storages: dict[int, tuple[Tensor, Tensor]] = {}

    def converted(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point() or tensor.numel() == 0:
            return tensor.to(dtype) if tensor.is_floating_point() else tensor
        key = storage_id(tensor)
        if key not in storages:
            elements = tensor.new_empty(0).set_(tensor.untyped_storage())
            storages[key] = (elements, elements.to(dtype))
        _, target = storages[key]
        return target.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())

    return module._apply(converted)


@checks_arguments
def serialized(module: nn.Module, mode: Mode = "heavy", tensor_type: str | None = None) -> LuaObject:
    """Return the object that ``nn.Serial(m, tensortype)`` writes, for :func:`~dpnn_bridge.write_t7`.

    Args:
        module: a converted module, or a module whose classes can be exported.
        mode: ``"heavy"``, as after ``m:heavySerial()``: all fields; ``"medium"``: without outputs and buffers, for
            training; ``"light"``: also without gradients, for inference.
        tensor_type: Lua type to cast all tensors to, such as ``torch.FloatTensor``; None: no cast.
    """
    from dpnn_bridge.conversion.convert import to_lua

    return serial_form(to_lua(module), mode, tensor_type)


# ---------------------------------------------------------------------- REINFORCE
@checks_arguments
def reinforce(module: nn.Module, reward: Tensor | list[Tensor]) -> None:
    """Set the reward of every REINFORCE module in ``module`` for the next backward pass, ``m:reinforce(r)``.

    Args:
        module: any module.
        reward: one number per sample, shape :math:`(N)`; for recurrent modules also a list of one tensor per step.
    """
    for child in module.modules():
        if (own := getattr(type(child), "reinforce", None)) is not None:
            own(child, reward)
