"""Skip the random initialization in constructors: tensors from the file replace the initial values."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.overrides import TorchFunctionMode

#: functions of ``torch.nn.init`` and methods of tensors that fill a tensor with random numbers
_RANDOM_FILLS = frozenset(
    {"uniform_", "normal_", "trunc_normal_", "orthogonal_"}
    | {f"{kind}_{law}_" for kind in ("kaiming", "xavier") for law in ("uniform", "normal")}
)


class SkipInit(TorchFunctionMode):
    """A mode in which functions that fill a tensor with random numbers do nothing.

    Constructing a module then neither writes its parameters nor advances PyTorch's random generator.
    """

    def __init__(self) -> None:
        super().__init__()
        self.active = True

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.active and getattr(func, "__name__", "") in _RANDOM_FILLS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)

    @contextmanager
    def during(self, *, active: bool) -> Iterator[None]:
        """Activate or deactivate the mode inside the ``with`` block."""
        before, self.active = self.active, active
        try:
            with self:
                yield
        finally:
            self.active = before
