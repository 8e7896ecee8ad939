"""dpnn's Module interface as functions over any ``torch.nn.Module``."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from dpnn_bridge import registry
from dpnn_bridge.errors import ConversionError
from dpnn_bridge.loaders.serial import serial_form
from dpnn_bridge.lua_parameters import LuaParameter, all_parameters, children, own_parameters, setting
from dpnn_bridge.lua_values import lua_storage, strided
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor
from dpnn_bridge.ties import tie_of


def parameters(module: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """Parameters and their gradients as Torch7's ``module:parameters()`` lists them.

    A module that occurs twice is listed twice. Tensors have Lua's shape and arrangement and are detached views of the
    torch parameters where the arrangement allows a view; a parameter without gradient gives zeros.

    Args:
        module: any module; submodules that no Lua class describes contribute their own parameters in order.

    Returns:
        ``(params, grads)``, two lists of the same length.
    """
    entries = list(all_parameters(module))
    return [e.read() for e in entries], [e.read_gradient() for e in entries]


# ---------------------------------------------------------------------- the step
def update_parameters(module: nn.Module, learning_rate: float) -> None:
    """Subtracts ``learning_rate`` times the gradient from every parameter, ``m:updateParameters(lr)``.

    A module that occurs twice is updated twice, here and in all functions below, as in Torch7.
    """
    for entry in all_parameters(module):
        entry.write(entry.read() - learning_rate * entry.read_gradient())


def zero_grad_parameters(module: nn.Module) -> None:
    """Sets all gradients to zeros, ``m:zeroGradParameters()``; gradients that are shared stay shared."""
    for entry in all_parameters(module):
        entry.write_gradient(torch.zeros_like(entry.read_gradient()))


def weight_decay(module: nn.Module, wd_factor: float, wd_min_dim: int = 2) -> None:
    """Adds ``wd_factor`` times the parameter to each gradient, ``m:weightDecay(wdFactor, wdMinDim)``.

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
    for entry in own_parameters(module):
        if (value := entry.read()).dim() >= wd_min_dim:
            entry.write_gradient(entry.read_gradient() + wd_factor * value)


def momentum_grad_parameters(module: nn.Module) -> list[Tensor]:
    """The momentum of a module's own parameters, ``m:momentumGradParameters()``; at first copies of their gradients.

    Args:
        module: any module. What a file holds in ``momGradParams`` is taken up.
    """
    buffers = module.__dict__.get("momentum_buffers")
    if buffers is None:
        record = registry.record_of(module)
        stored = record.fields.get("momGradParams") if record else None
        if isinstance(stored, LuaTable) and len(stored):
            buffers = [t.torch().clone() for t in stored.as_list()]
        else:
            entries = own_parameters(module) if children(module) == [] else list(all_parameters(module))
            buffers = [e.read_gradient().clone() for e in entries]
            if visited_rows(module) is not None:
                buffers = [torch.zeros_like(b) for b in buffers]
        if not buffers:
            return []
        module.__dict__["momentum_buffers"] = buffers
    return buffers


def update_grad_parameters(
    module: nn.Module, mom_factor: float, mom_damp: float | None = None, mom_nesterov: bool = False
) -> None:
    """Replaces the gradients by their momentum, ``m:updateGradParameters(momFactor, momDamp, momNesterov)``.

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
    entries = own_parameters(module)
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
    if (record := registry.record_of(module)) is not None:
        record.fields["momGradParams"] = LuaTable.from_list(map(_lua_tensor, module.__dict__["momentum_buffers"]))


def visited_rows(module: nn.Module) -> Tensor | None:
    """Rows of the nodes that the last backward visited, for modules with sparse updates (SoftMaxTree); else None."""
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


def max_param_norm(module: nn.Module, max_out_norm: float | None = None, max_in_norm: float | None = None) -> None:
    """Bounds the norms of weights, ``m:maxParamNorm(maxOutNorm, maxInNorm)``.

    Args:
        module: any module. Fields ``maxOutNorm`` and ``maxInNorm`` of a submodule take the place of the arguments.
        max_out_norm: for each slice along the first dimension (the second of a LookupTable); None: no bound.
        max_in_norm: for each slice along the last dimension (the first of a LookupTable, where it also stands for a
            missing ``max_out_norm``); None: no bound.
    """
    given = max_in_norm
    max_out_norm = setting(module, "maxOutNorm", max_out_norm)
    max_in_norm = setting(module, "maxInNorm", max_in_norm)
    if max_out_norm is None and max_in_norm is None:
        return
    for child in children(module):
        max_param_norm(child, max_out_norm, max_in_norm)
    for entry in own_parameters(module):
        value = entry.read()
        if isinstance(module, nn.Embedding):
            entry.write(renormed(value, max_in_norm if max_out_norm is None else max_out_norm, given, (1, 0)))
        elif value.dim() > 1:
            entry.write(renormed(value, max_out_norm, max_in_norm, (0, -1)))


def renormed(value: Tensor, max_out_norm: float | None, max_in_norm: float | None, dims: tuple[int, int]) -> Tensor:
    """``value`` with its slices along ``dims`` scaled down to the given norms; None or not above 0: no bound."""
    for norm, dim in zip((max_out_norm, max_in_norm), dims, strict=True):
        if norm is not None and norm > 0:
            value = value.renorm(2, dim, norm)
    return value


def grad_param_clip(module: nn.Module, cutoff_norm: float, module_local: bool = False) -> float | None:
    """Scales gradients down to a norm, ``m:gradParamClip(cutoffNorm, moduleLocal)``.

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
        own = _clip(own_parameters(module), cutoff_norm)
        return float(torch.tensor([*norms, own], dtype=torch.float64).norm())
    return _clip(list(all_parameters(module)), cutoff_norm)


