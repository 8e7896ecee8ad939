"""Compare a converted module with stored results of Torch7.

A fixture is a table written by Torch7: ``module`` (before its run), ``input``, ``target`` (for criterions), ``output``,
``gradOutput``, ``gradInput``, ``params``, ``gradParams``, ``after`` (the module after its run) and optionally
``scale``, ``forwards``, ``reward`` and ``seed`` (if ``after`` does not contain the random numbers).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

import dpnn_bridge.training as training
from dpnn_bridge.base.arguments import checks_arguments
from dpnn_bridge.base.boundary import wrap_errors
from dpnn_bridge.base.display import described, shortened
from dpnn_bridge.compare.differences import Difference, Result, Tolerance, compare
from dpnn_bridge.compare.nested import as_table, backward, cast, leaves, require_grad
from dpnn_bridge.compare.precision import full_precision
from dpnn_bridge.conversion import fields, registry
from dpnn_bridge.conversion.convert import convert_object
from dpnn_bridge.conversion.failure import failure_reason
from dpnn_bridge.conversion.lua_values import to_expected, to_value
from dpnn_bridge.conversion.noise import noisy_modules, paired, replayed
from dpnn_bridge.conversion.options import Options
from dpnn_bridge.conversion.placeholder import Placeholder
from dpnn_bridge.errors import ConversionError, DpnnBridgeError, VerificationError
from dpnn_bridge.modules.inputs import accepted_instead
from dpnn_bridge.objects import LuaObject, LuaTable
from dpnn_bridge.parity.bounded import RunLimits, comparing
from dpnn_bridge.parity.faults import Faults, compare_output
from dpnn_bridge.parity.gradients import (
    compare_grad_input,
    compare_gradients,
    memory_of,
    of_gradients,
    refused,
    shaped_like,
    zero_grad,
)
from dpnn_bridge.parity.layers import ordered, repeated_modules
from dpnn_bridge.parity.random_settings import compare_settings
from dpnn_bridge.parity.seeds import lua_generator
from dpnn_bridge.parity.upgraded import upgraded
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
    running: RunLimits = nullcontext,
) -> Result:
    """Convert ``fixture["module"]``, run it, and compare all results in the fixture.

    Args:
        fixture: the fixture of a module or criterion.
        device: device on which the module runs.
        tolerance: accepted differences; default: ``Tolerance()``.
        options: options of the conversion.
        running: limits the resources of the forward and backward pass.

    Returns:
        One :class:`Difference` for each parameter, output, gradient and updated buffer.
    """
    options = options or Options()
    if not isinstance(fixture.get("module"), LuaObject):
        raise VerificationError("the fixture contains no module; pass the module to check_module")
    module = convert_object(fixture["module"], options)[0]
    fixture = upgraded(fixture, module, fixture["module"])
    return check_module(module, fixture, device=device, tolerance=tolerance, options=options, running=running)


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
    faults: Faults | None = None,
) -> Result:
    """Run an existing module and compare all results in a fixture.

    Comparisons that a known fault of Torch7 affects are accepted.

    Args:
        module: the module, in the fixture's training or evaluation mode.
        fixture: a table with ``input``, ``output`` and the other results to compare.
        device: device on which the module runs.
        dtype: dtype to which the module and its inputs are cast; default: no cast.
        tolerance: accepted differences; default: ``Tolerance()``.
        gradient_tolerance: accepted differences of ``gradInput`` and ``gradParams``; default: ``tolerance``, with a
            minimum scale proportional to ``gradOutput``.
        gradients: whether to run backward if the fixture contains gradients.
        options: options for converting the fixture's ``after``, to compare updated buffers.
        running: limits the resources of the forward and backward pass.
        faults: the faults of Torch7 in the module; default: those of its classes.

    Returns:
        One :class:`Difference` for each parameter, output, gradient and updated buffer.
    """
    module = module.to(device=device, dtype=dtype)
    tolerance = tolerance or Tolerance()
    faults = Faults(module) if faults is None else faults
    with ordered(module) if faults.faulty_modules else nullcontext({}) as order:
        allowed = tolerance, gradient_tolerance or of_gradients(tolerance, fixture)
        with comparing(running, fixture):
            arguments = fixture, device, dtype, *allowed, gradients, options, running
            result = _run_and_compare(module, *arguments, faults)
    faults.gradients = gradients and ("gradInput" in fixture or "gradParams" in fixture)
    faults.run = lambda model: _run_and_compare(model, *arguments).differences
    faults.mark(result.differences, order)
    return result


def _run_and_compare(
    module: nn.Module,
    fixture: LuaTable,
    device: str | torch.device,
    dtype: torch.dtype | None,
    tolerance: Tolerance,
    gradient_tolerance: Tolerance,
    gradients: bool,
    options: Options | None,
    running: RunLimits,
    faults: Faults | None = None,
) -> Result:
    if dtype not in (None, torch.float64) or any(p.dtype == torch.float32 for p in module.parameters()):
        tolerance, gradient_tolerance = tolerance.in_single(), gradient_tolerance.in_single()
    result = Result()
    differences = result.differences
    expected_params = cast(to_value(fixture.get("params")), dtype)
    if expected_params:
        params = shaped_like(training.parameters(module)[0], expected_params)
        differences += compare("params", params, expected_params, Tolerance(0.0, 0.0))

    def value(name: str) -> Any:
        return cast(to_value(fixture.get(name), device=device), dtype)

    arguments = _arguments(fixture, device, dtype)
    inputs = arguments[0]
    if faults is not None:
        faults.forward = lambda model: _forward(model, fixture, _arguments(fixture, device, dtype), running)
    if fixture.get("forward_error") is not None:
        with running(module):
            return Result([*differences, refused("forward", fixture["forward_error"], lambda: module(*arguments))])
    versions = {name: p._version for name, p in module.named_parameters()}
    with full_precision():
        with torch.set_grad_enabled(gradients):
            output = _forward(module, fixture, arguments, running)
        compared: list[Difference] = []
        if "output" in fixture or "module" in fixture:  # in a fixture without an output, Torch7 returned nothing
            expected = to_expected(fixture.get("output"))
            compared = compare_output(module, output, expected, tolerance)
            if faults is not None:
                faults.compare = lambda other: compare_output(module, other, expected, tolerance)
                faults.expected = expected
        differences += compared
        if any(d.mismatched for d in compared):  # gradOutput has the wrong shape
            return result
        grad_output = value("gradOutput")
        backward_error = fixture.get("backward_error") or fixture.get("backwardError")
        if gradients and backward_error is not None:
            with running(module):
                failure = refused("backward", backward_error, lambda: backward(output, grad_output))
            return Result([*differences, failure])
        if not gradients or ("gradInput" not in fixture and "gradParams" not in fixture):
            differences += _compare_after(module, fixture, versions, tolerance, options)
            return result

        if fixture.get("reward") is not None:
            training.reinforce(module, value("reward"))
        zero_grad(module)
        with running(module):
            backward(output, grad_output)
    found = _compare_gradients(module, fixture, inputs, gradient_tolerance)
    is_loss = len(arguments) > 1 or not any(isinstance(o, Tensor) and o.dim() for o in leaves(output))
    if grad_output is None and not is_loss and not all(d.ok for d in found):  # those of REINFORCE need none
        advice = "add the gradient that `backward` got, or use gradients=False (--no-backward)"
        raise VerificationError(f"the reference contains gradInput or gradParams, but no gradOutput; {advice}")
    differences += found
    differences += _compare_after(module, fixture, versions, tolerance, options)
    return result


def _arguments(fixture: LuaTable, device: str | torch.device, dtype: torch.dtype | None) -> list[Any]:
    """Return the input of a fixture, and its target if there is one."""
    names = ["input"]
    if fixture.get("target") is not None or fixture.get("kind") == "criterion":
        names.append("target")
    values = [cast(to_value(fixture.get(name), device=device), dtype) for name in names]
    return [require_grad(values[0]), *values[1:]]


def _forward(module: nn.Module, fixture: LuaTable, arguments: list[Any], running: RunLimits) -> Any:
    """Run a module as often as a fixture says, with Torch7's random numbers; return the last output."""
    output = None
    with random_numbers(module, fixture), running(module):
        for _ in range(_forwards(fixture)):
            output = call(module, *arguments)
    return output


