"""Compares a model, layer by layer, with what Torch7 computed and with its own converted file."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.atomic import StrPath
from dpnn_bridge.checkpoints.find import select
from dpnn_bridge.compare import nested
from dpnn_bridge.compare.bits import same_bits
from dpnn_bridge.compare.differences import Difference, Tolerance, compare
from dpnn_bridge.compare.precision import full_precision
from dpnn_bridge.conversion import convert_object, fields
from dpnn_bridge.conversion.lua_values import lua_value, to_value
from dpnn_bridge.conversion.options import Options
from dpnn_bridge.errors import ModelNotFoundError, VerificationError
from dpnn_bridge.files import load
from dpnn_bridge.loaders.t7_reader import read_t7
from dpnn_bridge.objects import LuaObject, LuaTable
from dpnn_bridge.parity.known_differences import KnownDifference, mark_known
from dpnn_bridge.parity.layers import (
    Calls,
    Node,
    is_filled,
    parameter_count,
    recorded,
    tree,
)
from dpnn_bridge.parity.run import _Run
from dpnn_bridge.parity.verification import Layer, Verification
from dpnn_bridge.suffixes import CONVERTED

#: accepted relative differences of whole networks; half precision has 11 and bfloat16 8 bits
OUTPUT, GRADIENT = Tolerance(1e-10, 1e-4), Tolerance(1e-10, 1e-3)
HALF, BFLOAT16 = Tolerance(2e-2, 2e-2), Tolerance(1e-1, 1e-1)


def verify(
    model: StrPath,
    converted: StrPath | None = None,
    *,
    reference: StrPath | LuaTable | None = None,
    input: Any = None,
    output: Any = None,
    key: str | None = None,
    mode: str | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    gradients: bool = True,
    tolerance: Tolerance | None = None,
    gradient_tolerance: Tolerance | None = None,
    options: Options | None = None,
    lua: Any = None,
    known: Sequence[KnownDifference] = (),
) -> Verification:
    """Runs a model and compares every layer for which there is something to compare it with.

    Args:
        model: a ``.t7`` file with a model, or a fixture that holds its own ``module`` and ``input``.
        converted: a file made from it; every layer of both must return the same bits.
        reference: a ``.t7`` file (or its table) with ``input``, ``output`` and, where they are to be compared,
            ``mode``, ``gradOutput``, ``gradInput``, ``gradParams`` and ``after``, the module after its forward.
        input, output: tensors (or nested lists), in place of a reference file.
        key: path of the model inside its file.
        mode: ``"train"`` or ``"eval"``; default: as the reference says, else ``"eval"``.
        device, dtype: where and in which precision to run.
        gradients: run backward when the reference holds gradients.
        tolerance, gradient_tolerance: accepted relative differences; default :data:`OUTPUT` and :data:`GRADIENT`, wider
            for half precision.
        options: how to convert.
        lua: a :class:`~dpnn_bridge.lua.LuaBridge` whose ``lua_path`` holds the original sources: the model runs there
            on the same input, and what it computes is the reference in place of any stored values.
        known: differences from Torch7 that are no failures, see :mod:`~dpnn_bridge.parity.known_differences`.

    Raises:
        VerificationError: there is nothing to compare with.
        T7Error, ConversionError: a file cannot be read or converted.
    """
    options = options or Options()
    obj, table, key = _subject(model, reference, key)
    module = convert_object(obj, options, key)[0] if obj is not None else load(model)
    table = _reference(table, input, output, obj)
    if converted is None and lua is None and not is_comparable(table):
        raise VerificationError(
            f"{model}: nothing to compare with. Give a reference made by Torch7 (--reference ref.t7, or --input and "
            "--output), a converted file, or Torch7's Lua sources (--lua-path)."
        )
    if "input" not in table:
        raise VerificationError(f"{model}: no input to run the model on; give one, such as --input 1x3x224x224")
    _set_mode(module, table, mode)
    half = {torch.float16: HALF, torch.bfloat16: BFLOAT16}.get(dtype) if dtype else None
    result = Verification(
        model=Path(model).name,
        reference=_name(reference, table),
        converted=Path(converted).name if converted else "",
        computed_by=_computed_by(table),
        key=key,
        mode="train" if module.training else "eval",
        device=str(device),
        dtype=_dtype_name(module, dtype),
    )
    module.to(device=device, dtype=dtype)
    nodes = list(tree(module))
    result.layers = [_layer(node) for node in nodes]
    if converted is not None:
        other = load(converted, key=key or None, index_base=options.index_base).to(device=device, dtype=dtype)
        _compare_converted(result, module, other, table)
    if lua is not None and obj is not None:
        from dpnn_bridge.parity.lua_reference import lua_reference

        table = lua_reference(lua, obj, module, table, dtype=dtype, gradients=gradients)
        result.reference, result.computed_by = "the Lua sources", ""
    if is_comparable(table):
        accepted, accepted_gradients = tolerance or half or OUTPUT, gradient_tolerance or half or GRADIENT
        mark = partial(mark_known, known=known, file=Path(model).stem)
        run = _Run(module, nodes, table, accepted, accepted_gradients, dtype, mark)
        run.compare(result, obj, options, gradients)
    return result


def _subject(
    model: StrPath, reference: StrPath | LuaTable | None, key: str | None
) -> tuple[LuaObject | None, LuaTable, str]:
    """The model's object (None for a file that torch reads), the reference table, the key."""
    table = reference if isinstance(reference, LuaTable) else LuaTable()
    if reference is not None and not isinstance(reference, LuaTable):
        table = read_t7(reference)
        if not isinstance(table, LuaTable) or "input" not in table:
            raise VerificationError(f"{reference}: a reference is a table with the fields input, output, …")
    if Path(model).suffix in CONVERTED:
        return None, table, ""
    root = read_t7(model)
    if is_fixture(root) and reference is None and key is None:
        return root["module"], root, ""
    try:
        obj, key, _ = select(root, key, str(model))
    except ModelNotFoundError:
        if isinstance(root, LuaTable) and "input" in root:
            raise VerificationError(
                f"{model}: this is a reference without a module; call dpnn-verify MODEL --reference {model}"
            ) from None
        raise
    return obj, table, key


