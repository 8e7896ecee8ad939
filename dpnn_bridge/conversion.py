"""The two walks: Lua objects -> torch modules (:func:`to_torch`) and back (:func:`to_lua`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dpnn_bridge import registry
from dpnn_bridge.errors import ConversionError, UnsupportedClass, UnsupportedClassError
from dpnn_bridge.objects import (
    LuaFunction,
    LuaObject,
    LuaStorage,
    LuaTable,
    LuaTensor,
    element_dtype,
    tensor_class,
)
from dpnn_bridge.registry import Field, LuaClass, LuaRecord, record_of
from dpnn_bridge.report import Report
from dpnn_bridge.sharing import Sharing, Site, tie_of

#: modules nested deeper than this are refused, before Python's own recursion limit is met
MAX_DEPTH = 100

#: fields that hold the results of the last call
RESULTS = ("output", "gradInput")


@dataclass
class Options:
    """What the caller may choose when a Lua object becomes a module.

    Args:
        index_base: 1 as in Lua, or 0, for modules whose inputs or outputs are indices.
        inplace: let modules overwrite their inputs where the file says ``inplace``.
        gradients: put ``gradWeight`` and the like into ``.grad``.
        allow_unsupported: put a :class:`Placeholder` where a class is unknown instead of raising.
        fallback: called as ``fallback(obj, ctx)`` for unknown classes; returns a module or None.
    """

    index_base: int = 1
    inplace: bool = False
    gradients: bool = False
    allow_unsupported: bool = False
    fallback: Callable[[LuaObject, TorchContext], nn.Module | None] | None = None


class Placeholder(nn.Module):
    """Stands where a Lua class has no mapping; raises when it runs.

    Attributes:
        class_name: the Lua class.
        obj: its object, as read.
    """

    def __init__(self, obj: LuaObject, path: str) -> None:
        super().__init__()
        self.class_name, self.obj, self.path = obj.class_name, obj, path

    def forward(self, input: Any) -> Any:
        raise ConversionError(
            "this class has no mapping and was converted with allow_unsupported; register it with @lua_class",
            path=self.path,
            class_name=self.class_name,
        )

    def extra_repr(self) -> str:
        return self.class_name


class TorchContext:
    """State of one conversion from Lua to torch.

    Attributes:
        options: the caller's choices.
        report: what became of each object.
    """

    def __init__(self, options: Options | None = None, root: str = "") -> None:
        self.options, self.report = options or Options(), Report()
        self.sharing = Sharing()
        self._root, self._path = root, list[Any]()
        self._modules: dict[int, nn.Module] = {}
        self._kept: dict[int, Any] = {}
        self._alive: list[Any] = []
        self._active: set[int] = set()
        self._unsupported: dict[tuple[str, tuple[str, ...]], UnsupportedClass] = {}

    @property
    def index_base(self) -> int:
        return self.options.index_base

    @property
    def path(self) -> str:
        """Where the conversion stands, as ``modules[3].weight``."""
        return format_path(self._path, self._root)

    def error(self, message: str, obj: LuaObject | None = None) -> ConversionError:
        """An error that names the current place."""
        return ConversionError(message, path=self.path, class_name=obj.class_name if obj else "")

    @contextmanager
    def at(self, *keys: Any) -> Iterator[None]:
        """Adds ``keys`` to the path while the block runs."""
        self._path.extend(keys)
        try:
            yield
        finally:
            del self._path[len(self._path) - len(keys) :]

    # ------------------------------------------------------------------ modules
    def to_torch(self, obj: Any, *keys: Any) -> nn.Module:
        """The module of a Lua object, the same one whenever the object is met again.

        Args:
            obj: a :class:`LuaObject` of a module or criterion class.
            *keys: how ``obj`` is reached from the current place, for messages.

        Raises:
            ConversionError: ``obj`` is no object, contains itself, or lacks what its class needs.
        """
        with self.at(*keys):
            if not isinstance(obj, LuaObject):
                raise self.error(f"expected a Lua object, found {type(obj).__name__}: {obj!r:.80}")
            if id(obj) in self._modules:
                return self._modules[id(obj)]
            if id(obj) in self._active:
                raise self.error("the object contains itself", obj)
            if len(self._active) >= MAX_DEPTH:
                raise self.error(f"modules are nested deeper than {MAX_DEPTH} levels", obj)
            self._active.add(id(obj))
            module = self._convert(obj)
            self._active.discard(id(obj))
            self._modules[id(obj)] = module
            self._alive.append(obj)
            return module

    def _convert(self, obj: LuaObject) -> nn.Module:
        spec = registry.find(obj)
        if spec is None:
            module = self.options.fallback(obj, self) if self.options.fallback else None
            return module if module is not None else self._placeholder(obj)
        obj = spec.upgrade(obj)
        try:
            module = spec.build(obj, self)
            if record_of(module) is None:
                module.__dict__["lua_record"] = LuaRecord(obj.class_name, tensor_type=tensor_type(obj))
                module.training = obj.get("train") is not False
            spec.fill(module, obj, self)
        except ConversionError:
            raise
        except (KeyError, TypeError, ValueError, RuntimeError, IndexError, AttributeError) as e:
            detail = e.args[0] if isinstance(e, KeyError) and e.args else e
            raise self.error(f"cannot build the module: {detail}", obj) from e
        self._check_filled(module, obj)
        self._remember(module, obj, spec)
        self.report.add(self.path, obj.class_name, module, passes_through=spec.passes_through)
        return module

    def _check_filled(self, module: nn.Module, obj: LuaObject) -> None:
        for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            if tensor.is_meta:
                raise self.error(f"the field {name!r} of shape {tuple(tensor.shape)} is missing or empty", obj)

    def children(self, obj: LuaObject, field: str = "modules") -> list[nn.Module]:
        """The converted modules of an array field, in order."""
        table = obj.get(field)
        if table is None:
            return []
        if not isinstance(table, LuaTable):
            raise self.error(f"expected a table in field {field!r}, found {type(table).__name__}", obj)
        return [self.to_torch(child, field, i) for i, child in enumerate(table.as_list(), 1)]

    def _placeholder(self, obj: LuaObject) -> Placeholder:
        fields = tuple(sorted(str(k) for k in obj))
        entry = self._unsupported.get((obj.class_name, fields))
        if entry is None:
            entry = UnsupportedClass(obj.class_name, [], fields, registry.nearest_name(obj.class_name))
            self._unsupported[obj.class_name, fields] = entry
        entry.paths.append(self.path)
        self._find_unsupported(obj.fields)
        return Placeholder(obj, self.path)

    def _find_unsupported(self, root: LuaTable) -> None:
        """Converts the modules below an unknown object, so that one error names every unknown class."""
        seen, stack = {id(root)}, [(root, ())]
        while stack:
            table, keys = stack.pop()
            for key, value in table.items():
                if isinstance(value, LuaTable) and id(value) not in seen:
                    seen.add(id(value))
                    stack.append((value, (*keys, key)))
                elif is_module(value) and id(value) not in self._active:
                    self.to_torch(value, *keys, key)

    def finish(self) -> None:
        """Raises :class:`UnsupportedClassError` for the unknown classes met, and ties overlapping parameters."""
        if self._unsupported and not self.options.allow_unsupported:
            raise UnsupportedClassError(list(self._unsupported.values()))
        self.report.unsupported = list(self._unsupported.values())
        self.sharing.tie()

    # ------------------------------------------------------------------ tensors
    def assign(self, module: nn.Module, spec: Field, name: str, obj: LuaObject) -> None:
        """Makes the tensor ``obj[name]`` the parameter or buffer that ``spec`` names; one region gives one parameter.

        Raises:
            ConversionError: the number of elements is not what the module's other fields say.
        """
        tensor, grad = obj[name], obj.get(registry.grad_field(name, spec))
        owner, leaf = registry.resolve(module, spec.attribute)
        current = owner._parameters.get(leaf, owner._buffers.get(leaf))
        shape = None if current is None else current.shape
        if current is not None and spec.layout is None and current.numel() != tensor.size:
            raise self.error(
                f"field {name!r} has {tensor.size} elements in shape {tensor.shape}, "
                f"but the module's other fields need shape {tuple(current.shape)}",
                obj,
            )
        record = record_of(module)
        if record is not None and spec.layout is None and shape is not None and tuple(shape) != tensor.shape:
            record.shapes[name] = tensor.shape

        def arrange(value: Tensor) -> Tensor:
            if spec.layout is not None:
                return spec.layout.to_torch(value, module)
            return value if shape is None else value.reshape(shape)

        self.sharing.assign(Site(module, name, spec, owner, leaf), tensor, arrange, shape)
        parameter = owner._parameters.get(leaf)
        if self.options.gradients and parameter is not None and isinstance(grad, LuaTensor) and grad.size:
            parameter.grad = arrange(grad.torch().clone())

    # ------------------------------------------------------------------ the rest of the fields
    def _remember(self, module: nn.Module, obj: LuaObject, spec: type[LuaClass]) -> None:
        record = record_of(module)
        if record is None:
            return
        record.header = tuple(self.keep(value, "header") for value in obj.header)
        handled = spec.handled(module)
        for key, value in obj.items():
            private = isinstance(key, str) and key.startswith("_") and key != "_type"
            is_buffer = private or key in RESULTS or key in spec.scratch
            if is_buffer and isinstance(value, (LuaTensor, LuaStorage, LuaTable)):
                record.scratch[key] = "table" if isinstance(value, LuaTable) else value.class_name
            elif key not in handled and (kept := self.keep(value, key)) is not None:
                record.fields[key] = kept

    def keep(self, value: Any, *keys: Any) -> Any:
        """A copy of a Lua value that a record may hold: modules for their objects, no functions, compact tensors."""
        if isinstance(value, LuaFunction):
            self.report.drop(format_path([*self._path, *keys], self._root), "a Lua function; code in data is never run")
            return None
        if isinstance(value, LuaTensor):
            if id(value) not in self._kept:
                self._kept[id(value)] = LuaTensor.from_numpy(value.numpy().copy(), value.class_name)
                self._alive.append(value)
            return self._kept[id(value)]
        if isinstance(value, LuaObject) and is_module(value) and registry.find(value):
            return self._modules.get(id(value)) or (None if id(value) in self._active else self.to_torch(value, *keys))
        if isinstance(value, (LuaTable, LuaObject)):
            if id(value) in self._kept:
                return self._kept[id(value)]
            if len(self._path) > 4 * MAX_DEPTH:
                raise self.error(f"tables are nested deeper than {4 * MAX_DEPTH} levels")
            self._alive.append(value)
            copy: LuaTable | LuaObject = LuaTable()
            if isinstance(value, LuaObject):
                copy = LuaObject(value.class_name, version=value.version)
                if not isinstance(value.payload, LuaTable):
                    copy.payload = value.payload
            self._kept[id(value)] = copy
            with self.at(*keys):
                for k, v in value.items():
                    copy[self.keep(k)] = self.keep(v, k)
            return copy
        return value


class LuaContext:
    """State of one conversion from torch to Lua.

    Args:
        gradients: write ``.grad`` (or zeros) into the gradient fields, which Torch7 needs to train on.
        tensor_type: Lua type for all floating point tensors, such as ``torch.FloatTensor``; default: as in the file
            that the module came from, or what its dtype says.

    Attributes:
        sources: ``id(storage)`` -> the parameter or buffer whose elements the storage holds in the same order.
        derived: ``id`` of storages that hold a parameter or buffer in another arrangement, or a gradient.
    """

    def __init__(self, *, gradients: bool = True, tensor_type: str | None = None) -> None:
        self.gradients, self.tensor_type = gradients, tensor_type
        self.sources: dict[int, Tensor] = {}
        self.derived: set[int] = set()
        self._objects: dict[int, LuaObject] = {}
        self._storages: dict[tuple[Any, ...], LuaStorage] = {}
        self._tensors: dict[tuple[Any, ...], LuaTensor] = {}
        self._restored: dict[int, Any] = {}
        self._alive: list[Any] = []

    def to_lua(self, module: nn.Module) -> LuaObject:
        """The Lua object of a module, the same one whenever the module is met again.

        Raises:
            ConversionError: no registered class describes the module.
        """
        if id(module) in self._objects:
            return self._objects[id(module)]
        if isinstance(module, Placeholder):
            return module.obj
        spec, record = registry.spec_of(module), record_of(module)
        if spec is registry.PlainModule:
            raise ConversionError(
                "no Lua class is registered for this torch module; register one with @lua_class",
                class_name=type(module).__name__,
            )
        known = record is not None and record.class_name in spec.names
        assert record is not None or not known
        obj = LuaObject(record.class_name if known and record else spec.names[0], version=spec.version)
        self._objects[id(module)] = obj
        self._alive.append(module)
        kind = self.type_of(module)
        obj["_type"] = kind
        obj["train"] = module.training
        obj["output"] = LuaTensor.empty(kind)
        if not known:
            for key, value in {"gradInput": LuaTensor.empty, **spec.constants}.items():
                obj[key] = value(kind) if callable(value) else value
        if record is not None:
            obj.header = tuple(self.restore(value) for value in record.header)
            for key, name in record.scratch.items():
                obj[key] = empty(kind if name == record.tensor_type else name)
            for key, value in record.fields.items():
                obj[key] = self.restore(value)
        for key, value in spec.to_lua(module, self).items():
            obj[key] = value
        return obj

    def restore(self, value: Any) -> Any:
        """The Lua value of what :meth:`TorchContext.keep` kept."""
        if isinstance(value, nn.Module):
            return self.to_lua(value)
        if isinstance(value, (LuaTable, LuaObject)):
            if id(value) in self._restored:
                return self._restored[id(value)]
            copy: LuaTable | LuaObject = LuaTable()
            if isinstance(value, LuaObject):
                copy = LuaObject(value.class_name, version=value.version)
                if not isinstance(value.payload, LuaTable):
                    copy.payload = value.payload
            self._restored[id(value)] = copy
            self._alive.append(value)
            for k, v in value.items():
                copy[self.restore(k)] = self.restore(v)
            return copy
        return value

    # ------------------------------------------------------------------ tensors
    def type_of(self, module: nn.Module) -> str:
        """Lua tensor type of a module (its ``_type``): that of its first floating point tensor, or of its file."""
        record = record_of(module)
        tensor = next((t for t in [*module.parameters(), *module.buffers()] if t.is_floating_point()), None)
        if tensor is None:
            return self.tensor_type or (record and record.tensor_type) or "torch.FloatTensor"
        return self.class_of(tensor, module)

    def class_of(self, tensor: Tensor, module: nn.Module) -> str:
        """Lua class of one tensor of ``module``."""
        if self.tensor_type and tensor.is_floating_point():
            return self.tensor_type
        dtype = numpy_dtype(tensor)
        record = record_of(module)
        name = record.tensor_type if record else None
        if name and element_dtype(name) == dtype:
            return name
        cpu = tensor_class(dtype)
        return cpu.replace("torch.", "torch.Cuda") if name and name.startswith("torch.Cuda") else cpu

    def tensor(self, module: nn.Module, name: str, spec: Field) -> LuaTensor:
        """The parameter or buffer of a field as a Lua tensor; one torch tensor gives one Lua storage."""
        return self._tensor(module, name, spec, gradient=False)

    def gradient(self, module: nn.Module, name: str, spec: Field) -> LuaTensor:
        """The gradient of a field's parameter, zeros when it has none."""
        return self._tensor(module, name, spec, gradient=True)

    def _tensor(self, module: nn.Module, name: str, spec: Field, *, gradient: bool) -> LuaTensor:
        tie = tie_of(*registry.resolve(module, spec.attribute))
        if tie is not None:
            source = self._tensor(tie.source.module, tie.source.name, tie.source.field, gradient=gradient)
            return LuaTensor(source.class_name, tie.shape, tie.stride, tie.offset, source.storage)
        tensor = registry.get_tensor(module, spec.attribute)
        assert tensor is not None
        kind = self.class_of(tensor, module)
        value = registry.lua_value(module, name, spec, gradient=gradient)
        key = (id(tensor), spec.layout, kind, gradient)
        if key not in self._storages:
            storage = self._storages[key] = lua_storage(kind, value)
            self._alive.append(tensor)
            if gradient or spec.layout is not None:
                self.derived.add(id(storage))
            else:
                self.sources[id(storage)] = tensor
        shape = tuple(value.shape)
        if (key, shape) not in self._tensors:
            self._tensors[key, shape] = strided(kind, shape, self._storages[key])
        return self._tensors[key, shape]

    def constant(self, tensor: Tensor, module: nn.Module) -> LuaTensor:
        """A tensor of its own that is neither parameter nor buffer."""
        kind = self.class_of(tensor, module)
        return strided(kind, tuple(tensor.shape), lua_storage(kind, tensor.detach()))