def _compare_gradients(module: nn.Module, fixture: LuaTable, inputs: Any, tolerance: Tolerance) -> list[Difference]:
    """Compare the gradients of input and parameters after a backward pass."""
    found: list[Difference] = []
    scale = fixture.get("scale")
    if "gradInput" in fixture:
        found += compare_grad_input("gradInput", inputs, to_expected(fixture["gradInput"]), tolerance)
    if fixture.get("gradParams") is not None:
        grads = [g if scale is None else g * scale for g in training.parameters(module)[1]]
        expected = to_expected(fixture["gradParams"])
        memory = memory_of(fixture["gradParams"])
        found += compare_gradients(module, shaped_like(grads, expected), expected, tolerance, memory)
    return found


def call(module: nn.Module, *arguments: Any) -> Any:
    """Run a module on the input of a reference.

    Raises:
        ConversionError: the module cannot run on the input.
    """
    try:
        return as_table(module(*arguments))
    except DpnnBridgeError:
        raise
    except Exception as error:
        message = f"the model cannot run on this input, {_description(arguments[0])}"
        accepted = accepted_instead(module, arguments[0])
        raise ConversionError(f"{message}: {failure_reason(error)}{accepted}") from error


def _description(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, dict):
        return f"a table with the fields {shortened(', '.join(map(str, value)), 200)}"
    return f"a list of {len(value)}" if isinstance(value, list) else f"a value of type {type(value).__name__}"


