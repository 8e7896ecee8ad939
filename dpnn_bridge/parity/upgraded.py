"""Bring the parameters and gradients of a reference into the layout of the newest version of their classes."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

from torch import nn

from dpnn_bridge.conversion import fields, registry
from dpnn_bridge.conversion.noise import paired
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor


def upgraded(table: LuaTable, module: nn.Module, obj: LuaObject | None) -> LuaTable:
    """Return a reference whose ``params`` and ``gradParams`` have the layout to which the import upgrades old modules.

    For example, ``nn.VolumetricFullConvolution`` of 2015 stores the dimensions of its weight in another order.

    Args:
        table: the reference.
        module: the converted model.
        obj: Lua object of the model before its run. The gradients have the layout of ``after``, if the reference
            contains it, because Torch7's run may have upgraded the module.
    """
    after = table.get("after")
    after = after if isinstance(after, LuaObject) else obj
    table = _with_tables(table, module)
    changed = {
        "params": _upgraded(table, "params", module, obj),
        "gradParams": _upgraded(table, "gradParams", module, after),
    }
    changed = {name: values for name, values in changed.items() if values is not None}
    return LuaTable([*table.items(), *changed.items()]) if changed else table


def _with_tables(table: LuaTable, module: nn.Module) -> LuaTable:
    """Return a reference whose ``gradParams`` contain a table for each gradient that Torch7's containers omit."""
    listed = table.get("gradParams")
    gradients = listed.as_list() if isinstance(listed, LuaTable) else []
    sites = list(registry.parameters(module))
    if len(gradients) >= len(sites):
        return table
    omitted = [
        any(
            fault.affects(fields.grad_field(name, spec)) and not fault.listed
            for fault in registry.mapping_of(owner).faults
        )
        for owner, name, spec in sites
    ]
    if not any(omitted) or len(gradients) != omitted.count(False):
        return table
    left = iter(gradients)
    complete = LuaTable.from_list([LuaTable() if absent else next(left) for absent in omitted])
    return LuaTable([*table.items(), ("gradParams", complete)])


def _upgraded(table: LuaTable, name: str, module: nn.Module, obj: LuaObject | None) -> LuaTable | None:
    """Return one list of tensors after the upgrade; None if nothing changes."""
    listed = table.get(name)
    tensors = listed.as_list() if isinstance(listed, LuaTable) else []
    sites = list(registry.parameters(module))
    if obj is None or len(tensors) != len(sites):
        return None
    objects = {id(owner): found for owner, found in paired(module, obj)}
    found: list[Any] = []
    for (owner, field, spec), tensor in zip(sites, tensors, strict=True):
        key = field if name == "params" else fields.grad_field(field, spec)
        old = objects.get(id(owner))
        mapping = registry.find(old) if old is not None else None
        if old is not None and mapping is not None and isinstance(tensor, LuaTensor):
            new = mapping.upgrade(old.changed({key: tensor})).get(key)
            if isinstance(new, LuaTensor) and new.size == tensor.size and not _is_new(tensor, new, owner, spec):
                tensor = new
        found.append(tensor)
    same = all(new is given for new, given in zip(found, tensors, strict=True))
    return None if same else LuaTable.from_list(found)


def _is_new(tensor: LuaTensor, upgraded: LuaTensor, owner: nn.Module, spec: fields.Field) -> bool:
    """Return whether a tensor has the shape of the module's parameter before the upgrade, and not after it."""
    shape = tuple(attrgetter(spec.attribute)(owner).shape)
    return tensor.shape == shape != upgraded.shape
