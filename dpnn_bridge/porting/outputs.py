"""Compare what both networks return."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from dpnn_bridge.porting.source import Source, Value
from dpnn_bridge.porting.tape import VIEWS
from dpnn_bridge.porting.values import DOUBLE, SINGLE, Fingerprint, difference, layouts

#: what the loss does in PyTorch: the target may return the value before it
_LEFT_TO_THE_LOSS = ("_log_softmax", "_softmax", "log_softmax", "softmax")


@dataclass
class Outputs:
    """The result of a comparison.

    Attributes:
        problem: why the outputs are not equal; empty where they are.
        difference: the largest difference relative to the largest element.
        notes: layouts that differ, values that are no outputs of the source.
    """

    problem: str = ""
    difference: float = 0.0
    notes: list[str] = field(default_factory=list)
    constant: bool = True


def match_outputs(got: list[Tensor], source: Source) -> Outputs:
    """Find every output of the target among the source's outputs, or among its values.

    An output may have other dimensions or another order of them. At least one must be an output of the source, or the
    value that the source's last softmax takes.
    """
    result, left, whole = Outputs(), list(source.output), 0
    if not got:
        return Outputs("the module returns no tensor")
    tolerance = SINGLE if source.tape.nodes and source.tape.nodes[-1].single else DOUBLE
    for tensor in got:
        closest = [(_distance(tensor, w), i) for i, w in enumerate(left)]
        distance, at = min(closest, default=(float("inf"), -1))
        if distance <= tolerance:
            left.pop(at)
            whole += 1
            result.difference = max(result.difference, distance)
            result.constant &= _is_constant(tensor)
            continue
        values = list(source.table.find(Fingerprint.of(tensor)))
        before = next((v for v in values if _is_before_softmax(v)), None)
        if before is not None:
            whole += 1
            result.constant &= _is_constant(tensor)
            result.notes.append(
                "the output is the value before the source's softmax; use a loss that applies one, as cross_entropy"
            )
        elif not values:
            scale = f" ({distance:.1e} relative)" if distance != float("inf") else ""
            return Outputs(f"an output of shape {tuple(tensor.shape)} is no value of the source{scale}")
        else:
            after = values[-1].node.op if values[-1].node else "its input"
            result.notes.append(
                f"an output of shape {tuple(tensor.shape)} is an inner value of the source, after {after}"
            )
    if not whole:
        return Outputs("no output is an output of the source: " + "; ".join(result.notes), notes=result.notes)
    return result


def _distance(a: Tensor, b: Tensor) -> float:
    """The difference of two outputs in the order of dimensions that makes it smallest."""
    if a.numel() != b.numel() or a.is_floating_point() != b.is_floating_point():
        return float("inf")
    best = difference(a.flatten(), b.flatten())
    if best <= DOUBLE:
        return best
    squeezed, other = a.squeeze(), b.squeeze()
    return min([best, *(difference(squeezed, other.permute(p)) for p in layouts(other.shape, squeezed.shape))])


def _is_constant(tensor: Tensor) -> bool:
    return tensor.numel() < 2 or bool((tensor == tensor.flatten()[0]).all())


def _is_before_softmax(value: Value) -> bool:
    """Whether nothing but a softmax and views are between a value and an output of the source."""
    front, softmax = [value.node] if value.node else [], False
    while front:
        node = front.pop()
        for consumer in node.consumers:
            if consumer.op in _LEFT_TO_THE_LOSS:
                softmax = True
                continue
            if consumer.op not in VIEWS:
                return False
            front.append(consumer)
    return softmax
