"""Comparisons that the formats share."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dpnn_bridge import parity
from dpnn_bridge.errors import ConversionError, VerificationError

#: elements that are compared at once, so that they stay in the processor's cache
CHUNK = 1 << 17
#: the first PyTorch that exports whole models; torch.onnx of 2.6 fails on batch normalization
TRACING = "2.7"


def byte_array(tensor: Tensor) -> np.ndarray:
    """The bytes of a contiguous tensor as a 1-D array, of 8-byte integers where they divide evenly: 6 times faster."""
    if tensor.numel() == 0:  # its strides may be 0, which view() does not take
        return np.empty(0, np.int64)
    data = tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy()
    return data.view(np.int64) if len(data) % 8 == 0 else data


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors have the same dtype, shape and bytes."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    x, y = byte_array(a.contiguous()), byte_array(b.contiguous())
    return all(np.array_equal(x[i : i + CHUNK], y[i : i + CHUNK]) for i in range(0, len(x), CHUNK))


def same_tensors(
    path: Path,
    read: Mapping[str, Tensor],
    written: Mapping[str, Tensor],
    reason: str = "the disk may be full or failing",
) -> None:
    """Raises :class:`VerificationError` unless both hold the same names with the same bits."""
    if read.keys() != written.keys():
        raise VerificationError(f"{path}: read back other names than were written")
    for name, tensor in written.items():
        if not same_bits(read[name], tensor.detach().cpu()):
            raise VerificationError(f"{path}: {name} differs after reading back; {reason}")


def same_outputs(path: Path, actual: Any, expected: Any, what: str, rounding: float = 0.0) -> None:
    """Raises :class:`VerificationError` unless nested outputs agree.

    Args:
        path: for the message.
        actual, expected: the outputs.
        what: who computed ``actual``, for the message.
        rounding: how far rounding alone moves the outputs, see :func:`rounding_of`. The tolerance is ten times this,
            and at least 1e-4 of the outputs' scale (1e-8 in double precision).
    """
    tolerance = parity.Tolerance(double=1e-8, single=max(1e-4, 10 * rounding))
    actual, expected = list(parity.leaves(actual)), list(parity.leaves(expected))
    failed = [d for d in parity.compare("output", actual, expected, tolerance) if not d.ok]
    if failed:
        raise VerificationError(f"{path}: {what} computes something else: {failed[0].name}: {failed[0].message}")


def rounding_of(module: nn.Module, example: Any, expected: Any) -> float:
    """How far the outputs of a module are from those in double precision, relative to their scale; at most 1e-3.

    Normalizing few or nearly equal values magnifies the rounding errors of single precision.
    """
    precise = parity.leaves(run(copy.deepcopy(module).double(), parity.cast(example, torch.float64)))
    tolerance = parity.Tolerance(0.0, 0.0)
    found = [v.double() if isinstance(v, Tensor) else v for v in parity.leaves(expected)]
    return min(1e-3, max((d.error for d in parity.compare("output", found, list(precise), tolerance)), default=0.0))


def run(module: nn.Module, example: Any) -> Any:
    """The output of a module without gradients.

    Raises:
        ConversionError: the module does not take the example.
    """
    try:
        with torch.no_grad():
            return module(example)
    except Exception as e:
        raise ConversionError(f"the model cannot run on the example input: {e}") from e


def traceable(module: nn.Module) -> nn.Module:
    """A copy in evaluation mode on the same tensors: tracing leaves its symbols in modules that keep a state."""
    return copy.deepcopy(module, {id(t): t for t in [*module.parameters(), *module.buffers()]}).eval()


def check_traced(path: Path, outputs: Any, module: nn.Module, example: Any, what: str) -> None:
    """Raises :class:`VerificationError` unless ``outputs``, from the file that was written, are the module's."""
    expected = run(traceable(module), example)
    try:
        same_outputs(path, outputs, expected, what)
    except VerificationError as e:
        again = list(parity.leaves(run(traceable(module), example)))
        if any(not d.ok for d in parity.compare("output", again, list(parity.leaves(expected)))):
            raise VerificationError(
                f"{path}: the model draws random numbers, so that what {what} computes cannot be compared with it"
            ) from e
        same_outputs(path, outputs, expected, what, rounding_of(traceable(module), example, expected))


def need_tracing(example: Any, suffix: str) -> None:
    """Raises :class:`ConversionError` when there is no example input, or PyTorch is too old to trace whole models."""
    if torch.__version__ < TRACING:
        raise ConversionError(f"{suffix} needs PyTorch {TRACING} or newer, found {torch.__version__}")
    if example is None:
        raise ConversionError(f"{suffix} needs an example input: --input 1x3x224x224 (example=tensor)")
