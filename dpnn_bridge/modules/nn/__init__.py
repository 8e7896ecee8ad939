"""nn's own classes, and those of nngraph: one file per family, one block per Lua class.

Every module class of the files can be imported from here.
"""

from dpnn_bridge.base.faces import family_face

__getattr__, __dir__ = family_face(__name__, __path__)
