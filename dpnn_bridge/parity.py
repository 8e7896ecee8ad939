"""Does a converted module compute what Torch7 computed? Compares with values that Torch7 stored.

A fixture is a table written by Torch7: ``module`` (fresh), ``input``, ``target`` (criterions), ``output``,
``gradOutput``, ``gradInput``, ``params``, ``gradParams``, ``after`` (the module afterwards) and, where they apply,
``scale``, ``forwards``, ``reward``, ``seed`` (of the random numbers, when there is no ``after`` that stores them).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge import registry, training
from dpnn_bridge.conversion import convert_object
from dpnn_bridge.differences import Difference, Result, Tolerance, compare, compare_tensor, mismatch
from dpnn_bridge.errors import VerificationError
from dpnn_bridge.lua_values import to_value
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor
from dpnn_bridge.replay import torch7_random
from dpnn_bridge.torch_context import Options


# ---------------------------------------------------------------------- fixtures
def check(
    fixture: LuaTable,
    *,
    device: str | torch.device = "cpu",
    tolerance: Tolerance | None = None,
    options: Options | None = None,
) -> Result:
    """Converts ``fixture["module"]``, runs it and compares everything the fixture holds.

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
) -> Result:
    """:func:`check` of a module that is there already.

    Args:
        module: what to run, in the training or evaluation mode that the fixture is for.
        fixture: a table with ``input``, ``output`` and whatever else is to be compared.
        device: where to run.
        dtype: casts the module and its inputs; default: as they are.
        tolerance: defaults to ``Tolerance()``.
        gradient_tolerance: of ``gradInput`` and ``gradParams``; defaults to ``tolerance``.
        gradients: run backward when the fixture holds gradients.
        options: how the fixture's ``after`` was converted, to compare updated buffers.
    """
    module = module.to(device=device, dtype=dtype)
    tolerance = tolerance or Tolerance()
    gradient_tolerance = gradient_tolerance or tolerance
    if dtype not in (None, torch.float64) or any(p.dtype == torch.float32 for p in module.parameters()):
        tolerance, gradient_tolerance = tolerance.in_single(), gradient_tolerance.in_single()
    result = Result()
    expect = result.differences
    expected_params = to_value(fixture.get("params"))
    if expected_params and dtype is None:
        params = _viewed(training.parameters(module)[0], expected_params)
        expect += compare("params", params, expected_params, Tolerance(0.0, 0.0))

    def value(name: str) -> Any:
        return cast(to_value(fixture.get(name), device=device), dtype)

    inputs = require_grad(value("input"))
    arguments = [inputs]
    if fixture.get("target") is not None or fixture.get("kind") == "criterion":
        arguments.append(value("target"))
    if fixture.get("forward_error") is not None:
        return Result([*expect, refused("forward", fixture["forward_error"], lambda: module(*arguments))])
    with full_precision():
        with random_numbers(module, fixture), torch.set_grad_enabled(gradients):
            for _ in range(_forwards(fixture)):
                output = module(*arguments)
        compared = compare("output", output, to_value(fixture.get("output")), tolerance)
        expect += compared
        if any(d.mismatched for d in compared):  # gradOutput does not fit
            return result
        grad_output = value("gradOutput")
        backward_error = fixture.get("backward_error") or fixture.get("backwardError")
        if gradients and backward_error is not None:
            return Result([*expect, refused("backward", backward_error, lambda: backward(output, grad_output))])
        if not gradients or ("gradInput" not in fixture and "gradParams" not in fixture):
            return result

        if fixture.get("reward") is not None:
            training.reinforce(module, value("reward"))
        zero_grad(module)
        backward(output, grad_output)
    scale = fixture.get("scale")
    if "gradInput" in fixture:
        expect += compare_grad_input("gradInput", inputs, to_value(fixture["gradInput"]), gradient_tolerance)
    if fixture.get("gradParams") is not None:
        grads = [g if scale is None else g * scale for g in training.parameters(module)[1]]
        expected_grads = to_value(fixture["gradParams"])
        expect += compare_gradients(module, _viewed(grads, expected_grads), expected_grads, gradient_tolerance)
    after = fixture.get("after")
    if isinstance(after, LuaObject) and registry.find(after):
        reached = convert_object(after, options or Options())[0]
        old = {id(m) for m, obj in paired(reached, after) if _is_older(obj)}
        mine, theirs = (_statistics(m, reached, old) for m in (module, reached))
        expect += compare("after", mine, theirs, tolerance)
    return result


@contextmanager
def full_precision() -> Iterator[None]:
    """While the block runs, CUDA computes float32 in float32 (no TF32) and gives the same bits at each run.

    An operation that has no deterministic form on CUDA warns. ``CUBLAS_WORKSPACE_CONFIG``, which cuBLAS needs for it,
    is set unless the environment has it.
    """
    matmul = torch.backends.cuda.matmul
    allowed = matmul.allow_tf32
    enabled = torch.are_deterministic_algorithms_enabled()
    warning = torch.is_deterministic_algorithms_warn_only_enabled()
    matmul.allow_tf32 = False
    if torch.cuda.is_available():
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=warning or not enabled)
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        matmul.allow_tf32 = allowed
        torch.use_deterministic_algorithms(enabled, warn_only=warning)


