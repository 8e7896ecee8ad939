"""A port that holds images as width by height: every kernel is the transpose of the Lua code's."""

from corpus import EQUAL
from pairs.upconv import UpConv7, example, model, run_source

__all__ = ["example", "model", "run_source"]
expect = EQUAL
notes = ("transposed",)
target = UpConv7


def run_target(module, x):
    return module(x.transpose(2, 3)).transpose(2, 3)
