"""Test by further runs whether random numbers, another version of Torch7 or rounding explain a difference."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from dpnn_bridge.compare.differences import BITS, compare
from dpnn_bridge.conversion import registry
from dpnn_bridge.conversion.limits import EagerMode
from dpnn_bridge.conversion.placeholder import bridge_of
from dpnn_bridge.parity.accepted import accept_known, accept_random
from dpnn_bridge.parity.experiment import Experiment, Outcome
from dpnn_bridge.parity.layers import Given, Node, tree
from dpnn_bridge.parity.rounding import judge_rounding
from dpnn_bridge.torch7.draws import reseed

#: number of runs with other random numbers
SEEDS = 8


def judge(
    experiment: Experiment, outcome: Outcome, given: Mapping[int, Given] | None = None, random: list[str] | None = None
) -> None:
    """Accept the differences of a run that unknown random numbers, another version of Torch7 or rounding explain.

    Args:
        experiment: the experiment.
        outcome: results of the run.
        given: argument ``given`` of the run, see :meth:`Experiment.run`.
        random: result of :func:`random_layers`.
    """
    if random:
        _judge_random(experiment, outcome, given, random)
    _judge_version(experiment, outcome, given)
    judge_rounding(experiment, outcome, given)


# ---------------------------------------------------------------------- random numbers
class _Draws(EagerMode):
    """Records the modules that draw random numbers, from PyTorch's generator or from the one of their Lua state.

    Attributes:
        running: names of the modules that are running, the innermost last.
        found: names of the modules that drew random numbers.
    """

    def __init__(self) -> None:
        super().__init__()
        self.running: list[str] = []
        self.found: dict[str, None] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if torch.Tag.nondeterministic_seeded in getattr(func, "tags", ()):
            self.found[self.running[-1] if self.running else "the model"] = None
        return func(*args, **(kwargs or {}))


@contextmanager
def _recording_draws(module: nn.Module, draws: _Draws) -> Iterator[None]:
    with ExitStack() as stack:
        for node in tree(module):
            name = _name(node)
            push = partial(_push, draws.running, name)
            stack.callback(node.module.register_forward_pre_hook(push).remove)
            stack.callback(node.module.register_forward_hook(partial(_pop, draws.running)).remove)
            if (bridge := bridge_of(node.module)) is not None:
                states: list[bytes | None] = []
                before, after = partial(_push_state, bridge, states), partial(_pop_state, bridge, states, draws, name)
                stack.callback(node.module.register_forward_pre_hook(before).remove)
                stack.callback(node.module.register_forward_hook(after).remove)
        stack.enter_context(draws)
        yield


def _name(node: Node) -> str:
    return f"{node.path or 'the model'} ({type(node.module).__name__})"


def _push(running: list[str], name: str, *_: Any) -> None:
    running.append(name)


def _pop(running: list[str], *_: Any) -> None:
    running.pop()


def _push_state(bridge: Any, states: list[bytes | None], *_: Any) -> None:
    states.append(_state_of(bridge))


def _pop_state(bridge: Any, states: list[bytes | None], draws: _Draws, name: str, *_: Any) -> None:
    if (before := states.pop()) is None or before != _state_of(bridge):
        draws.found[name] = None


def _state_of(bridge: Any) -> bytes | None:
    """Return the state of the generator of a Lua state; None if it is in another process, and Lua may draw from it."""
    return None if bridge.generator is None else bytes(bridge.generator.memory)


def random_layers(experiment: Experiment) -> list[str]:
    """Return the names of the layers that draw random numbers that the reference does not determine."""
    draws = _Draws()
    experiment.run(while_running=partial(_recording_draws, draws=draws))
    return list(draws.found)


def draws_of(module: nn.Module, value: Any) -> list[str]:
    """Run a module on an input and return the names of the layers that draw random numbers."""
    draws = _Draws()
    with torch.no_grad(), _recording_draws(module, draws):
        module(value)
    return list(draws.found)


def _judge_random(
    experiment: Experiment, outcome: Outcome, given: Mapping[int, Given] | None, random: list[str]
) -> None:
    """Accept failed comparisons whose values change with the seed; for the arguments see :func:`judge`."""
    advice = "call torch.manualSeed(1) in Torch7 before forward and store seed = 1 in the reference"
    if "seed" in experiment.table:
        advice = "the seed does not determine them: store the module after forward as the reference's `after`"
    failed = {key: d for key, d in outcome.by_key().items() if not d.ok and d.is_computed}
    elsewhere = bool(failed) and "seed" in experiment.table and _draws_elsewhere(experiment, given)
    for seed in range(1, SEEDS + 1):
        if not failed:
            return
        other_numbers = partial(_reseeding, layers=random, seed=seed) if elsewhere else None
        again = experiment.run(seed=seed, given=given, while_running=other_numbers).by_key()
        for key, d in list(failed.items()):
            other = again.get(key)
            if other is None or other.error != d.error or other.worst_element != d.worst_element:
                accept_random(d, random, f"; {advice}")
                del failed[key]


def _draws_elsewhere(experiment: Experiment, given: Mapping[int, Given] | None) -> bool:
    """Return whether layers draw numbers that the seed does not determine: it then determines none of later layers."""
    one, two = (_outputs(experiment.run(seed=seed, given=given)) for seed in (1, 2))
    return not all(d.ok for d in compare("output", one, two, BITS))


@contextmanager
def _reseeding(module: nn.Module, layers: list[str], seed: int) -> Iterator[None]:
    """Let the layers of a model that run after one of ``layers``, see :func:`random_layers`, draw other numbers."""
    with ExitStack() as stack:
        for node in tree(module):
            if _name(node) in layers:
                stack.callback(node.module.register_forward_hook(lambda *_: reseed(seed)).remove)
        yield


def _outputs(run: Outcome) -> list[Any]:
    """Return the last output of each layer."""
    return [entry.outputs[-1] for i in range(len(run.nodes)) if (entry := run.entry(i)) is not None and entry.outputs]


# ---------------------------------------------------------------------- versions of Torch7
def _judge_version(experiment: Experiment, outcome: Outcome, given: Mapping[int, Given] | None) -> None:
    """Accept failed comparisons that agree with another version of Torch7; for the arguments see :func:`judge`."""
    failed = {key: d for key, d in outcome.by_key().items() if not d.ok and d.is_computed}
    module = experiment.fresh()
    reasons = _use_other_version(module) if failed else ""
    if not reasons:
        return
    again = experiment.run(module, given=given).by_key()
    for key, d in failed.items():
        if key in again and again[key].ok:
            accept_known(d, reasons)


def _use_other_version(model: nn.Module) -> str:
    """Let the modules of a model compute as in another version of Torch7; return the reasons, or an empty string."""
    reasons: dict[str, None] = {}
    for module in model.modules():
        version = registry.mapping_of(module).other_version
        if version is not None:
            vars(module)["forward"] = partial(version.forward, module)
            reasons[version.reason] = None
    return "; ".join(reasons)
