"""Provide dpnn's Module interface as functions of any ``torch.nn.Module``."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.base.arguments import checks_arguments
from dpnn_bridge.base.storage import storage_id
from dpnn_bridge.conversion import fields
from dpnn_bridge.conversion.lua_values import lua_storage, strided
from dpnn_bridge.loaders.serial import Mode, serial_form
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor
from dpnn_bridge.training.flat_vector import flatten as flatten
from dpnn_bridge.training.flat_vector import get_parameters as get_parameters
from dpnn_bridge.training.flat_vector import load_flat as load_flat
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

#: buffers that copies share with the original, as dpnn's ``dpnn_parameters`` say
SHARED_BUFFERS = ("running_mean", "running_var", "unigrams", "Z", "alias", "keep")


@checks_arguments
def parameters(module: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """Return the parameters and their gradients as Torch7's ``module:parameters()`` lists them.

    A module that occurs twice is listed twice. Tensors have Lua's shape and arrangement and are detached views of the
    torch parameters where the arrangement allows a view; a parameter without gradient gives zeros.

    Args:
        module: any module; submodules that no Lua class describes contribute their own parameters in order.

    Returns:
        ``(params, grads)``, two lists of the same length.
    """
    entries = list(all_parameters(module))
    return [e.read() for e in entries], [e.read_gradient() for e in entries]


@checks_arguments
def check_parameters(module: nn.Module) -> None:
    """Raise an error if the sum of a parameter is not a number, ``m:checkParameters()``.

    As in Torch7, a single infinite element is accepted, and infinities of both signs are not.

    Args:
        module: Any module.

    Raises:
        FloatingPointError: Names the first such parameter by its index in :func:`parameters`, counted from 1, its Lua
            field and the type of its module.

    Lua:
        ``module:checkParameters()``, dpnn's Module.lua
    """
    for index, entry in enumerate(all_parameters(module), 1):
        if entry.read().sum().isnan():
            where = f"field {entry.name} of a {type(entry.module).__name__}"
            raise FloatingPointError(f"check_parameters: the sum of parameter {index} is NaN ({where})")


# ---------------------------------------------------------------------- the step
@checks_arguments
def update_parameters(module: nn.Module, learning_rate: float) -> None:
    """Subtract ``learning_rate`` times the gradient from every parameter, ``m:updateParameters(lr)``.

    A module that occurs twice is updated twice, here and in all functions below, as in Torch7. The clones of a
    ``MapTable`` that share parameters are updated once here, and in the functions below as often as there are clones.
    """
    for entry in stepped_parameters(module):
        if not entry.repeats:
            entry.write(entry.read() - learning_rate * entry.read_gradient())


@checks_arguments
def zero_grad_parameters(module: nn.Module) -> None:
    """Set all gradients to zeros, ``m:zeroGradParameters()``; gradients that are shared stay shared."""
    for entry in all_parameters(module):
        entry.write_gradient(torch.zeros_like(entry.read_gradient()))


@checks_arguments
def weight_decay(module: nn.Module, wd_factor: float, wd_min_dim: int = 2) -> None:
    """Add ``wd_factor`` times the parameter to each gradient, ``m:weightDecay(wdFactor, wdMinDim)``.

    Args:
        module: any module. Fields ``wdFactor`` and ``wdMinDim`` of a submodule take the place of the arguments.
        wd_factor: not above 0: nothing happens.
        wd_min_dim: parameters with fewer dimensions in Torch7 are left alone.
    """
    wd_factor = setting(module, "wdFactor", wd_factor)
    wd_min_dim = setting(module, "wdMinDim", wd_min_dim)
    if wd_factor <= 0:
        return
    for child in children(module):
        weight_decay(child, wd_factor, wd_min_dim)
    for entry in changed_parameters(module):
        if (value := entry.read()).dim() >= wd_min_dim:
            entry.write_gradient(entry.read_gradient() + wd_factor * value)


@checks_arguments
def momentum_grad_parameters(module: nn.Module) -> list[Tensor]:
    """Return the momentum of a module's own parameters (``m:momentumGradParameters()``), first their gradients.

    Args:
        module: any module. What a file contains in ``momGradParams`` is taken up.
    """
    buffers = module.__dict__.get("momentum_buffers")
    if buffers is None:
        record = fields.record_of(module)
        stored = record.fields.get("momGradParams") if record else None
        if isinstance(stored, LuaTable) and len(stored):
            buffers = [t.torch().clone() for t in stored.as_list()]
            if children(module) == []:  # the weight of a layer in a WeightNorm has momentum, and is no parameter here
                buffers = buffers[-len(own_parameters(module)) :]
        else:
            entries = own_parameters(module) if children(module) == [] else list(all_parameters(module))
            buffers = [e.read_gradient().clone() for e in entries]
            if visited_rows(module) is not None:
                buffers = [torch.zeros_like(b) for b in buffers]
        if not buffers:
            return []
        module.__dict__["momentum_buffers"] = buffers
    return buffers


@checks_arguments
def update_grad_parameters(
    module: nn.Module, mom_factor: float, mom_damp: float | None = None, mom_nesterov: bool = False
) -> None:
    """Replace the gradients by their momentum, ``m:updateGradParameters(momFactor, momDamp, momNesterov)``.

    The momentum is :math:`v \\leftarrow \\mu v + (1 - d) g`, the gradient becomes :math:`v`, or :math:`g + \\mu v`.

    Args:
        module: any module. Fields ``momFactor``, ``momDamp`` and ``momNesterov`` of a submodule take the place of the
            arguments.
        mom_factor: :math:`\\mu`; not above 0: nothing happens.
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
        visited = slice(None) if rows is None else rows
        momentum[visited] = mom_factor * momentum[visited] + (1 - mom_damp) * gradient[visited]
        updated = gradient.clone()
        updated[visited] = (gradient + mom_factor * momentum if mom_nesterov else momentum)[visited]
        entry.write_gradient(updated)
    if (record := fields.record_of(module)) is not None and direction_outside(module) is None:
        record.fields["momGradParams"] = LuaTable.from_list(map(_lua_tensor, module.__dict__["momentum_buffers"]))