def _clip(entries: list[LuaParameter], cutoff_norm: float) -> float:
    norms = [e.read_gradient().double().norm() for e in entries]
    norm = float(torch.stack(norms).norm()) if norms else 0.0
    if norm > cutoff_norm:
        for entry in entries:
            entry.write_gradient(entry.read_gradient() * (cutoff_norm / norm))
    return norm


# ---------------------------------------------------------------------- copies, casts, files
#: buffers that copies share with the original, as dpnn's ``dpnn_parameters`` say
SHARED_BUFFERS = ("running_mean", "running_var", "unigrams", "Z", "alias", "keep")


def shared_clone(module: nn.Module, share_params: bool = True, share_grad_params: bool = True) -> nn.Module:
    """A copy that shares parameters, gradients or both, ``m:sharedClone(shareParams, shareGradParams)``.

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


def cast(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Casts a module in place, ``m:type(...)``: parameters that share memory share it afterwards too.

    ``module.to(dtype)`` keeps one parameter one; this function also keeps different parameters on the same memory,
    such as those of :func:`shared_clone`, when both are in ``module``.
    """
    storages: dict[int, tuple[Tensor, Tensor]] = {}

    def converted(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point() or tensor.numel() == 0:
            return tensor.to(dtype) if tensor.is_floating_point() else tensor
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in storages:
            whole = tensor.new_empty(0).set_(storage)
            storages[storage.data_ptr()] = (whole, whole.to(dtype))
        _, target = storages[storage.data_ptr()]
        return target.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())

    return module._apply(converted)


def serialized(module: nn.Module, mode: str = "heavy", tensor_type: str | None = None) -> LuaObject:
    """The object that ``nn.Serial(m, tensortype)`` writes after ``m:heavySerial()``, ``mediumSerial()`` or
    ``lightSerial()``, for :func:`~dpnn_bridge.write_t7`.

    Args:
        module: a converted module, or one made of registered torch types.
        mode: ``"heavy"``: everything; ``"medium"``: without outputs and buffers, to go on training from; ``"light"``:
            without gradients as well, to use.
        tensor_type: Lua type that the tensors are cast to, such as ``torch.FloatTensor``; None: as they are.
    """
    from dpnn_bridge.conversion import to_lua

    return serial_form(to_lua(module), mode, tensor_type)  # type: ignore[arg-type]


# ---------------------------------------------------------------------- the flat vector
class FlatField(NamedTuple):
    """One torch parameter and how its elements stand in Torch7's flat vector.

    Attributes:
        parameter: the torch parameter.
        module: the module whose layout arranges it.
        layout: Lua's arrangement, None where it is torch's.
    """

    parameter: nn.Parameter
    module: nn.Module | None = None
    layout: registry.Layout | None = None

    def to_lua(self, tensor: Tensor) -> Tensor:
        """A tensor shaped like the parameter as a vector in Lua's order."""
        if self.layout is not None and self.module is not None:
            tensor = self.layout.to_lua(tensor, self.module)
        return tensor.reshape(-1)

    def to_torch(self, vector: Tensor) -> Tensor:
        """A vector in Lua's order in the shape, dtype and on the device of the parameter."""
        value = vector.to(self.parameter.device, self.parameter.dtype)
        if self.layout is None or self.module is None:
            return value.reshape(self.parameter.shape)
        shape = self.layout.to_lua(self.parameter.detach(), self.module).shape
        return self.layout.to_torch(value.reshape(shape), self.module)

    @property
    def size(self) -> int:
        """Number of elements in Lua's vector."""
        return self.to_lua(self.parameter.detach()).numel()