def is_fixture(root: Any) -> bool:
    """Whether the root of a file is a fixture: a table with a module and the input it ran on."""
    return isinstance(root, LuaTable) and isinstance(root.get("module"), LuaObject) and "input" in root


def _reference(table: LuaTable, input: Any, output: Any, obj: LuaObject | None) -> LuaTable:
    if input is not None:
        table = LuaTable([("input", lua_value(input))])
        if output is not None:
            table["output"] = lua_value(output)
        elif obj is not None and is_filled(obj.get("output")):
            table["output"] = obj["output"]
            table["output_source"] = "the results that Torch7 left in the model file"
    return table


def is_comparable(table: LuaTable) -> bool:
    """Whether the reference holds results, or says that Torch7 refused the call."""
    return any(name in table for name in ("output", "gradInput", "gradParams", "forward_error"))


def _set_mode(module: nn.Module, table: LuaTable, mode: str | None) -> None:
    if mode is None and is_fixture(table):
        return  # its flags are those it ran with
    module.train((mode or table.get("mode") or "eval") == "train")
    if table.get("dropout_modules_set_to_p0"):
        for part in module.modules():
            if isinstance(getattr(part, "p", None), float) and "Dropout" in type(part).__name__:
                setattr(part, "p", 0.0)  # noqa: B010


def _name(reference: StrPath | LuaTable | None, table: LuaTable) -> str:
    if reference is None or isinstance(reference, LuaTable):
        named = table.get("output_source") or table.get("name")
        return str(named or ("given input and output" if "output" in table else ""))
    return Path(reference).name


def _computed_by(table: LuaTable) -> str:
    provenance = table.get("provenance")
    if isinstance(provenance, LuaTable) and "pytorch" in provenance:
        return f"PyTorch {provenance['pytorch']}, not Torch7"
    if isinstance(provenance, LuaTable) and "torch7" in provenance:
        return f"Torch7 {str(provenance['torch7'])[:12]}"
    return ""


def _dtype_name(module: nn.Module, dtype: torch.dtype | None) -> str:
    found = {str(t.dtype) for t in module.parameters() if t.is_floating_point()}
    names = {str(dtype)} if dtype else found
    return ", ".join(sorted(n.removeprefix("torch.") for n in names))


def _layer(node: Node) -> Layer:
    record = fields.record_of(node.module)
    kind = type(node.module)
    torch_type = f"torch.nn.{kind.__qualname__}" if kind.__module__.startswith("torch.nn.") else kind.__qualname__
    name = record.class_name if record else torch_type
    return Layer(node.path, node.depth, name, torch_type, parameter_count(node.module))


def _compare_converted(result: Verification, module: nn.Module, other: nn.Module, table: LuaTable) -> None:
    """Runs both models on the same input and random numbers; every layer must return the same bits."""
    other.train(module.training)
    for mine, theirs in zip(module.modules(), other.modules(), strict=False):
        theirs.training = mine.training
    nodes, others = list(tree(copied := copy.deepcopy(module))), {n.path: n for n in tree(other)}
    values = [_run_recorded(m, table, result) for m in (copied, other)]
    for layer, node in zip(result.layers, nodes, strict=True):
        twin = others.pop(layer.path, None)
        if twin is None:
            layer.converted = [Difference("converted", math.inf, 0.0, "the converted file has no such layer")]
            continue
        entry, twin_entry = values[0].get(id(node.module)), values[1].get(id(twin.module))
        layer.order = layer.order or (entry.last if entry else 0)
        if entry and twin_entry:
            layer.converted = [_identical(entry.outputs, twin_entry.outputs)]
        elif entry or twin_entry:
            layer.converted = [Difference("converted", math.inf, 0.0, "the layer runs in one of the files only")]
    for path in others:
        result.whole.append(Difference(f"converted {path}", math.inf, 0.0, "the .t7 file has no such layer"))


def _run_recorded(module: nn.Module, table: LuaTable, result: Verification) -> dict[int, Calls]:
    dtype = getattr(torch, result.dtype, None)
    arguments = [nested.cast(to_value(table["input"], device=result.device), dtype)]
    if table.get("target") is not None:
        arguments.append(to_value(table["target"], device=result.device))
    torch.manual_seed(0)
    with torch.no_grad(), full_precision(), recorded(module) as calls:
        module(*arguments)
    return calls


def _identical(actual: Any, expected: Any) -> Difference:
    ours, theirs = list(nested.leaves(actual)), list(nested.leaves(expected))
    if len(ours) != len(theirs):
        return Difference("converted", math.inf, 0.0, f"returns {len(theirs)} values in place of {len(ours)}")
    for a, b in zip(ours, theirs, strict=True):
        if isinstance(a, Tensor) and isinstance(b, Tensor):
            if a.dtype != b.dtype:
                return Difference("converted", math.inf, 0.0, f"{b.dtype} in place of {a.dtype}")
            if not same_bits(a, b):
                found = compare("converted", b, a.detach(), Tolerance(0.0, 0.0))[0]
                return (
                    found if not found.ok else Difference("converted", math.inf, 0.0, "signs of zeros or nans differ")
                )
        elif a != b:
            return Difference("converted", math.inf, 0.0, f"{b!r} in place of {a!r}")
    return Difference("converted", 0.0, 0.0)
