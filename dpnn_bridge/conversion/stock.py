"""Store layers of ``torch.nn`` without a Lua class in ``.pt`` files, by the arguments of their constructor."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.nn.utils import parametrize

from dpnn_bridge.conversion.fields import Field
from dpnn_bridge.conversion.lua_class import LuaClass, tensor_of
from dpnn_bridge.conversion.parametrized import computed_weights, weight_hooks
from dpnn_bridge.conversion.stale import arguments_of
from dpnn_bridge.errors import ConversionError
from dpnn_bridge.objects import LuaObject

if TYPE_CHECKING:
    from dpnn_bridge.conversion.contexts import LuaContext, TorchContext

#: prefix of the name of a class of ``torch.nn``
PREFIX = "pytorch.nn."


class StockLayer(LuaClass):
    """Any layer of ``torch.nn`` without modules inside. Not a Lua class: it occurs only in ``.pt`` files."""

    @classmethod
    def name_of(cls, module: nn.Module) -> str:
        return PREFIX + type(module).__name__

    @classmethod
    def build(cls, obj: LuaObject, ctx: TorchContext) -> nn.Module:
        name = obj.class_name.removeprefix(PREFIX)
        kind = getattr(nn, name, None)
        if not (isinstance(kind, type) and issubclass(kind, nn.Module) and kind.__module__.startswith("torch.nn.")):
            raise ctx.error(
                "this version of PyTorch has no such layer; install the version that wrote the file, or a newer one",
                obj,
            )
        tensors = {key: tensor_of(obj, key, ctx).torch() for key in obj["passed"].split()}
        return kind(**{key: _tuples(value) for key, value in json.loads(obj["arguments"]).items()}, **tensors)

    @classmethod
    def fields_of(cls, module: nn.Module) -> dict[str, Field]:
        kept = {**module._parameters, **module._buffers}
        return {name: Field(name) for name, tensor in kept.items() if tensor is not None}

    @classmethod
    def fill(cls, module: nn.Module, obj: LuaObject, ctx: TorchContext) -> None:
        super().fill(module, obj, ctx)
        if isinstance(module, nn.RNNBase):  # it contains its parameters in a list as well
            module._init_flat_weights()
        del module.__dict__["lua_record"]  # in a .t7 file it is no Lua class either

    @classmethod
    def to_lua(cls, module: nn.Module, ctx: LuaContext) -> dict[str, Any]:
        plain, passed = arguments_of(module)
        fields = {name: ctx.tensor(module, name, spec) for name, spec in cls.fields_of(module).items()}
        return {"arguments": _as_json(plain, module), "passed": " ".join(passed), **fields}


def check_parametrizations(module: nn.Module, fields: Iterable[Field], path: str) -> None:
    """Refuse a module whose weight is computed of tensors that no field of its Lua class contains.

    Raises:
        ConversionError: there is one.
    """
    if computes_weight(module, fields):
        name, kind, call = computed_weights(module)[0]
        raise ConversionError(
            f"{kind} computes its {name}, which a .pt or .safetensors file cannot store; {call} makes it an ordinary "
            "tensor, and a .t7 file stores its current value",
            path=path,
            class_name=parametrize.type_before_parametrizations(module).__name__,
        )


def computes_weight(module: nn.Module, fields: Iterable[Field]) -> bool:
    """Return whether a hook or parametrization computes a weight of tensors that no field of the Lua class contains."""
    lists: Any = module.parametrizations if parametrize.is_parametrized(module) else nn.ModuleDict()
    kept = {field.attribute.removeprefix("parametrizations.") for field in fields}
    outside = all(getattr(p, "listed_outside", False) for parts in lists.values() for p in parts)
    return bool(weight_hooks(module) or (not outside and {name for name, _ in lists.named_parameters()} - kept))


def _as_json(arguments: dict[str, Any], module: nn.Module) -> str:
    """Return the arguments of a layer's constructor as text.

    Raises:
        ConversionError: One of them is a function, say.
    """
    try:
        return json.dumps(arguments)
    except (TypeError, ValueError) as error:
        raise ConversionError(
            f"a .pt file stores the constructor arguments of a torch.nn layer, and one of them is no plain data "
            f"({error}); save the model's state_dict",
            class_name=type(module).__name__,
        ) from None


def _tuples(value: Any) -> Any:
    """Convert the lists of JSON back to tuples."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
