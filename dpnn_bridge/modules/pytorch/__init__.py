"""Export PyTorch layers without a Lua class as compositions of nn's classes, or raise an error with the reason."""

from dpnn_bridge.base.lazy_exports import lazy_family_exports

__getattr__, __dir__ = lazy_family_exports(__name__, __path__)
