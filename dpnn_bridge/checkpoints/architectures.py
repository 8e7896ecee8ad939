"""Recognize published architectures by the shapes of a model's weights.

``architectures.json`` contains a digest for each architecture; ``benchmarks/list_architectures.py`` writes this file. A
model has an architecture only if the shapes of all weights and the sizes of all normalization layers are equal, except
the number of classes.
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

#: ``("weight", *shape)``, or ``("norm", number of features)``
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
    """Return the architecture whose weights have the shapes of a model's weights, or None."""
    shapes = Counter(shapes_of(module))
    for name, entry in _architectures().items():
        if entry["layers"] != shapes.total():
            continue
        for shape in [s for s in shapes if s[0] == "weight" and s[2:] == (entry["features"],)]:
            if digest(shapes, shape) == entry["digest"]:
                call, _, given = name.partition("(")
                classes = [f"num_classes={shape[1]}"] if shape[1] != entry["classes"] else []
                arguments = ", ".join([*([given.removesuffix(")")] if given else []), *classes])
                return Architecture(f"{call}({arguments})" if arguments else call, entry["input"])
    return None


def shapes_of(module: nn.Module) -> Iterator[Shape]:
    """Yield the shapes of a model's weights and the sizes of its batch and instance norms.

    Trailing dimensions of size 1 are removed, so a linear layer has the shape of a 1x1 convolution.
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
        shapes: all shapes of the model.
        classifier: the shape of the last layer's weight, whose number of classes is ignored.
    """
    rest = Counter(shapes)
    rest[classifier] -= 1
    rest[(*classifier[:1], 0, *classifier[2:])] += 1
    text = repr(sorted((+rest).items(), key=str))
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


@cache
def _architectures() -> dict[str, dict[str, Any]]:
    """Return the content of ``architectures.json``: value of ``--into`` -> description of the architecture.

    A description has a ``digest``, the number of shapes (``layers``), the number of input ``features`` of the
    classifier, the default number of ``classes``, and the shape of an ``input``.
    """
    text = resources.files("dpnn_bridge.checkpoints").joinpath("architectures.json").read_text(encoding="utf-8")
    architectures: dict[str, dict[str, Any]] = json.loads(text)
    return architectures
