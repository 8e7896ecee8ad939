"""Change the result of every operation by an ulp, as another implementation of the operation may."""

from __future__ import annotations

from typing import Any

import torch

from dpnn_bridge.compare import nested
from dpnn_bridge.conversion.limits import EagerMode


class PerturbedResults(EagerMode):
    """Multiplies each element of every floating point result by 1 - eps, 1 or 1 + eps inside the ``with`` block.

    Two runtimes compute ``tanh`` with different last bits. A layer such as ``nn.TanhShrink``, which subtracts it from
    nearly the same number, makes a large relative difference of them. Other inputs do not show that, because both
    numbers change.

    Args:
        seed: selects the signs; the global random numbers are not used.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._generator = torch.Generator().manual_seed(seed)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **(kwargs or {}))
        if func.is_view:
            return results
        with torch.no_grad():
            for t in nested.tensors(list(results) if isinstance(results, tuple) else results):
                if t.is_floating_point() and t.device.type == "cpu" and t.layout == torch.strided:
                    signs = torch.randint(-1, 2, t.shape, generator=self._generator, dtype=t.dtype)
                    t.copy_(t + t * signs * torch.finfo(t.dtype).eps)
        return results
