"""Judge an implementation that has its weights already."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn

from dpnn_bridge.porting.api import port
from dpnn_bridge.porting.report import Deviation, PortReport
from dpnn_bridge.porting.values import difference

#: what storing weights in single precision leaves
_STORED = 1e-6


def judge(model: Any, module: nn.Module, example: Any, **options: Any) -> PortReport:
    """Check whether a module with weights computes what a Torch7 model computes.

    The weights of the model are ported into a copy of the module. Then the module's own weights are compared with them.
    The two biases of a recurrent layer may be distributed in another way, as long as their sum is right.

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
    names = list(dict.fromkeys(m.parameter for m in differ))
    if _sums_agree(names, mine, right):
        report.notes.append(f"biases that are added are distributed otherwise: {', '.join(names)}")
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


def _sums_agree(names: list[str], mine: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    """Return whether all that differs are the two biases of recurrent layers, and each pair has the right sum."""
    if not all("bias_ih" in name or "bias_hh" in name for name in names):
        return False
    firsts = {name.replace("bias_hh", "bias_ih") for name in names}
    pairs = [(name, name.replace("bias_ih", "bias_hh")) for name in firsts]
    return all(difference(mine[a] + mine[b], right[a] + right[b]) <= _STORED for a, b in pairs)