# ---------------------------------------------------------------------- entry points
def to_torch(obj: Any, **options: Any) -> nn.Module:
    """Turns a Lua object into a torch module.

    Args:
        obj: a :class:`~dpnn_bridge.objects.LuaObject` of a module or criterion, as :func:`read_t7` returns it.
        **options: fields of :class:`Options`.

    Raises:
        UnsupportedClassError: classes without a mapping, all of them at once.
        ConversionError: the object lacks what its class needs.
    """
    return convert_object(obj, Options(**options))[0]


def convert_object(obj: Any, options: Options, root: str = "") -> tuple[nn.Module, Report]:
    """:func:`to_torch` together with the report of what became of what."""
    ctx = TorchContext(options, root)
    module = ctx.to_torch(obj)
    ctx.finish()
    return module, ctx.report


def to_lua(module: nn.Module, *, gradients: bool = True, tensor_type: str | None = None) -> LuaObject:
    """Turns a module back into a Lua object that Torch7 can load.

    Args:
        module: a converted module, or one made of registered torch types (``nn.Linear``, ``nn.Conv2d``, …).
        gradients: write gradient tensors, which Torch7 needs for training.
        tensor_type: Lua type of floating point tensors; default: as in the file the module came from.

    Raises:
        ConversionError: a submodule has no Lua class.
    """
    return LuaContext(gradients=gradients, tensor_type=tensor_type).to_lua(module)


