"""Implement :func:`dpnn_bridge.verify` without reading plugins and files of known differences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.base.arguments import checks_arguments
from dpnn_bridge.base.atomic import StrPath
from dpnn_bridge.base.boundary import wrap_errors
from dpnn_bridge.base.display import type_name
from dpnn_bridge.base.reading import file_status
from dpnn_bridge.base.regular import check_file
from dpnn_bridge.compare import nested
from dpnn_bridge.compare.differences import HALF, Tolerance, compare
from dpnn_bridge.compare.precision import check_device, full_precision
from dpnn_bridge.conversion import fields
from dpnn_bridge.conversion.limits import ResourceLimits
from dpnn_bridge.conversion.lua_values import to_expected, to_value
from dpnn_bridge.conversion.options import Options
from dpnn_bridge.conversion.placeholder import Placeholder, bridges_of
from dpnn_bridge.errors import ConversionError, OptionError
from dpnn_bridge.modules.rnn.memory import at_sequence_start
from dpnn_bridge.objects import LuaObject, LuaTable
from dpnn_bridge.parity.bounded import RunLimits, comparing, run_limits
from dpnn_bridge.parity.buffers import is_filled
from dpnn_bridge.parity.converted import compare_converted
from dpnn_bridge.parity.experiment import Experiment, Outcome
from dpnn_bridge.parity.fixture import call
from dpnn_bridge.parity.gradients import of_gradients
from dpnn_bridge.parity.known_differences import KnownDifference, mark_known
from dpnn_bridge.parity.layers import Node, parameter_count, tree
from dpnn_bridge.parity.new_memory import new_memory
from dpnn_bridge.parity.run import EARLIER_CALL, OTHER_INPUT, compare_with_reference
from dpnn_bridge.parity.subject import (
    LEFTOVER,
    Subject,
    given_reference,
    is_comparable,
    is_fixture,
    with_cast_input,
)
from dpnn_bridge.parity.torch7_reference import Torch7, torch7_reference
from dpnn_bridge.parity.upgraded import upgraded
from dpnn_bridge.parity.verification import Layer, Verification

__all__ = ["is_comparable", "is_fixture", "verify"]

#: accepted relative differences of complete networks
OUTPUT, GRADIENT = Tolerance(1e-10, 1e-4), Tolerance(1e-10, 1e-3)
#: floor of the tolerance if rounding is measured: differences are relative even for small values
SMALL = torch.finfo(torch.float32).tiny


@checks_arguments
@wrap_errors(ConversionError, "verifying")
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
    torch7: Torch7 | None = None,
    known: Sequence[KnownDifference] = (),
    bounded: bool = True,
) -> Verification:
    """Run a model and compare every layer that the reference and the converted file contain.

    If a result differs, the model runs again to find the reason: rounding, a random number, a known fault of Torch7, or
    a real difference, see :class:`~dpnn_bridge.compare.verdict.Verdict`. Without a reference and a converted file, the
    result has layers but no comparisons.

    Args:
        model, converted, reference, input, output, key, mode, device, dtype: see :func:`dpnn_bridge.verify`.
        gradients: whether to run backward if the reference contains gradients.
        tolerance, gradient_tolerance: accepted relative differences; default: :data:`OUTPUT` and :data:`GRADIENT`, in
            half precision :data:`~dpnn_bridge.compare.differences.HALF`.
        options: options of the conversion.
        lua: a :class:`~dpnn_bridge.lua.LuaBridge` whose ``lua_path`` contains the original sources, which compute the
            reference for the input, instead of stored results.
        torch7: the Torch7 that computes the reference for the input.
        known: accepted differences from Torch7, see :mod:`~dpnn_bridge.parity.known_differences`.
        bounded: whether to limit memory and computation by the size of the files and the input.

    Raises:
        ConversionLimitError: the run exceeds a limit; the message contains the path of the layer.
        DpnnBridgeError: other errors, see :func:`dpnn_bridge.verify`.
    """
    check_device(device)
    only_tensors = converted is not None and input is None and reference is None
    exported = converted if str(converted).endswith(".t7") else None
    subject = Subject(model, reference, key, mode, options or Options(), together=only_tensors, exported=exported)
    if input is not None:
        subject.table = given_reference(input, output)
    module = subject.fresh()
    subject.check_target(module)
    if dtype is None:
        subject.table = with_cast_input(module, subject.table)
    result = _new_result(subject, module, reference, converted, str(device), dtype)
    running = run_limits(_limits(subject, converted)) if bounded else nullcontext
    settings = _Settings(str(device), dtype, gradients, tolerance, gradient_tolerance, known, running)
    with new_memory([*bridges_of(module.modules()), *([] if lua is None else [lua])], 0.0):
        if converted is not None:
            other = subject.fresh().to(device=device, dtype=dtype)
            modes = subject.modes_of(other)
            compare_converted(result, subject, other, converted, dtype, running, modes)
        _compare_with_torch7(result, subject, module, settings, lua, torch7, stored=converted is None)
    return result


@dataclass(frozen=True)
class _Settings:
    """Arguments of :func:`verify` for the run of the model and the accepted differences."""

    device: str
    dtype: torch.dtype | None
    gradients: bool
    tolerance: Tolerance | None
    gradient_tolerance: Tolerance | None
    known: Sequence[KnownDifference]
    running: RunLimits


def _compare_with_torch7(
    result: Verification,
    subject: Subject,
    module: nn.Module,
    settings: _Settings,
    lua: Any,
    torch7: Torch7 | None,
    *,
    stored: bool,
) -> None:
    """Compare a model with a reference, which Lua or Torch7 may compute.

    Args:
        result: the result, to which the comparisons are added.
        subject: the model and its reference.
        module: the model.
        settings: settings of the run.
        lua, torch7: the Lua bridge, or the Torch7, that computes the reference.
        stored: whether results that Torch7 stored in the model file may be the reference. If there is none, the model
            runs on the input to check that it can run.
    """
    remake = _maker(lua, torch7, subject, module, settings.gradients)
    if remake is not None:
        subject.check_input(module)
        subject.table = remake(settings.dtype)
        result.reference, result.computed_by = ("the Lua sources", "") if torch7 is None else ("Torch7", torch7.program)
    elif stored:
        subject.use_stored_results(module)
    if is_comparable(subject.table):
        with comparing(settings.running, subject.table):
            _compare(result, _experiment(result, subject, module, settings, remake), module)
    elif "input" in subject.table and stored:
        with settings.running(module):
            _run_only(result, module, subject.table, settings.device, settings.dtype)


def _experiment(
    result: Verification,
    subject: Subject,
    module: nn.Module,
    settings: _Settings,
    remake: Callable[[torch.dtype | None], LuaTable] | None,
) -> Experiment:
    """Return the experiment of a model and its reference; for the arguments see :func:`_compare_with_torch7`."""
    precision = _Precision(subject, module, settings, remade=remake is not None)
    return Experiment(
        subject.fresh,
        upgraded(subject.table, module, subject.obj),
        _after(subject, len(result.layers), precision.accepted, result.notes),
        device=settings.device,
        dtype=settings.dtype,
        single=precision.single,
        tolerance=precision.tolerance,
        gradient_tolerance=precision.gradient_tolerance,
        measured=precision.measured,
        gradients=settings.gradients,
        options=subject.options,
        remake=remake,
        mark=partial(mark_known, known=settings.known, file=Path(subject.path).stem),
        running=settings.running,
    )


class _Precision:
    """The precision of a comparison, and the accepted differences.

    Attributes:
        single: whether the results or the reference are in single precision.
        measured: whether rounding is measured.
        accepted: tolerance of outputs, for both precisions.
        tolerance, gradient_tolerance: tolerances of outputs and gradients, for the precision of this comparison.
    """

    def __init__(self, subject: Subject, module: nn.Module, settings: _Settings, *, remade: bool) -> None:
        dtype, tolerance = settings.dtype, settings.tolerance
        doubled = remade and dtype == torch.float64
        self.single = dtype not in (None, torch.float64) or (not doubled and _is_single(module, subject.table))
        half = HALF.get(dtype or _half(subject.table))  # type: ignore[arg-type]
        self.measured = tolerance is None and half is None
        self.accepted = tolerance or half or (replace(OUTPUT, floor=SMALL) if self.single else OUTPUT)
        gradients = of_gradients(settings.gradient_tolerance or half or GRADIENT, subject.table)
        self.tolerance = self.accepted.in_single() if self.single else self.accepted
        self.gradient_tolerance = gradients.in_single() if self.single else gradients


def _new_result(
    subject: Subject,
    module: nn.Module,
    reference: StrPath | LuaTable | None,
    converted: StrPath | None,
    device: str,
    dtype: torch.dtype | None,
) -> Verification:
    """Return a result without comparisons."""
    result = Verification(
        model=Path(subject.path).name,
        reference=_name(reference, subject.table),
        converted=Path(converted).name if converted else "",
        computed_by=_computed_by(subject.table),
        key=subject.key,
        mode="train" if module.training else "eval",
        device=device,
        dtype=_dtype_name(module, dtype),
        module=module,
    )
    result.layers = [_layer(node) for node in tree(module)]
    result.notes += subject.notes
    return result


def _compare(result: Verification, experiment: Experiment, module: nn.Module) -> None:
    """Run the experiment and add its comparisons, unless its reference is a stored result of another call."""
    outcome = experiment.run(module)
    leftover = experiment.table.get(LEFTOVER)
    if leftover and not _belongs(outcome):
        result.notes.append(OTHER_INPUT)
        return
    if leftover and not all(d.ok for d in outcome.whole) and _continues(experiment, outcome):
        result.notes.append(EARLIER_CALL)
        return
    uses_model_file = not leftover and experiment.after is not None and "after" not in experiment.table
    if uses_model_file and _is_of_another_call(outcome):
        result.notes.append(OTHER_INPUT)
        experiment.after = None
        outcome = experiment.run()
    if leftover:
        result.reference = "the results that Torch7 stored in the model file"
    compare_with_reference(result, experiment, outcome)


def _limits(subject: Subject, converted: StrPath | None) -> ResourceLimits:
    """Return the resource limits for the size of the files and of the input."""
    files = [path for path in (subject.path if subject.obj is None else None, converted) if path is not None]
    for path in files:
        check_file(path)
    return ResourceLimits([subject.obj, subject.table], sum(file_status(path).st_size for path in files))


def _maker(
    lua: Any, torch7: Torch7 | None, subject: Subject, module: nn.Module, gradients: bool
) -> Callable[[torch.dtype | None], LuaTable] | None:
    """Return the function that computes the reference in a given precision; None if it is stored."""
    obj, table = subject.obj, subject.table
    if obj is None and (lua is not None or torch7 is not None):
        option = "lua_path= (--lua-path)" if lua is not None else "torch7= (--torch7)"
        raise OptionError(f"{option} needs a .t7 file; {subject.path} is a file of PyTorch")
    if lua is not None and obj is not None:
        from dpnn_bridge.parity.lua_reference import lua_reference

        return lambda dtype: lua_reference(lua, obj, module, table, dtype=dtype, gradients=gradients)
    if torch7 is not None and obj is not None:
        return lambda dtype: torch7_reference(torch7, obj, module, table, dtype=dtype, gradients=gradients)
    return None


def _is_of_another_call(outcome: Outcome) -> bool:
    """Return whether results stored in a model file are of another call that returned zeros too, as a dead ReLU does.

    Any other output identifies the call: a layer that differs before an ``ArgMax`` with the right output is wrong.
    """
    output = nested.tensors(outcome.calls[id(outcome.module)].outputs[-1])
    is_right = all(d.ok for d in outcome.whole if d.name.startswith("output"))
    return is_right and not any(bool(v.any()) for v in output) and not _belongs(outcome)


def _belongs(outcome: Outcome) -> bool:
    """Return whether results stored in a model file belong to the input: the output of the first layer agrees."""
    compared = [(entry.last, found) for i, found in enumerate(outcome.layers) if (entry := outcome.entry(i)) and found]
    first = min(compared, key=lambda pair: pair[0])[1] if compared else outcome.whole
    return all(d.ok for d in first if d.name.startswith("output"))


def _continues(experiment: Experiment, outcome: Outcome) -> bool:
    """Return whether the model continues a sequence: at the start of a sequence, it returns another output."""
    at_start = experiment.run(at_sequence_start(experiment.fresh()))
    continued, started = (run.calls[id(run.module)].outputs[-1] for run in (outcome, at_start))
    return not all(d.ok for d in compare("output", started, continued, Tolerance(0.0, 0.0)))


def _run_only(
    result: Verification, module: nn.Module, table: LuaTable, device: str | torch.device, dtype: torch.dtype | None
) -> None:
    """Run a model without a reference, and add a note with the shape of its output."""
    value = nested.cast(to_value(table["input"], device=device), dtype)
    module.to(device=device, dtype=dtype)
    with torch.no_grad(), full_precision():
        shapes = [str(tuple(v.shape)) for v in nested.tensors(call(module, value))]
    result.notes.append(f"The model runs on this input; its output has the shape {', '.join(shapes[:8])}.")


def _after(subject: Subject, layers: int, tolerance: Tolerance, notes: list[str]) -> LuaObject | None:
    """Return the Lua object whose modules contain the results of the reference, or None.

    Without the field ``after``, this is the model's object if it contains the output of the reference.
    """
    table, obj = subject.table, subject.obj
    after = table.get("after")
    if isinstance(after, LuaObject):
        return after
    if obj is None or layers == 1 or not is_filled(obj.get("output")):
        return None
    stored = compare("output", to_expected(obj["output"]), to_expected(table.get("output")), tolerance)
    if all(d.ok for d in stored):
        return obj
    notes.append(OTHER_INPUT)
    return None


def _half(table: LuaTable) -> torch.dtype | None:
    """Return float16 if the reference contains float16 results."""
    results = nested.leaves(to_expected(table.get("output")))
    return torch.float16 if any(isinstance(v, Tensor) and v.dtype == torch.float16 for v in results) else None


def _is_single(module: nn.Module, table: LuaTable) -> bool:
    """Return whether the model or the output of the reference is not in double precision."""
    results = nested.leaves(to_expected(table.get("output")))
    tensors = [*module.parameters(), *(v for v in results if isinstance(v, Tensor))]
    return any(t.is_floating_point() and t.dtype != torch.float64 for t in tensors)


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
    unmapped = node.module.class_name if isinstance(node.module, Placeholder) else ""
    name = record.class_name if record else unmapped or torch_type
    return Layer(node.path, node.depth, name, torch_type, parameter_count(node.module))
