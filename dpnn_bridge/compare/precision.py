"""Compute in the precision that a comparison needs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec

import torch

from dpnn_bridge.base.display import shortened
from dpnn_bridge.base.exclusive import of_the_process
from dpnn_bridge.errors import OptionError


def check_device(device: str | int | torch.device) -> None:
    """Raise :class:`OptionError` unless PyTorch computes on a device here, and its results can be had.

    The package that adds a device to PyTorch, such as torch_xla and torch_npu, is imported if it is installed.
    """
    kind = str(device).partition(":")[0]
    try:
        if kind.isidentifier() and find_spec(f"torch_{kind}") is not None:
            import_module(f"torch_{kind}")
        torch.ones(1, device=device).cpu()
    except Exception as error:
        reason = shortened(str(error).strip().split("\n")[0].split(". ")[0], 200)
        raise OptionError(
            f"device={device} (--device {device}): PyTorch cannot use this device: {reason}; "
            f"available: {', '.join(_devices())}"
        ) from error


def _devices() -> list[str]:
    """Return the names of the devices that PyTorch can use."""
    found = torch.accelerator.current_accelerator(check_available=True)
    return ["cpu", *(f"{found.type}:{i}" for i in range(torch.accelerator.device_count()) if found)]


@of_the_process
@contextmanager
def full_precision() -> Iterator[None]:
    """Make CUDA compute float32 without TF32 and deterministically inside the ``with`` block.

    An operation that has no deterministic form on CUDA warns. ``CUBLAS_WORKSPACE_CONFIG``, which cuBLAS needs for it,
    is set unless the environment has it.
    """
    matmul = torch.backends.cuda.matmul
    allowed = matmul.allow_tf32
    deterministic = torch.get_deterministic_debug_mode()
    matmul.allow_tf32 = False
    if torch.cuda.is_available():
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        # use_deterministic_algorithms would import PyTorch's compiler, which takes a second
        torch.set_deterministic_debug_mode(deterministic or "warn")
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        matmul.allow_tf32 = allowed
        torch.set_deterministic_debug_mode(deterministic)
