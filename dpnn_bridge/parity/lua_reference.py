"""Compute a reference with the original Lua sources of a model.

The sources run in a Lua bridge, whose tensor operations are PyTorch's. So the reference does not depend on the class
mappings, but it is not computed by Torch7's C code, unlike stored results of Torch7 and results of
:mod:`dpnn_bridge.lua.torch7`.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import nn

from dpnn_bridge.base.graph import values_in
from dpnn_bridge.compare.nested import cast, random_like
from dpnn_bridge.conversion.lua_values import lua_value, to_value
from dpnn_bridge.errors import LuaBridgeError
from dpnn_bridge.objects import LuaObject, LuaTable
from dpnn_bridge.parity.subject import cast_in_lua
from dpnn_bridge.parity.torch7_jobs import CAST_IN_SEQUENCE

if TYPE_CHECKING:
    from dpnn_bridge.lua.bridge import LuaBridge


def lua_reference(
    bridge: LuaBridge,
    obj: LuaObject,
    module: nn.Module,
    table: LuaTable,
    *,
    dtype: torch.dtype | None = None,
    gradients: bool = True,
) -> LuaTable:
    """Run a model in Lua and return its results as a table with the fields of a reference, including ``after``.

    Args:
        bridge: a Lua bridge whose ``lua_path`` contains the original sources.
        obj: the Lua object of the model.
        module: the converted module, in the mode of both runs.
        table: contains ``input``, for criterions ``target``, and optionally ``gradOutput`` and ``reward``.
        dtype: dtype to which Lua casts the model; half precision runs in the precision of the file.
        gradients: whether to run backward; without ``gradOutput``, on random numbers.

    Raises:
        LuaBridgeError: a class has no Lua code, or its code raised an error.
    """
    require_sources(bridge, obj)
    with bridge.errors():
        live = bridge.to_lua(obj)
    if all(m.training == module.training for m in module.modules()) and live["evaluate"] is not None:
        bridge.call(live["training" if module.training else "evaluate"], live)
    tensor_class, table = cast_in_lua(module, table, dtype)
    if tensor_class is None:
        dtype = None
    else:
        bridge.execute(CAST_IN_SEQUENCE, live, tensor_class, name="cast_in_sequence.lua")
    values = [to_value(table[name]) for name in ("input", "target") if table.get(name) is not None]
    arguments = [cast(copy.deepcopy(value), dtype) for value in values]
    result = LuaTable((name, table[name]) for name in ("input", "target", "mode") if table.get(name) is not None)
    bridge.manual_seed(1)
    output = bridge.call(live["forward"], live, *arguments)
    if isinstance(output, tuple):  # some criterions also return the sum of the weights
        output = output[0]
    result["output"] = lua_value(output)
    if gradients:
        if live["zeroGradParameters"] is not None:
            bridge.call(live["zeroGradParameters"], live)
        if table.get("reward") is not None:
            result["reward"] = table["reward"]
            bridge.call(live["reinforce"], live, cast(to_value(table["reward"]), dtype))
        if live["accGradParameters"] is not None:  # not a criterion
            given = to_value(table.get("gradOutput"))
            grad_output = random_like(output) if given is None else cast(given, dtype)
            result["gradOutput"] = lua_value(grad_output)
            arguments.append(grad_output)
        try:
            result["gradInput"] = lua_value(bridge.call(live["backward"], live, *arguments))
            parameters = bridge.call(live["parameters"], live) if live["parameters"] is not None else None
            if parameters:
                result["gradParams"] = lua_value(parameters[1])
        except LuaBridgeError as error:  # as of nn.SpatialDropout in evaluation mode
            result["backward_error"] = str(error)
    if live["heavySerial"] is not None:  # else nn.Serial may not save results
        bridge.call(live["heavySerial"], live)
    result["after"] = bridge.to_object(live)
    return result


def require_sources(bridge: LuaBridge, obj: LuaObject) -> None:
    """Load packages from ``lua_path`` until every class of an object has Lua code.

    Without Lua code, the bridge would run the converted module, and the comparison would prove nothing.

    Raises:
        LuaBridgeError: classes have no Lua code; the message lists them.
    """
    names = {value.class_name for value in values_in(obj) if isinstance(value, LuaObject)}

    def missing() -> list[str]:
        return sorted(name for name in names if not bridge.has_class(name))

    folders = [f for path in bridge.lua_path for f in sorted(path.iterdir()) if (f / "init.lua").is_file()]
    reasons = {}
    for package in ("nn", *(f.name for f in folders if f.name != "nn")):
        if not missing():
            return
        try:
            bridge.require(package)
        except LuaBridgeError as error:  # for example a package that needs C code
            reasons[package] = str(error).partition("\n")[0]
    if missing():
        tried = "".join(f"\n  require '{package}': {reason}" for package, reason in reasons.items())
        raise LuaBridgeError(
            f"no Lua source for {', '.join(missing())}: pass a folder with checkouts of nn and the other packages that "
            "the model needs as lua_path= (--lua-path), or the file that defines the class as lua= (--lua) without "
            f"sandbox= (--sandbox){tried}"
        )
