"""dpnn's Dictionary."""

from __future__ import annotations

from dpnn_bridge.modules.lookup import LookupTableClass
from dpnn_bridge.registry import lua_class


@lua_class("nn.Dictionary")
class Dictionary(LookupTableClass):
    """A LookupTable that dpnn had until 2015 for sparse updates; later versions refuse to make one."""

    version = 1
