"""Traverse PyTorch modules and convert them to Lua objects."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dpnn_bridge.base.boundary import with_layer
from dpnn_bridge.base.graph import values_in, without_entries
from dpnn_bridge.compare import nested
from dpnn_bridge.conversion import fields, lua_class, registry, tensors
from dpnn_bridge.conversion.contexts import LuaContext
from dpnn_bridge.conversion.customized import overridden, written_as
from dpnn_bridge.conversion.distributed import is_equal
from dpnn_bridge.conversion.fields import Field, record_of
from dpnn_bridge.conversion.flat import FlatStorages
from dpnn_bridge.conversion.in_lua import link_tensors, with_gradient_in_lua
from dpnn_bridge.conversion.lua_values import RESULTS, lua_storage, new_tensor, numpy_dtype, strided
from dpnn_bridge.conversion.parametrized import with_current_weights
from dpnn_bridge.conversion.placeholder import Placeholder
from dpnn_bridge.conversion.recurrent_outputs import output_selections
from dpnn_bridge.conversion.stale import check_settings
from dpnn_bridge.conversion.stock import StockLayer, computes_weight
from dpnn_bridge.conversion.stock_classes import stock_class
from dpnn_bridge.conversion.ties import tie_of
from dpnn_bridge.errors import EXPORT_GUIDE, ConversionError
from dpnn_bridge.objects import LuaObject, LuaStorage, LuaTable, LuaTensor, element_dtype, tensor_class


class LuaConversion(LuaContext):
    """State of one conversion from PyTorch to Lua; implements :class:`LuaContext`, which documents its methods.

    It may convert several models. Modules and parameters that the models share are shared in Lua too.

    Args:
        gradients: whether to write ``.grad`` (or zeros) into the gradient fields, which Torch7 needs to continue
            training.
        tensor_type: Lua type for all floating point tensors, such as ``torch.FloatTensor``; default: the type in the
            file that the module came from, or the type for its dtype.
        compose: whether to write layers without a Lua class as compositions, see ``registry.composition``.
        dimensions: see :class:`LuaContext`.
        example: an input; its tensor type becomes the type of a model without tensors.

    Attributes:
        sources: ``id(storage)`` -> the parameter or buffer whose elements the storage contains in the same order.
        derived: ``id`` of storages that contain a parameter or buffer in another memory layout, or a gradient.
        computed_gradients: ``id`` of the tensors that contain a gradient from PyTorch.
        mapped_by: ``id`` of Lua objects -> the mapping or Lua file of a user that converts them.
    """

    def __init__(
        self,
        *,
        gradients: bool = True,
        tensor_type: str | None = None,
        compose: bool = True,
        dimensions: dict[int, int | None] | None = None,
        example: Any = None,
    ) -> None:
        self.gradients, self.tensor_type, self.compose = gradients, tensor_type, compose
        self.dimensions = dimensions or {}
        self.inferred: dict[int, int | None] | None = None
        self.stands_for: dict[int, nn.Module] = {}
        example_type = next((numpy_dtype(t) for t in nested.tensors(example) if t.is_floating_point()), np.float32)
        self._default_type = tensor_class(np.dtype(example_type))
        self.root = nn.Module()
        self.sources: dict[int, Tensor] = {}
        self.derived, self.computed_gradients = set[int](), set[int]()
        self.mapped_by: dict[int, str] = {}
        self._casts: dict[str, str] = {}
        self._model_type: str | None = None
        self._flat: FlatStorages | None = None
        self._objects: dict[int, LuaObject] = {}
        self._storages: dict[tuple[Any, ...], LuaStorage] = {}
        self._tensors: dict[tuple[Any, ...], LuaTensor] = {}
        self._restored: dict[Any, Any] = {}
        self._alive: list[Any] = []
        self._is_inside, self._in_lua, self._selections = False, set[int](), dict[int, nn.Module]()
        self._firsts: dict[int, int] = {}
        self._copies: dict[tuple[Any, ...], list[nn.Module]] = {}

    def to_lua(self, module: nn.Module) -> LuaObject:
        if id(module) in self._objects:
            return self._objects[id(module)]
        if not self._is_inside:
            return self._convert_model(module)
        module = self._selections.get(id(module), module)
        try:
            return self._placeholder_object(module) if isinstance(module, Placeholder) else self._convert(module)
        except Exception as error:
            path = next((name for name, m in self.root.named_modules() if m is module), "")
            if (at_layer := with_layer(error, path, type(module).__name__)) is error:
                raise
            raise at_layer from error

    def _convert_model(self, root: nn.Module) -> LuaObject:
        self.root, self.inferred, self._selections = root, None, output_selections(root) if self.compose else {}
        self._decide_types(root)
        self._in_lua, self._firsts = with_gradient_in_lua(root), tensors.firsts_on_memory(root)
        self._is_inside = True
        try:
            return self.to_lua(root)
        finally:
            self._is_inside = False

    def _placeholder_object(self, module: Placeholder) -> LuaObject:
        obj = self._objects[id(module)] = module.obj  # a module that runs in Lua creates a new object each time
        self._alive += [module, obj]
        link_tensors(module, obj, self._tensors)
        if module.mapped_by:
            self.mapped_by[id(obj)] = module.mapped_by
        return obj

    def _convert(self, module: nn.Module) -> LuaObject:
        record = record_of(module)
        if self.compose and (other := self._composed(module) if record is None else self._computed(module)) is not None:
            self._objects[id(module)] = other
            self._alive.append(module)
            return other
        mapping = self._mapping(module)
        name = record.class_name if record is not None and record.class_name in mapping.names else None
        obj = LuaObject(name or mapping.name_of(module), version=mapping.version_of(module))
        self._objects[id(module)] = obj
        self._alive += [module, obj]
        if by := registry.mapped_by(mapping):
            self.mapped_by[id(obj)] = by
        kind = self.type_of(module)
        obj["_type"] = kind
        obj["train"] = module.training
        obj["output"] = LuaTensor.empty(kind)
        constants = lua_class.constant_fields(mapping, kind)
        for value in values_in(*constants.values()):
            if isinstance(value, LuaObject) and value.payload is not None:
                value.setdefault("train", module.training)
        obj.update(constants if name is None else {})
        with self._own_types(module) if mapping.keeps_types else nullcontext():
            if record is not None:
                obj.header = tuple(self.restore(value) for value in record.header)
                for key, value in record.scratch.items():
                    obj[key] = self.restore(value)
                for key, value in record.fields.items():
                    obj[key] = self.restore(value)
            own = {**mapping.resets, **mapping.to_lua(module, self)}
            obj.update({k: v for k, v in own.items() if v is not None or k not in mapping.resets})
            # newer versions of the class have more fields than the file
            obj.update({k: v for k, v in constants.items() if k not in obj and k not in RESULTS})
        obj.header = mapping.header(obj)
        if record is None and not mapping.matches(obj):
            raise ConversionError(
                "a module that was created in PyTorch lacks fields that this class needs; export a module that was "
                "read from a Torch7 file",
                class_name=obj.class_name,
            )
        return obj

    def _mapping(self, module: nn.Module) -> type[lua_class.LuaClass]:
        """Return the mapping that exports a module.

        Raises:
            ConversionError: the module has no Lua class, or its own class changes ``forward``.
        """
        new = record_of(module) is None
        stock = not self.compose and StockLayer.stores(module)
        mapping = StockLayer if stock else registry.mapping_of(module)
        if issubclass(mapping, lua_class.PlainModule):
            raise ConversionError(
                f"no Lua class is registered for this torch module; {_advice(module)}", class_name=type(module).__name__
            )
        if new and not stock and (base := overridden(module, lua_class.torch_types(mapping))) is not None:
            raise ConversionError(
                f"its forward differs from the forward of {base.__name__}, as which it would be written; register its "
                f"class with @lua_class, or move the difference to another module; see {EXPORT_GUIDE}",
                class_name=type(module).__name__,
            )
        return mapping

    def _composed(self, module: nn.Module) -> LuaObject | None:
        """Return the object of a module that its own class mapping cannot export, or None.

        Such modules are results of ``torch.compile``, modules with computed weights, which become parameters, and
        layers that are written as a composition of several Lua objects.
        """
        if (inner := module._modules.get("_orig_mod")) is not None:  # a result of torch.compile
            return self.to_lua(inner)
        if (copy := with_current_weights(module)) is not None:
            check_settings(copy, written_as(copy, torch7=True))
            copy.__class__ = stock_class(copy) or type(copy)
            self.stands_for[id(copy)] = module
            return self.to_lua(self.with_parameters_of_first(copy, module))
        compose = registry.composition_of(type(module))
        return compose(module, self) if compose else None

    def _computed(self, module: nn.Module) -> LuaObject | None:
        """Return the object of a layer from a file to which the user added pruning or a parametrization, or None.

        The object contains the current weights.
        """
        if not computes_weight(module, registry.mapping_of(module).fields_of(module).values()):
            return None
        copy = with_current_weights(module)
        return None if copy is None else self.to_lua(self.with_parameters_of_first(copy, module))

    def with_parameters_of_first(self, copy: nn.Module, source: nn.Module) -> nn.Module:
        key = (type(copy), *map(id, source.parameters()))
        for first in self._copies.setdefault(key, []):
            known, own = first._parameters, copy._parameters  # pruning or parametrizations can differ per use
            if known.keys() == own.keys() and all(is_equal(known[name], own[name]) for name in own):
                copy._parameters = known
                return copy
        self._copies[key].append(copy)
        return copy

    def pairs(self) -> list[tuple[nn.Module, LuaObject]]:
        """Return every converted module with its Lua object, in the order of the conversion."""
        modules = {id(value): value for value in self._alive if isinstance(value, nn.Module)}
        return [(modules[key], obj) for key, obj in self._objects.items()]

    def restore(self, value: Any) -> Any:
        if isinstance(value, nn.Module):
            return self.to_lua(value)
        if isinstance(value, (LuaTable, LuaObject)):
            if id(value) in self._restored:
                return self._restored[id(value)]
            copy = without_entries(value)
            self._restored[id(value)] = copy
            self._alive.append(value)
            for k, v in value.items():
                copy[self.restore(k)] = self.restore(v)
            return copy
        if isinstance(value, LuaTensor):
            name = self.cast_class(value.class_name)
            if value.size and name == value.class_name:
                return value
            if (id(value), name) not in self._restored:  # new also for an empty buffer, which Torch7 resizes
                elements = value.numpy().astype(element_dtype(name))
                self._restored[id(value), name] = LuaTensor.from_numpy(elements, name)
                self._alive.append(value)
            return self._restored[id(value), name]
        return value

    # ------------------------------------------------------------------ tensors
    def _decide_types(self, root: nn.Module) -> None:
        """Determine the current type for each floating point type of the file, for modules and buffers without tensors.

        A model may have been cast since it was read.
        """
        record = record_of(root)
        self._casts, self._model_type = {}, None
        if self.compose:  # otherwise the storages contain the model's own tensors
            self._flat = FlatStorages(root, self.gradients, self._elements, self.class_of)
        self._find_casts(root)
        if self._model_type is None and (own := _floating(root)) is not None:  # tensors that no Lua field contains
            self._model_type = self.class_of(own, root)
        if record is not None and record.cast is not None:
            name = tensor_class(numpy_dtype(torch.empty(0, dtype=record.cast)))
            for kind in ("torch.FloatTensor", "torch.DoubleTensor", "torch.HalfTensor"):
                self._casts.setdefault(kind, name)
            self._model_type = self._model_type or name

    def _find_casts(self, root: nn.Module) -> None:
        for module in root.modules():
            own = record_of(module)
            tensor = self._own_tensor(module)
            if tensor is not None:
                name = self.class_of(tensor, module)
                self._model_type = self._model_type or name
                kind = own.tensor_type if own else None
                if kind and (name != kind or kind not in self._casts):  # modules in nn.DontCast keep their type
                    self._casts[kind] = name

    @contextmanager
    def _own_types(self, root: nn.Module) -> Iterator[None]:
        """Determine the types of modules without tensors only from ``root``, inside the ``with`` block."""
        casts, self._casts = self._casts, {}
        model_type, self._model_type = self._model_type, None
        try:
            self._find_casts(root)
            yield
        finally:
            self._casts, self._model_type = casts, model_type

    def _elements(self, module: nn.Module, name: str, spec: Field, gradient: bool) -> np.ndarray:
        """Return the elements of a field in Lua's order."""
        value = tensors.field_value(module, name, spec, gradient=gradient)
        record = record_of(module)
        if gradient and record and record.gradients.get(name):
            value = torch.zeros_like(value)
        return lua_storage(self.class_of(tensors.written_tensor(module, spec), module), value).numpy()

    def _own_tensor(self, module: nn.Module) -> Tensor | None:
        """Return the first floating point tensor in the module's own tensor fields."""
        specs = registry.mapping_of(module).fields_of(module).values()
        found = (fields.own_tensor(*fields.resolve(module, spec.attribute)) for spec in specs)
        return next((t for t in found if t is not None and t.is_floating_point()), None)

    def cast_class(self, name: str) -> str:
        """Return the tensor class to write for a tensor class of the source file."""
        dtype = element_dtype(name)
        if self.tensor_type and dtype is not None and name.endswith("Tensor"):
            if dtype.kind == "f":
                return self.tensor_type
            return name if self.tensor_type.startswith("torch.Cuda") else name.replace("torch.Cuda", "torch.")
        return self._casts.get(name, name)

    def type_of(self, module: nn.Module) -> str:
        record, tensor = record_of(module), self._own_tensor(module)
        if tensor is None and record and record.tensor_type:
            return self.cast_class(record.tensor_type)
        tensor = _floating(module) if tensor is None else tensor
        if tensor is None:
            return self.tensor_type or self._model_type or ("torch.DoubleTensor" if record else self._default_type)
        return self.class_of(tensor, module)

    def writes_gradient(self, module: nn.Module, name: str, spec: Field) -> bool:
        record = record_of(module)
        if record is not None and record.gradients.get(name):  # else the file would not show that they are not shared
            return True
        if id(fields.get_tensor(module, spec.attribute)) in self._in_lua:
            return True
        return self.gradients and not (record is not None and record.fields.get("accUpdate"))

    def class_of(self, tensor: Tensor, module: nn.Module) -> str:
        if self.tensor_type and tensor.is_floating_point():
            return self.tensor_type
        dtype = numpy_dtype(tensor)
        name = record.tensor_type if (record := record_of(module)) else None
        if name and element_dtype(name) == dtype:
            return name
        return tensor_class(dtype, cuda=bool(name and name.startswith("torch.Cuda")))

    def tensor(self, module: nn.Module, name: str, spec: Field) -> LuaTensor:
        return self._tensor(module, name, spec, gradient=False)

    def gradient(self, module: nn.Module, name: str, spec: Field) -> LuaTensor:
        self.computed_gradients.add(id(tensor := self._tensor(module, name, spec, gradient=True)))
        return tensor

    def _tensor(self, module: nn.Module, name: str, spec: Field, *, gradient: bool) -> LuaTensor:
        tie = tie_of(*fields.resolve(module, spec.attribute))
        if tie is not None:
            source = self._tensor(tie.source.module, tie.source.name, tie.source.field, gradient=gradient)
            return LuaTensor(source.class_name, tie.shape, tie.stride, source.offset + tie.offset, source.storage)
        tensor = tensors.written_tensor(module, spec)
        kind = self.class_of(tensor, module)
        value = tensors.field_value(module, name, spec, gradient=gradient)
        record = record_of(module)
        number = record.gradients.get(name, 0) if gradient and record else 0
        if number:  # PyTorch has one gradient for the shared parameter; it is written into gradient 0
            value = torch.zeros_like(value)
        identity = id(tensor) if gradient else self._firsts.get(id(tensor), id(tensor))
        key = (identity, spec.layout, kind, gradient, number)
        shape = tuple(value.shape)
        place = record.places.get(fields.grad_field(name, spec) if gradient else name) if record else None
        flat = None
        if self._flat and place and value.numel() == place.size:
            flat = self._flat.find(place, module, name, tensor)
        if flat is not None and place is not None and (key, shape) not in self._tensors:
            self._alive.append(tensor)
            self._tensors[key, shape] = strided(kind, shape, flat, place.start)
        if (key, shape) in self._tensors:
            return self._tensors[key, shape]
        if key not in self._storages:
            storage = self._storages[key] = lua_storage(kind, value)
            self._alive.append(tensor)
            if gradient or spec.layout is not None:
                self.derived.add(id(storage))
            else:
                self.sources[id(storage)] = tensor
        self._tensors[key, shape] = strided(kind, shape, self._storages[key])
        return self._tensors[key, shape]

    def empty_tensors(self, module: nn.Module, count: int) -> LuaTable:
        return LuaTable.from_list(LuaTensor.empty(self.type_of(module)) for _ in range(count))

    def constant(self, tensor: Tensor, module: nn.Module) -> LuaTensor:
        return new_tensor(self.class_of(tensor, module), tensor)

    def typed_constant(self, tensor: Tensor, module: nn.Module) -> LuaTensor:
        return new_tensor(self.type_of(module), tensor)


def _floating(module: nn.Module) -> Tensor | None:
    """Return the first floating point parameter or buffer of a module or its submodules."""
    return next((t for t in [*module.parameters(), *module.buffers()] if t.is_floating_point()), None)


def _advice(module: nn.Module) -> str:
    """Return advice for a module without a Lua class."""
    if type(module).__module__.startswith("torch.") and "module" in module._modules:  # nn.DataParallel, AveragedModel
        return "save its .module"
    if "_orig_mod" in module._modules:
        return "save its ._orig_mod, the original of the compiled model"
    if type(module).__module__.startswith("torch.nn."):
        return f"save the model's state_dict, or build the layer from other layers; see {EXPORT_GUIDE}"
    return f"build it from layers and containers, or register its class with @lua_class; see {EXPORT_GUIDE}"
