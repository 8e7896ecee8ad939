"""One dilation too small; all shapes agree."""

from corpus import Bug
from pairs.dilated_context import Context, example, model

__all__ = ["example", "model"]
expect = Bug("dilated_context", ("dilation",), layer=("ctx3",))


class Net(Context):
    dilations = (1, 1, 2, 2, 1)


target = Net
