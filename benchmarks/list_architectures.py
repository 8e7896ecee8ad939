"""Write the digests of torchvision's and timm's classic architectures.

    python benchmarks/list_architectures.py

It needs torchvision, and takes timm's models where timm is installed. ``dpnn-inspect`` reads the file that it writes,
``dpnn_bridge/checkpoints/architectures.json``.
"""

from __future__ import annotations

import importlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from dpnn_bridge.checkpoints import architectures

TARGET = Path(architectures.__file__).with_name("architectures.json")
#: package -> names of models, with arguments where the default is not what Torch7 had
MODELS = {
    "torchvision.models": (
        "alexnet resnet18 resnet34 resnet50 resnet101 resnet152 resnext50_32x4d resnext101_32x8d resnext101_64x4d"
        " wide_resnet50_2 wide_resnet101_2 vgg11 vgg13 vgg16 vgg19 vgg11_bn vgg13_bn vgg16_bn vgg19_bn squeezenet1_0"
        " squeezenet1_1 densenet121 densenet161 densenet169 densenet201 googlenet(aux_logits=False) inception_v3"
        " inception_v3(aux_logits=False)"
    ),
    "timm.models": (
        "resnet26 resnet50d resnext101_32x4d inception_v4 inception_resnet_v2 xception densenet264d seresnet50"
    ),
}


def described(call: str, place: str) -> dict[str, Any] | None:
    """Return the digest of a model, None where it cannot be made."""
    name, _, given = call.partition("(")
    options = dict(pair.split("=") for pair in given.rstrip(")").split(", ") if pair)
    try:
        make = getattr(importlib.import_module(place), name)
    except (ImportError, AttributeError):
        return None
    arguments = {key: {"False": False, "True": True}[value] for key, value in options.items()}
    if name in ("googlenet", "inception_v3"):
        arguments["init_weights"] = False
    with torch.device("meta"):
        shapes, other = (
            Counter(architectures.shapes_of(make(num_classes=count, **arguments))) for count in (1000, 999)
        )
    changed = [shape for shape in shapes if shape not in other]
    if len(changed) != 1:
        return None
    classifier = changed[0]
    if shapes[classifier] != 1:
        return None
    return {
        "digest": architectures.digest(shapes, classifier),
        "layers": shapes.total(),
        "features": classifier[2],
        "classes": 1000,
        "input": "1x3x299x299" if "ception" in name else "1x3x224x224",
    }


def main() -> None:
    """Write the file; of architectures with equal shapes the first is named."""
    found: dict[str, dict[str, Any]] = {}
    for place, names in MODELS.items():
        for call in names.replace(", ", ",").split():
            known = described(call.replace(",", ", "), place)
            if known is not None and known["digest"] not in {k["digest"] for k in found.values()}:
                found[f"{place}:{call}"] = known
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(known)}" for name, known in found.items())
    TARGET.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")
    print(f"{TARGET}: {len(found)} architectures")


if __name__ == "__main__":
    main()
