"""Write ``.pth``, another suffix of ``.pt``."""

from __future__ import annotations

from dpnn_bridge.outputs.formats.pt import Pt


class Pth(Pt):
    """The format ``.pth``, which is ``.pt`` with another suffix."""

    suffix = ".pth"


FORMAT = Pth()
