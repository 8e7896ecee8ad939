"""Define the base class of all objects of ``torch.legacy.nn``, whose attributes are Torch7's fields."""

from __future__ import annotations

from typing import Any, ClassVar

from dpnn_bridge.legacy.fields import RENAMED, only_pytorch

#: methods of Torch7's modules that PyTorch 0.4 did not have -> replacement, for the message
_ONLY_TORCH7 = {
    "accUpdateOnly": "backwardUpdate(input, gradOutput, lr)",
    "cudaOn": "cuda()",
    "getParameters": "flattenParameters()",
    "gradParamClip": "dpnn_bridge.training.grad_param_clip on to_torch()",
    "maxParamNorm": "dpnn_bridge.training.max_param_norm on to_torch()",
    "sharedClone": "clone('weight', 'bias', 'gradWeight', 'gradBias')",
    "updateGradParameters": "dpnn_bridge.training.update_grad_parameters on to_torch()",
    "weightDecay": "dpnn_bridge.training.weight_decay on to_torch()",
    "isTraining": "train, a field",
    **dict.fromkeys(("heavySerial", "lightSerial", "mediumSerial"), "dpnn_bridge.training.serialized on to_torch()"),
    "reinforce": "dpnn_bridge.training.reinforce on to_torch()",
    "toBatch": "unsqueeze(0) on the input",
}


class LegacyObject:
    """Base class of modules and criterions. Attributes are Torch7's fields; a converted module computes.

    Attributes:
        _lua_class: name of the Lua class.
        _legacy_class: name of the class in ``torch.legacy.nn``; empty for other classes.
        _version: version of the Lua class, if it is not the current version.
        _header: values that the class writes before its fields.
        _call, _graph: last forward pass and converted model, see :mod:`dpnn_bridge.legacy.running`.
    """

    __slots__ = ("__dict__", "__weakref__", "_call", "_graph")

    _lua_class: ClassVar[str] = ""
    _legacy_class: ClassVar[str] = ""
    _version: int
    _header: tuple[Any, ...]

    def __init_subclass__(cls, lua_class: str = "") -> None:
        if lua_class:
            cls._lua_class = lua_class
        elif cls.__module__.startswith("dpnn_bridge.legacy."):  # classes of users inherit _lua_class
            cls._lua_class, cls._legacy_class = f"nn.{cls.__name__}", cls.__name__

    def __getattr__(self, name: str) -> Any:
        fields = self.__dict__
        alias = RENAMED.get(type(self)._legacy_class, {}).get(name)
        if alias is not None and alias in fields:
            return fields[alias]
        if name in _ONLY_TORCH7:
            raise AttributeError(
                f"torch.legacy.nn of PyTorch 0.4 had no method {name}, which Torch7 has: use {_ONLY_TORCH7[name]}"
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @property
    def _fields(self) -> dict[Any, Any]:
        """The fields of the Lua class."""
        return self.__dict__

    def _own_module(self) -> Any:
        """Return a module of ``torch.nn`` if the object has settings that no Lua class supports, else None."""
        unsupported = self._lua_class == f"nn.{self._legacy_class}" and only_pytorch(self._legacy_class, self._fields)
        return self._in_pytorch() if unsupported else None

    def _in_pytorch(self) -> Any:
        """Return the module of ``torch.nn`` for settings that Torch7's class does not have."""
        raise NotImplementedError

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__
