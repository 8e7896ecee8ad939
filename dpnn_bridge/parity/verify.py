"""Compares a model, layer by layer, with what Torch7 computed and with its own converted file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.base.atomic import StrPath
from dpnn_bridge.base.boundary import raises
from dpnn_bridge.base.display import type_name
from dpnn_bridge.base.regular import check_file
from dpnn_bridge.checkpoints.find import select
from dpnn_bridge.compare import nested
from dpnn_bridge.compare.differences import Tolerance, compare
from dpnn_bridge.compare.precision import check_device, full_precision
from dpnn_bridge.conversion import convert_object, fields
from dpnn_bridge.conversion.lua_values import lua_value, to_value
from dpnn_bridge.conversion.options import Options
from dpnn_bridge.conversion.report import Report
from dpnn_bridge.conversion.running import Allowance
from dpnn_bridge.errors import ConversionError, ModelNotFoundError, NoReferenceError
from dpnn_bridge.files import load
from dpnn_bridge.loaders.t7_reader import read_t7
from dpnn_bridge.objects import LuaObject, LuaTable
from dpnn_bridge.outputs.formats import is_converted_file
from dpnn_bridge.parity.bounded import bounds
from dpnn_bridge.parity.buffers import is_filled
from dpnn_bridge.parity.converted import compare_converted
from dpnn_bridge.parity.experiment import Experiment, Outcome
from dpnn_bridge.parity.known_differences import KnownDifference, mark_known
from dpnn_bridge.parity.layers import Node, parameter_count, tree
from dpnn_bridge.parity.run import OTHER_INPUT, compare_with_reference
from dpnn_bridge.parity.verification import Layer, Verification

#: accepted relative differences of whole networks; half precision has 11 and bfloat16 8 bits
OUTPUT, GRADIENT = Tolerance(1e-10, 1e-4), Tolerance(1e-10, 1e-3)
#: where rounding is measured, small values need no allowance
SMALL = torch.finfo(torch.float32).tiny
HALF, BFLOAT16 = Tolerance(2e-2, 2e-2), Tolerance(1e-1, 1e-1)


@raises(ConversionError, "verifying")
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
    torch7: str | None = None,
    known: Sequence[KnownDifference] = (),
    bounded: bool = True,
) -> Verification:
    """Runs a model and compares every layer for which there is something to compare it with.

    Where something differs, the model runs again, until it is known whether that is rounding, a random number, a known
    fault of Torch7, or a difference, see :class:`~dpnn_bridge.compare.verdict.Verdict`. Without anything to compare
    with, the result has the layers and no comparison.

    Args:
        model: a ``.t7`` file with a model, or a fixture that holds its own ``module`` and ``input``.
        converted: a file made from it, in any format: its tensors must be the same bits, and so must what every layer
            returns where the format runs the same operations.
        reference: a ``.t7`` file (or its table) with ``input``, ``output`` and, where they are to be compared,
            ``mode``, ``gradOutput``, ``gradInput``, ``gradParams`` and ``after``, the module after its forward.
        input: a tensor or nested list, in place of a reference file.
        output: what Torch7 returned for it.
        key: path of the model inside its file.
        mode: ``"train"`` or ``"eval"``; default: as the reference says, else ``"eval"``.
        device: where to run.
        dtype: in which precision; default: as in the file.
        gradients: run backward when the reference holds gradients.
        tolerance: accepted relative difference; default :data:`OUTPUT`, wider for half precision.
        gradient_tolerance: the same for gradients; default :data:`GRADIENT`.
        options: how to convert.
        lua: a :class:`~dpnn_bridge.lua.LuaBridge` whose ``lua_path`` holds the original sources: the model runs there
            on the same input, and what it computes is the reference in place of any stored values.
        torch7: path of a real Torch7 (``th`` or ``luajit``), which runs the model in the same way.
        known: differences from Torch7 that are no failures, see :mod:`~dpnn_bridge.parity.known_differences`.
        bounded: a run takes no more memory and time than the files and the input are worth, see
            :mod:`dpnn_bridge.conversion.running`; False: what the model asks for.

    Raises:
        OptionError: PyTorch cannot use the device.
        VerificationError: the reference is none.
        T7Error, ConversionError: a file cannot be read or converted, or the model cannot run.
        ConversionLimitError: running it takes more than the files are worth; names the layer.
    """
    check_device(device)
    options = options or Options()
    obj, table, key = _subject(model, reference, key)
    if input is not None:
        table = LuaTable([("input", lua_value(input))])
        if output is not None:
            table["output"] = lua_value(output)

    def fresh() -> nn.Module:
        module, report = convert_object(obj, options, key) if obj is not None else (load(model), Report())
        remarks.update(dict.fromkeys(report.notes))
        as_saved.append([m.training for m in module.modules()])
        _set_mode(module, table, mode)
        return module

    as_saved: list[list[bool]] = []
    remarks: dict[str, None] = {}
    module = fresh()
    table = _in_its_type(module, table) if dtype is None else table
    nodes = list(tree(module))
    result = Verification(
        model=Path(model).name,
        reference=_name(reference, table),
        converted=Path(converted).name if converted else "",
        computed_by=_computed_by(table),
        key=key,
        mode="train" if module.training else "eval",
        device=str(device),
        dtype=_dtype_name(module, dtype),
        module=module,
    )
    result.layers = [_layer(node) for node in nodes]
    result.notes += remarks
    running = bounds(_allowance(model, converted, obj, table)) if bounded else nullcontext
    if converted is not None:
        other = fresh().to(device=device, dtype=dtype)
        compare_converted(result, other, converted, table, options, dtype, key, running)
    remake = _maker(lua, torch7, obj, module, table, gradients)
    if remake is not None:
        _need_input(model, table)
        table = remake(dtype)
        result.reference, result.computed_by = ("the Lua sources", "") if lua is not None else ("Torch7", torch7 or "")
    elif not is_comparable(table) and "input" in table and converted is None and obj is not None:
        same_mode = as_saved[0] == [m.training for m in module.modules()]
        if same_mode and is_filled(obj.get("output")):  # until `_belongs` shows that they are not
            table["output"], table["after"], table[LEFTOVER] = obj["output"], obj, True
    if not is_comparable(table):
        if "input" in table and converted is None:
            with running(module):
                _run_only(result, module, table, device, dtype)
        return result
    doubled = remake is not None and dtype == torch.float64
    single = dtype not in (None, torch.float64) or (not doubled and _is_single(module, table))
    half = {torch.float16: HALF, torch.bfloat16: BFLOAT16}.get(dtype or _half(table))  # type: ignore[arg-type]
    measured = tolerance is None and half is None
    accepted = tolerance or half or (replace(OUTPUT, floor=SMALL) if single else OUTPUT)
    accepted_gradients = gradient_tolerance or half or GRADIENT
    experiment = Experiment(
        fresh,
        table,
        _after(table, obj, len(nodes), accepted, result.notes),
        device=str(device),
        dtype=dtype,
        single=single,
        tolerance=accepted.in_single() if single else accepted,
        gradient_tolerance=accepted_gradients.in_single() if single else accepted_gradients,
        measured=measured,
        gradients=gradients,
        options=options,
        remake=remake,
        mark=partial(mark_known, known=known, file=Path(model).stem),
        running=running,
    )
    outcome = experiment.run(module)
    if table.get(LEFTOVER) and not _belongs(outcome):
        result.notes.append(OTHER_INPUT)
        return result
    if table.get(LEFTOVER):
        result.reference = "the results that Torch7 left in the model file"
    compare_with_reference(result, experiment, outcome)
    return result


def _allowance(model: StrPath, converted: StrPath | None, obj: LuaObject | None, table: LuaTable) -> Allowance:
    """What the files and the input are worth."""
    files = [path for path in (model if obj is None else None, converted) if path is not None]
    for path in files:
        check_file(path)
    return Allowance([obj, table], sum(Path(path).stat().st_size for path in files))


def _maker(
    lua: Any, torch7: str | None, obj: LuaObject | None, module: nn.Module, table: LuaTable, gradients: bool
) -> Callable[[torch.dtype | None], LuaTable] | None:
    """What computes the reference in a precision; None where it is given."""
    if lua is not None and obj is not None:
        from dpnn_bridge.parity.lua_reference import lua_reference

        return lambda dtype: lua_reference(lua, obj, module, table, dtype=dtype, gradients=gradients)
    if torch7 is not None and obj is not None:
        from dpnn_bridge.parity.torch7_reference import torch7_reference

        return lambda dtype: torch7_reference(torch7, obj, module, table, dtype=dtype, gradients=gradients)
    return None


def _need_input(model: StrPath, table: LuaTable) -> None:
    if "input" not in table:
        raise NoReferenceError(f"{model}: no input to run the model on; give one, such as --input 1x3x224x224")


#: field of a reference that was taken from the model's own file
LEFTOVER = "left in the model file"


def _belongs(outcome: Outcome) -> bool:
    """Whether results left in a file are those of the input: those of the layer that ran first agree."""
    compared = [(entry.last, found) for i, found in enumerate(outcome.layers) if (entry := outcome.entry(i)) and found]
    first = min(compared, key=lambda pair: pair[0])[1] if compared else outcome.whole
    return all(d.ok for d in first if d.name.startswith("output"))


def _run_only(
    result: Verification, module: nn.Module, table: LuaTable, device: str | torch.device, dtype: torch.dtype | None
) -> None:
    """Runs a model that there is no reference for, so that one knows at least that it runs."""
    value = nested.cast(to_value(table["input"], device=device), dtype)
    module.to(device=device, dtype=dtype)
    with torch.no_grad(), full_precision():
        shapes = [str(tuple(v.shape)) for v in nested.leaves(module(value)) if isinstance(v, Tensor)]
    result.notes.append(f"The model runs on this input; its output has the shape {', '.join(shapes[:8])}.")


def _after(
    table: LuaTable, obj: LuaObject | None, layers: int, tolerance: Tolerance, notes: list[str]
) -> LuaObject | None:
    """The Lua object whose modules hold the results of the reference's call."""
    after = table.get("after")
    if isinstance(after, LuaObject):
        return after
    if obj is None or layers == 1 or not is_filled(obj.get("output")):
        return None
    stored = compare("output", to_value(obj["output"]), to_value(table.get("output")), tolerance)
    if all(d.ok for d in stored):
        return obj
    notes.append(OTHER_INPUT)
    return None


