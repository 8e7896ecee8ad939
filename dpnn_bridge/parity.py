"""Does a converted module compute what Torch7 computed? Compares with values that Torch7 stored.

A fixture is a table written by Torch7: ``module`` (fresh), ``input``, ``target`` (criterions), ``output``,
``gradOutput``, ``gradInput``, ``params``, ``gradParams``, ``after`` (the module afterwards) and, where they apply,
``scale``, ``forwards``, ``reward``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge import registry, training
from dpnn_bridge.conversion import Options, convert_object, to_value
from dpnn_bridge.errors import VerificationError
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor


@dataclass(frozen=True)
class Tolerance:
    """Largest accepted difference, relative to the largest expected value, for each dtype.

    Attributes:
        double, single: for double and for single precision.
        floor: smallest scale that differences are relative to, where all expected values are tiny.
    """

    double: float = 1e-10
    single: float = 1e-5
    floor: float = 1e-3

    def of(self, tensor: Tensor) -> float:
        return self.double if tensor.dtype == torch.float64 else self.single


@dataclass
class Difference:
    """One compared tensor.

    Attributes:
        name: what was compared, such as ``gradParams[2]``.
        error: largest difference relative to the largest expected value; inf when shapes or kinds differ.
        tolerance: what was allowed.
        message: where and how, when it failed.
    """

    name: str
    error: float
    tolerance: float
    message: str = ""

    @property
    def ok(self) -> bool:
        return self.error <= self.tolerance


@dataclass
class Result:
    """All comparisons of one fixture."""

    differences: list[Difference] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return all(d.ok for d in self.differences)

    @property
    def failures(self) -> list[Difference]:
        return [d for d in self.differences if not d.ok]

    def raise_for_failures(self) -> None:
        """Raises :class:`VerificationError` that lists every failed comparison."""
        if not self.ok:
            raise VerificationError("\n".join(f"{d.name}: {d.message}" for d in self.failures))


def compare(name: str, actual: Any, expected: Any, tolerance: Tolerance | None = None) -> list[Difference]:
    """Compares nested values strictly: a missing or superfluous one is a failure.

    Args:
        name: what is compared.
        actual: tensor, number or nested lists/dicts.
        expected: the same from Torch7 (:func:`~dpnn_bridge.conversion.to_value` of it).
        tolerance: defaults to ``Tolerance()``.
    """
    tolerance = tolerance or Tolerance()
    if isinstance(expected, (list, tuple)):
        if not isinstance(actual, (list, tuple)) or len(actual) != len(expected):
            return [_mismatch(name, actual, f"a list of {len(expected)}")]
        return [d for i, e in enumerate(expected) for d in compare(f"{name}[{i + 1}]", actual[i], e, tolerance)]
    if isinstance(expected, dict):
        if not isinstance(actual, dict) or actual.keys() != expected.keys():
            return [_mismatch(name, actual, f"a dict with keys {list(expected)}")]
        return [d for k, e in expected.items() for d in compare(f"{name}.{k}", actual[k], e, tolerance)]
    if isinstance(expected, Tensor):
        return [_compare_tensor(name, actual, expected, tolerance)]
    if isinstance(expected, bool) or expected is None or isinstance(expected, str):
        same = actual is expected or actual == expected
        return [Difference(name, 0.0, 0.0) if same else _mismatch(name, actual, repr(expected))]
    value = torch.as_tensor(actual) if isinstance(actual, (Tensor, int, float)) else None
    if value is None or value.numel() != 1:
        return [_mismatch(name, actual, f"the number {expected}")]
    reference = torch.tensor([expected], dtype=torch.float64)
    wanted = reference if value.dtype == torch.float64 or not value.is_floating_point() else reference.float()
    return [_compare_tensor(name, value.reshape(1), wanted, tolerance)]


def _compare_tensor(name: str, actual: Any, expected: Tensor, tolerance: Tolerance) -> Difference:
    if not isinstance(actual, Tensor) or tuple(actual.shape) != tuple(expected.shape):
        return _mismatch(name, actual, f"a tensor of shape {tuple(expected.shape)}")
    limit = tolerance.of(expected)
    if expected.numel() == 0:
        return Difference(name, 0.0, limit)
    a, e = actual.detach().to("cpu", torch.float64), expected.to("cpu", torch.float64)
    same = (a == e) | (a.isnan() & e.isnan())
    finite = e[e.isfinite()]
    scale = max(float(finite.abs().max()) if finite.numel() else 0.0, tolerance.floor)
    error = torch.where(same, torch.zeros_like(a), (a - e).abs() / scale).nan_to_num(nan=float("inf"))
    worst = int(error.argmax())
    if float(error.flatten()[worst]) <= limit:
        return Difference(name, float(error.flatten()[worst]), limit)
    index = [int(i) for i in torch.unravel_index(torch.tensor(worst), error.shape)]
    message = (
        f"expected {e.flatten()[worst]:.17g}, found {a.flatten()[worst]:.17g} at {index}, "
        f"relative error {error.flatten()[worst]:.3g} > {limit:g}, "
        f"{int((error > limit).sum())} of {error.numel()} elements differ"
    )
    return Difference(name, float(error.flatten()[worst]), limit, message)


def _mismatch(name: str, actual: Any, wanted: str) -> Difference:
    found = f"a tensor of shape {tuple(actual.shape)}" if isinstance(actual, Tensor) else repr(actual)[:120]
    return Difference(name, float("inf"), 0.0, f"expected {wanted}, found {found}")


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
    tolerance = tolerance or Tolerance()
    module = convert_object(fixture["module"], options or Options())[0].to(device)
    if any(p.dtype == torch.float32 for p in module.parameters()):  # whatever type its output is cast to
        tolerance = Tolerance(double=tolerance.single, single=tolerance.single)
    result = Result()
    expect = result.differences
    expected_params = to_value(fixture.get("params"))
    if expected_params:
        params = _viewed(training.parameters(module)[0], expected_params)
        expect += compare("params", params, expected_params, Tolerance(0.0, 0.0))

    inputs = require_grad(to_value(fixture["input"], device=device))
    arguments = [inputs]
    if fixture.get("target") is not None or fixture["kind"] == "criterion":
        arguments.append(to_value(fixture.get("target"), device=device))
    if fixture.get("forward_error") is not None:
        return Result([*expect, refused("forward", fixture["forward_error"], lambda: module(*arguments))])
    with replayed(module, fixture.get("after")):
        for _ in range(_forwards(fixture)):
            output = module(*arguments)
    expect += compare("output", output, to_value(fixture.get("output")), tolerance)
    grad_output = to_value(fixture.get("gradOutput"), device=device)
    backward_error = fixture.get("backward_error") or fixture.get("backwardError")
    if backward_error is not None:
        return Result([*expect, refused("backward", backward_error, lambda: backward(output, grad_output))])
    if "gradInput" not in fixture and "gradParams" not in fixture:
        return result

    if fixture.get("reward") is not None:
        training.reinforce(module, to_value(fixture["reward"], device=device))
    zero_grad(module)
    backward(output, grad_output)
    scale = fixture.get("scale")
    if "gradInput" in fixture:
        expect += compare_grad_input("gradInput", inputs, to_value(fixture["gradInput"]), tolerance)
    if fixture.get("gradParams") is not None:
        grads = [g if scale is None else g * scale for g in training.parameters(module)[1]]
        expected_grads = to_value(fixture["gradParams"])
        expect += compare_gradients(module, _viewed(grads, expected_grads), expected_grads, tolerance)
    after = fixture.get("after")
    if isinstance(after, LuaObject) and registry.find(after):
        reached = convert_object(after, options or Options())[0]
        old = {id(m) for m, obj in paired(reached, after) if _is_older(obj)}
        expect += compare("after", *(_statistics(m, reached, old) for m in (module, reached)), tolerance)
    return result


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
            return [Difference(name, 0.0, 0.0)] if zero else [_mismatch(name, inputs.grad, "no gradient")]
        if not inputs.is_floating_point() and not expected.any():  # indices: Torch7 gives zeros of some shape
            return [Difference(name, 0.0, 0.0)]
        grad = inputs.grad if inputs.grad is not None else torch.zeros_like(inputs)
        if grad.numel() == expected.numel():  # Torch7 may return a view of another shape
            grad = grad.reshape(expected.shape)
        if grad.dtype == torch.float32:  # the input's dtype, whatever type Torch7 gives the gradient
            tolerance = Tolerance(double=tolerance.single, single=tolerance.single)
        return [_compare_tensor(name, grad, expected, tolerance)]
    if isinstance(inputs, list):
        parts = expected if isinstance(expected, list) else [None] * len(inputs)
        if len(parts) < len(inputs):
            parts = [*parts, *[None] * (len(inputs) - len(parts))]
        return [d for i, v in enumerate(inputs) for d in compare_grad_input(f"{name}[{i + 1}]", v, parts[i], tolerance)]
    if isinstance(inputs, dict):
        parts = expected if isinstance(expected, dict) else {}
        return [d for k, v in inputs.items() for d in compare_grad_input(f"{name}.{k}", v, parts.get(k), tolerance)]
    return []


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
