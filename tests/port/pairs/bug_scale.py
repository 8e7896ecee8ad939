"""The flow is not doubled when the image is."""

from corpus import Bug
from pairs.pyramid_flow import Flow, example, model, run_source

__all__ = ["example", "model", "run_source"]
expect = Bug("pyramid_flow", (("mul", "Mul", "factor", "scale"), "2"), line="self.scale")


class Net(Flow):
    scale = 1.5


target = Net
