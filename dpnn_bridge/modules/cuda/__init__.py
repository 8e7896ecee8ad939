"""Classes of cunn and cudnn that nn lacks. One file per family."""

from dpnn_bridge.base.faces import family_face

__getattr__, __dir__ = family_face(__name__, __path__)