def visited_rows(module: nn.Module) -> Tensor | None:
    """Return the rows that the last backward pass visited, for sparse updates (SoftMaxTree); else None."""
    families = getattr(module, "parent_children", None)
    if not isinstance(families, Tensor):
        return None
    (entry, *_) = own_parameters(module)
    seen = entry.read_gradient().flatten(1).any(1)
    rows = torch.zeros_like(seen)
    for first, count in families[families[:, 0] > 0].tolist():
        rows[first - 1 : first - 1 + count] = seen[first - 1 : first - 1 + count].any()
    return rows


def _lua_tensor(tensor: Tensor) -> LuaTensor:
    name = "torch.FloatTensor" if tensor.dtype == torch.float32 else "torch.DoubleTensor"
    return strided(name, tuple(tensor.shape), lua_storage(name, tensor))


@checks_arguments
def max_param_norm(module: nn.Module, max_out_norm: float | None = None, max_in_norm: float | None = None) -> None:
    """Bound the norms of weights, ``m:maxParamNorm(maxOutNorm, maxInNorm)``.

    Args:
        module: any module. Fields ``maxOutNorm`` and ``maxInNorm`` of a submodule take the place of the arguments.
        max_out_norm: for each slice along the first dimension (the second of a LookupTable); None: no bound.
        max_in_norm: for each slice along the last dimension (the first of a LookupTable, where it also represents a
            missing ``max_out_norm``); None: no bound.
    """
    given = max_in_norm
    max_out_norm = setting(module, "maxOutNorm", max_out_norm)
    max_in_norm = setting(module, "maxInNorm", max_in_norm)
    if max_out_norm is None and max_in_norm is None:
        return
    for child in children(module):
        max_param_norm(child, max_out_norm, max_in_norm)
    for entry in changed_parameters(module):
        value = entry.read()
        if isinstance(module, nn.Embedding):
            entry.write(renormed(value, max_in_norm if max_out_norm is None else max_out_norm, given, (1, 0)))
        elif value.dim() > 1:
            entry.write(renormed(value, max_out_norm, max_in_norm, (0, -1)))


