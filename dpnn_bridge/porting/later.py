"""Find the deviations after the first one: replace the deviating value by the source's value and continue."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from dpnn_bridge.porting.explain import Explanation
from dpnn_bridge.porting.report import Deviation
from dpnn_bridge.porting.search import Patch, Search

#: maximum number of replaced values; each time step of a recurrent network counts as one
_MAX_DEVIATIONS = 40


def later_deviations(
    first: Explanation, deviation: Deviation, record: Callable[[], None], restart: Callable[[dict[int, Patch]], Search]
) -> Iterator[Deviation]:
    """Yield the deviations that remain if the earlier ones are fixed.

    Args:
        first: the explanation of the first deviation.
        deviation: the first deviation.
        record: function that runs the source again on the example.
        restart: function that returns a search in which values are replaced.
    """
    explanation, seen = first, {(deviation.layer, deviation.line)}
    patches: dict[int, Patch] = {}
    for _ in range(_MAX_DEVIATIONS):
        repair = explanation.repair
        if repair is None or repair.node.index in patches:
            return
        source = explanation.source
        source.to_capture = {repair.other.index}
        record()
        value = source.captured.pop(repair.other.index, None)
        if value is None:
            return
        layers = (layer.index for layer in source.layers for e in layer.events if e.node.index == repair.other.index)
        patches[repair.node.index] = Patch(value, repair.operand, next(layers, None))
        search = restart(patches)
        try:
            contradiction = search.run()
        except (RuntimeError, IndexError):  # the source's value has another shape, which later operations reject
            return
        if contradiction is None:
            return
        explanation = Explanation(contradiction, search)
        deviation = explanation.deviation()
        if (deviation.layer, deviation.line) not in seen:
            seen.add((deviation.layer, deviation.line))
            yield deviation
