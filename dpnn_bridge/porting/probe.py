"""Compare two networks on inputs unlike the example, and check that a network is deterministic."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.errors import ConversionError
from dpnn_bridge.porting.networks import Call, copy_for_run
from dpnn_bridge.porting.tape import Node, Tape, leaves, replaced
from dpnn_bridge.porting.values import DOUBLE, difference, with_values

#: factors by which the example is multiplied, to exceed clips and thresholds that the example itself does not
FACTORS = (30.0, 1000.0)
#: accepted relative difference on multiplied examples, whose rounding errors are larger
ROUNDED = 1e-4

#: operations that treat large numbers differently from small ones
_NAMES = (
    "hardtanh clamp clamp_min clamp_max threshold softplus where minimum maximum hardsigmoid hardswish hardshrink gt ge"
    " lt le nan_to_num round floor ceil remainder fmod _local_scalar_dense is_nonzero bitwise_and masked_fill"
)
_RANGES = frozenset(_NAMES.split())
#: operations that treat negative numbers differently; every example has negative numbers
_SIGNED = frozenset(("relu", "leaky_relu", "elu", "_prelu_kernel", "abs"))

#: operations with which networks detect the padding of a sequence
_COMPARISONS = frozenset(("eq", "ne", "any", "all", "logical_not", "count_nonzero"))

#: operations that may reduce over all samples
_REDUCTIONS = (
    "sum mean amax amin max min std var std_mean var_mean linalg_vector_norm norm prod logsumexp _softmax _log_softmax"
    " cumsum argmax argmin sort topk"
)
_REDUCING = frozenset(_REDUCTIONS.split())


def has_ranges(tape: Tape) -> bool:
    """Return whether a network has operations that treat large numbers differently."""
    return any(node.op in _RANGES and not node.constant and not _is_relu(node) for node in tape.nodes)


def has_masks(tape: Tape) -> bool:
    """Return whether a network has operations that may detect zeros in the input."""
    return any(node.op in _COMPARISONS and not node.constant for node in tape.nodes)


def mixes_samples(tape: Tape) -> bool:
    """Return whether a network reduces the first dimension of an activation, as ``x / x.norm()`` does."""
    for node in tape.nodes:
        if node.op in _REDUCING and not node.constant and node.reads:
            dims, rank = node.options().get("dim"), len(tape.shapes[node.reads[0].number])
            listed = dims if isinstance(dims, (list, tuple)) else () if dims is None else (dims,)
            if not listed or {0, -rank} & set(listed):
                return True
    return False


def is_ranged(node: Node) -> bool:
    """Return whether an operation treats ranges of numbers differently, as ReLU and clip do."""
    return node.op in _RANGES or node.op in _SIGNED


def limits_of(node: Node) -> list[float]:
    """Return the numbers in an operation's arguments; empty for a ReLU, whichever operation computes it."""
    return [] if _is_relu(node) else sorted(v for v in leaves(list(node.options().values())) if _is_number(v))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_relu(node: Node) -> bool:
    """Return whether an operation is a ReLU, written as threshold or clamp."""
    return node.op in ("threshold", "clamp_min", "clamp") and list(node.options().values()) in ([0, 0], [0], [0, None])


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


def differ_on_batch(
    model: Callable[[Any], Any], module: Callable[[Any], Any], examples: tuple[Any, Any], second: list[Tensor]
) -> Any:
    """Return both examples as one batch if each is one sample and the networks differ on the batch, else None.

    Args:
        model, module: functions that run the networks.
        examples: the first and the second input.
        second: outputs of the model for the second input. If they differ from the model's outputs in the batch, the
            model mixes samples too and nothing is compared.
    """
    pairs = list(zip(leaves(examples[0]), leaves(examples[1]), strict=True))
    tensors = [(a, b) for a, b in pairs if isinstance(a, Tensor)]
    if not all(a.dim() and len(a) == 1 and a.shape == b.shape for a, b in tensors):
        return None
    rest = (torch.cat((a, b)) if isinstance(a, Tensor) else a for a, b in pairs)
    batch = replaced(examples[0], lambda _: next(rest))
    try:
        given = [t.detach().double() for t in leaves(model(batch)) if isinstance(t, Tensor) and t.is_floating_point()]
    except Exception:  # the model accepts one sample only
        return None
    alone = [t for t in second if t.is_floating_point()]
    same = len(given) == len(alone) and all(
        g.dim() and difference(g[1:], a) <= ROUNDED for g, a in zip(given, alone, strict=True)
    )
    return batch if same and _differ(model, module, batch) else None


def _differ(model: Callable[[Any], Any], module: Callable[[Any], Any], example: Any) -> bool:
    """Return whether the sorted outputs of two networks differ.

    An input on which the model gives infinite values, or one of the networks fails, counts as equal.
    """
    try:
        expected, actual = sorted_outputs(model(example)), sorted_outputs(module(example))
    except Exception:  # mixed precisions that PyTorch rejects, or a check in the user's code that rejects these values
        return False
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