def flat_fields(target: nn.Module | Iterable[nn.Parameter]) -> list[FlatField]:
    """The parameters in the order of Torch7's ``getParameters()``, tied ones once.

    Args:
        target: a module, or parameters that are taken as they are.
    """
    if not isinstance(target, nn.Module):
        return [FlatField(p) for p in target]
    fields: dict[int, FlatField] = {}
    for module, _, spec in registry.spec_of(target).parameters(target):
        owner, leaf = registry.resolve(module, spec.attribute)
        tie = tie_of(owner, leaf)
        if tie is not None:
            owner, leaf, module, spec = tie.source.owner, tie.source.leaf, tie.source.module, tie.source.field
        parameter = getattr(owner, leaf)
        fields.setdefault(id(parameter), FlatField(parameter, module, spec.layout))
    return list(fields.values())


def split_flat(fields: list[FlatField], vector: Any, what: str) -> list[Tensor]:
    """Cuts a flat vector into tensors shaped like the parameters.

    Raises:
        ConversionError: it has not as many elements as the parameters together.
    """
    vector = vector.torch() if isinstance(vector, LuaTensor) else torch.as_tensor(vector)
    sizes = [f.size for f in fields]
    if vector.numel() != sum(sizes):
        raise ConversionError(
            f"{what} has {vector.numel()} elements, the parameters have {sum(sizes)}; "
            "is it of this model, and does the model have all its layers?"
        )
    parts = vector.detach().reshape(-1).split(sizes)
    return [field.to_torch(part) for field, part in zip(fields, parts, strict=True)]


def flatten(module: nn.Module, *, gradients: bool = False) -> Tensor:
    """All parameters as the one vector that Torch7's ``module:getParameters()`` returns; a copy.

    Args:
        module: any module.
        gradients: return the gradients instead, zeros where there are none.
    """
    parts = []
    for field in flat_fields(module):
        p = field.parameter.detach()
        grad = field.parameter.grad if field.parameter.grad is not None else torch.zeros_like(p)
        parts.append(field.to_lua(grad if gradients else p))
    return torch.cat(parts) if parts else torch.empty(0)


def get_parameters(module: nn.Module) -> tuple[Tensor, Tensor]:
    """Moves all parameters and gradients into one vector each, ``m:getParameters()``.

    Returns:
        ``(params, grads)``: what is written into them the module has, and the reverse.

    Raises:
        ConversionError: torch arranges a parameter in a way that is no view of Torch7's; use :func:`flatten` and
            :func:`load_flat`.
    """
    fields = flat_fields(module)
    params, grads = flatten(module), flatten(module, gradients=True)
    parts = zip(fields, *(v.split([f.size for f in fields]) for v in (params, grads)), strict=True)
    for field, values, gradients in parts:
        value, gradient = field.to_torch(values), field.to_torch(gradients)
        if value.untyped_storage().data_ptr() != params.untyped_storage().data_ptr():
            raise ConversionError("a parameter cannot be a view of one vector; use training.flatten and load_flat")
        field.parameter.data, field.parameter.grad = value, gradient
    return params, grads


@torch.no_grad()
def load_flat(module: nn.Module, vector: Tensor | LuaTensor) -> None:
    """Fills a module from the vector that Torch7's ``getParameters()`` returned and a script saved.

    Args:
        module: a converted module, of the structure that the vector was taken from.
        vector: all parameters in Torch7's order, tied ones once.

    Raises:
        ConversionError: it has not as many elements as the parameters together.
    """
    fields = flat_fields(module)
    for field, value in zip(fields, split_flat(fields, vector, "the flat vector"), strict=True):
        field.parameter.copy_(value)


# ---------------------------------------------------------------------- REINFORCE
@runtime_checkable
class Rewarded(Protocol):
    """A module whose gradient is that of its sample's log probability times a reward."""

    def reinforce(self, reward: Tensor) -> None:
        """Sets the reward for the backward pass that follows."""


def reinforce(module: nn.Module, reward: Tensor) -> None:
    """Hands a reward to every REINFORCE module in ``module`` for the backward pass that follows, ``m:reinforce(r)``.

    Args:
        module: any module.
        reward: one number for each sample, shape :math:`(N)`.
    """
    for child in module.modules():
        if isinstance(child, Rewarded):
            child.reinforce(reward)
