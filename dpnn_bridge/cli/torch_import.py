"""Import PyTorch in commands."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from dpnn_bridge.base.boundary import working_directory_is_removed
from dpnn_bridge.base.folders import clean_up_on_signals, end_without_exception
from dpnn_bridge.errors import REMOVED_DIRECTORY, FileAccessError


def load_torch(progress: Callable[[str], None]) -> None:
    """Show the step, import PyTorch, and exclude the objects of PyTorch from garbage collection.

    The many objects exist until the process ends, and every collection would traverse them.
    """
    progress("loading PyTorch")
    if "torch" in sys.modules or not gc.isenabled():
        return
    gc.disable()
    try:
        with clean_up_on_signals(), end_without_exception():  # PyTorch ignores exceptions while it is imported
            import torch  # noqa: F401
    finally:
        gc.freeze()
        gc.enable()


class _TorchCheck:
    """A finder for ``sys.meta_path`` that finds nothing.

    It refuses to import PyTorch in a removed working directory, where MKL ends the process.
    """

    @staticmethod
    def find_spec(name: str, _path: Any = None, _target: Any = None) -> None:
        if name == "torch" and working_directory_is_removed():
            raise FileAccessError(REMOVED_DIRECTORY)


@contextmanager
def checking_torch() -> Iterator[None]:
    """Raise an error if PyTorch is imported in a removed working directory, inside the ``with`` block."""
    check: Any = _TorchCheck()
    sys.meta_path.insert(0, check)
    try:
        yield
    finally:
        sys.meta_path.remove(check)
