"""Classes of published models and small packages, one file for each project."""

from dpnn_bridge.base.lazy_exports import lazy_family_exports

__getattr__, __dir__ = lazy_family_exports(__name__, __path__)
