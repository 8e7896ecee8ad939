"""The pointwise convolution of a separable one is in groups too."""

from corpus import Bug
from pairs.depthwise import Mobile, example, model

__all__ = ["example", "model"]
expect = Bug("depthwise", ("groups",), layer=("pw",))


class Net(Mobile):
    groups = 4


target = Net
