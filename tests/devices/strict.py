"""The device ``strict``: memory that the host cannot touch, kernels of the CPU (``strict.cpp``).

``pytest --device strict`` runs on it. PyTorch knows one device of others in a process, and knows it to its end.
"""

from __future__ import annotations

import shutil
import sys
import types
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

NAME = "strict"


def missing() -> str:
    """Why the device cannot be built here; empty if it can."""
    if sys.platform != "linux":
        return "it protects pages as Linux does"
    absent = [program for program in ("g++", "ninja") if shutil.which(program) is None]
    return f"there is no {' and no '.join(absent)}" if absent else ""


def register() -> None:
    """Build the device, which PyTorch keeps for the next time, and make it known to PyTorch."""
    if torch._C._get_privateuse1_backend_name() == NAME:
        return
    from torch.utils import cpp_extension  # takes a second to load

    cpp_extension.load(
        "dpnn_strict_device", [str(Path(__file__).with_suffix(".cpp"))], extra_cflags=["-O1"], is_python_module=False
    )
    torch.utils.rename_privateuse1_backend(NAME)
    module = types.ModuleType(f"torch.{NAME}")
    module.__dict__.update(
        is_available=lambda: True,
        device_count=lambda: 1,
        current_device=lambda: 0,
        device=lambda index: nullcontext(),
        manual_seed_all=lambda seed: None,
        get_rng_state=lambda device=None: torch.get_rng_state(),
        set_rng_state=lambda state, device=None: torch.set_rng_state(state),
        get_amp_supported_dtype=lambda: [torch.bfloat16, torch.float16],
        _is_in_bad_fork=lambda: False,
    )
    torch._register_device_module(NAME, module)
    for kind in (torch.Tensor, torch.UntypedStorage):
        kind.data_ptr = _without_address(kind.data_ptr)
    torch.utils.generate_methods_for_privateuse1_backend(for_tensor=True, for_module=True, for_storage=True)


def _without_address(data_ptr: Any) -> Any:
    """Tensors have no address for the package, as on XLA; PyTorch itself asks eager devices for theirs."""

    def address(tensor: Any) -> int:
        if tensor.device.type == NAME and sys._getframe(1).f_globals["__name__"].startswith("dpnn_bridge"):
            raise RuntimeError("data_ptr: a tensor of this device has no address")
        return data_ptr(tensor)

    return address
