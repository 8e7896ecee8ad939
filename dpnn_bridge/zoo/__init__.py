"""Classes of published models and small packages. One file per project."""

from dpnn_bridge.base.faces import family_face

__getattr__, __dir__ = family_face(__name__, __path__)
