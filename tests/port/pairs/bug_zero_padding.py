"""The decoder's convolutions pad with zeros."""

from corpus import Bug
from pairs.adain_decoder import Decoder, example, model

__all__ = ["example", "model"]
expect = Bug("adain_decoder", (("reflect", "Reflect"),), layer=("convs.0",))


class Net(Decoder):
    mode = "zeros"


target = Net
