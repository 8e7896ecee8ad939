"""Select a device, and compute deterministically and in full precision, for comparisons."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec

import torch

from dpnn_bridge.base.display import shortened
from dpnn_bridge.base.exclusive import process_wide
from dpnn_bridge.errors import OptionError


def check_device(device: str | int | torch.device) -> None:
    """Raise :class:`OptionError` unless PyTorch can compute on a device and copy results from it.

    A package that adds the device to PyTorch, such as torch_xla or torch_npu, is imported if it is installed.
    """
    device_type = str(device).partition(":")[0]
    try:
        if device_type.isidentifier() and find_spec(f"torch_{device_type}") is not None:
            import_module(f"torch_{device_type}")
        torch.ones(1, device=device).cpu()
    except Exception as error:
        reason = shortened(str(error).strip().split("\n")[0].split(". ")[0], 200)
        raise OptionError(
            f"device={device} (--device {device}): PyTorch cannot use this device: {reason}; "
            f"available: {', '.join(_devices())}"
        ) from error


def _devices() -> list[str]:
    """Return the names of the devices that PyTorch can use."""
    device = torch.accelerator.current_accelerator(check_available=True)
    return ["cpu", *(f"{device.type}:{i}" for i in range(torch.accelerator.device_count()) if device)]


@process_wide
@contextmanager
def full_precision() -> Iterator[None]:
    """Make CUDA compute float32 without TF32 and deterministically inside the ``with`` block.

    An operation without a deterministic implementation on CUDA warns. ``CUBLAS_WORKSPACE_CONFIG``, which cuBLAS needs
    for deterministic results, is set unless the environment contains it.
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
