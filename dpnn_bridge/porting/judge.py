"""Judge an implementation that has its weights already."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.porting.api import port
from dpnn_bridge.porting.networks import call_target, double_copy, inputs
from dpnn_bridge.porting.report import Deviation, PortReport
from dpnn_bridge.porting.tape import leaves
from dpnn_bridge.porting.values import difference

#: what storing weights in single precision leaves
_STORED = 1e-6


def judge(model: Any, module: nn.Module, example: Any, **options: Any) -> PortReport:
    """Say whether a module with weights computes what a Torch7 model computes.

    The weights of the model are ported into a copy of the module. Then the module's own weights are compared with them.
    Biases may be distributed over layers in another way, as long as both copies give the same outputs.

    Args:
        model, module, example: as for :func:`dpnn_bridge.port`; the module is not changed.
        **options: options of :func:`dpnn_bridge.port`.

    Returns:
        The report. ``first`` names the first parameter that differs.
    """
    filled = copy.deepcopy(module)
    report = port(model, filled, example, **options)
    if not report.equal:
        return report
    mine, right = _tensors(module), _tensors(filled)
    differ = [m for m in report.matches if difference(mine[m.parameter], right[m.parameter]) > _STORED]
    if not differ:
        return report
    biases = all(mine[m.parameter].dim() == 1 for m in differ)
    if biases and _outputs_agree(module, filled, example, options.get("target") or call_target):
        report.notes.append(f"biases are distributed otherwise: {', '.join(m.parameter for m in differ)}")
        return report
    first = differ[0]
    distance = difference(mine[first.parameter], right[first.parameter])
    reason = (
        f"{first.parameter} differs from the source's values ({distance:.1e} relative); load them with dpnn_bridge.port"
    )
    report.equal, report.difference = False, max(report.difference, distance)
    report.first = Deviation(first.parameter.rpartition(".")[0], "", first.source, reason)
    return report


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters(remove_duplicate=False)), **dict(module.named_buffers())}


def _outputs_agree(module: nn.Module, filled: nn.Module, example: Any, call: Any) -> bool:
    modules = double_copy(module, "the module"), double_copy(filled, "the module")
    with torch.no_grad():
        for given in inputs(example):
            mine, right = ([t for t in leaves(call(m, given)) if isinstance(t, Tensor)] for m in modules)
            if any(difference(a, b) > _STORED for a, b in zip(mine, right, strict=True)):
                return False
    return True
