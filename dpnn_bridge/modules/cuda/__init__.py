"""Classes of cunn and cudnn that nn lacks. One file per family."""

from dpnn_bridge.base.lazy_exports import lazy_family_exports

__getattr__, __dir__ = lazy_family_exports(__name__, __path__)
