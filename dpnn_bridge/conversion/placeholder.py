"""Define the placeholder for a Lua class without a mapping."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

from dpnn_bridge.base.display import printable
from dpnn_bridge.errors import ConversionError
from dpnn_bridge.objects import LuaObject


class Placeholder(nn.Module):
    """A placeholder for a Lua class without a mapping; raises when it runs.

    Attributes:
        class_name: name of the Lua class.
        obj: the Lua object.
        path: path of the Lua object, for messages.
        mapped_by: the user's mapping that converted the class when the file was written, see ``registry.mapped_by``.
        shared_names: names of the parameters that other layers share.
        listed_names: names of the parameters in the order of Torch7's ``parameters()``, which may list one several
            times; empty unless the module runs in Lua.
    """

    shared_names: frozenset[str] = frozenset()
    listed_names: Sequence[str] = ()

    def __init__(self, obj: LuaObject, path: str, mapped_by: str = "") -> None:
        super().__init__()
        self._lua_fields: dict[str, str] = {}  # of a module in Lua: parameter -> its field, such as modules.1.weight
        self._gradients: dict[str, int] = {}  # parameter -> the number of its gradient in Lua, if it is shared
        self.class_name, self.obj, self._path, self.mapped_by = obj.class_name, obj, path, mapped_by

    def forward(self, input: Any) -> Any:
        raise ConversionError(
            "this class has no mapping and was converted with allow_unsupported; register it with @lua_class",
            path=self._path,
            class_name=self.class_name,
        )

    def check_calls(self, first: Sequence[str], other: Sequence[str]) -> None:
        """Raise an error if Torch7 runs the layer in two places by methods that differ, of which only one can run here.

        Args:
            first, other: classes of the containers around an object of the layer or around the layer, in both places.
        """

    def extra_repr(self) -> str:
        return printable(self.class_name)


def bridge_of(module: nn.Module) -> Any:
    """Return the Lua state that runs a layer; None for a layer of PyTorch, which may have a part called ``bridge``."""
    return getattr(module, "bridge", None) if isinstance(module, Placeholder) else None


def is_step_in_lua(module: nn.Module) -> bool:
    """Return whether a layer runs in Lua and is one of rnn's step modules, which keep a state between calls."""
    if bridge_of(module) is None:
        return False
    fields: Any = module.lua  # not `obj`, which copies the complete module from Lua
    return fields["step"] is not None and fields["sharedClones"] is not None


def bridges_of(modules: Iterable[nn.Module]) -> list[Any]:
    """Return the Lua states that run layers among ``modules``."""
    return list({id(bridge): bridge for m in modules if (bridge := bridge_of(m)) is not None}.values())