def _compare_after(
    module: nn.Module, fixture: LuaTable, versions: dict[str, int], tolerance: Tolerance, options: Options | None
) -> list[Difference]:
    """Compare the parameters and buffers after the run with those of the fixture's ``after``.

    A parameter that the run did not change is compared exactly, in the lower of both precisions. A parameter that the
    run changed, such as the weight of ``nn.LookupTable`` with ``maxNorm``, is compared like an output.

    Args:
        module: the module, after its run.
        fixture: the fixture.
        versions: name of each parameter -> its ``_version`` before the run.
        tolerance: accepted differences of results.
        options: options for converting ``after``.
    """
    after = fixture.get("after")
    if not isinstance(after, LuaObject) or registry.find(after) is None:
        return []
    converted = convert_object(after, options or Options())[0]
    old = {id(m) for m, obj in paired(converted, after) if _is_older(obj)}
    actual, expected = (_statistics(m, converted, old) for m in (module, converted))
    if fields.record_of(module) is None and actual.keys() != expected.keys():  # a module that was written by hand
        shapes = [[b.shape for b in each.values()] for each in (actual, expected)]
        expected = dict(zip(actual, expected.values(), strict=True)) if shapes[0] == shapes[1] else {}
        settings = compare_settings(module, converted, after)
        return compare("after", actual if expected else {}, expected, tolerance) + settings
    temporary = {name for name in expected if _is_temporary(name, module, expected[name])}
    actual, expected = ({name: b for name, b in each.items() if name not in temporary} for each in (actual, expected))
    found = compare("after", actual, expected, tolerance) + compare_settings(module, converted, after)
    # if the fixture contains `params`, the parameters were compared already
    parameters = dict(converted.named_parameters()) if not to_value(fixture.get("params")) else {}
    for name, p in module.named_parameters():
        e = parameters.get(name)
        if e is None or e.shape != p.shape:  # the run may have created or resized the parameter
            continue
        if p._version != versions.get(name):
            found += compare(f"after.{name}", p, e.detach(), tolerance)
        else:
            coarser = min(p.dtype, e.dtype, key=lambda t: t.itemsize)
            found += compare(f"params.{name}", p.to(coarser), e.detach().to(coarser), Tolerance(0.0, 0.0))
    return found


def _is_temporary(name: str, module: nn.Module, tensor: Tensor) -> bool:
    """Return whether a buffer belongs to Lua code that created or resized it, so that PyTorch has another tensor."""
    owner, _, leaf = name.rpartition(".")
    try:
        layer = module.get_submodule(owner)
    except AttributeError:  # another structure
        return False
    buffer = layer._buffers.get(leaf)
    return isinstance(layer, Placeholder) and (buffer is None or buffer.shape != tensor.shape)


def _is_older(obj: LuaObject) -> bool:
    """Return whether an object has an older version of its class, whose statistics Torch7 converts on load."""
    mapping = registry.find(obj)
    return mapping is not None and obj.version < mapping.version


def _statistics(module: nn.Module, like: nn.Module, skipped: set[int]) -> dict[str, Tensor]:
    """Return the floating point buffers of ``module``.

    Args:
        module: the module.
        like: a module of the same structure.
        skipped: ids of submodules of ``like``; the buffers of the corresponding submodules are omitted.
    """
    without = {name for name, m in like.named_modules() if id(m) in skipped}
    return {name: b for name, b in floating_buffers(module) if name.rpartition(".")[0] not in without}


#: maximum number of forward passes in a fixture
MAX_FORWARDS = 1000


def _forwards(fixture: LuaTable) -> int:
    """Return the number of forward passes before Torch7 stored the output."""
    hooks = fixture.get("hooks")
    twice = isinstance(hooks, LuaTable) and hooks.get("fwd") == "twice"
    count = 2 if twice else fixture.get("forwards") or 1
    if type(count) is not int or not 1 <= count <= MAX_FORWARDS:
        raise VerificationError(f"the fixture requests {described(count)} forward passes, expected 1 to {MAX_FORWARDS}")
    return count


def floating_buffers(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the names and tensors of floating point buffers, such as running statistics."""
    return ((n, b) for n, b in module.named_buffers() if b.is_floating_point() and not b.is_meta)


def random_numbers(module: nn.Module, fixture: LuaTable) -> AbstractContextManager[Any]:
    """Return a context manager in which random modules use Torch7's random numbers, from ``after`` or the seed."""
    after, seed = fixture.get("after"), fixture.get("seed")
    noisy = noisy_modules(module, after)
    # `after` has the numbers of their last use only
    repeated = {id(m) for several in repeated_modules(module) for m in several.modules()} if noisy else set()
    known = not noisy & repeated and bool(noisy or seed is None)
    return replayed(module, after) if known else torch7_random(seed, lua_generator(module))
