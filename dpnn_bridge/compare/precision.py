"""Computing in the precision that a comparison needs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def full_precision() -> Iterator[None]:
    """While the block runs, CUDA computes float32 in float32 (no TF32) and gives the same bits at each run.

    An operation that has no deterministic form on CUDA warns. ``CUBLAS_WORKSPACE_CONFIG``, which cuBLAS needs for it,
    is set unless the environment has it.
    """
    matmul = torch.backends.cuda.matmul
    allowed = matmul.allow_tf32
    enabled = torch.are_deterministic_algorithms_enabled()
    warning = torch.is_deterministic_algorithms_warn_only_enabled()
    matmul.allow_tf32 = False
    if torch.cuda.is_available():
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=warning or not enabled)
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        matmul.allow_tf32 = allowed
        torch.use_deterministic_algorithms(enabled, warn_only=warning)
