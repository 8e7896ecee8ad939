"""Compare two networks on inputs unlike the example, and check that a network is deterministic."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.errors import ConversionError
from dpnn_bridge.porting.networks import Call, copy_for_run
from dpnn_bridge.porting.tape import Tape, leaves, replaced
from dpnn_bridge.porting.values import DOUBLE, difference, with_values

#: factors by which the example is multiplied, to exceed clips and thresholds that the example itself does not
FACTORS = (30.0, 1000.0)
#: accepted relative difference on multiplied examples, whose rounding errors are larger
ROUNDED = 1e-4

#: operations with which networks detect the padding of a sequence
_COMPARISONS = frozenset(("eq", "ne", "any", "all", "logical_not", "count_nonzero"))


def has_masks(tape: Tape) -> bool:
    """Return whether a network has operations that may detect zeros in the input."""
    return any(node.op in _COMPARISONS and not node.constant for node in tape.nodes)


def scaled(example: Any, factor: float) -> Any:
    """Return the example with its real numbers multiplied by a factor; None if it has no real numbers."""
    if not any(isinstance(v, Tensor) and v.is_floating_point() for v in leaves(example)):
        return None
    return replaced(example, lambda v: v * factor if isinstance(v, Tensor) and v.is_floating_point() else v)


def padded(example: Any) -> Iterator[Any]:
    """Yield copies of the example whose first or last steps, along dimension 0 or 1, are zeros."""
    for dim in (0, 1):
        for at_end in (False, True):
            changed = replaced(example, partial(_padded, dim=dim, at_end=at_end))
            if any(a is not b for a, b in zip(leaves(changed), leaves(example), strict=True)):
                yield changed


def _padded(value: Any, dim: int, at_end: bool) -> Any:
    # the last dimension of real numbers has features; each index is a step
    dims = value.dim() - value.is_floating_point() if isinstance(value, Tensor) else 0
    if dim >= dims or value.dtype == torch.bool or value.shape[dim] < 2:
        return value
    size = value.shape[dim]
    count = max(1, size // 3)
    changed = value.clone()
    changed.narrow(dim, size - count if at_end else 0, count).zero_()
    return changed


def differ_on_larger(model: Callable[[Any], Any], module: Callable[[Any], Any], example: Any) -> Any:
    """Return the first scaled example on which two networks differ; None if there is none."""
    far = (scaled(example, factor) for factor in FACTORS)
    return next((x for x in far if x is not None and _differ(model, module, x)), None)


def differ_on_padding(model: Callable[[Any], Any], module: Callable[[Any], Any], example: Any) -> Any:
    """Return a padded example if two networks differ on all padded examples, else None.

    If they differ on some only, one network may expect the padding on one side.
    """
    examples = list(padded(example))
    return examples[-1] if examples and all(_differ(model, module, x) for x in examples) else None


def batch_of(examples: tuple[Any, Any]) -> Any:
    """Return two inputs as one batch if each is one sample, else None."""
    pairs = list(zip(leaves(examples[0]), leaves(examples[1]), strict=True))
    tensors = [(a, b) for a, b in pairs if isinstance(a, Tensor)]
    if not tensors or not all(a.dim() and len(a) == 1 and a.shape == b.shape for a, b in tensors):
        return None
    rest = (torch.cat((a, b)) if isinstance(a, Tensor) else a for a, b in pairs)
    return replaced(examples[0], lambda _: next(rest))


def computes_samples(batched: Any, second: list[Tensor]) -> bool:
    """Return whether a model's outputs for the second sample of a batch are those that it has alone."""
    given = [t.detach().double() for t in leaves(batched) if isinstance(t, Tensor) and t.is_floating_point()]
    alone = [t for t in second if t.is_floating_point()]
    return len(given) == len(alone) and all(
        g.dim() and difference(g[1:], a) <= ROUNDED for g, a in zip(given, alone, strict=True)
    )


def _differ(model: Callable[[Any], Any], module: Callable[[Any], Any], example: Any) -> bool:
    """Return whether the outputs of two networks differ. An input on which one of them fails counts as equal."""
    try:
        return differ(sorted_outputs(model(example)), sorted_outputs(module(example)))
    except Exception:  # mixed precisions that PyTorch rejects, or a check in the user's code that rejects these values
        return False


def differ(expected: list[Tensor], actual: list[Tensor]) -> bool:
    """Return whether sorted outputs differ. Infinite values that are expected count as equal to all others."""
    return all(bool(w.isfinite().all()) for w in expected) and distance_of(actual, expected) > ROUNDED


def check_deterministic(module: nn.Module, call: Call, example: Any, what: str) -> None:
    """Check that a network returns the same numbers for the same input.

    Raises:
        ConversionError: Two runs of copies of ``module`` differ.
    """
    try:
        with torch.no_grad():
            runs = [sorted_outputs(call(copy_for_run(module, call), example)) for _ in range(2)]
            one, other = ([t.nan_to_num() for t in outputs] for outputs in runs)  # NaN is not equal to itself
    except Exception:  # the recorded run reports the failure
        return
    if (distance := distance_of(one, other)) > DOUBLE:
        raise ConversionError(
            f"{what} is not deterministic: two runs on the same input differ by {distance:.1e}; draw no random "
            "numbers in evaluation mode"
        )


def sorted_outputs(value: Any) -> list[Tensor]:
    """Return the outputs of real numbers, flattened and sorted, because two implementations may use other layouts."""
    found = with_values(t for t in leaves(value) if isinstance(t, Tensor) and t.is_floating_point())
    return sorted((t.detach().double().flatten().sort().values for t in found), key=len)


def distance_of(actual: list[Tensor], expected: list[Tensor]) -> float:
    """Return the largest difference of sorted outputs."""
    if [len(t) for t in actual] != [len(t) for t in expected]:
        return float("inf")
    if len({len(t) for t in expected}) < len(expected):  # outputs of equal size may be in another order
        actual, expected = ([torch.cat(ts).sort().values] for ts in (actual, expected))
    return max((difference(g, w) for g, w in zip(actual, expected, strict=True)), default=0.0)


def check_random(tape: Tape, what: str) -> None:
    """Raise a ConversionError if a network drew random numbers."""
    if tape.random is not None:
        where = f"{tape.random.line} ({tape.random.op})"
        dropout = tape.random.op in ("bernoulli", "native_dropout")
        hint = "pass training=self.training to F.dropout" if dropout else "draw them only if self.training is true"
        raise ConversionError(f"{what} draws random numbers in evaluation mode at {where}; {hint}")
