"""Why a result differs: rounding, random numbers, or something else. Finds out by running the model again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from dpnn_bridge.compare.differences import Difference, Tolerance, compare
from dpnn_bridge.compare.nested import map_tensors
from dpnn_bridge.compare.verdict import Verdict
from dpnn_bridge.parity.experiment import Experiment, Key, Outcome
from dpnn_bridge.parity.layers import Given, tree

#: runs with other random numbers, and with other rounding errors
SEEDS, DISTURBANCES = 8, 8
#: rounding errors of one layer, in units of the last place of its largest value: sums add some
ROUNDING_STEPS = 4
#: how far Torch7 may be from the exact result, in multiples of the largest effect of the disturbances
MARGIN = 4
#: for outputs also in multiples of how far our own result in single precision is from the exact one
AS_OURS = 10


def judge(
    experiment: Experiment, outcome: Outcome, given: Mapping[int, Given] | None = None, random: list[str] | None = None
) -> None:
    """Excuses the failed comparisons of a run that rounding or unknown random numbers explain.

    Args:
        experiment: what ran.
        outcome: of the run.
        given: what the layers of that run got in place of each other's results.
        random: names of the layers that draw random numbers, which :func:`drawing_layers` finds.
    """
    if random:
        _judge_random(experiment, outcome, given, random)
    failed = {key: d for key, d in outcome.by_key().items() if not d.ok and not d.mismatched and _is_computed(d)}
    if failed:
        _judge_rounding(experiment, outcome, given, failed)


def _is_computed(difference: Difference) -> bool:
    """Whether a comparison is of a result; parameters are copies, which nothing excuses."""
    return not difference.name.startswith("params")


# ---------------------------------------------------------------------- random numbers
class _Draws(TorchDispatchMode):
    """Notices which module draws from PyTorch's generator."""

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
    """The layers that draw random numbers which nothing in the reference tells."""
    draws = _Draws()
    experiment.run(while_running=partial(_noticing, draws=draws))
    return list(draws.found)


def draws_of(module: nn.Module, value: Any) -> list[str]:
    """The layers of a module that draw random numbers when it runs on a value."""
    draws = _Draws()
    with torch.no_grad(), _noticing(module, draws):
        module(value)
    return list(draws.found)


def _judge_random(
    experiment: Experiment, outcome: Outcome, given: Mapping[int, Given] | None, random: list[str]
) -> None:
    """What changes with the random numbers cannot be compared without those that Torch7 drew."""
    reason = (
        f"{', '.join(random)} {'draw' if len(random) > 1 else 'draws'} random numbers; call torch.manualSeed(1) in "
        "Torch7 before forward and store seed = 1 in the reference"
    )
    waiting = {key: d for key, d in outcome.by_key().items() if not d.ok and _is_computed(d)}
    for seed in range(1, SEEDS + 1):
        if not waiting:
            return
        again = experiment.run(seed=seed, given=given).by_key()
        for key, d in list(waiting.items()):
            other = again.get(key)
            if other is None or (other.error, other.index, other.found) != (d.error, d.index, d.found):
                _excuse(d, Verdict.RANDOM, reason)
                del waiting[key]


def _excuse(difference: Difference, verdict: Verdict, reason: str) -> None:
    difference.excuse, difference.reason = verdict, reason


# ---------------------------------------------------------------------- rounding
def _judge_rounding(
    experiment: Experiment, outcome: Outcome, given: Mapping[int, Given] | None, failed: dict[Key, Difference]
) -> None:
    """Repeats the run in double precision; where that differs too, measures what rounding errors can do."""
    dtype: torch.dtype | None = torch.float64
    try:
        precise = experiment.run(dtype=dtype, given=given)
    except Exception:  # a layer that cannot be cast: rounding errors show in its own precision as well
        dtype, precise = None, experiment.run(given=given)
    exact = precise.by_key()
    for key, d in list(failed.items()):
        if key in exact and exact[key].error <= min(d.tolerance, d.error / 2):  # else it is no nearer, but for luck
            _excuse(d, Verdict.ROUNDING, "it agrees when repeated in double precision")
            d.message += f"; in double precision {exact[key].error:.2g}"
            del failed[key]
    if not failed:
        return
    unit = ROUNDING_STEPS * torch.finfo(torch.float32 if experiment.single else torch.float64).eps
    precision = "single" if experiment.single else "double"
    ours = dict(_effects(precise, outcome)) if experiment.single and dtype is not None else None
    effects: dict[Key, float] = {}
    for seed in range(1, DISTURBANCES + 1):
        other = experiment.run(dtype=dtype, given=given, while_running=partial(_disturbed, unit=unit, seed=seed))
        for key, effect in _effects(precise, other):
            effects[key] = max(effects.get(key, 0.0), effect)
        for key, d in list(failed.items()):
            found, allowed = exact[key].error if key in exact else float("inf"), MARGIN * effects.get(key, 0.0)
            if ours is not None and not d.is_gradient:  # a pooling maximum that moves makes gradients jump
                allowed = min(allowed, AS_OURS * ours.get(key, 0.0))
            if found <= allowed:
                _excuse(
                    d,
                    Verdict.ROUNDING,
                    f"rounding errors of {precision} precision in the layers move it as far",
                )
                d.message += f"; rounding errors move it by {effects[key]:.2g}"
                del failed[key]
        if not failed:
            return


def _effects(precise: Outcome, disturbed: Outcome) -> Iterator[tuple[Key, float]]:
    """How far the results of a disturbed run are from the exact ones, for each comparison."""
    for (i, name, exact), (_, _, moved) in zip(precise.values(), disturbed.values(), strict=False):
        for d in compare(name, moved, exact, Tolerance(0.0, 0.0)):
            yield (i, d.name), d.error


@contextmanager
def _disturbed(module: nn.Module, unit: float, seed: int) -> Iterator[None]:
    """While the block runs, every result and gradient of a layer is off by rounding errors of random size."""
    generator = torch.Generator().manual_seed(seed)

    def moved(value: Any) -> Any:
        return map_tensors(lambda t: t + _error(t, unit, generator) if t.is_floating_point() else t, value)

    def forwarded(module: nn.Module, args: Any, output: Any) -> Any:
        return moved(output)

    def entered(module: nn.Module, args: tuple[Any, ...]) -> Any:
        if not args:
            return None

        def watched(t: Tensor) -> Tensor:
            if not t.requires_grad:
                return t
            fresh = t.view_as(t)
            fresh.register_hook(lambda grad: grad + _error(grad, unit, generator))
            return fresh

        return (map_tensors(watched, args[0]), *args[1:])

    with ExitStack() as stack:
        for node in tree(module):
            stack.callback(node.module.register_forward_hook(forwarded).remove)
            stack.callback(node.module.register_forward_pre_hook(entered).remove)
        yield


def _error(tensor: Tensor, unit: float, generator: torch.Generator) -> Tensor:
    """Rounding errors relative to the largest value; a zero stays one, and so do numbers that may be indices."""
    if not (tensor.detach() != tensor.detach().round()).any():
        return torch.zeros_like(tensor)
    noise = 2 * torch.rand(tensor.shape, generator=generator, dtype=torch.float64) - 1
    size = tensor.detach().abs().max() if tensor.numel() else tensor.new_zeros(())
    return (noise.to(tensor.device, tensor.dtype) * unit * size).masked_fill(tensor.detach() == 0, 0)