def to_value(value: Any, *, device: str | torch.device = "cpu") -> Any:
    """A Lua input or output as Python passes it to a module: tensors, lists (dicts for other keys), numbers.

    Tensors are copies; a tensor without dimensions becomes one of shape ``(0,)``.
    """
    if isinstance(value, LuaTensor):
        return value.torch().clone().to(device)
    if isinstance(value, LuaStorage):
        return value.torch().clone().to(device)
    if isinstance(value, LuaTable):
        array = value.as_list()
        if len(array) == len(value):
            return [to_value(v, device=device) for v in array]
        return {k: to_value(v, device=device) for k, v in value.items()}
    return value


def is_module(value: Any) -> bool:
    """Whether a Lua value looks like a module or criterion: an object of a class outside ``torch``."""
    if not isinstance(value, LuaObject) or not isinstance(value.payload, LuaTable):
        return False
    namespace = value.class_name.partition(".")[0]
    data = ("torch", "tds", "graph", "optim", "dp", "xlua", "threads", "Dict")
    return namespace not in data and value.class_name != "nngraph.Node"


def tensor_type(obj: LuaObject) -> str | None:
    """Lua type of a module's tensors: that of ``weight``, else its ``_type``, else that of its last results."""
    weight, kind = obj.get("weight"), obj.get("_type")
    if isinstance(weight, LuaTensor):
        return weight.class_name
    if isinstance(kind, str) and element_dtype(kind) is not None:
        return kind
    results = [obj.get(name) for name in RESULTS]  # a criterion's output is a number, the gradient for a pair a table
    results += [tensor for value in results if isinstance(value, LuaTable) for tensor in value.as_list()]
    return next((value.class_name for value in results if isinstance(value, LuaTensor)), None)