def _half(table: LuaTable) -> torch.dtype | None:
    """float16 if the reference holds results in it."""
    results = nested.leaves(to_value(table.get("output")))
    return torch.float16 if any(isinstance(v, Tensor) and v.dtype == torch.float16 for v in results) else None


def _in_its_type(module: nn.Module, table: LuaTable) -> LuaTable:
    """The reference with its input in the floating point type of the model, where each has one alone."""
    wanted = {t.dtype for t in module.parameters() if t.is_floating_point()}
    value = to_value(table.get("input"))
    given = {v.dtype for v in nested.leaves(value) if isinstance(v, Tensor) and v.is_floating_point()}
    if len(wanted) != 1 or len(given) != 1 or wanted == given or not given <= {torch.float32, torch.float64}:
        return table
    if any(type(m).__name__ in ("Copy", "DontCast") for m in module.modules()):  # takes another type
        return table
    return LuaTable([*table.items(), ("input", lua_value(nested.cast(value, *wanted)))])


def _is_single(module: nn.Module, table: LuaTable) -> bool:
    """Whether the model computes in single precision, or Torch7 did."""
    results = nested.leaves(to_value(table.get("output")))
    tensors = [*module.parameters(), *(v for v in results if isinstance(v, Tensor))]
    return any(t.is_floating_point() and t.dtype != torch.float64 for t in tensors)


