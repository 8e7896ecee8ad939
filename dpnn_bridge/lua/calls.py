"""Tell by which methods Torch7 runs a module or criterion: a user calls others than most containers do."""

from __future__ import annotations

from collections.abc import Iterable

from dpnn_bridge.checkpoints.find import SEVERAL

#: the methods for the forward and the backward pass that a user calls
OF_USER = ("forward", "backward")
#: classes that call these methods of what they contain, and the table of models of a file
_AS_USER = frozenset((SEVERAL, "nn.ModuleCriterion", "nn.RepeaterCriterion", "nn.SequencerCriterion"))
#: containers of nn, cunn and fbcunn whose `backward` calls `backward` of their modules
_CALLING_BACKWARD = frozenset(
    ("nn.Sequential", "nn.Concat", "nn.DepthConcat", "nn.ConcatTable", "nn.DataParallelTable", "nn.ModelParallel")
)


def methods_called(containers: Iterable[str]) -> tuple[str, str]:
    """Return the methods for the forward and the backward pass of an object inside containers of these classes.

    Other containers call ``updateOutput``, and ``updateGradInput`` and ``accGradParameters``, of their modules.

    Args:
        containers: names of classes; each of their objects contains the next one.
    """
    outer: list[str] = []
    for name in containers:
        outer = [] if name in _AS_USER else [*outer, name]
    if not outer:
        return OF_USER
    return "updateOutput", "backward" if _CALLING_BACKWARD.issuperset(outer) else "updateGradInput"
