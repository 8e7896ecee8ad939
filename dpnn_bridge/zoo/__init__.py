"""Classes of published models and smaller packages: one file per family, one block per Lua class.

The registry imports these files when a name is asked for that :mod:`dpnn_bridge.modules` does not have. Every module
class of the files can be imported from here.
"""

from dpnn_bridge.base.faces import family_face

__getattr__, __dir__ = family_face(__name__, __path__)
