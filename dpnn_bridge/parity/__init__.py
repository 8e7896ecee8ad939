"""Compare modules with stored results of Torch7 or PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dpnn_bridge.base.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from dpnn_bridge.compare.differences import Difference, Result, Tolerance, compare
    from dpnn_bridge.compare.precision import full_precision
    from dpnn_bridge.conversion.noise import paired, replayed
    from dpnn_bridge.parity.fixture import check, check_module, random_numbers
    from dpnn_bridge.parity.manifest_check import check_manifest
    from dpnn_bridge.parity.recording import assert_parity, record

__all__ = [
    "Difference",
    "Result",
    "Tolerance",
    "assert_parity",
    "check",
    "check_manifest",
    "check_module",
    "compare",
    "full_precision",
    "paired",
    "random_numbers",
    "record",
    "replayed",
]

_MODULES = {
    **dict.fromkeys(("Difference", "Result", "Tolerance", "compare"), "compare.differences"),
    "full_precision": "compare.precision",
    **dict.fromkeys(("paired", "replayed"), "conversion.noise"),
    **dict.fromkeys(("check", "check_module", "random_numbers"), "parity.fixture"),
    "check_manifest": "parity.manifest_check",
    **dict.fromkeys(("assert_parity", "record"), "parity.recording"),
}
__getattr__, __dir__ = lazy_exports(__name__, _MODULES)
