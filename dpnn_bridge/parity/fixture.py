"""Compare a converted module with values that Torch7 stored.

A fixture is a table written by Torch7: ``module`` (fresh), ``input``, ``target`` (criterions), ``output``,
``gradOutput``, ``gradInput``, ``params``, ``gradParams``, ``after`` (the module afterwards) and, if they apply,
``scale``, ``forwards``, ``reward``, ``seed`` (of the random numbers, if no ``after`` stores them).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge import training
from dpnn_bridge.base.arguments import checks_arguments
from dpnn_bridge.base.boundary import wrap_errors
from dpnn_bridge.base.display import shortened
from dpnn_bridge.compare.differences import Difference, Result, Tolerance, compare
from dpnn_bridge.compare.nested import backward, cast, require_grad
from dpnn_bridge.compare.precision import full_precision
from dpnn_bridge.conversion import convert_object, registry
from dpnn_bridge.conversion.failure import failure_reason
from dpnn_bridge.conversion.lua_values import to_value
from dpnn_bridge.conversion.noise import has_noise, paired, replayed
from dpnn_bridge.conversion.options import Options
from dpnn_bridge.conversion.placeholder import Placeholder
from dpnn_bridge.errors import ConversionError, DpnnBridgeError, VerificationError
from dpnn_bridge.objects import LuaObject, LuaTable
from dpnn_bridge.parity.bounded import RunLimits
from dpnn_bridge.parity.faults import Faults
from dpnn_bridge.parity.gradients import (
    compare_grad_input,
    compare_gradients,
    memory_of,
    refused,
    shaped_like,
    zero_grad,
)
from dpnn_bridge.parity.layers import ordered
from dpnn_bridge.torch7.draws import torch7_random


# ---------------------------------------------------------------------- fixtures
@checks_arguments
@wrap_errors(VerificationError, "running the fixture")
def check(
    fixture: LuaTable,
    *,
    device: str | torch.device = "cpu",
    tolerance: Tolerance | None = None,
    options: Options | None = None,
) -> Result:
    """Convert ``fixture["module"]``, run it, and compare everything in the fixture.

    Args:
        fixture: table of kind ``module`` or ``criterion``.
        device: where to run.
        tolerance: defaults to ``Tolerance()``.
        options: how to convert.

    Returns:
        One :class:`Difference` for each parameter, output, gradient and updated buffer.
    """
    options = options or Options()
    module = convert_object(fixture["module"], options)[0]
    return check_module(module, fixture, device=device, tolerance=tolerance, options=options)


@checks_arguments
def check_module(
    module: nn.Module,
    fixture: LuaTable,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    tolerance: Tolerance | None = None,
    gradient_tolerance: Tolerance | None = None,
    gradients: bool = True,
    options: Options | None = None,
    running: RunLimits = nullcontext,
) -> Result:
    """Implement :func:`check` for an existing module.

    Comparisons that a known fault of Torch7 affects are accepted.

    Args:
        module: module to run, in the fixture's training or evaluation mode.
        fixture: a table with ``input``, ``output`` and the other results to compare.
        device: where to run.
        dtype: casts the module and its inputs; default: as they are.
        tolerance: defaults to ``Tolerance()``.
        gradient_tolerance: of ``gradInput`` and ``gradParams``; defaults to ``tolerance``.
        gradients: run backward when the fixture contains gradients.
        options: how the fixture's ``after`` was converted, to compare updated buffers.
        running: limits the resources of forward and backward.
    """
    module = module.to(device=device, dtype=dtype)
    tolerance = tolerance or Tolerance()
    faults = Faults(module)
    with ordered(module) if faults.faulty_modules else nullcontext({}) as order:
        allowed = tolerance, gradient_tolerance or tolerance
        result = _checked(module, fixture, device, dtype, *allowed, gradients, options, running)
    faults.mark(result.differences, order)
    return result


def _checked(
    module: nn.Module,
    fixture: LuaTable,
    device: str | torch.device,
    dtype: torch.dtype | None,
    tolerance: Tolerance,
    gradient_tolerance: Tolerance,
    gradients: bool,
    options: Options | None,
    running: RunLimits,
) -> Result:
    if dtype not in (None, torch.float64) or any(p.dtype == torch.float32 for p in module.parameters()):
        tolerance, gradient_tolerance = tolerance.in_single(), gradient_tolerance.in_single()
    result = Result()
    expect = result.differences
    expected_params = cast(to_value(fixture.get("params")), dtype)
    if expected_params:
        params = shaped_like(training.parameters(module)[0], expected_params)
        expect += compare("params", params, expected_params, Tolerance(0.0, 0.0))

    def value(name: str) -> Any:
        return cast(to_value(fixture.get(name), device=device), dtype)

    inputs = require_grad(value("input"))
    arguments = [inputs]
    if fixture.get("target") is not None or fixture.get("kind") == "criterion":
        arguments.append(value("target"))
    if fixture.get("forward_error") is not None:
        with running(module):
            return Result([*expect, refused("forward", fixture["forward_error"], lambda: module(*arguments))])
    versions = {name: p._version for name, p in module.named_parameters()}
    with full_precision():
        with random_numbers(module, fixture), torch.set_grad_enabled(gradients), running(module):
            for _ in range(_forwards(fixture)):
                output = called(module, *arguments)
        compared: list[Difference] = []
        if "output" in fixture or "module" in fixture:  # a fixture without an output says that Torch7 returned nothing
            compared = compare("output", output, to_value(fixture.get("output")), tolerance)
        expect += compared
        if any(d.mismatched for d in compared):  # gradOutput does not fit
            return result
        grad_output = value("gradOutput")
        backward_error = fixture.get("backward_error") or fixture.get("backwardError")
        if gradients and backward_error is not None:
            with running(module):
                return Result([*expect, refused("backward", backward_error, lambda: backward(output, grad_output))])
        if not gradients or ("gradInput" not in fixture and "gradParams" not in fixture):
            expect += _compare_after(module, fixture, versions, tolerance, options)
            return result

        if fixture.get("reward") is not None:
            training.reinforce(module, value("reward"))
        zero_grad(module)
        with running(module):
            backward(output, grad_output)
    expect += _compare_gradients(module, fixture, inputs, gradient_tolerance)
    expect += _compare_after(module, fixture, versions, tolerance, options)
    return result


def _compare_gradients(module: nn.Module, fixture: LuaTable, inputs: Any, tolerance: Tolerance) -> list[Difference]:
    """Compare the gradients of input and parameters after a backward pass."""
    found: list[Difference] = []
    scale = fixture.get("scale")
    if "gradInput" in fixture:
        found += compare_grad_input("gradInput", inputs, to_value(fixture["gradInput"]), tolerance)
    if fixture.get("gradParams") is not None:
        grads = [g if scale is None else g * scale for g in training.parameters(module)[1]]
        expected = to_value(fixture["gradParams"])
        memory = memory_of(fixture["gradParams"])
        found += compare_gradients(module, shaped_like(grads, expected), expected, tolerance, memory)
    return found


def called(module: nn.Module, *arguments: Any) -> Any:
    """Run a module on the input of a reference.

    Raises:
        ConversionError: The module cannot run on it.
    """
    try:
        return module(*arguments)
    except DpnnBridgeError:
        raise
    except Exception as error:
        where = f"the model cannot run on this input, {_in_words(arguments[0])}"
        raise ConversionError(f"{where}: {failure_reason(error)}") from error


def _in_words(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, dict):
        return f"a table with the fields {shortened(', '.join(map(str, value)), 200)}"
    return f"a list of {len(value)}" if isinstance(value, list) else f"a value of type {type(value).__name__}"


def _compare_after(
    module: nn.Module, fixture: LuaTable, versions: dict[str, int], tolerance: Tolerance, options: Options | None
) -> list[Difference]:
    """Compare the parameters and buffers with those of the fixture's ``after``.

    A parameter that no forward touches is a copy: the same number, in the coarser of both precisions. One that changed,
    as ``nn.LookupTable`` with a ``maxNorm`` does, is a result.

    Args:
        module: after its run.
        fixture: the reference.
        versions: of its parameters, before the run.
        tolerance: of results.
        options: how ``after`` is converted.
    """
    after = fixture.get("after")
    if not isinstance(after, LuaObject) or registry.find(after) is None:
        return []
    reached = convert_object(after, options or Options())[0]
    old = {id(m) for m, obj in paired(reached, after) if _is_older(obj)}
    mine, theirs = (_statistics(m, reached, old) for m in (module, reached))
    working = {name for name in theirs if _is_working(name, module, theirs[name])}
    mine, theirs = ({name: b for name, b in each.items() if name not in working} for each in (mine, theirs))
    found = compare("after", mine, theirs, tolerance)
    parameters = dict(reached.named_parameters()) if not to_value(fixture.get("params")) else {}  # compared already
    for name, p in module.named_parameters():
        e = parameters.get(name)
        if e is None or e.shape != p.shape:  # a first forward may have built them
            continue
        if p._version != versions.get(name):
            found += compare(f"after.{name}", p, e.detach(), tolerance)
        else:
            coarser = min(p.dtype, e.dtype, key=lambda t: t.itemsize)
            found += compare(f"params.{name}", p.to(coarser), e.detach().to(coarser), Tolerance(0.0, 0.0))
    return found


def _is_working(name: str, module: nn.Module, tensor: Tensor) -> bool:
    """Return whether a buffer is a tensor of Lua code that the run made or resized, so that PyTorch does not see it."""
    owner, _, leaf = name.rpartition(".")
    layer = module.get_submodule(owner)
    ours = layer._buffers.get(leaf)
    return isinstance(layer, Placeholder) and (ours is None or ours.shape != tensor.shape)


def _is_older(obj: LuaObject) -> bool:
    """Return whether ``obj`` is of an older version of its class, whose statistics Torch7 converts on load."""
    mapping = registry.find(obj)
    return mapping is not None and obj.version < mapping.version


def _statistics(module: nn.Module, like: nn.Module, skipped: set[int]) -> dict[str, Tensor]:
    """Return the floating point buffers of ``module``, without those of ``skipped`` in ``like``."""
    without = {name for name, m in like.named_modules() if id(m) in skipped}
    return {name: b for name, b in floating_buffers(module) if name.rpartition(".")[0] not in without}


#: forwards that a fixture may ask for
MAX_FORWARDS = 1000


def _forwards(fixture: LuaTable) -> int:
    """Return the number of forward passes before Torch7 stored the output."""
    hooks = fixture.get("hooks")
    twice = isinstance(hooks, LuaTable) and hooks.get("fwd") == "twice"
    count = 2 if twice else int(fixture.get("forwards") or 1)
    if count > MAX_FORWARDS:
        raise VerificationError(f"the fixture requests {count} forward passes, more than {MAX_FORWARDS}")
    return count


def floating_buffers(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the names and tensors of floating point buffers such as running statistics."""
    return ((n, b) for n, b in module.named_buffers() if b.is_floating_point() and not b.is_meta)


def random_numbers(module: nn.Module, fixture: LuaTable) -> AbstractContextManager[Any]:
    """Make random modules use Torch7's random numbers: from ``after``, or from the seed."""
    after, seed = fixture.get("after"), fixture.get("seed")
    known = after is not None and (seed is None or has_noise(module, after))
    return replayed(module, after) if known else torch7_random(seed)
