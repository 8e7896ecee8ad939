"""Classes of Facebook's packages fbnn, fbcunn and fairseq. One file per family."""

from dpnn_bridge.base.lazy_exports import lazy_family_exports

__getattr__, __dir__ = lazy_family_exports(__name__, __path__)
