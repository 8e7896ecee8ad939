"""Load the ``state_dict`` of a module that has run into a module that has not, and the reverse."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn


class RunBuffers(nn.Module):
    """Base class of modules with buffers that get a shape only when the module runs or the user sets them.

    ``load_state_dict`` creates these buffers with the shapes in the ``state_dict``. If the ``state_dict`` contains the
    module, but not such a buffer, the buffer becomes None.

    Attributes:
        run_buffers: names of the buffers.
    """

    run_buffers: ClassVar[tuple[str, ...]] = ()

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], *args: Any
    ) -> None:
        # a module without other entries is known by its metadata, which safetensors files do not have
        has_module = "version" in local_metadata or any(key.startswith(prefix) for key in state_dict)
        for name in self.run_buffers:
            stored, own = state_dict.get(prefix + name), self._buffers[name]
            if isinstance(stored, Tensor):
                like = next(self.parameters(), stored) if own is None else own
                self._buffers[name] = like.new_empty(stored.shape)
            elif has_module:
                self._buffers[name] = None
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)
