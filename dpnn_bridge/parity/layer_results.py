"""Compare the output of every layer of a model with the output in a file that was converted from the model.

Weights are copied, so their bits must agree. Results of two runs of one model can differ by rounding if the tensors
have other memory layouts or the number of threads differs. So results may differ by as much as two runs of the model.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

from torch import nn

from dpnn_bridge.compare import nested
from dpnn_bridge.compare.differences import BITS, Difference, compare
from dpnn_bridge.compare.memory import device_of
from dpnn_bridge.conversion.failure import failure_reason
from dpnn_bridge.conversion.lua_values import to_value
from dpnn_bridge.errors import ConversionError, ConversionLimitError
from dpnn_bridge.modules.inputs import accepted_instead
from dpnn_bridge.modules.several import Models
from dpnn_bridge.objects import LuaTable
from dpnn_bridge.outputs.written import Results, Written
from dpnn_bridge.parity.graph_results import compare_alone, compare_at_another_size, compare_graph
from dpnn_bridge.parity.named_layers import NamedLayers, failed, other_dtypes
from dpnn_bridge.parity.new_export import NewExport
from dpnn_bridge.parity.source import Source, run_file

#: factor of the largest difference between these runs: they are only a sample of the possible layouts
VARIATION_MARGIN = 4


def input_of(module: nn.Module, written: Written, table: LuaTable) -> Any:
    """Return the input in a table, or else the file's own input, in the precision of a model; None without an input."""
    return _as_precise(module, to_value(table["input"]) if "input" in table else written.example)


def pass_target(module: nn.Module, written: Written, table: LuaTable) -> None:
    """Pass the target in a table, if there is one, to a criterion and to that of a file in all their runs."""
    if table.get("target") is None:
        return
    target = _as_precise(module, to_value(table["target"]))
    for criterion in (module, written.modules.get("")):
        if criterion is not None:
            criterion.register_forward_pre_hook(lambda _, args: (*args, target))


def _as_precise(module: nn.Module, value: Any) -> Any:
    """Return a nested value on the device and in the precision of a model."""
    floats = {p.dtype for p in module.parameters() if p.is_floating_point()}  # buffers, as of nn.NCEModule, may differ
    floats = floats or {t.dtype for t in module.buffers() if t.is_floating_point()}
    value = nested.map_tensors(lambda t: t.to(device_of(module)), value)
    return nested.cast(value, floats.pop() if len(floats) == 1 else None)


def compare_results(
    layers: NamedLayers, source: Source, written: Written, table: LuaTable, path: Path, export: NewExport
) -> None:
    """Compare the results of every layer.

    Each layer of the file runs on the results of the model's layers, so a difference does not affect later layers.

    Args:
        layers: the layers, to which the comparisons are added.
        source: the model and its input.
        written: the converted file.
        table: the reference; contains ``input``, if there is one.
        path: path of the file, for messages.
        export: new export of the model.
    """
    if written.run is None:
        return
    if source.value is None:
        options = "--key and --input" if isinstance(source.module, Models) else "--input"
        layers.result.notes.append(f"Outputs of layers were not compared; pass {options} to compare them.")
        return
    try:
        expected = source.run()
    except ConversionLimitError:
        raise
    except Exception as e:
        if "input" in table:
            reason = f"{failure_reason(e)}{accepted_instead(source.module, source.value)}"
            raise ConversionError(f"the model cannot run on the input: {reason}") from e
        reason = f"MODEL cannot run on the input in {path.name}: {failure_reason(e)}"
        layers.result.notes.append(f"{reason}. Outputs of layers were not compared; pass --input to compare them.")
        return
    layers.set_order(expected)
    if written.exact:
        error = _compare_operations(layers, source, expected, written)
    else:
        error = compare_graph(layers, source, written, expected, export)
        if error is None and layers.result.ok:
            error = compare_alone(layers, source, written, expected)
    if error is not None:
        layers.result.whole.append(failed("converted", f"{path.name} does not run on this input: {error}"))
    elif written.dynamic:
        compare_at_another_size(layers, source, written)


def _compare_operations(layers: NamedLayers, source: Source, expected: Results, written: Written) -> Exception | None:
    """Compare the results of a file with the same operations; accept differences as between two runs of the model.

    Returns:
        The error if the file does not run.
    """
    found = run_file(written, source.value, {name: v for name, v in expected.items() if name})
    if isinstance(found, Exception):
        return found
    given = {name: value for name, value in expected.items() if name in found}
    base = source.run(given)  # the layers run on the same results as in the file
    compared = {name: _compare_exactly(base[name], found[name]) for name in found if name in base}
    differs = any(not d.ok for each in compared.values() for d in each)
    spread = source.spread(base, given, written.tensors) if differs else {}
    for name, each in compared.items():
        if (layer := layers.by_name.get(name)) is None:
            continue
        for d in each:
            _allow(d, spread.get(name, {}).get(d.name, 0.0))
        layer.converted += _merged(each)
    for name in (expected.keys() - found.keys()) & layers.by_name.keys():
        layer = layers.by_name[name]
        if written.complete or not name:
            layer.converted.append(failed("output", "the layer does not run in the converted file"))
        else:  # a program computes some layers in the forward of the module around them
            layer.note = layer.note or "is not a separate module in the file"
    return None


def _compare_exactly(expected: Any, found: Any) -> list[Difference]:
    """Compare dtypes and bits of results."""
    if (other := other_dtypes("output", found, expected)) is not None:
        return [other]
    return compare("output", found, expected, BITS)


def _allow(d: Difference, distance: float) -> None:
    """Accept a difference that runs of the model, which differ by up to ``distance``, explain."""
    if d.ok or d.mismatched or not d.absolute < math.inf:
        return
    allowed = VARIATION_MARGIN * distance
    d.tolerance = min(allowed / d.scale, sys.float_info.max if d.absolute <= allowed else d.error / 2)
    if distance:
        d.message = f"{d.message}; runs of MODEL with other memory layouts differ by {distance:.3g}"


def _merged(found: list[Difference]) -> list[Difference]:
    """Return one comparison instead of the comparisons of a table's parts if all bits are equal."""
    return found if any(d.error for d in found) or not found else [Difference("output", 0.0, 0.0)]
