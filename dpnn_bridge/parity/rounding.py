"""Decide which differences rounding errors explain, by measurements on the model and the reference.

A reference in single precision contains the rounding errors of the program that computed it. The model runs in double
precision, which measures the error of the reference. It also runs in single precision, several times with every weight
and input perturbed by 1 ulp, which measures the expected error of such a run. The errors of Torch7 and PyTorch have the
same size: over all fixtures and published architectures, the error of the reference was at most 1.5 times that of our
own run, where that exceeded :data:`ULPS`. An error above :data:`MARGIN` times the expected error is not rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.compare import nested
from dpnn_bridge.compare.differences import Difference
from dpnn_bridge.parity.accepted import accept_rounding
from dpnn_bridge.parity.experiment import Experiment, Key, Outcome
from dpnn_bridge.parity.layers import Given

#: differences of up to this many ulps of the largest value are rounding
ULPS = 8
#: accepted error of the reference, as a multiple of the largest error of our own runs
MARGIN = 4
#: the same for a reference of a GPU, whose algorithms (Winograd, FFT) are less exact
GPU_ULPS, GPU_MARGIN = 128, 32
#: runs with values perturbed by up to this many ulps. More than one makes gradients jump, as in a deep network where
#: the maximum of a pooling window or the sign before a ReLU changes. For outputs, the effect is scaled to one ulp
PERTURBATION_ULPS = (1, 1, 4, 4, 16, 16)


def floor(experiment: Experiment) -> float:
    """Return the largest relative difference of an output within the tolerance that needs no explanation."""
    if not experiment.measured:
        return float("inf")
    return _least(experiment)


def _least(experiment: Experiment) -> float:
    eps = torch.finfo(torch.float32 if experiment.single else torch.float64).eps
    return (GPU_ULPS if experiment.on_gpu else ULPS) * eps


def judge_rounding(experiment: Experiment, outcome: Outcome, given: Mapping[int, Given] | None) -> None:
    """Accept differences that rounding explains; narrow the tolerance of other outputs.

    Args:
        experiment: the runs; with ``measured``, outputs within the tolerance are tested as well.
        outcome: of the run.
        given: values that the layers of that run got instead of each other's results.
    """
    least = _least(experiment)
    waiting = {
        key: d
        for key, d in outcome.rounding_candidates(floor(experiment)).items()
        if d.is_computed and not d.mismatched
    }
    if waiting:
        _repeat_both(experiment, given, waiting)
    if not waiting:
        return
    margin = GPU_MARGIN if experiment.on_gpu else MARGIN
    precise = _precise(experiment, outcome, given)
    exact, own = precise.by_key() if precise is not None else {}, dict.fromkeys(waiting, 0.0)
    for run, units in enumerate((0, *PERTURBATION_ULPS)):
        other = outcome if not run and experiment.runs_single else _perturbed(experiment, given, run, units)
        moved = _distances(precise or outcome, other)
        for key, d in waiting.items():
            distance = moved.get(key, 0.0) / (1 if d.is_gradient else max(1, units))
            own[key] = max(own[key], distance * d.error / d.absolute if 0 < d.absolute < float("inf") else 0.0)
        for key, d in list(waiting.items()):
            found = exact[key].error if key in exact else d.error
            if found == float("inf"):  # single precision ends earlier than double
                found = d.error
            d.rounding = max(least, margin * own[key])
            if found <= d.rounding:
                _explained(d, found, precise is not None)
                del waiting[key]
        if not waiting:
            return
    for d in waiting.values():
        if d.ok:
            d.tolerance = min(d.tolerance, d.rounding, d.error / 2)
            d.message = (
                f"expected {d.expected:.9g}, found {d.found:.9g} at {list(d.index or ())}, "
                f"relative error {d.error:.3g}, and rounding explains {d.rounding:.2g}"
            )


def _repeat_both(experiment: Experiment, given: Mapping[int, Given] | None, waiting: dict[Key, Difference]) -> None:
    """Settle what both sides in double precision can, where Torch7 or Lua can compute the reference again."""
    double = experiment.doubled
    if double is None:
        return
    outcome = double.run()
    if given is not None:
        given = double.given(outcome)
        outcome = double.run(given=given)
    judge_rounding(double, outcome, given)
    exact = outcome.by_key()
    for key, d in list(waiting.items()):
        other = exact.get(key)
        if other is None:
            continue
        del waiting[key]
        if other.ok and not d.ok:
            accept_rounding(d, "it agrees when both are repeated in double precision")
            d.message += f"; in double precision {other.error:.2g}"
        elif not other.ok:
            d.tolerance = min(d.tolerance, d.error / 2)
            d.message = f"{other.message} in double precision"


def _explained(d: Difference, found: float, doubled: bool) -> None:
    if d.ok:
        return
    accept_rounding(d)
    where = f"{found:.2g} from the result in double precision, " if doubled else ""
    d.message += f"; the reference is {where}rounding explains {d.rounding:.2g}"


def _precise(experiment: Experiment, outcome: Outcome, given: Mapping[int, Given] | None) -> Outcome | None:
    """Return the run in double precision; None if the model cannot be cast."""
    if not experiment.single:
        return outcome
    try:
        return experiment.run(dtype=torch.float64, given=given)
    except Exception:
        return None


# ---------------------------------------------------------------------- our own runs
def _distances(precise: Outcome, other: Outcome) -> dict[Key, float]:
    """Return the distance of a run's results from the exact ones, for each comparison."""
    found: dict[Key, float] = {}
    theirs = {(i, name): value for i, name, value in other.values()}
    for i, name, exact in precise.values():
        moved = theirs.get((i, name))
        for place, distance in distances(name, exact, moved).items():
            found[i, place] = max(found.get((i, place), 0.0), distance)
    return found