def renormed(value: Tensor, max_out_norm: float | None, max_in_norm: float | None, dims: tuple[int, int]) -> Tensor:
    """Return ``value`` with its slices along ``dims`` scaled down to the given norms; None or not above 0: no bound."""
    for norm, dim in zip((max_out_norm, max_in_norm), dims, strict=True):
        if norm is not None and norm > 0:
            value = value.renorm(2, dim, norm)
    return value


@checks_arguments
def grad_param_clip(module: nn.Module, cutoff_norm: float, module_local: bool = False) -> float | None:
    """Scale gradients down to a norm, ``m:gradParamClip(cutoffNorm, moduleLocal)``.

    Args:
        module: any module. Fields ``cutoffNorm`` and ``moduleLocal`` of a submodule take the place of the arguments.
        cutoff_norm: largest norm; not above 0: nothing happens.
        module_local: bound the norm of each module without submodules instead of that of all gradients together.

    Returns:
        The norm before, None when nothing was to be done.
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
        share_params: with ``share_grad_params`` the copy has the very same parameters, which optimizers see once;
            without, parameters of its own on the same memory. Statistics of batch normalization are shared too.
        share_grad_params: the gradients are the same tensors; clear them with :func:`zero_grad_parameters`, since
            ``zero_grad()`` drops them.
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
    """Cast a module in place, ``m:type(...)``: parameters that share memory share it afterwards too.

    ``module.to(dtype)`` keeps one parameter one; this function also keeps different parameters on the same memory,
    such as those of :func:`shared_clone`, when both are in ``module``.
    """
    storages: dict[int, tuple[Tensor, Tensor]] = {}

    def converted(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point() or tensor.numel() == 0:
            return tensor.to(dtype) if tensor.is_floating_point() else tensor
        key = storage_id(tensor)
        if key not in storages:
            whole = tensor.new_empty(0).set_(tensor.untyped_storage())
            storages[key] = (whole, whole.to(dtype))
        _, target = storages[key]
        return target.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())

    return module._apply(converted)


@checks_arguments
def serialized(module: nn.Module, mode: Mode = "heavy", tensor_type: str | None = None) -> LuaObject:
    """Return the object that ``nn.Serial(m, tensortype)`` writes after ``m:heavySerial()``, ``mediumSerial()`` or
    ``lightSerial()``, for :func:`~dpnn_bridge.write_t7`.

    Args:
        module: a converted module, or one made of registered torch types.
        mode: ``"heavy"``: everything; ``"medium"``: without outputs and buffers, for training; ``"light"``: also
            without gradients, for inference.
        tensor_type: Lua type that the tensors are cast to, such as ``torch.FloatTensor``; None: as they are.
    """
    from dpnn_bridge.conversion import to_lua

    return serial_form(to_lua(module), mode, tensor_type)


# ---------------------------------------------------------------------- REINFORCE
@checks_arguments
def reinforce(module: nn.Module, reward: Tensor | list[Tensor]) -> None:
    """Set the reward of every REINFORCE module in ``module`` for the next backward pass, ``m:reinforce(r)``.

    Args:
        module: any module.
        reward: one number for each sample, shape :math:`(N)`; for recurrent modules also one such tensor for each step.
    """
    for child in module.modules():
        if (own := getattr(type(child), "reinforce", None)) is not None:
            own(child, reward)
