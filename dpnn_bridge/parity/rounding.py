"""Decide which differences rounding errors explain, by further runs of the model.

A reference in single precision contains the rounding errors of the program that computed it. A run of the model in
double precision measures the error of the reference. Several runs in single precision, with all weights and inputs
perturbed by some ulps, measure the expected error of one run. The errors of Torch7 and PyTorch have the same size:
over all fixtures and published architectures, the error of the reference was at most 1.5 times the error of PyTorch's
run, where that exceeded :data:`ULPS`. An error above :data:`MARGIN` times the expected error is not rounding.

In double precision, only a discontinuity or strong amplification makes such an error larger than the tolerance, for
example an input of ``nn.HardShrink`` at its threshold. Then only the elements that change in the perturbed runs may
differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.compare import nested
from dpnn_bridge.compare.differences import Difference
from dpnn_bridge.compare.limited import take_comparison
from dpnn_bridge.parity.accepted import accept_rounding
from dpnn_bridge.parity.experiment import Experiment, Key, Outcome
from dpnn_bridge.parity.layers import Given

#: differences of up to this many ulps of the largest value are always accepted as rounding
ULPS = 8
#: accepted error of the reference, as a multiple of the largest error of PyTorch's runs
MARGIN = 4
#: both for a reference that was computed by a GPU, whose algorithms (Winograd, FFT) are less exact
GPU_ULPS, GPU_MARGIN = 128, 32
#: maximum perturbation in ulps of each run. Larger ones change the maximum of a pooling window or the sign before a
#: ReLU, which changes gradients abruptly, as in a deep network. For outputs, the effect is scaled to one ulp
PERTURBATION_ULPS = (1, 1, 4, 4, 16, 16)


def floor(experiment: Experiment) -> float:
    """Return the relative difference above which an output within the tolerance needs the rounding test."""
    if not experiment.measured:
        return float("inf")
    return _min_accepted(experiment)


def _min_accepted(experiment: Experiment) -> float:
    """Return the relative difference that is always accepted as rounding."""
    eps = torch.finfo(torch.float32 if experiment.single else torch.float64).eps
    return (GPU_ULPS if experiment.on_gpu else ULPS) * eps


def judge_rounding(experiment: Experiment, outcome: Outcome, given: Mapping[int, Given] | None) -> None:
    """Accept differences that rounding explains; reject outputs within the tolerance that rounding does not explain.

    Args:
        experiment: the experiment; with ``measured``, outputs within the tolerance are tested too.
        outcome: results of the run.
        given: argument ``given`` of the run, see :meth:`Experiment.run`.
    """
    min_accepted = _min_accepted(experiment)
    pending = {
        key: d
        for key, d in outcome.rounding_candidates(floor(experiment)).items()
        if d.is_computed and not d.mismatched
    }
    if pending:
        _repeat_in_double(experiment, given, pending)
    if not pending:
        return
    margin = GPU_MARGIN if experiment.on_gpu else MARGIN
    precise = _precise(experiment, outcome, given)
    exact, own = precise.by_key() if precise is not None else {}, dict.fromkeys(pending, 0.0)
    steady = {} if experiment.single else {key: d.differing for key, d in pending.items() if d.differing is not None}
    limits = {key: d.tolerance * d.scale for key, d in pending.items() if key in steady}
    for run, ulps in enumerate((0, *PERTURBATION_ULPS)):
        other = outcome if not run and experiment.runs_single else _perturbed(experiment, given, run, ulps)
        all_distances = _distances(precise or outcome, other)
        _discard_changed(steady, limits, outcome, other)
        for key, d in pending.items():
            distance = all_distances.get(key, 0.0) / (1 if d.is_gradient else max(1, ulps))
            own[key] = max(own[key], distance / d.scale if d.absolute < float("inf") else 0.0)
        for key, d in list(pending.items()):
            error = exact[key].error if key in exact else d.error
            if error == float("inf"):  # the reference overflowed in single precision
                error = d.error
            d.rounding = max(min_accepted, margin * own[key])
            if error <= d.rounding < float("inf") and (key not in steady or not steady[key].any()):
                _accept(d, error, precise is not None)
                del pending[key]
        if not pending:
            return
    for key, d in pending.items():
        if d.error <= d.rounding and key in steady:
            d.message += (
                f"; rounding does not explain {int(steady[key].sum())} of them, which perturbed runs do not change"
            )
        if d.ok:
            d.tolerance = min(d.tolerance, d.rounding, d.error / 2)
            d.message = (
                f"expected {d.expected:.9g}, found {d.found:.9g} at {list(d.index or ())}, "
                f"relative error {d.error:.3g}, and rounding explains {d.rounding:.2g}"
            )


def _repeat_in_double(
    experiment: Experiment, given: Mapping[int, Given] | None, pending: dict[Key, Difference]
) -> None:
    """Decide comparisons by a run in double precision, if Torch7 or Lua can compute the reference again.

    Args:
        experiment, given: see :func:`judge_rounding`.
        pending: the comparisons; the decided ones are removed.
    """
    double = experiment.doubled
    if double is None:
        return
    outcome = double.run()
    if given is not None:
        given = double.given(outcome)
        outcome = double.run(given=given)
    judge_rounding(double, outcome, given)
    exact = outcome.by_key()
    for key, d in list(pending.items()):
        other = exact.get(key)
        if other is None:
            continue
        del pending[key]
        if other.ok and not d.ok:
            accept_rounding(d, "the results agree when both are repeated in double precision")
            d.message += f"; in double precision {other.error:.2g}"
        elif not other.ok:
            d.tolerance = min(d.tolerance, d.error / 2)
            d.message = f"{other.message} in double precision"


def _accept(d: Difference, error: float, in_double: bool) -> None:
    """Accept a failed comparison.

    Args:
        d: the comparison.
        error: relative difference of the reference from the run in double precision, or from the run itself.
        in_double: whether there was a run in double precision.
    """
    if d.ok:
        return
    accept_rounding(d)
    if in_double:
        d.message += f"; the reference differs by {error:.2g} from the result in double precision"
    d.message += f"; rounding explains {d.rounding:.2g}"


def _precise(experiment: Experiment, outcome: Outcome, given: Mapping[int, Given] | None) -> Outcome | None:
    """Return the run in double precision; None if the model cannot be cast."""
    if not experiment.single:
        return outcome
    try:
        return experiment.run(dtype=torch.float64, given=given)
    except Exception:
        return None


# ---------------------------------------------------------------------- perturbed runs
def _results(precise: Outcome, other: Outcome) -> Iterator[tuple[Key, Tensor, Tensor]]:
    """Yield the tensors of the results of two runs, in double precision, for each comparison."""
    others = {(i, name): value for i, name, value in other.values()}
    for i, name, exact in precise.values():
        for part, a, b in _pairs(name, exact, others.get((i, name))):
            yield (i, part), a, b


def _distances(precise: Outcome, other: Outcome) -> dict[Key, float]:
    """Return the largest difference of a run's results from the precise results, for each comparison."""
    found: dict[Key, float] = {}
    for key, a, b in _results(precise, other):
        distance = _distance(a, b)
        if distance is not None:
            found[key] = max(found.get(key, 0.0), distance)
    return found


