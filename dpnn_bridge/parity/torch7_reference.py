"""Compute a reference with Torch7."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from dpnn_bridge.base.folders import temporary_folder
from dpnn_bridge.errors import LuaBridgeError
from dpnn_bridge.loaders.t7_writer import write_t7
from dpnn_bridge.objects import LuaObject, LuaTable
from dpnn_bridge.parity.subject import cast_in_lua
from dpnn_bridge.parity.torch7_jobs import class_names, job, run_jobs


@dataclass(frozen=True)
class Torch7:
    """A Torch7 installation.

    Args:
        program: path of ``th`` or ``luajit``.
        files: Lua files with the user's classes, which run first; ``require`` searches their folders.
    """

    program: str
    files: Sequence[str | os.PathLike[str]] = ()


def torch7_reference(
    torch7: Torch7,
    obj: LuaObject,
    module: nn.Module,
    table: LuaTable,
    *,
    dtype: torch.dtype | None = None,
    gradients: bool = True,
) -> LuaTable:
    """Run a model in Torch7 and return its results as a table with the fields of a reference, including ``after``.

    Args:
        torch7: the installation that runs the model.
        obj: the Lua object of the model.
        module: the converted module, in the mode of both runs.
        table: contains ``input``, for criterions ``target``, and optionally ``gradOutput``, ``reward``, ``scale`` and
            ``seed``.
        dtype: dtype to which Torch7 casts the model; half precision runs in the precision of the file.
        gradients: whether to run backward; without ``gradOutput``, on random numbers.

    Raises:
        LuaBridgeError: Torch7 is not found, lacks a package, exceeds the time limit, or cannot run a Lua file or the
            model.
        OptionError: the program cannot be run.
    """
    tensor_class, table = cast_in_lua(module, table, dtype)
    steps = [
        "load",
        "cast",
        "mode",
        "forward",
        *(["zeroGradParameters", "backward", "gradParams"] if gradients else []),
    ]
    values = {
        k: table[k] for k in ("input", "target", "gradOutput", "reward", "scale", "seed") if table.get(k) is not None
    }
    one_mode = all(m.training == module.training for m in module.modules())
    mode = ("train" if module.training else "eval") if one_mode else None  # None keeps the modes of the file
    with temporary_folder() as folder:
        file = folder / "model.t7"
        write_t7(file, obj, verify=False)
        values.setdefault("seed", 1)
        values["files"] = LuaTable.from_list(os.path.abspath(f) for f in torch7.files)
        run = job(file, class_names(obj), [*steps, "after"], mode=mode, type=tensor_class, keeps_state=True, **values)
        result = run_jobs([run], program=torch7.program)[0]
    for step, action in (("load", "load"), ("cast", "cast"), ("mode", "set the mode of"), ("forward", "run")):
        if "error" in result.get(step, ()):
            raise LuaBridgeError(f"Torch7 cannot {action} the model: {result[step]['error']}")
    reference = LuaTable((name, table[name]) for name in ("mode", "reward", "scale") if table.get(name) is not None)
    reference.update((name, table[name]) for name in ("input", "target") if name in values)
    reference["output"] = result["forward"].get("value")
    if gradients:
        reference["gradOutput"] = result.get("gradOutput")
        if "error" in result["backward"]:
            reference["backward_error"] = result["backward"]["error"]
        else:
            reference["gradInput"] = result["backward"].get("value")
            gradParams = result["gradParams"].get("value")
            reference["gradParams"] = gradParams if gradParams is not None and len(gradParams) else None
    reference["after"] = result["after"].get("value")
    return reference
