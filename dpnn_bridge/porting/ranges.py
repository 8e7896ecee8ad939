"""Compare the operations that treat ranges of numbers differently, such as ReLU, clips and thresholds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from dpnn_bridge.porting.explain import deviation_at
from dpnn_bridge.porting.report import Deviation
from dpnn_bridge.porting.search import Search
from dpnn_bridge.porting.source import Source
from dpnn_bridge.porting.tape import Node, Tape, leaves
from dpnn_bridge.porting.wording import described

#: operations whose input or result is not real numbers
_MASKS = frozenset(("gt", "ge", "lt", "le", "bitwise_and", "_local_scalar_dense", "is_nonzero"))
#: ends of reasons: for which inputs the networks are equal, and for which not
LARGER = "on the example, but not on an input that is much larger"
OTHER_INPUT = "on the first input, but not on the second"

#: operations that treat large numbers differently from small ones
_NAMES = (
    "hardtanh clamp clamp_min clamp_max threshold softplus where minimum maximum hardsigmoid hardswish hardshrink gt ge"
    " lt le nan_to_num round floor ceil remainder fmod _local_scalar_dense is_nonzero bitwise_and masked_fill"
)
_RANGES = frozenset(_NAMES.split())
#: operations that treat negative numbers differently; every example has negative numbers
_SIGNED = frozenset(
    ("relu", "leaky_relu", "rrelu_with_noise", "elu", "celu", "selu", "softshrink", "_prelu_kernel", "abs")
)


def has_ranges(tape: Tape) -> bool:
    """Return whether a network has operations that treat large numbers differently."""
    return any(node.op in _RANGES and not node.constant and not _is_relu(node) for node in tape.nodes)


def is_ranged(node: Node) -> bool:
    """Return whether an operation treats ranges of numbers differently, as ReLU and clip do."""
    return node.op in _RANGES or node.op in _SIGNED


def range_of(node: Node) -> tuple[Any, ...]:
    """Return the name and the numbers of an operation; equal for all operations that compute a ReLU."""
    return "relu" if _is_relu(node) else node.op, *limits_of(node)


def limits_of(node: Node) -> list[float]:
    """Return the numbers in an operation's arguments; empty for a ReLU."""
    return [] if _is_relu(node) else sorted(v for v in leaves(list(node.options().values())) if _is_number(v))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_relu(node: Node) -> bool:
    """Return whether an operation is a ReLU, whichever operation computes it."""
    clips = node.op in ("threshold", "clamp_min", "clamp")
    return node.op == "relu" or (clips and list(node.options().values()) in ([0, 0], [0], [0, None]))


def missing_range(search: Search, when: str) -> Deviation | None:
    """Return the ReLU or clip that one of the networks lacks or replaces; None if it is not found.

    Args:
        search: a search whose source ran on the same example.
        when: inputs or weights for which the networks are equal without the operation, for the reason.
    """
    target, source = search.tape, search.source
    for node in (n for n in source.tape.nodes if _clips(n)):
        if not any(
            p.matches(node.result_fingerprints[0]) for given in search.result_fingerprints.values() for p in given
        ):
            for here in _consumers_of_input(search, node):
                if _clips(here):
                    why = f"{described(here)} here, {described(node)} in the source; equal {when}"
                    return deviation_at(here, source.names(node.owner), why)
                missing = f"in the source goes through {described(node)} first: it is missing here"
                return deviation_at(
                    here, source.names(node.owner), f"{described(here)} takes a value that {missing}; equal {when}"
                )
    for node in (n for n in target.nodes if _clips(n)):
        fingerprint = search.input_fingerprints[node.index][0]
        if fingerprint.matches(search.result_fingerprints[node.index][0]) and not _is_clipped_in(source, fingerprint):
            return deviation_at(node, "", f"{described(node)} here, no such operation in the source; equal {when}")
    return None


def other_range(search: Search) -> Deviation | None:
    """Return the first operation whose counterpart in the source has other limits, such as ReLU instead of ReLU6.

    Args:
        search: a search whose source ran on the same example.
    """
    for node in (n for n in search.tape.nodes if _clips(n)):
        values = search.input_fingerprints[node.index][0], search.result_fingerprints[node.index][0]
        equal = [n for n in search.source.tape.nodes if _clips(n) and _has_values(n, *values)]
        if equal and all(limits_of(n) != limits_of(node) for n in equal):
            path = search.source.names(equal[0].owner)
            return deviation_at(
                node, path, f"{described(node)} here, {described(equal[0])} in the source; equal {LARGER}"
            )
    return None


def _has_values(node: Node, input: Any, result: Any) -> bool:
    """Return whether a node of the source has an input and a result with these fingerprints."""
    return input.matches(node.input_fingerprints[0]) and result.matches(node.result_fingerprints[0])


def _clips(node: Node) -> bool:
    return is_ranged(node) and not node.constant and node.op not in _MASKS


def has_other_ranges(search: Search) -> bool:
    """Return whether the networks have different ReLUs, clips and similar operations, or a different number of one."""
    here, there = (Counter(range_of(n) for n in t.nodes if _clips(n)) for t in (search.tape, search.source.tape))
    return here != there


def _consumers_of_input(search: Search, node: Node) -> Iterator[Node]:
    """Yield the operations of the target with the same input as a node of the source."""
    for here in search.tape.nodes:
        if any(p.matches(node.input_fingerprints[0]) for p in search.input_fingerprints.get(here.index, ())):
            yield here


def _is_clipped_in(source: Source, fingerprint: Any) -> bool:
    return any(_clips(n) and n.input_fingerprints[0].matches(fingerprint) for n in source.tape.nodes)
