"""Find the results of a model that change if the results of some modules change: those that a fault can affect."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.compare import nested
from dpnn_bridge.compare.differences import Difference
from dpnn_bridge.compare.memory import copied
from dpnn_bridge.conversion.faults import Fault
from dpnn_bridge.parity.layers import recorded

#: numbers that change if a tensor changes
Summary = tuple[Any, ...]


def summary(tensor: Tensor) -> Summary:
    """Return numbers that change if a tensor changes. NaN equals itself."""
    values = tensor.detach().double().flatten()
    return (*tensor.shape, repr(float(values.sum())), repr(float(values.square().sum())))


class Unused:
    """A model before its run, of which copies can run.

    Args:
        model: the model. Its copies use the same memory for the parameters, and have their own gradients.
    """

    def __init__(self, model: nn.Module) -> None:
        self.ids = [id(m) for m in model.modules()]
        self._model = _copy(model)

    def copy(self) -> nn.Module:
        return _copy(self._model)


def _copy(model: nn.Module) -> nn.Module:
    own = {id(p): nn.Parameter(p.detach(), p.requires_grad) for p in model.parameters()}
    return copied(model, own)


@dataclass
class Changes:
    """The results that change.

    Attributes:
        layers: ``(id(module), "output" or "gradInput")`` of each result that changes.
        before, after: name -> comparison of the complete model, before and after the change.
    """

    layers: set[tuple[int, str]]
    before: dict[str, Difference]
    after: dict[str, Difference]

    def of(self, name: str) -> bool:
        """Return whether the value of a comparison of the complete model changes."""
        a, b = self.before.get(name), self.after.get(name)
        return a is None or b is None or (a.error, a.worst_element) != (b.error, b.worst_element)


def changes(
    unused: Unused,
    faulty: Iterable[tuple[int, Fault]],
    run: Callable[[nn.Module], list[Difference]],
    gradients: bool,
) -> Changes | None:
    """Return the results that change with the results of faulty modules; None if the model fails with other results.

    Args:
        unused: the model before its run.
        faulty: ``id`` of each module, with its fault. The kinds of results that it affects change. Clones that a run
            adds (``nn.MapTable``) change with the module whose copies they are.
        run: function that runs a copy of the model and compares its results.
        gradients: whether it runs the backward pass.
    """
    seen: list[tuple[dict[tuple[int, str], list[Summary]], dict[str, Difference]]] = []
    for change in (False, True):
        model = unused.copy()
        of_id = dict(zip(unused.ids, model.modules(), strict=True))
        chosen = [(of_id[number], fault) for number, fault in faulty if number in of_id] if change else []
        with recorded(model, gradients=gradients) as calls, _changed(chosen):
            try:
                with torch.random.fork_rng():
                    torch.manual_seed(0)
                    compared = run(model)
            except Exception:  # a layer does not accept the other values
                return None
        found: dict[tuple[int, str], list[Summary]] = {}
        for number, module in of_id.items():
            if (entry := calls.get(id(module))) is not None:
                for name, values in (("output", entry.outputs), ("gradInput", entry.grad_inputs)):
                    found[number, name] = [summary(t) for t in nested.tensors(values[-1:])]
        seen.append((found, {d.name: d for d in compared}))
    (before, named), (after, named_after) = seen
    layers = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
    return Changes(layers, named, named_after)


@contextmanager
def _changed(faulty: Iterable[tuple[nn.Module, Fault]]) -> Iterator[None]:
    """Change the results of modules: as in Torch7 if the fault says how, else by random numbers."""
    with ExitStack() as stack:
        for module, fault in faulty:
            if fault.affects("output"):
                result = fault.result or (lambda _, output: nested.map_tensors(_noisy, output))
                hook = lambda m, _, output, result=result: result(m, output)  # noqa: E731
                stack.callback(module.register_forward_hook(hook).remove)
            if fault.affects("gradInput"):
                before = lambda m, args: tuple(nested.map_tensors(_with_noisy_gradient, a) for a in args)  # noqa: E731
                stack.callback(module.register_forward_pre_hook(before).remove)
        yield


def _noisy(tensor: Tensor) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    scale = tensor.detach().abs().max().clamp(min=1) if tensor.numel() else 1
    return tensor + scale * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(1)).to(tensor)


def _with_noisy_gradient(tensor: Tensor) -> Tensor:
    if not tensor.requires_grad:
        return tensor
    view = tensor.view_as(tensor)
    view.register_hook(_noisy)
    return view
