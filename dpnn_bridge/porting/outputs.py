"""Compare the outputs of both networks."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import combinations

from torch import Tensor

from dpnn_bridge.porting.source import Source
from dpnn_bridge.porting.values import ALMOST, DOUBLE, SINGLE, Fingerprint, difference, dim_orders


@dataclass
class Outputs:
    """The result of a comparison.

    Attributes:
        problem: why the outputs are not equal; empty if they are.
        difference: the largest difference relative to the largest element.
        notes: outputs in another layout or order, and intermediate values of the source among the outputs.
        constant: whether the elements of every output are equal.
        reordered: whether the outputs are the source's elements or outputs in another order.
        almost: the difference of an output that is almost equal; infinite if there is none.
    """

    problem: str = ""
    difference: float = 0.0
    notes: list[str] = field(default_factory=list)
    constant: bool = True
    reordered: bool = False
    almost: float = float("inf")


def match_outputs(actual: list[Tensor], source: Source, single: bool = False) -> Outputs:
    """Match every output of the target with an output, or an intermediate value, of the source.

    An output may have another shape or permuted dimensions. Every output of the source must have a match.

    Args:
        actual: outputs of the target.
        source: the source after a run on the same input.
        single: whether to compare with the tolerance of single precision.
    """
    if not actual:
        return Outputs(
            "the module returns no tensor, and no list, dict or dataclass of tensors; choose its outputs with target="
        )
    result = Outputs()
    tolerance = SINGLE if single or any(n.single for n in source.tape.nodes[-1:]) else DOUBLE
    order: list[int] = []
    for tensor in actual:
        closest = [(_distance(tensor, w), i) for i, w in enumerate(source.output) if i not in order]
        distance, at = min(closest, default=(float("inf"), -1))
        if distance > tolerance:
            other = _unmatched(tensor, distance, source, [source.output[i] for i in order], tolerance)
            if other.problem:
                return other
            result.notes += other.notes
            continue
        order.append(at)
        result.difference = max(result.difference, distance)
        result.constant &= _is_constant(tensor)
        order_of_dims = _order_of_dims(tensor, source.output[at], tolerance)
        if order_of_dims is not None:
            shapes = f"shape {tuple(tensor.shape)} is the source's of shape {tuple(source.output[at].shape)}"
            result.notes.append(f"an output of {shapes} with its dimensions in the order {order_of_dims}")
    _check_order(result, order, source)
    return result


def _unmatched(tensor: Tensor, distance: float, source: Source, returned: list[Tensor], tolerance: float) -> Outputs:
    """Describe an output of the target that equals no remaining output of the source.

    Args:
        tensor: the output of the target.
        distance: difference from the nearest remaining output of the source.
        source: the source.
        returned: outputs of the source that match earlier outputs of the target.
        tolerance: accepted relative difference.

    Returns:
        A comparison with a problem, or with a note if the output is an intermediate value of the source.
    """
    shape = tuple(tensor.shape)
    if distance <= ALMOST:
        return Outputs(f"an output of shape {shape} differs by {distance:.1e} relative", almost=distance)
    if any(_distance(tensor, w) <= tolerance for w in returned):
        return Outputs("the module returns one output of the source twice")
    permuted = next(
        (p for w in source.output for p in dim_orders(w.shape, tensor.shape) if _equals(tensor, w.permute(p))), None
    )
    if permuted is not None:
        return Outputs(f"the output is transposed: its dimensions are dimensions {permuted} of the source's output")
    fingerprint = Fingerprint.of(tensor)
    if any(Fingerprint.of(w).matches(fingerprint, source.tolerance) for w in source.output):
        problem = f"an output of shape {shape} has the source's elements in another order"
        return Outputs(problem, reordered=True)
    values = list(source.table.find(fingerprint, source.tolerance))
    if not values:
        scale = f" ({distance:.1e} relative)" if distance != float("inf") else ""
        return Outputs(f"an output of shape {shape} is not a value of the source{scale}")
    after = values[-1].node.op if values[-1].node else "its input"
    return Outputs(notes=[f"an output of shape {shape} is an intermediate value of the source, after {after}"])


def _check_order(result: Outputs, order: list[int], source: Source) -> None:
    """Set the problem if outputs of the source are missing, or outputs of one shape are exchanged; note other orders.

    Args:
        result: the comparison.
        order: indices of the source's outputs in the order in which the target returns them.
        source: the source.
    """
    missing = [i for i in range(len(source.output)) if i not in order]
    if missing:
        count, shape = len(source.output), tuple(source.output[missing[0]].shape)
        which = f"output {missing[0] + 1} of {count} " if count > 1 else "output "
        inner = "; ".join(["", *result.notes])
        hint = "; return it, or choose outputs of the source with source=" if count > 1 else ""
        result.problem = f"the source's {which}of shape {shape} is not returned{inner}{hint}"
        return
    given = ", ".join(str(i + 1) for i in order)
    shapes = [source.output[i].shape for i in order]
    if any(i > j and a == b for (i, a), (j, b) in combinations(zip(order, shapes, strict=True), 2)):
        result.reordered = True
        result.problem = f"the outputs are in another order: the module returns the source's outputs {given}"
    elif order != sorted(order):
        result.notes.append(f"outputs in another order: the module returns the source's outputs {given}")


def _distance(a: Tensor, b: Tensor) -> float:
    """Return the smallest difference of two outputs over all orders of their dimensions."""
    if a.numel() != b.numel() or a.is_floating_point() != b.is_floating_point():
        return float("inf")
    best = difference(a.flatten(), b.flatten())
    if best <= DOUBLE:
        return best
    squeezed, other = a.squeeze(), b.squeeze()
    if squeezed.shape == other.shape:
        return best
    return min([best, *(difference(squeezed, other.permute(p)) for p in dim_orders(other.shape, squeezed.shape))])


def _order_of_dims(a: Tensor, b: Tensor, tolerance: float) -> tuple[int, ...] | None:
    """Return the permutation of b's dimensions, without those of size 1, that gives a; None if none is needed."""
    if difference(a.flatten(), b.flatten()) <= tolerance:
        return None
    a, b = a.squeeze(), b.squeeze()
    return next((p for p in dim_orders(b.shape, a.shape) if difference(a, b.permute(p)) <= tolerance), None)


def _equals(a: Tensor, b: Tensor) -> bool:
    return a.is_floating_point() and b.is_floating_point() and difference(a, b) <= DOUBLE


def _is_constant(tensor: Tensor) -> bool:
    return tensor.numel() < 2 or bool((tensor == tensor.flatten()[0]).all())
