"""Find the comparisons that known faults of Torch7 affect, see :mod:`dpnn_bridge.conversion.faults`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from dpnn_bridge.base.cached import cached_property
from dpnn_bridge.compare.differences import Difference, Tolerance, compare, compare_tensor
from dpnn_bridge.conversion import fields, registry
from dpnn_bridge.conversion.faults import Fault
from dpnn_bridge.conversion.lua_class import ParameterSite
from dpnn_bridge.parity.accepted import accept_known
from dpnn_bridge.parity.in_place import IN_PLACE, may_share_memory, of_torch7
from dpnn_bridge.parity.influence import Changes, Unused, changes
from dpnn_bridge.parity.layers import repeated_modules, tree
from dpnn_bridge.parity.one_buffer import OneBuffer

#: accepted difference of Torch7's result from a run with Torch7's buffers, relative to the tolerance
_ROUNDED = 10
#: end of the name of the comparison of the elements that a fault affects
AFFECTED = ".affected_elements"
ONE_BUFFER = Fault(
    ("output", "gradInput", "gradParams"),
    "the model contains one object several times, and Torch7 uses its one buffer for all uses, so later results "
    "overwrite earlier results; PyTorch has a result for each use",
)


def compare_output(module: nn.Module, actual: Any, expected: Any, tolerance: Tolerance) -> list[Difference]:
    """Compare the output of a module, and separately the elements that a fault of Torch7 affects."""
    affected: list[Difference] = []
    for fault, mask in _affected_elements(module, actual, expected):
        own = actual.detach().to(expected)
        difference = compare_tensor(f"output{AFFECTED}", own, expected.where(mask, own), tolerance)
        if not difference.ok:
            accept_known(difference, fault.reason)
            affected.append(difference)
    return [*compare("output", actual, without_affected(module, actual, expected), tolerance), *affected]


def without_affected(module: nn.Module, actual: Any, expected: Any) -> Any:
    """Replace the elements of an expected output that a fault of Torch7 affects by those of the actual output.

    They may have any value, for example 1e33, so they must not be part of the scale of the other elements.
    """
    for _, mask in _affected_elements(module, actual, expected):
        expected = actual.detach().to(expected).where(mask, expected)
    return expected


def _affected_elements(module: nn.Module, actual: Any, expected: Any) -> Iterator[tuple[Fault, Tensor]]:
    """Yield each fault that affects only some elements of the output, with a mask of these elements."""
    if isinstance(actual, Tensor) and isinstance(expected, Tensor) and actual.shape == expected.shape:
        for fault in registry.mapping_of(module).faults:
            if fault.elements is not None and fault.affects("output") and fault.applies_to(module):
                yield fault, fault.elements(module, actual.detach()).to(expected.device).expand(expected.shape)


@dataclass
class _FaultyModule:
    """A module with a fault.

    Attributes:
        fault: the fault.
        module: the module.
        inside: ``id`` of the module and of all modules inside it.
    """

    fault: Fault
    module: nn.Module
    inside: set[int]


class Faults:
    """The faults of Torch7 in a model, in its current mode.

    Args:
        model: the model, before its run.

    Attributes:
        faulty_modules: the modules with a fault.
        forward: function that runs a copy of the model on the input of the reference; set by the run.
        compare: function that compares an output of the model with the reference; set by the run.
        expected: the output of the reference; set by the run.
        run: function that runs a copy of the model and compares all its results; set by the run.
        gradients: whether it runs the backward pass.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.forward: Callable[[nn.Module], Any] | None = None
        self.compare: Callable[[Any], list[Difference]] | None = None
        self.expected: Any = None
        self.run: Callable[[nn.Module], list[Difference]] | None = None
        self.gradients = False
        several = repeated_modules(model)
        self._used_again = {id(m) for m in several}
        self.faulty_modules = self._find()
        self._shares_memory = may_share_memory(model)
        self._unused = None
        with suppress(Exception):  # a module of a plugin that cannot be copied: the order of the calls decides
            self._unused = Unused(model) if self.faulty_modules or self._shares_memory else None
        self._one_buffer = OneBuffer(self._unused, several) if several and self._unused is not None else None
        self._changes: dict[str, Changes | None] = {}

    def _find(self) -> list[_FaultyModule]:
        nodes = list(tree(self.model))
        loops = [node.module for node in nodes if registry.mapping_of(node.module).repeats]
        repeated = {id(m) for loop in loops for m in loop.modules() if m is not loop}
        return [
            _FaultyModule(fault, node.module, {id(m) for m in node.module.modules()})
            for node in nodes
            for fault in (
                *registry.mapping_of(node.module).faults,
                *([ONE_BUFFER] if id(node.module) in self._used_again else []),
            )
            if fault.elements is None  # see compare_output
            and fault.applies_to(node.module)
            and (not fault.repeated or id(node.module) in repeated)
        ]

    @cached_property
    def _overwritten(self) -> set[int] | None:
        """The ``id`` of the modules whose results change with one buffer for all uses; None if unknown."""
        if self._one_buffer is None or self.forward is None:
            return None
        return self._one_buffer.affected(self.forward)

    @cached_property
    def _of_torch7(self) -> dict[str, Difference]:
        """The comparisons of the model's output with one buffer for all uses, by name."""
        if self._overwritten is None or self.compare is None or self._one_buffer is None:
            return {}
        output = self._one_buffer.output
        if self._one_buffer.is_undefined:
            output = _without_undefined(output, self._one_buffer.plain, self.expected)
        return {d.name: d for d in self.compare(output)}

    @cached_property
    def _gradients_of_torch7(self) -> dict[str, Difference]:
        """The comparisons of the gradients with one buffer for all uses, by name; empty if unknown."""
        found = None if self._one_buffer is None or self.run is None else self._one_buffer.compared(self.run)
        return {} if found is None else found

    @cached_property
    def _with_memory_of_torch7(self) -> list[dict[str, Difference]]:
        """The comparisons of gradients from memory that layers change in Torch7, by name; empty if unknown."""
        if not self._shares_memory or self._unused is None or self.run is None:
            return []
        return of_torch7(self._unused, self.run)

    def mark(self, differences: Iterable[Difference], order: Mapping[int, int]) -> None:
        """Accept the comparisons of the complete model that a fault affects.

        Args:
            differences: comparisons of :func:`~dpnn_bridge.parity.fixture.check_module`.
            order: ``id(module)`` -> position of its last call in the order in which calls of all modules ended.
        """
        failed = [d for d in differences if not d.ok]
        vars(self).pop("_sites", None)  # the run may have added modules
        vars(self).pop("_by_name", None)
        if failed and self.faulty_modules:
            self.faulty_modules = self._find()  # the run may have added clones (nn.MapTable)
        for difference in failed:
            owner, name = self._owner(difference.name)
            self.accept(difference, owner, name, order)
            if not difference.ok and difference.name.startswith("grad"):
                others = [found[difference.name] for found in self._with_memory_of_torch7 if difference.name in found]
                if any(other.error <= other.tolerance for other in others):
                    accept_known(difference, IN_PLACE)

    def accept(self, difference: Difference, owner: nn.Module, name: str, order: Mapping[int, int] | None) -> None:
        """Accept one comparison if a fault affects it.

        Args:
            difference: a comparison of a result of ``owner``.
            owner: a module, or the model.
            name: ``output``, ``gradInput``, the Lua field of a gradient such as ``gradWeight``, or ``backward``.
            order: as in :meth:`mark`; None if the module ran on Torch7's results. Then only faults inside the module
                affect the comparison.
        """
        for faulty in self.faulty_modules:
            kinds = (name, "gradParams") if name.startswith("grad") and name != "gradInput" else (name,)
            if any(map(faulty.fault.affects, kinds)) and self._affects(faulty, owner, name, difference, order):
                layer = "" if faulty.module is self.model else f" ({type(faulty.module).__name__})"
                accept_known(difference, f"{faulty.fault.reason}{layer}")
                return

    def _affects(
        self,
        faulty: _FaultyModule,
        owner: nn.Module,
        name: str,
        difference: Difference,
        order: Mapping[int, int] | None,
    ) -> bool:
        """Return whether a fault affects a result or gradient of ``owner``; for the arguments see :meth:`accept`."""
        gradient = name.startswith("grad")
        contains = any(m is faulty.module for m in owner.modules())
        if faulty.fault is ONE_BUFFER:
            return self._is_overwritten(faulty, owner, difference, gradient, contains, order)
        if id(owner) in faulty.inside:
            return True
        if not faulty.fault.spreads or name in ("forward", "backward", "params") or (order is None and not contains):
            return contains
        found = self._changes_by(faulty.fault)
        if found is None:  # a layer does not accept other values
            return contains or _is_later(faulty, owner, gradient, order)
        exact = None if gradient or faulty.fault.result is None else found.after.get(difference.name)
        if exact is not None and owner is self.model:
            return found.of(difference.name) and exact.error <= _ROUNDED * exact.tolerance
        of_layer = owner is not self.model and not difference.name.startswith(("gradParams", "after.", "params"))
        return (id(owner), name) in found.layers if of_layer else found.of(difference.name)

    def _is_overwritten(
        self,
        faulty: _FaultyModule,
        owner: nn.Module,
        difference: Difference,
        gradient: bool,
        contains: bool,
        order: Mapping[int, int] | None,
    ) -> bool:
        """Return whether Torch7's one buffer of a module that occurs several times explains a comparison."""
        overwritten, buffer = self._overwritten, self._one_buffer
        if overwritten is None or buffer is None or id(faulty.module) not in buffer.used:
            return False
        if not gradient and owner is self.model and (other := self._of_torch7.get(difference.name)) is not None:
            return id(owner) in overwritten and other.error <= _ROUNDED * other.tolerance
        of_model = owner is self.model or difference.name.startswith("gradParams[")
        if gradient and of_model and (other := self._gradients_of_torch7.get(difference.name)) is not None:
            return other.error <= _ROUNDED * other.tolerance
        if id(owner) in overwritten:
            return True
        own = contains or id(owner) in faulty.inside
        return gradient and (own or _is_later(faulty, owner, gradient, order))

    def _changes_by(self, fault: Fault) -> Changes | None:
        """Return the results that change with the results of the modules with a fault; None if unknown."""
        if fault.reason not in self._changes:
            found = None
            if self._unused is not None and self.run is not None:
                faulty = [(id(f.module), f.fault) for f in self.faulty_modules if f.fault.reason == fault.reason]
                found = changes(self._unused, faulty, self.run, self.gradients)
            self._changes[fault.reason] = found
        return self._changes[fault.reason]

    @cached_property
    def _sites(self) -> list[ParameterSite]:
        return list(registry.parameters(self.model))

    @cached_property
    def _by_name(self) -> dict[str, nn.Module]:
        return dict(self.model.named_modules())

    def _owner(self, name: str) -> tuple[nn.Module, str]:
        """Return the module and the name of the result for a comparison of the complete model."""
        kind, _, rest = name.partition("[")
        if kind in ("params", "gradParams") and rest:
            number = int(rest.partition("]")[0])
            if number <= len(self._sites):
                owner, field, spec = self._sites[number - 1]
                return owner, kind if kind == "params" else fields.grad_field(field, spec)
        if name.startswith(("after.", "params.")):
            kind, _, path = name.partition(".")
            owner = self._by_name.get(path.rpartition(".")[0], self.model)
            return owner, "output" if kind == "after" else kind
        return self.model, kind.partition(".")[0]


def _without_undefined(output: Any, plain: Any, expected: Any) -> Any:
    """Replace the elements of an output that only one buffer makes NaN, which Torch7 does not define."""
    values = output, plain, expected
    if all(isinstance(v, Tensor) and v.shape == output.shape for v in values):
        return expected.to(output).where(output.isnan() & ~plain.isnan(), output)
    if all(isinstance(v, (list, tuple)) and len(v) == len(output) for v in values):
        return [_without_undefined(*parts) for parts in zip(*values, strict=True)]
    return output


def _is_later(faulty: _FaultyModule, owner: nn.Module, gradient: bool, order: Mapping[int, int] | None) -> bool:
    """Return whether a result or gradient is computed after that of a faulty module."""
    if order is None:
        return False
    position, position_of_fault = order.get(id(owner), 0), order.get(id(faulty.module), 0)
    return position <= position_of_fault if gradient else position >= position_of_fault
