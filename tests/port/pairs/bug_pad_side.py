"""Shortcut A with half of the zeros before the channels and half after them."""

from corpus import Bug
from pairs.resnet_cifar_a import Block, ResNet8, Shortcut, example, model

__all__ = ["example", "model"]
expect = Bug("resnet_cifar_a", ("pad",), layer=("layer2.shortcut",), line="F.pad")


class BothSides(Shortcut):
    def __init__(self, planes):
        super().__init__(planes)
        self.padding = (0, 0, 0, 0, planes // 4, planes // 4)


class BothSidesBlock(Block):
    shortcut_of = BothSides


class Net(ResNet8):
    block = BothSidesBlock


target = Net
