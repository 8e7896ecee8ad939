"""One slope for all channels where the Lua code has one for each."""

from corpus import Bug
from pairs.espcn import ESPCN, example, model

__all__ = ["example", "model"]
expect = Bug("espcn", (("slope", "weight", "num_parameters"), "6"), layer=("act",))


class Net(ESPCN):
    slopes = 1


target = Net
