"""Recognize published architectures by the shapes of a model's weights.

``architectures.json`` has one digest for each architecture; ``benchmarks/list_architectures.py`` writes it. A
model has an architecture only if the shapes of all weights and the sizes of all normalization layers agree.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections import Counter
from collections.abc import Iterator
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

from torch import nn

Shape = tuple[Any, ...]


class Architecture(NamedTuple):
    """A published architecture, described by options of ``dpnn-convert``.

    Attributes:
        into: value of ``--into``, such as ``"torchvision.models:resnet18(num_classes=10)"``.
        input: value of ``--input``, the shape of an input.
    """

    into: str
    input: str

    def __str__(self) -> str:
        return f"--into {shlex.quote(self.into)} --input {self.input}"


def architecture_of(module: nn.Module) -> Architecture | None:
    """Return the architecture with the shapes of a model, or None if no architecture has all its shapes."""
    shapes = Counter(shapes_of(module))
    for name, known in _known().items():
        if known["layers"] != shapes.total():
            continue
        for shape in [s for s in shapes if s[0] == "weight" and s[2:] == (known["features"],)]:
            if digest(shapes, shape) == known["digest"]:
                call, _, given = name.partition("(")
                classes = [f"num_classes={shape[1]}"] if shape[1] != known["classes"] else []
                arguments = ", ".join([*([given.removesuffix(")")] if given else []), *classes])
                return Architecture(f"{call}({arguments})" if arguments else call, known["input"])
    return None


def shapes_of(module: nn.Module) -> Iterator[Shape]:
    """Yield the shapes of a model's weights and the sizes of its normalization layers.

    A linear layer has the same shape as a 1x1 convolution.
    """
    for layer in module.modules():
        if isinstance(layer, nn.modules.batchnorm._NormBase):
            yield "norm", layer.num_features
            continue
        for parameter in layer.parameters(recurse=False):
            if parameter.dim() > 1:
                shape = list(parameter.shape)
                while len(shape) > 2 and shape[-1] == 1:
                    shape.pop()
                yield "weight", *shape


def digest(shapes: Counter[Shape], classifier: Shape) -> str:
    """Return a hash of the shapes that does not depend on the number of classes.

    Args:
        shapes: all shapes.
        classifier: the shape of the last layer.
    """
    rest = Counter(shapes)
    rest[classifier] -= 1
    rest[(*classifier[:1], 0, *classifier[2:])] += 1
    text = repr(sorted((+rest).items(), key=str))
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


@cache
def _known() -> dict[str, dict[str, Any]]:
    text = resources.files("dpnn_bridge.checkpoints").joinpath("architectures.json").read_text(encoding="utf-8")
    known: dict[str, dict[str, Any]] = json.loads(text)
    return known
