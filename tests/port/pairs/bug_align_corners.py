"""Bilinear upsampling that does not align corners, PyTorch's default."""

from corpus import Bug
from pairs.pyramid_flow import Flow, example, model, run_source

__all__ = ["example", "model", "run_source"]
expect = Bug("pyramid_flow", ("align_corners",), line="F.interpolate")


class Net(Flow):
    align = False


target = Net
