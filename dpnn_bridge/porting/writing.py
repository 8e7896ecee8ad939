"""Write weights into the parameters that they are computed from.

An operation may use a view of a parameter, concatenated parameters, or a parametrization. :class:`Parameters` inverts
the operations between the parameters and the weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import permutations
from typing import Any

import torch
from torch import Tensor

from dpnn_bridge.base.storage import storage_elements, storage_id
from dpnn_bridge.porting.tape import VIEWS, Node, Slot, Tape, leaves, replaced
from dpnn_bridge.porting.values import DOUBLE, SINGLE, difference, unexpanded


class NoInverseError(Exception):
    """The weights are computed from parameters by an operation without an inverse."""


class Journal:
    """Records changes, to undo them.

    Attributes:
        keeps: whether values must be copied before they are overwritten, because the search may undo the change.
    """

    def __init__(self) -> None:
        self._undo: list[Callable[[], Any]] = []
        self.keeps = False

    def mark(self) -> int:
        return len(self._undo)

    def add(self, undo: Callable[[], Any]) -> None:
        self._undo.append(undo)

    def save(self, tensor: Tensor) -> None:
        tensor = unexpanded(tensor)  # PyTorch does not write into repeated elements
        before = tensor.clone()
        self.add(lambda: tensor.copy_(before))

    def rollback(self, mark: int) -> None:
        while len(self._undo) > mark:
            self._undo.pop()()


class Parameters:
    """The parameters and buffers of a tape's module, which are written in place.

    Attributes:
        tensors: name -> current value.
        written: name -> mask of the elements of the storage that were set.
        normalized: whether a weight is computed by a spectral norm, whose result is exact in single precision only.
    """

    def __init__(self, tape: Tape, env: list[Any], tensors: dict[str, Tensor], journal: Journal) -> None:
        self.tape, self.env, self.journal = tape, env, journal
        self.tensors = {name: t.detach() for name, t in tensors.items()}
        self.written = {n: torch.zeros(storage_elements(t), dtype=torch.bool) for n, t in self.tensors.items()}
        self.normalized = False
        for number, name in tape.roots.items():
            env[number] = self.tensors[name]

    def is_written(self, name: str) -> bool:
        t = self.tensors[name]
        return bool(self.written[name].as_strided(t.shape, t.stride(), t.storage_offset()).all())

    def write(self, slot: int, view: Tensor, value: Tensor) -> None:
        """Set a view of the tensor of a slot, and the parameters that the tensor is computed from.

        Raises:
            NoInverseError: the tensor is computed from parameters by an operation without an inverse, or the value has
                other elements where the tensor repeats one.
        """
        if value.numel() != view.numel():
            raise NoInverseError("an operation that repeats a smaller tensor")
        value, own = value.reshape(view.shape), unexpanded(view)
        first = value[tuple(slice(size) for size in own.shape)]
        if own is not view and difference(first.expand(view.shape), value) > DOUBLE:
            raise NoInverseError("expand, which repeats elements that differ in the source's weight")
        if self.journal.keeps or view.numel() < self.env[slot].numel():
            self.journal.save(own)
        own.copy_(first)
        self._write_source(slot, own)

    def _write_source(self, slot: int, view: Tensor) -> None:
        name = self.tape.roots.get(slot)
        if name is not None:
            mask = self.written[name].as_strided(view.shape, view.stride(), view.storage_offset())
            self.journal.save(mask)
            mask.fill_(True)
            return
        if slot in self.tape.changes:
            raise NoInverseError(f"{self.tape.changes[slot][0].op}_ (an operation in place)")
        node = self.tape.maker[slot]
        source = next(s for s in node.reads if s.number in self.tape.weights)
        if storage_id(self.env[source.number]) == storage_id(view):
            self._write_source(source.number, view)
            return
        inverse = self._scaled if node.op == "mul" else _INVERSES.get(node.op, _copied if node.op in VIEWS else None)
        if inverse is None:
            raise NoInverseError(node.op)
        if node.op == "div" and (buffers := self._power_iteration(node)):
            self._normalize(node, buffers, self.env[slot])
            return
        normed = self._weight_norm(node)
        if normed is not None:
            self._write_normed(*normed, self.env[slot])
            return
        args = replaced(list(node.args), lambda a: self.env[a.number] if isinstance(a, Slot) else a)
        for changed, value in inverse(node, self.env[slot], args):
            if changed.number in self.tape.weights:
                self.write(changed.number, self.env[changed.number], value)
            elif difference(self.env[changed.number].flatten(), value.flatten()) > DOUBLE:
                raise NoInverseError(f"{node.op} with a constant that has other values in the source's weight")

    def _weight_norm(self, node: Node) -> tuple[Slot, Slot, Slot] | None:
        """Return the slots of v, g and norm(v) of ``v * (g / norm(v))`` or ``v / norm(v) * g``, else None."""
        for quotient, factor in permutations(node.args[:2]) if node.op == "mul" else ():
            made = self.tape.maker.get(quotient.number) if isinstance(quotient, Slot) else None
            if made is None or made.op != "div" or not all(isinstance(a, Slot) for a in (*made.args[:2], factor)):
                continue
            norm = made.args[1]
            for direction, length in permutations((made.args[0], factor)):
                names = [set(self.tape.root_names(slot.number)) for slot in (direction, length, norm)]
                if names[0] == names[2] and not names[0] & names[1]:
                    return direction, length, norm
        return None

    def _write_normed(self, direction: Slot, length: Slot, norm: Slot, value: Tensor) -> None:
        """Write a weight into the direction, and the norm of the weight into the length."""
        self.write(direction.number, self.env[direction.number], value)
        target = self.env[length.number]
        shape = (*(1 for _ in range(value.dim() - target.dim())), *target.shape)
        size = self.computed(norm).expand(value.shape)[tuple(slice(n) for n in shape)]
        self.write(length.number, target, size.reshape(target.shape))

    def _scaled(self, node: Node, value: Tensor, args: list[Any]) -> Any:
        """Yield the factor of a product that has all elements and, if possible, is learned; not a mask or a scale.

        Raises:
            NoInverseError: there is no such factor, or the other factor is 0 where the value is not.
        """
        factors = [i for i, a in enumerate(node.args[:2]) if isinstance(a, Slot) and args[i].numel() == value.numel()]
        factors.sort(key=lambda i: not self.tape.is_learned(node.args[i].number))
        if not factors:
            raise NoInverseError("a product of smaller tensors")
        at = factors[0]
        other = torch.as_tensor(args[1 - at], dtype=torch.float64)
        if bool(((other == 0) & (value != 0)).any()):
            raise NoInverseError("a product with 0 where the source's weight is not 0")
        yield node.args[at], (value / other).masked_fill(other == 0, 0.0)

    def computed(self, slot: Slot) -> Tensor:
        """Compute the tensor of a slot from the current values of the parameters."""
        node = self.tape.maker.get(slot.number)
        if node is None or slot.number in self.tape.roots:
            return self.env[slot.number]
        value = self._result(node, slot, None)
        for change in self.tape.changes.get(slot.number, ()):
            value = self._result(change, slot, value.clone())
        return value

    def _result(self, node: Node, slot: Slot, before: Tensor | None) -> Tensor:
        """Run a node and return its result in a slot. ``before``: the tensor of the slot that the node changes."""

        def current(value: Any) -> Any:
            if not isinstance(value, Slot):
                return value
            return before if value == slot else self.computed(value)

        args, kwargs = replaced((node.args, tuple(node.kwargs.items())), current)
        results = [t for t in leaves(node.run(args, dict(kwargs))) if isinstance(t, Tensor)]
        return results[node.outs.index(slot)]

    def _power_iteration(self, node: Node) -> list[str]:
        """Return the names of the buffers with the singular vectors of a spectral norm; empty for other divisions."""
        weight, divisor = node.args[:2]
        if not isinstance(divisor, Slot) or not isinstance(weight, Slot):
            return []
        names = self.tape.root_names(divisor.number)
        buffers = [n for n in names if n not in self.tape.parameters and self.tensors[n].dim() == 1]
        sizes, shape = [self.tensors[n].numel() for n in buffers[:2]], self.tape.shapes[weight.number]
        fits = [sizes == [rows, math.prod(shape) // rows][: len(sizes)] for rows in shape[:2] if rows]
        return buffers[:2] if len(shape) > 1 and any(fits) else []

    def _normalize(self, node: Node, buffers: list[str], value: Tensor) -> None:
        """Write a weight that a spectral norm divides by its largest singular value.

        Raises:
            NoInverseError: the largest singular value is not 1, so no parameter gives this weight.
        """
        weight = node.args[0].number
        rows = next(self.tensors[n].numel() for n in buffers)
        matrix = value.reshape(rows, -1) if rows == len(value) else value.transpose(0, 1).reshape(rows, -1)
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
        if abs(values[0].item() - 1) > SINGLE:
            raise NoInverseError(f"a spectral norm (the largest singular value is {values[0].item():.4g}, not 1)")
        for name, vector in zip(buffers, (left[:, 0], right[0]), strict=False):
            self.journal.save(self.tensors[name])
            self.tensors[name].copy_(vector)
            self.journal.save(self.written[name])
            self.written[name].fill_(True)
        self.normalized = True
        self.write(weight, self.env[weight], value * values[0])


def _copied(node: Node, value: Tensor, args: list[Any]) -> Any:
    yield node.args[0], value


def _repeated(node: Node, value: Tensor, args: list[Any]) -> Any:
    shape = (*(1 for _ in range(value.dim() - args[0].dim())), *args[0].shape)
    part = value[tuple(slice(n) for n in shape)].reshape(args[0].shape)
    if difference(part.repeat(*args[1:]), value) > DOUBLE:
        raise NoInverseError("repeat, and the repeated elements differ in the source's weight")
    yield node.args[0], part


def _joined(node: Node, value: Tensor, args: list[Any]) -> Any:
    dim = args[1] if len(args) > 1 else 0
    at = 0
    for slot, part in zip(node.args[0], args[0], strict=True):
        if not part.numel():
            continue  # it may have fewer dimensions
        yield slot, value.narrow(dim, at, part.shape[dim])
        at += part.shape[dim]


def _weight_norm(node: Node, value: Tensor, args: list[Any]) -> Any:
    dim = args[2] if len(args) > 2 else 0
    yield node.args[0], value
    yield node.args[1], value.transpose(0, dim).flatten(1).norm(dim=1)


def _divided(node: Node, value: Tensor, args: list[Any]) -> Any:
    yield node.args[0], value * args[1]


def _exponential(node: Node, value: Tensor, args: list[Any]) -> Any:
    if not bool((value > 0).all()):
        raise NoInverseError("exp, and the source's weight is not positive")
    yield node.args[0], value.log()


_INVERSES: dict[str, Callable[[Node, Tensor, list[Any]], Any]] = {
    "repeat": _repeated,
    "cat": _joined,
    "_weight_norm_interface": _weight_norm,
    "div": _divided,
    "neg": lambda node, value, args: iter([(node.args[0], -value)]),
    "exp": _exponential,
}
