"""dpnn's Dictionary."""

from __future__ import annotations

from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.modules.nn.lookup import LookupTable


@lua_class("nn.Dictionary")
class Dictionary(LookupTable.Lua):
    """A LookupTable that dpnn had until 2015 for sparse updates; later versions refuse to make one."""

    import_only = True
    version = 1
