"""grid_sample does not align corners, PyTorch's default."""

from corpus import Bug
from pairs.stn import STN, example, model

__all__ = ["example", "model"]
expect = Bug("stn", ("align_corners",), line="F.grid_sample")


class Net(STN):
    align = False


target = Net
