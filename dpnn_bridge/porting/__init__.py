"""Load the weights of a Torch7 model into another implementation of its network, and prove that both are equal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dpnn_bridge.base.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from dpnn_bridge.porting.api import port
    from dpnn_bridge.porting.html import port_page
    from dpnn_bridge.porting.judge import judge
    from dpnn_bridge.porting.report import Deviation, Match, PortReport

__all__ = ["Deviation", "Match", "PortReport", "judge", "port", "port_page"]

_MODULES = {
    "judge": "porting.judge",
    "port": "porting.api",
    "port_page": "porting.html",
    **dict.fromkeys(("Deviation", "Match", "PortReport"), "porting.report"),
}
__getattr__, __dir__ = lazy_exports(__name__, _MODULES)
