"""A dropout of another rate: matters in training only."""

import torch.nn.functional as F
from corpus import EQUAL
from pairs.densenet_bc import DenseLayer, DenseNet, example, model

__all__ = ["example", "model"]
expect = EQUAL
notes = ("dropout", "0.5")


class Layer(DenseLayer):
    rate = 0.5


class Net(DenseNet):
    layer = Layer

    def forward(self, x):
        return self.classifier(F.adaptive_avg_pool2d(F.relu(self.features(x)), 1).flatten(1))


target = Net
