"""dpnn's Dictionary."""

from __future__ import annotations

from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.modules.nn.lookup import LookupTable


@lua_class("nn.Dictionary")
class Dictionary(LookupTable.Lua):
    """A LookupTable with sparse updates in dpnn until 2015; later versions cannot construct it."""

    import_only = True
    version = 1
