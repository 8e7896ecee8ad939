"""Export PyTorch layers without a Lua class as compositions of nn's classes, or raise an error with the reason."""

from dpnn_bridge.base.faces import family_face

__getattr__, __dir__ = family_face(__name__, __path__)
