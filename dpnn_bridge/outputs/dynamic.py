"""Export programs with dynamic input sizes, and find inputs of other sizes to test them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.compare import nested
from dpnn_bridge.errors import OptionError
from dpnn_bridge.outputs.verification import traceable

#: name of an axis -> its index, and the minimum number of dimensions of a tensor with that axis
AXES = {"batch": (0, 1), "length": (-1, 2), "depth": (-3, 4), "height": (-2, 3), "width": (-1, 3)}
#: batch sizes of the test inputs; not 1, for which nn.View removes the dimension but a traced graph does not
BATCHES = (2, 3, 5)

_SPEC = re.compile(r"(?:(?P<input>[^:,=]+):)?(?P<axes>[^:]+)")


@dataclass(frozen=True)
class Dynamic:
    """The dynamic axes of an input.

    Attributes:
        axes: for each tensor of the input, in order: index of a dynamic axis -> its name.
        larger_first: whether inputs get smaller sizes than those of the example only if the model does not accept
            larger ones. ``torch.export`` excludes sizes for which a layer has a result of size 1.
    """

    axes: tuple[dict[int, str], ...]
    larger_first: bool = False

    @classmethod
    def of(cls, given: bool | str | Sequence[str], example: Any, names: Sequence[str] | None = None) -> Dynamic:
        """Parse the value of the option ``dynamic=`` (``--dynamic``).

        Args:
            given: ``"batch,height,width"``; ``"image:batch,height"`` for one input; ``"time=1"`` for an axis by its
                index; a list of these; or True for ``"batch"``.
            example: the input.
            names: names of the inputs; default: their numbers from 0.

        Raises:
            OptionError: the input has no such axis, two names are one axis, or there is no such input.
        """
        tensors = nested.tensors(example)
        axes: list[dict[int, str]] = [{} for _ in tensors]
        specs = ("batch",) if given is True else () if not given else (given,) if isinstance(given, str) else given
        for spec in specs:
            found = _SPEC.fullmatch(spec)
            if found is None:
                raise _invalid(spec, "expected AXES or INPUT:AXES")
            chosen = _inputs(spec, found["input"], [*(names or map(str, range(len(tensors))))], len(tensors))
            for text in found["axes"].split(","):
                of_inputs = {i: axis for i in chosen if (axis := _axis(spec, text.strip(), tensors[i])) is not None}
                if not of_inputs:
                    sizes = ", ".join("x".join(map(str, tensors[i].shape)) for i in chosen)
                    raise _invalid(spec, f"an input of {sizes} has no axis {text.strip()}")
                name = text.partition("=")[0].strip()
                for i, axis in of_inputs.items():
                    if (known := axes[i].setdefault(axis, name)) != name:
                        advice = "omit one of them, or name the input (INPUT:AXES)"
                        raise _invalid(spec, f"{known} and {name} are one axis; {advice}")
        return cls(tuple(axes))

    def __bool__(self) -> bool:
        return any(self.axes)

    @property
    def names(self) -> list[str]:
        """The names of the dynamic axes, without duplicates."""
        return list(dict.fromkeys(name for axes in self.axes for name in axes.values()))

    def shapes(self, example: Any, *, named: bool = False) -> Any:
        """Return the argument ``dynamic_shapes`` of ``torch.export``; with ``named``, of ``torch.onnx``."""
        axes = iter(self.axes)

        def shape(value: Any) -> Any:
            if isinstance(value, Tensor):
                return {axis: name if named else torch.export.Dim.DYNAMIC for axis, name in next(axes).items()}
            if isinstance(value, (list, tuple)):
                return [shape(v) for v in value]
            return {k: shape(v) for k, v in value.items()} if isinstance(value, dict) else None

        return shape(example)

    def resized(self, example: Any, sizes: dict[str, int]) -> Any:
        """Return the example with other sizes of some axes; its elements are repeated or cut off.

        Args:
            example: the input.
            sizes: name of an axis -> size.
        """
        axes = iter(self.axes)

        def tensor(value: Tensor) -> Tensor:
            for axis, name in next(axes).items():
                if name in sizes:
                    index = torch.arange(sizes[name], device=value.device) % value.shape[axis]
                    value = value.index_select(axis, index)
            return value

        return nested.map_tensors(tensor, example)

    def examples(self, example: Any, module: nn.Module) -> list[Any]:
        """Return three inputs with different sizes of the dynamic axes; without dynamic axes, only the example.

        Except for the batch, the first input has the sizes of the example. All axes with one name get one size.
        If none of the three has the batch size of the example, the example is added, except of size 1: see
        :data:`BATCHES`.

        Raises:
            OptionError: the model accepts too few sizes of an axis.
        """
        if not self:
            return [example]
        inputs = zip(nested.tensors(example), self.axes, strict=True)
        own = {name: tensor.shape[axis] for tensor, axes in inputs for axis, name in axes.items()}
        tried = {}
        if "batch" in self.names:
            tried["batch"] = [*BATCHES]
            refused = [str(size) for size in BATCHES if not self._accepts(module, example, {"batch": size})]
            if refused:
                raise _invalid("batch", f"the model does not accept the sizes {', '.join(refused)}; omit batch")
        tried |= {n: [own[n], *self._others(n, own, example, module)] for n in self.names if n != "batch"}
        resized = [self.resized(example, {name: sizes[i] for name, sizes in tried.items()}) for i in range(3)]
        tried_too = own.get("batch", 1) in (1, *BATCHES)
        return resized if tried_too else [self.resized(example, own), *resized]

    def _accepts(self, module: nn.Module, example: Any, sizes: dict[str, int]) -> bool:
        """Return whether a model without state of earlier inputs runs on the example with other sizes of some axes."""
        try:
            with torch.no_grad():
                traceable(module)(self.resized(example, sizes))
        except Exception:
            return False
        return True

    def _others(self, name: str, own: dict[str, int], example: Any, module: nn.Module) -> list[int]:
        """Return two other sizes of an axis that the model accepts. Each axis tries the sizes in another order.

        The second one is that of the traced input. It is not 1, which an exporter takes for a size that never varies.
        The first one is next to it if possible: a program may accept only sizes with the remainder of the traced one.
        """
        n, shift = own[name], self.names.index(name)
        # after a pooling, a smaller change would give the same size
        near = (n + 4, n + 2, n + 1, n - 1) if n < 16 else (n + 16, n + 8, n - 8)
        sizes = [size for size in dict.fromkeys((2 * n, n + n // 2, n // 2, *near)) if 0 < size != n]
        sizes = sizes[shift % len(sizes) :] + sizes[: shift % len(sizes)]
        sizes.sort(key=lambda size: (size == 1, self.larger_first and size < n))

        def accepted(sizes: Iterable[int]) -> Iterator[int]:
            return (s for s in sizes if self._accepts(module, example, {"batch": BATCHES[0], name: s}))

        runs = accepted(sizes)
        if (traced := next(runs, None)) is not None:
            beside = accepted(s for s in (traced + 1, traced - 1) if 1 < s != n)
            if (other := next(chain(beside, runs), None)) is not None:
                return [other, traced]
        accepts = f"{n}" if traced is None else f"{n}, {traced}"
        tried = ", ".join(map(str, sorted([n, *sizes])))
        reason = f"of the sizes {tried} the model accepts only {accepts}"
        raise OptionError(f"dynamic= (--dynamic) {name}: {reason}; omit {name}")


def _inputs(spec: str, name: str | None, names: list[str], count: int) -> list[int]:
    """Return the indices of the inputs to which a specification applies.

    Args:
        spec: the specification, for messages.
        name: name of the input; None for all inputs.
        names: names of all inputs.
        count: number of inputs.
    """
    if name is None:
        return list(range(count))
    if name not in names:
        raise _invalid(spec, f"no input {name}; the inputs are {', '.join(names)} (--input-names sets the names)")
    return [names.index(name)]


def _axis(spec: str, text: str, tensor: Tensor) -> int | None:
    """Return the index of an axis of a tensor; None if the tensor has no such axis."""
    name, given, index = text.partition("=")
    if given:
        if not re.fullmatch(r"-?\d+", index.strip()) or not name.strip().isidentifier():
            raise _invalid(spec, f"{text}: expected NAME=INDEX, such as time=1")
        axis = int(index)
        return axis % tensor.dim() if -tensor.dim() <= axis < tensor.dim() else None
    if name not in AXES:
        raise _invalid(spec, f"unknown axis {name}; expected {', '.join(AXES)}, or NAME=INDEX, such as time=1")
    axis, min_dims = AXES[name]
    return axis % tensor.dim() if tensor.dim() >= min_dims else None


def _invalid(spec: str, reason: str) -> OptionError:
    return OptionError(f"dynamic= (--dynamic) {spec}: {reason}")
