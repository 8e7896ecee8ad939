"""Find the reason for a difference, random numbers, rounding or another one, by running the model again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from dpnn_bridge.conversion.limits import EagerMode
from dpnn_bridge.parity.accepted import accept_random
from dpnn_bridge.parity.experiment import Experiment, Outcome
from dpnn_bridge.parity.layers import Given, tree
from dpnn_bridge.parity.rounding import judge_rounding

#: runs with other random numbers
SEEDS = 8


def judge(
    experiment: Experiment, outcome: Outcome, given: Mapping[int, Given] | None = None, random: list[str] | None = None
) -> None:
    """Accept differences of a run that unknown random numbers or rounding explain.

    Args:
        experiment: the runs.
        outcome: of the run.
        given: values that the layers of that run got instead of each other's results.
        random: names of the layers that draw random numbers, which :func:`drawing_layers` finds.
    """
    if random:
        _judge_random(experiment, outcome, given, random)
    judge_rounding(experiment, outcome, given)


# ---------------------------------------------------------------------- random numbers
class _Draws(EagerMode):
    """Records which modules draw from PyTorch's generator."""

    def __init__(self) -> None:
        super().__init__()
        self.running: list[str] = []
        self.found: dict[str, None] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if torch.Tag.nondeterministic_seeded in getattr(func, "tags", ()):
            self.found[self.running[-1] if self.running else "the model"] = None
        return func(*args, **(kwargs or {}))


@contextmanager
def _noticing(module: nn.Module, draws: _Draws) -> Iterator[None]:
    with ExitStack() as stack:
        for node in tree(module):
            name = f"{node.path or 'the model'} ({type(node.module).__name__})"
            enter = partial(_entered, draws.running, name)
            stack.callback(node.module.register_forward_pre_hook(enter).remove)
            stack.callback(node.module.register_forward_hook(partial(_left, draws.running)).remove)
        stack.enter_context(draws)
        yield


def _entered(running: list[str], name: str, *_: Any) -> None:
    running.append(name)


def _left(running: list[str], *_: Any) -> None:
    running.pop()


def drawing_layers(experiment: Experiment) -> list[str]:
    """Return the layers that draw random numbers which the reference does not determine."""
    draws = _Draws()
    experiment.run(while_running=partial(_noticing, draws=draws))
    return list(draws.found)


def draws_of(module: nn.Module, value: Any) -> list[str]:
    """Return the layers of a module that draw random numbers when it runs on a value."""
    draws = _Draws()
    with torch.no_grad(), _noticing(module, draws):
        module(value)
    return list(draws.found)


def _judge_random(
    experiment: Experiment, outcome: Outcome, given: Mapping[int, Given] | None, random: list[str]
) -> None:
    """Mark comparisons that depend on random numbers which the reference does not store."""
    advice = "call torch.manualSeed(1) in Torch7 before forward and store seed = 1 in the reference"
    if "seed" in experiment.table:
        advice = "its seed is not enough: store the module after forward as the reference's `after`"
    waiting = {key: d for key, d in outcome.by_key().items() if not d.ok and d.is_computed}
    for seed in range(1, SEEDS + 1):
        if not waiting:
            return
        again = experiment.run(seed=seed, given=given).by_key()
        for key, d in list(waiting.items()):
            other = again.get(key)
            if other is None or other.error != d.error or other.worst_element != d.worst_element:
                accept_random(d, random, f"; {advice}")
                del waiting[key]
