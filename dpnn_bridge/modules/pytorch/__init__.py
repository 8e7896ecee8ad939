"""Layers of PyTorch that no Lua class is: how each is written as a composition of nn's classes, or why it cannot be."""

from dpnn_bridge.base.faces import family_face

__getattr__, __dir__ = family_face(__name__, __path__)
