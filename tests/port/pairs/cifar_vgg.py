"""VGG with batch norms for images with the channels in the order of OpenCV; its convolutions have no bias."""

from corpus import EQUAL, randn
from torch import nn

model = "port/cifar_vgg_bn.t7"
expect = EQUAL
notes = ("channels reversed", "bias")
CFG = (3, 3, "M", 4, 4, "M", 6, 6, 6, "M", 8, 8, 8, "M", 8, 8, 8, "M")


class VGG(nn.Module):
    eps = 1e-3

    def __init__(self):
        super().__init__()
        self.classifier = nn.Sequential(
            nn.Dropout(), nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(True), nn.Dropout(), nn.Linear(8, 10)
        )
        layers, channels = [], 3
        for v in CFG:
            if v == "M":
                layers.append(nn.MaxPool2d(2, 2, ceil_mode=True))
            else:
                layers += [
                    nn.Conv2d(channels, v, 3, padding=1, bias=False),
                    nn.BatchNorm2d(v, eps=self.eps),
                    nn.ReLU(inplace=True),
                ]
                channels = v
        self.features = nn.Sequential(*layers)

    def forward(self, bgr):
        return self.classifier(self.features(bgr).flatten(1))


target = VGG


def example(seed):
    return randn(2, 3, 32, 32, seed=seed)


def run_target(module, x):
    return module(x.flip(1))
