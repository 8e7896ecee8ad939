"""The residual is cropped at the right and at the bottom alone."""

from corpus import Bug
from pairs.upresnet import ResBlock, UpResNet, example, model

__all__ = ["example", "model"]
expect = Bug("upresnet", (("pad", "crop", "slice"),), layer=("res_blocks.0",), line="[:, :, :-4, :-4]")


class Corner(ResBlock):
    def crop(self, x):
        return x[:, :, :-4, :-4]


class Net(UpResNet):
    block = Corner


target = Net
