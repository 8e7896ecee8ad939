"""VGG for inference: biased convolutions and a Linear take the place of those with a batch norm behind."""

from corpus import EQUAL
from pairs.cifar_vgg import CFG, example, model, run_target
from torch import nn

__all__ = ["example", "model", "run_target"]
expect = EQUAL
notes = ("channels reversed", "folded")


def target():
    layers, channels = [], 3
    for v in CFG:
        if v == "M":
            layers.append(nn.MaxPool2d(2, 2, ceil_mode=True))
        else:
            layers += [nn.Conv2d(channels, v, 3, padding=1), nn.ReLU()]
            channels = v
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 10))