def distances(name: str, exact: Any, moved: Any) -> dict[str, float]:
    """Return the largest distance of finite elements of nested values.

    Args:
        name: of the values; those in tables are named as :func:`~dpnn_bridge.compare.differences.compare` names them.
        exact, moved: the values.
    """
    found: dict[str, float] = {}
    if isinstance(exact, Tensor) and isinstance(moved, Tensor) and exact.shape == moved.shape:
        e, m = exact.detach().to("cpu", torch.float64), moved.detach().to("cpu", torch.float64)
        finite = e.isfinite() & m.isfinite()
        if finite.any():
            found[name] = float((e - m)[finite].abs().max())
    elif isinstance(exact, (list, tuple)) and isinstance(moved, (list, tuple)):
        for k, (e, m) in enumerate(zip(exact, moved, strict=False), 1):
            found |= distances(f"{name}[{k}]", e, m)
    elif isinstance(exact, dict) and isinstance(moved, dict):
        for k in exact.keys() & moved.keys():
            found |= distances(f"{name}.{k}", exact[k], moved[k])
    return found


def _perturbed(experiment: Experiment, given: Mapping[int, Given] | None, seed: int, units: int) -> Outcome:
    """Return a run in the reference's precision, weights and inputs perturbed by up to this many ulps."""
    generator = torch.Generator().manual_seed(seed)
    eps = units * torch.finfo(torch.float32 if experiment.single else torch.float64).eps

    def moved(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        whole = tensor.detach() == tensor.detach().round()  # may be indices, as beside the values of a sparse input
        return tensor.where(whole, tensor * _near_one(tensor, generator, eps))

    @contextmanager
    def running(module: nn.Module) -> Iterator[None]:
        with torch.no_grad():
            for p in module.parameters():
                if p.is_floating_point():
                    p.mul_(_near_one(p, generator, eps))

        def entered(module: nn.Module, args: tuple[Any, ...]) -> Any:
            return (nested.map_tensors(moved, args[0]), *args[1:]) if args else None

        handle = module.register_forward_pre_hook(entered)
        try:
            yield
        finally:
            handle.remove()

    theirs = given and {
        i: Given(nested.map_tensors(moved, g.output), nested.map_tensors(moved, g.grad_input)) for i, g in given.items()
    }
    dtype = torch.float32 if experiment.single and not experiment.runs_single else None
    return experiment.run(dtype=dtype, given=theirs, while_running=running)


def _near_one(tensor: Tensor, generator: torch.Generator, eps: float) -> Tensor:
    noise = 2 * torch.rand(tensor.shape, generator=generator, dtype=torch.float64) - 1
    return (1 + eps * noise).to(tensor.device, tensor.dtype)
