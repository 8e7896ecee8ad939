"""The last transposed convolution has no bias, and no norm that could take it."""

from corpus import Bug
from pairs.pix2pix_unet import UNet, example, model

__all__ = ["example", "model"]
expect = Bug("pix2pix_unet", ("bias",), layer=("model.model.3",))


class Net(UNet):
    last_bias = False


target = Net