def _subject(
    model: StrPath, reference: StrPath | LuaTable | None, key: str | None
) -> tuple[LuaObject | None, LuaTable, str]:
    """The model's object (None for a file that torch reads), the reference table, the key."""
    table = reference if isinstance(reference, LuaTable) else LuaTable()
    if reference is not None and not isinstance(reference, LuaTable):
        table = read_t7(reference)
        if not isinstance(table, LuaTable) or "input" not in table:
            raise NoReferenceError(f"{reference}: a reference is a table with the fields input, output, …")
    if is_converted_file(model):
        return None, table, ""
    root = read_t7(model)
    if is_fixture(root) and reference is None and key is None:
        return root["module"], root, ""
    try:
        obj, key, _ = select(root, key, str(model))
    except ModelNotFoundError:
        if isinstance(root, LuaTable) and "input" in root:
            raise NoReferenceError(
                f"{model}: this is a reference without a module; call dpnn-verify MODEL --reference {model}"
            ) from None
        raise
    return obj, table, key


def is_fixture(root: Any) -> bool:
    """Whether the root of a file is a fixture: a table with a module and the input it ran on."""
    return isinstance(root, LuaTable) and isinstance(root.get("module"), LuaObject) and "input" in root


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
        named = table.get("name")
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
    torch_type = type_name(type(node.module))
    name = record.class_name if record else torch_type
    return Layer(node.path, node.depth, name, torch_type, parameter_count(node.module))
