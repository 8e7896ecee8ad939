"""No ReLU before the maximum over time, which is positive on most inputs."""

from corpus import Bug
from pairs.text_cnn import TextCNN, example, model, run_source

__all__ = ["example", "model", "run_source"]
# the outputs are equal on the first input
expect = Bug("", ("relu", "missing here", "equal"), line="squeeze(3)")


class Net(TextCNN):
    activation = staticmethod(lambda x: x)


target = Net
