"""Store layers of ``torch.nn`` without a Lua class in ``.pt`` files, as the arguments of their constructor."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.nn.utils import parametrize

from dpnn_bridge.base.json_text import parse_json
from dpnn_bridge.conversion.fields import Field, record_of
from dpnn_bridge.conversion.lua_class import LuaClass, tensor_of
from dpnn_bridge.conversion.parametrized import computed_weights, normalize_weight, weight_hooks, weight_norms
from dpnn_bridge.conversion.stale import arguments_of, is_stock
from dpnn_bridge.errors import COPY_AGAIN, ConversionError
from dpnn_bridge.objects import LuaObject

if TYPE_CHECKING:
    from dpnn_bridge.conversion.contexts import LuaContext, TorchContext

#: prefix of the class name of such a layer in a ``.pt`` file
PREFIX = "pytorch.nn."
#: Python modules of layers that contain modules, which are never stored; constructors create n of them
_WITH_MODULES = ("torch.nn.modules.transformer", "torch.nn.modules.adaptive")


class StockLayer(LuaClass):
    """The mapping of layers of ``torch.nn`` without a Lua class and without submodules. Only ``.pt`` files use it."""

    @classmethod
    def stores(cls, module: nn.Module) -> bool:
        """Return whether ``.pt`` files store a module by this mapping: a layer that was created in PyTorch."""
        return record_of(module) is None and is_stock(module)

    @classmethod
    def name_of(cls, module: nn.Module) -> str:
        return PREFIX + parametrize.type_before_parametrizations(module).__name__

    @classmethod
    def build(cls, obj: LuaObject, ctx: TorchContext) -> nn.Module:
        name = obj.class_name.removeprefix(PREFIX)
        kind = getattr(nn, name, None)
        if not (isinstance(kind, type) and issubclass(kind, nn.Module) and kind.__module__.startswith("torch.nn.")):
            raise ctx.error(
                "this version of PyTorch has no such layer; install the version that wrote the file, or a newer one",
                obj,
            )
        if kind.__module__ in _WITH_MODULES:
            raise ctx.error(f"a layer that contains modules is not stored by its arguments; {COPY_AGAIN}", obj)
        tensors = {key: tensor_of(obj, key, ctx).torch() for key in obj["passed"].split()}
        layer = kind(**{key: _tuples(value) for key, value in parse_json(obj["arguments"]).items()}, **tensors)
        for tensor, dim in parse_json(obj.get("weight_norm", "{}")).items():
            normalize_weight(layer, tensor, dim)
        return layer

    @classmethod
    def fields_of(cls, module: nn.Module) -> dict[str, Field]:
        kept = {**module._parameters, **module._buffers}
        own = [name for name, tensor in kept.items() if tensor is not None]
        computed = (f"parametrizations.{name}.original{n}" for name in weight_norms(module) for n in range(2))
        return {name: Field(name) for name in (*own, *computed)}

    @classmethod
    def fill(cls, module: nn.Module, obj: LuaObject, ctx: TorchContext) -> None:
        super().fill(module, obj, ctx)
        if isinstance(module, nn.RNNBase):  # it also has a list of its parameters
            module._init_flat_weights()
        del module.__dict__["lua_record"]  # the layer has no Lua class, so an export to .t7 must not find one

    @classmethod
    def to_lua(cls, module: nn.Module, ctx: LuaContext) -> dict[str, Any]:
        plain, tensors = arguments_of(module)
        fields = {name: ctx.tensor(module, name, spec) for name, spec in cls.fields_of(module).items()}
        norms = {"weight_norm": json.dumps(norms)} if (norms := weight_norms(module)) else {}
        return {"arguments": _as_json(plain, module), "passed": " ".join(tensors), **norms, **fields}


def check_parametrizations(module: nn.Module, fields: Iterable[Field], path: str) -> None:
    """Refuse a module with a weight that is computed from tensors that no field of its Lua class contains.

    Raises:
        ConversionError: the module has such a weight.
    """
    if computes_weight(module, fields):
        name, kind, call = computed_weights(module)[0]
        raise ConversionError(
            f"{kind} computes its {name}, and a .pt or .safetensors file cannot store that; make the {name} an "
            f"ordinary parameter with {call}, or write a .t7 file, which stores the current value",
            path=path,
            class_name=parametrize.type_before_parametrizations(module).__name__,
        )


def computes_weight(module: nn.Module, fields: Iterable[Field]) -> bool:
    """Return whether a module has a weight that is computed from tensors that no field of its Lua class contains."""
    lists: Any = module.parametrizations if parametrize.is_parametrized(module) else nn.ModuleDict()
    kept = {field.attribute.removeprefix("parametrizations.") for field in fields}
    outside = all(getattr(p, "listed_outside", False) for parts in lists.values() for p in parts)
    return bool(weight_hooks(module) or (not outside and {name for name, _ in lists.named_parameters()} - kept))


def _as_json(arguments: dict[str, Any], module: nn.Module) -> str:
    """Return the arguments of a layer's constructor as JSON.

    Raises:
        ConversionError: JSON cannot represent an argument, such as a function.
    """
    try:
        return json.dumps(arguments)
    except (TypeError, ValueError) as error:
        raise ConversionError(
            f"a .pt file stores the constructor arguments of a torch.nn layer as JSON, which cannot represent one of "
            f"them ({error}); save the model's state_dict",
            class_name=type(module).__name__,
        ) from None


def _tuples(value: Any) -> Any:
    """Convert the lists of JSON back to tuples."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
