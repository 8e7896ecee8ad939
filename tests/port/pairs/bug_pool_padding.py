"""The last pooling of CRNN pads no column."""

from corpus import Bug
from pairs.crnn import CRNN, example, model, run_target

__all__ = ["example", "model", "run_target"]
expect = Bug("crnn", ("padding",), layer=("cnn.pooling3",))


class Net(CRNN):
    last_pool = ((2, 2), (2, 1), (0, 0))


target = Net
