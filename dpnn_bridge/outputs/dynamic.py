"""Let sizes of inputs vary in a traced program, and find inputs of other sizes to run it on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.compare import nested
from dpnn_bridge.errors import OptionError
from dpnn_bridge.outputs.verification import traceable

#: name of an axis -> its index, and the least number of dimensions of a tensor with that axis
AXES = {"batch": (0, 1), "length": (-1, 2), "depth": (-3, 4), "height": (-2, 3), "width": (-1, 3)}
#: sizes of the batch that are tried; not 1: for one sample nn.View drops the dimension, and a traced graph keeps it
BATCHES = (2, 3, 5)

_SPEC = re.compile(r"(?:(?P<input>[^:,=]+):)?(?P<axes>[^:]+)")


@dataclass(frozen=True)
class Dynamic:
    """Which sizes of the inputs vary.

    Attributes:
        axes: For each tensor of the input, in order: index of an axis -> its name.
    """

    axes: tuple[dict[int, str], ...]

    @classmethod
    def of(cls, given: bool | str | Sequence[str], example: Any, names: Sequence[str] | None = None) -> Dynamic:
        """Find the axes that an option names.

        Args:
            given: ``"batch,height,width"``, ``"image:batch,height"`` for one input, ``"time=1"`` for an axis by its
                index, or several of these; True for ``"batch"``.
            example: The input.
            names: Names of the inputs; default: their numbers from 0.

        Raises:
            OptionError: There is no such axis or input.
        """
        tensors = nested.tensors(example)
        axes: list[dict[int, str]] = [{} for _ in tensors]
        specs = ("batch",) if given is True else () if not given else (given,) if isinstance(given, str) else given
        for spec in specs:
            found = _SPEC.fullmatch(spec)
            if found is None:
                raise _refused(spec, "expected AXES or INPUT:AXES")
            chosen = _inputs(spec, found["input"], [*(names or map(str, range(len(tensors))))], len(tensors))
            for text in found["axes"].split(","):
                found_in = {i: axis for i in chosen if (axis := _axis(spec, text.strip(), tensors[i])) is not None}
                if not found_in:
                    sizes = ", ".join("x".join(map(str, tensors[i].shape)) for i in chosen)
                    raise _refused(spec, f"an input of {sizes} has no axis {text.strip()}")
                for i, axis in found_in.items():
                    axes[i][axis] = text.partition("=")[0].strip()
        return cls(tuple(axes))

    def __bool__(self) -> bool:
        return any(self.axes)

    @property
    def names(self) -> list[str]:
        """The names of the axes, each once."""
        return list(dict.fromkeys(name for axes in self.axes for name in axes.values()))

    def shapes(self, example: Any, *, named: bool = False) -> Any:
        """Return ``dynamic_shapes`` for the example: of ``torch.export``, or with names of ``torch.onnx``."""
        axes = iter(self.axes)

        def shape(value: Any) -> Any:
            if isinstance(value, Tensor):
                return {axis: name if named else torch.export.Dim.DYNAMIC for axis, name in next(axes).items()}
            if isinstance(value, (list, tuple)):
                return [shape(v) for v in value]
            return {k: shape(v) for k, v in value.items()} if isinstance(value, dict) else None

        return shape(example)

    def resized(self, example: Any, sizes: dict[str, int]) -> Any:
        """Return the example with other sizes of some axes; its elements repeat."""
        axes = iter(self.axes)

        def tensor(value: Tensor) -> Tensor:
            for axis, name in next(axes).items():
                if name in sizes:
                    index = torch.arange(sizes[name], device=value.device) % value.shape[axis]
                    value = value.index_select(axis, index)
            return value

        return nested.map_tensors(tensor, example)

    def examples(self, example: Any, module: nn.Module) -> list[Any]:
        """Return the example and two more inputs of other sizes; the last has different sizes for different axes.

        Raises:
            OptionError: The model itself runs with one size of an axis only.
        """
        if not self:
            return [example]
        inputs = zip(nested.tensors(example), self.axes, strict=True)
        own = {name: tensor.shape[axis] for tensor, axes in inputs for axis, name in axes.items()}
        model = traceable(module)
        tried = {n: [*BATCHES] if n == "batch" else [own[n], *self._others(n, own, example, model)] for n in self.names}
        return [self.resized(example, {name: sizes[i] for name, sizes in tried.items()}) for i in range(3)]

    def _others(self, name: str, own: dict[str, int], example: Any, model: nn.Module) -> list[int]:
        """Return two more sizes of an axis that the model runs with; another two for each axis."""
        n, turn = own[name], self.names.index(name)
        near = (n + 4, n + 2, n + 1, n - 1) if n < 16 else (n + 16, n + 8, n - 8)  # a pooling drops a smaller step
        sizes = [size for size in dict.fromkeys((2 * n, n + n // 2, n // 2, *near)) if 0 < size != n]
        found = []
        for size in sizes[turn % len(sizes) :] + sizes[: turn % len(sizes)]:
            try:
                with torch.no_grad():
                    model(self.resized(example, {"batch": BATCHES[0], name: size}))
            except Exception:  # whatever a model raises for a size that it does not take
                continue
            found.append(size)
            if len(found) == 2:
                return found
        runs, tried = (", ".join(map(str, each)) for each in ([n, *found], sorted([n, *sizes])))
        reason = f"of the sizes {tried} the model takes {runs}"
        raise OptionError(f"dynamic= (--dynamic) {name}: {reason}; leave {name} out")


def _inputs(spec: str, name: str | None, names: list[str], count: int) -> list[int]:
    """Return the numbers of the inputs that a spec is about."""
    if name is None:
        return list(range(count))
    if name not in names:
        raise _refused(spec, f"no input {name}; there is {', '.join(names)} (--input-names names them)")
    return [names.index(name)]


def _axis(spec: str, text: str, tensor: Tensor) -> int | None:
    """Return the index of an axis of a tensor; None if it has none of the name."""
    name, given, index = text.partition("=")
    if given:
        if not re.fullmatch(r"-?\d+", index.strip()) or not name.strip().isidentifier():
            raise _refused(spec, f"{text}: expected NAME=INDEX, such as time=1")
        axis = int(index)
        return axis % tensor.dim() if -tensor.dim() <= axis < tensor.dim() else None
    if name not in AXES:
        raise _refused(spec, f"unknown axis {name}; there are {', '.join(AXES)}, or NAME=INDEX, such as time=1")
    axis, least = AXES[name]
    return axis % tensor.dim() if tensor.dim() >= least else None


def _refused(spec: str, reason: str) -> OptionError:
    return OptionError(f"dynamic= (--dynamic) {spec}: {reason}")