def numpy_dtype(tensor: Tensor) -> np.dtype:
    """numpy dtype that holds a torch tensor; bfloat16 and friends, which Torch7 lacks, become float32."""
    try:
        return torch.empty(0, dtype=tensor.dtype).numpy().dtype
    except TypeError:
        return np.dtype(np.float32)


def empty(name: str) -> LuaTensor | LuaStorage | LuaTable:
    """An empty buffer: a tensor or storage of a class, or ``"table"``."""
    if name == "table":
        return LuaTable()
    if name.endswith("Storage"):
        return LuaStorage(name, 0, np.empty(0, element_dtype(name)))
    return LuaTensor.empty(name)


def lua_storage(tensor_class_name: str, value: Tensor) -> LuaStorage:
    """A lazy Lua storage with the elements of ``value`` in row-major order."""
    dtype = element_dtype(tensor_class_name)
    assert dtype is not None

    def load() -> np.ndarray:
        host = value.to("cpu", torch.float32) if value.dtype == torch.bfloat16 else value.cpu()
        return np.array(host.numpy(), dtype=dtype, order="C").reshape(-1)

    return LuaStorage(tensor_class_name.replace("Tensor", "Storage"), value.numel(), load)


def strided(class_name: str, shape: tuple[int, ...], storage: LuaStorage) -> LuaTensor:
    """A contiguous Lua tensor over a whole storage; one without elements has no dimensions."""
    if storage.size == 0:
        return LuaTensor.empty(class_name)
    shape = shape or (1,)
    stride, step = [], 1
    for size in reversed(shape):
        stride.insert(0, step)
        step *= size
    return LuaTensor(class_name, shape, tuple(stride), 0, storage)


def format_path(keys: list[Any], root: str = "") -> str:
    """``["model", "modules", 3]`` -> ``model.modules[3]``, below the path ``root``."""
    text = root
    for key in keys:
        if isinstance(key, str) and key.isidentifier():
            text += f".{key}" if text else key
        elif isinstance(key, (str, int, float)):
            text += f"[{key!r}]" if isinstance(key, str) else f"[{key}]"
        else:
            text += f"[<{type(key).__name__}>]"
    return text