def _discard_changed(steady: dict[Key, Tensor], limits: dict[Key, float], precise: Outcome, other: Outcome) -> None:
    """Keep the elements of ``steady``, flat masks, that do not differ by more than a limit between two runs.

    Args:
        steady: the masks; changed.
        limits: absolute tolerance of each comparison.
        precise, other: the runs.
    """
    for key, a, b in _results(precise, other) if steady else ():
        if key in steady and a.numel() == steady[key].numel():
            steady[key] = steady[key] & ~(MARGIN * (a - b).abs().flatten() > limits[key])


def distances(name: str, exact: Any, other: Any) -> dict[str, float]:
    """Return the largest absolute difference of finite elements, for each tensor of nested values.

    Args:
        name: name of the values. Names of tensors in tables are as in :func:`~dpnn_bridge.compare.differences.compare`.
        exact, other: the values.
    """
    found = {part: _distance(a, b) for part, a, b in _pairs(name, exact, other)}
    return {part: distance for part, distance in found.items() if distance is not None}


def _distance(a: Tensor, b: Tensor) -> float | None:
    """Return the largest absolute difference of elements that are finite in both; None if there are none."""
    finite = a.isfinite() & b.isfinite()
    return float((a - b)[finite].abs().max()) if finite.any() else None


def _pairs(name: str, exact: Any, other: Any) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield name and both values, in double precision, for each tensor of nested values; see :func:`distances`."""
    if isinstance(exact, Tensor) and isinstance(other, Tensor) and exact.shape == other.shape:
        take_comparison(exact)
        yield name, exact.detach().to("cpu", torch.float64), other.detach().to("cpu", torch.float64)
    elif isinstance(exact, (list, tuple)) and isinstance(other, (list, tuple)):
        for k, (a, b) in enumerate(zip(exact, other, strict=False), 1):
            yield from _pairs(f"{name}[{k}]", a, b)
    elif isinstance(exact, dict) and isinstance(other, dict):
        for k in exact.keys() & other.keys():
            yield from _pairs(f"{name}.{k}", exact[k], other[k])


def _perturbed(experiment: Experiment, given: Mapping[int, Given] | None, seed: int, ulps: int) -> Outcome:
    """Return a run in the reference's precision, with weights and inputs perturbed by up to ``ulps`` ulps."""
    generator = torch.Generator().manual_seed(seed)
    eps = ulps * torch.finfo(torch.float32 if experiment.single else torch.float64).eps

    def perturb(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        integral = tensor.detach() == tensor.detach().round()  # may be indices, as in a sparse input
        return tensor.where(integral, tensor * _factors(tensor, generator, eps))

    @contextmanager
    def running(module: nn.Module) -> Iterator[None]:
        with torch.no_grad():
            for p in module.parameters():
                if p.is_floating_point():
                    p.mul_(_factors(p, generator, eps))

        def perturb_input(module: nn.Module, args: tuple[Any, ...]) -> Any:
            return (nested.map_tensors(perturb, args[0]), *args[1:]) if args else None

        handle = module.register_forward_pre_hook(perturb_input)
        try:
            yield
        finally:
            handle.remove()

    perturbed = given and {
        i: Given(nested.map_tensors(perturb, g.output), nested.map_tensors(perturb, g.grad_input))
        for i, g in given.items()
    }
    dtype = torch.float32 if experiment.single and not experiment.runs_single else None
    return experiment.run(dtype=dtype, given=perturbed, while_running=running)


def _factors(tensor: Tensor, generator: torch.Generator, eps: float) -> Tensor:
    """Return random factors between 1 - eps and 1 + eps."""
    noise = 2 * torch.rand(tensor.shape, generator=generator, dtype=torch.float64) - 1
    return (1 + eps * noise).to(tensor.device, tensor.dtype)