def cast(value: Any, dtype: torch.dtype | None) -> Any:
    """The floating point tensors of a nested value in ``dtype``; None leaves them."""
    if isinstance(value, Tensor):
        return value.to(dtype) if dtype is not None and value.is_floating_point() else value
    if isinstance(value, list):
        return [cast(v, dtype) for v in value]
    return {k: cast(v, dtype) for k, v in value.items()} if isinstance(value, dict) else value


def _is_older(obj: LuaObject) -> bool:
    """Whether ``obj`` is of an older version of its class, whose statistics Torch7 converts on load."""
    spec = registry.find(obj)
    return spec is not None and obj.version < spec.version


def _statistics(module: nn.Module, like: nn.Module, skipped: set[int]) -> dict[str, Tensor]:
    """Floating point buffers of ``module``, without those that belong to one of ``skipped`` in ``like``."""
    without = {name for name, m in like.named_modules() if id(m) in skipped}
    return {name: b for name, b in floating_buffers(module) if name.rpartition(".")[0] not in without}


def compare_gradients(module: nn.Module, grads: Any, expected: Any, tolerance: Tolerance) -> list[Difference]:
    """``gradParams``, with a layer's gradients relative to the largest of the layer.

    The bias in front of a batch normalization has gradient zero: what both sides hold there is the rounding error of a
    sum whose terms are as large as those in the gradient of the weight.
    """
    owners = [id(owner) for owner, _, _ in registry.spec_of(module).parameters(module)]
    tensors = isinstance(expected, list) and all(isinstance(e, Tensor) for e in expected)
    if not tensors or not len(owners) == len(grads) == len(expected):
        return compare("gradParams", grads, expected, tolerance)
    largest: dict[int, float] = {}
    for owner, e in zip(owners, expected, strict=True):
        size = float(e[e.isfinite()].abs().max()) if e.isfinite().any() else 0.0
        largest[owner] = max(largest.get(owner, tolerance.floor), size)
    return [
        difference
        for i, (owner, grad, e) in enumerate(zip(owners, grads, expected, strict=True), 1)
        for difference in compare(f"gradParams[{i}]", grad, e, replace(tolerance, floor=largest[owner]))
    ]


def _viewed(tensors: list[Tensor], expected: Any) -> list[Tensor]:
    """``tensors`` in the shapes expected: the first forward of an old file's module may view its parameters anew."""
    if not isinstance(expected, list) or len(expected) != len(tensors):
        return tensors
    return [
        t.reshape(e.shape) if isinstance(e, Tensor) and e.numel() == t.numel() else t
        for t, e in zip(tensors, expected, strict=True)
    ]


def refused(name: str, reason: str, call: Callable[[], Any]) -> Difference:
    """Checks that a call which Torch7 refused raises here too, with a message and not by a slip in our code.

    Args:
        name: ``"forward"`` or ``"backward"``.
        reason: Torch7's message.
        call: the call.
    """
    try:
        call()
    except Exception as e:
        if str(e) and not isinstance(e, (NameError, AttributeError, NotImplementedError)):
            return Difference(name, 0.0, 0.0)
        return Difference(name, float("inf"), 0.0, f"expected a clear error as Torch7's ({reason}), found {e!r}")
    return Difference(name, float("inf"), 0.0, f"Torch7 refused this call ({reason}), here it works")


def _forwards(fixture: LuaTable) -> int:
    """How often Torch7 ran forward before it stored the output."""
    hooks = fixture.get("hooks")
    twice = isinstance(hooks, LuaTable) and hooks.get("fwd") == "twice"
    return 2 if twice else int(fixture.get("forwards") or 1)


