"""Average pooling that leaves the padding out of its count."""

from corpus import Bug
from pairs.depthwise import Mobile, example, model

__all__ = ["example", "model"]
expect = Bug("depthwise", ("count_include_pad",), line="F.avg_pool2d")


class Net(Mobile):
    count = False


target = Net
