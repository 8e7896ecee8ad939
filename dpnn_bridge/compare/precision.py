"""Compute in the precision that a comparison needs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from dpnn_bridge.base.exclusive import of_the_process
from dpnn_bridge.errors import OptionError


def check_device(device: str | torch.device) -> None:
    """Raise :class:`OptionError` unless PyTorch computes on a device here, and its results can be had."""
    try:
        torch.ones(1, device=device).cpu()
    except Exception as error:
        reason = str(error).strip().split("\n", 1)[0]
        raise OptionError(
            f"device={device} (--device {device}): PyTorch cannot use this device: {reason}; omit "
            "the option to run on the CPU"
        ) from error


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