def floating_buffers(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Running statistics and the like."""
    return ((n, b) for n, b in module.named_buffers() if b.is_floating_point() and not b.is_meta)


def require_grad(value: Any) -> Any:
    """Makes every floating point tensor of a nested value a leaf that collects a gradient."""
    if isinstance(value, Tensor):
        return value.requires_grad_() if value.is_floating_point() else value
    if isinstance(value, list):
        return [require_grad(v) for v in value]
    return {k: require_grad(v) for k, v in value.items()} if isinstance(value, dict) else value


def zero_grad(module: nn.Module) -> None:
    """Clears all gradients."""
    for p in module.parameters():
        p.grad = None


def leaves(value: Any) -> Iterator[Any]:
    """The tensors and numbers of a nested value in order."""
    if isinstance(value, (list, tuple)):
        for v in value:
            yield from leaves(v)
    elif isinstance(value, dict):
        for v in value.values():
            yield from leaves(v)
    else:
        yield value


def backward(output: Any, grad_output: Any) -> None:
    """Backward through nested outputs; a criterion's loss needs no ``grad_output``."""
    outputs = list(leaves(output))
    if grad_output is None:
        grads = [torch.ones_like(o) if isinstance(o, Tensor) else None for o in outputs]
    elif isinstance(output, dict):
        grads = list(leaves({k: grad_output[k] for k in output}))
    else:
        grads = list(leaves(grad_output))
    if len(outputs) != len(grads):
        raise VerificationError(f"gradOutput has {len(grads)} tensors, the output {len(outputs)}")
    pairs = [
        (o, torch.as_tensor(g, dtype=o.dtype, device=o.device).reshape(o.shape))
        for o, g in zip(outputs, grads, strict=True)
        if isinstance(o, Tensor) and o.requires_grad
    ]
    if pairs:
        torch.autograd.backward([o for o, _ in pairs], [g for _, g in pairs])


def compare_grad_input(name: str, inputs: Any, expected: Any, tolerance: Tolerance) -> list[Difference]:
    """``gradInput`` against the gradients that the input leaves collected; Torch7 may leave parts of it out."""
    if isinstance(inputs, Tensor):
        if not isinstance(expected, Tensor) or expected.numel() == 0:
            zero = inputs.grad is None or not inputs.grad.any()
            return [Difference(name, 0.0, 0.0)] if zero else [mismatch(name, inputs.grad, "no gradient")]
        if not inputs.is_floating_point() and not expected.any():  # indices: Torch7 gives zeros of some shape
            return [Difference(name, 0.0, 0.0)]
        grad = inputs.grad if inputs.grad is not None else torch.zeros_like(inputs)
        if grad.numel() == expected.numel():  # Torch7 may return a view of another shape
            grad = grad.reshape(expected.shape)
        if grad.dtype == torch.float32:  # the input's dtype, whatever type Torch7 gives the gradient
            tolerance = tolerance.in_single()
        return [compare_tensor(name, grad, expected, tolerance)]
    if isinstance(inputs, list):
        parts = expected if isinstance(expected, list) else [None] * len(inputs)
        if len(parts) < len(inputs):
            parts = [*parts, *[None] * (len(inputs) - len(parts))]
        return [d for i, v in enumerate(inputs) for d in compare_grad_input(f"{name}[{i + 1}]", v, parts[i], tolerance)]
    if isinstance(inputs, dict):
        parts = expected if isinstance(expected, dict) else {}
        return [d for k, v in inputs.items() for d in compare_grad_input(f"{name}.{k}", v, parts.get(k), tolerance)]
    return []


def random_numbers(module: nn.Module, fixture: LuaTable) -> AbstractContextManager[Any]:
    """While the block runs, random modules use what Torch7 drew: the noise in ``after``, else numbers of the seed."""
    after = fixture.get("after")
    return torch7_random(fixture.get("seed")) if after is None else replayed(module, after)


@contextmanager
def replayed(module: nn.Module, after: Any) -> Iterator[None]:
    """While the block runs, random modules use the noise that Torch7 stored in ``after``.

    Args:
        module: the converted module.
        after: the Lua object of the same module after its forward, or None.
    """
    with ExitStack() as stack:
        if isinstance(after, LuaObject):
            for child, obj in paired(module, after):
                forward = registry.spec_of(child).replay(child, obj)
                if forward is not None:
                    stack.enter_context(_forward_replaced(child, forward))
        yield


def paired(module: nn.Module, obj: LuaObject) -> Iterator[tuple[nn.Module, LuaObject]]:
    """Every module of a tree with its object in another Lua object of the same structure."""
    yield module, obj
    spec = registry.spec_of(module)
    table = obj.get("modules")
    if not isinstance(table, LuaTable):
        for name, attribute in spec.members.items():
            if isinstance(member := obj.get(name), LuaObject):
                yield from paired(getattr(module, attribute), member)
        return
    children = spec.children(module)
    objects = [o for o in table.as_list() if isinstance(o, LuaObject)]
    if len(children) == len(objects):
        for child, child_obj in zip(children, objects, strict=True):
            yield from paired(child, child_obj)


@contextmanager
def _forward_replaced(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    outer = module.__dict__.get("forward")  # recurrent modules replay each of their time steps
    module.forward = forward
    try:
        yield
    finally:
        if outer is None:
            del module.forward
        else:
            module.forward = outer


def noise(obj: LuaObject, name: str, like: Tensor) -> Tensor:
    """A stored random tensor on the device and dtype of ``like``."""
    value = obj[name]
    assert isinstance(value, LuaTensor)
    return value.torch().to(like.device, like.dtype)


def __getattr__(name: str) -> Any:
    """``record`` and ``assert_parity`` belong to this module's API and stand in a file of their own."""
    if name in ("record", "assert_parity"):
        from dpnn_bridge import recording

        return getattr(recording, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
