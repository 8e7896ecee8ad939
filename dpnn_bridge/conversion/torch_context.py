"""Traverse Lua objects and convert them to PyTorch modules."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from torch import Tensor, nn

from dpnn_bridge.base.boundary import with_layer
from dpnn_bridge.base.display import shortened
from dpnn_bridge.base.graph import MAX_DEPTH, format_path, is_module, without_entries
from dpnn_bridge.base.reading import DISK_ERRORS
from dpnn_bridge.conversion import fields, registry
from dpnn_bridge.conversion.budget import Budget, BudgetMode
from dpnn_bridge.conversion.buffers import BUFFERS
from dpnn_bridge.conversion.contexts import TorchContext
from dpnn_bridge.conversion.deferred import COMPUTED
from dpnn_bridge.conversion.fields import Field, LuaRecord, record_of
from dpnn_bridge.conversion.flat import place_of
from dpnn_bridge.conversion.in_lua import check_calls, share_parameters
from dpnn_bridge.conversion.lua_class import LuaClass
from dpnn_bridge.conversion.lua_values import RESULTS, emptied, has_weight, tensor_type
from dpnn_bridge.conversion.options import Options
from dpnn_bridge.conversion.overwriting import note_overwriting
from dpnn_bridge.conversion.parametrized import parametrizations
from dpnn_bridge.conversion.placeholder import Placeholder
from dpnn_bridge.conversion.report import METHODS, Report, replaced_methods
from dpnn_bridge.conversion.sharing import Sharing, contiguous_copy, distinct_elements, private_copy
from dpnn_bridge.conversion.skip_init import SkipInit
from dpnn_bridge.conversion.ties import Site
from dpnn_bridge.errors import (
    ConversionError,
    ConversionLimitError,
    DpnnBridgeError,
    T7Error,
    T7Warning,
    UnsupportedClass,
    UnsupportedClassError,
)
from dpnn_bridge.objects import LuaFunction, LuaObject, LuaStorage, LuaTable, LuaTensor


class TorchConversion(TorchContext):
    """State of one conversion from Lua to PyTorch; implements :class:`TorchContext`, which documents its methods.

    Args:
        options: the caller's options.
        root: path of the converted value in the file, for messages.

    Attributes:
        mapped_by: ``id`` of Lua objects -> the mapping or Lua file of a user that converted the module that was
            written to the file. Such an object is not converted by a built-in mapping.
    """

    def __init__(self, options: Options | None = None, root: str = "") -> None:
        self.options, self.report = options or Options(), Report()
        self.mapped_by: dict[int, str] = {}
        self.sharing = Sharing(self.options.pending)
        self._root, self._path = root, list[Any]()
        self._modules: dict[int, nn.Module] = {}
        self._converted: set[int] = set()  # ids of the values of `_modules`
        self._places: dict[int, list[str]] = {}  # classes of the containers around each object
        self._kept, self._emptied = dict[int, Any](), dict[int, Any]()
        self._roots, self._alive = list[nn.Module](), list[Any]()
        self.active: dict[int, LuaObject] = {}
        self._filled, self._loaded_gradients = set[tuple[int, str]](), set[tuple[int, int]]()
        self._skip_init = SkipInit()
        self._searched: set[int] = set()
        self._in_lua_count, self._replaced = 0, list[str]()
        self._unsupported: dict[tuple[str, tuple[str, ...]], UnsupportedClass] = {}

    @property
    def index_base(self) -> int:
        return self.options.index_base

    @property
    def path(self) -> str:
        keys = [shortened(key) if isinstance(key, str) else key for key in self._path]
        return format_path(keys, shortened(self._root))

    def error(self, message: str, obj: LuaObject | None = None) -> ConversionError:
        return ConversionError(message, path=self.path, class_name=obj.class_name if obj else "")

    def note(self, text: str) -> None:
        self.report.note(f"{self.path or 'root'}: {text}")

    def _limit_error(self, message: str, obj: LuaObject) -> ConversionLimitError:
        return ConversionLimitError(message, path=self.path, class_name=obj.class_name)

    @contextmanager
    def at(self, *keys: Any) -> Iterator[None]:
        """Add ``keys`` to the path inside the ``with`` block."""
        self._path.extend(keys)
        try:
            yield
        finally:
            del self._path[len(self._path) - len(keys) :]

    # ------------------------------------------------------------------ modules
    def to_torch(self, obj: Any, *keys: Any) -> nn.Module:
        with self.at(*keys):
            if not isinstance(obj, LuaObject):
                raise self.error(f"expected a Lua object, found {type(obj).__name__}: {obj!r:.80}")
            containers = [outer.class_name for outer in self.active.values()] if self.options.fallback else []
            if id(obj) in self._modules:
                if self._in_lua_count:
                    check_calls(self._modules[id(obj)], self._places[id(obj)], containers)
                return self._modules[id(obj)]
            if id(obj) in self.active:
                raise self._limit_error("the object contains itself", obj)
            if len(self.active) >= MAX_DEPTH:
                raise self._limit_error(f"modules are nested deeper than {MAX_DEPTH} levels", obj)
            if not self.active:
                self.budget = Budget(obj)
            self.active[id(obj)], self._places[id(obj)] = obj, containers
            try:
                with nullcontext() if len(self.active) > 1 else BudgetMode(self.budget):
                    module = self._convert(obj)
            except OSError as error:
                if isinstance(error, DpnnBridgeError):
                    raise
                raise with_layer(error, self.path, obj.class_name) from error
            finally:
                self.active.pop(id(obj), None)
            self.budget.visit(module)
            self._modules[id(obj)] = module
            self._converted.add(id(module))
            self._alive.append(obj)
            if not self.active:
                self._roots.append(module)
                note_overwriting(obj, self, self.converted)
            return module

    def converted(self, obj: LuaObject) -> nn.Module | None:
        """Return the module to which an object was converted; None if it was not converted."""
        return self._modules.get(id(obj))

    def _convert(self, obj: LuaObject) -> nn.Module:
        """Return the module of an object, by a user's mapping, a user's Lua file, or a built-in mapping."""
        mapping = self._mapping(obj)
        overridden = self.options.overrides is not None and self.options.overrides(obj.class_name)
        if mapping is None or (overridden and registry.is_built_in(mapping)):
            module = self._by_fallback(obj)
            if module is not None:
                if mapping is not None:
                    self.report.note(f"{obj.class_name}: the Lua class takes precedence over the built-in mapping")
                return module
        if mapping is None or (registry.is_built_in(mapping) and id(obj) in self.mapped_by):
            return self._placeholder(obj)
        if registry.takes_precedence(mapping, obj.class_name):
            name = registry.mapped_by(mapping)
            self.report.note(f"{obj.class_name}: {name} takes precedence over the built-in mapping")
        in_lua = self._in_lua_count
        try:
            with self.budget.watched(True):
                return self._build(obj, mapping)
        except ConversionLimitError:
            raise
        except ConversionError as error:
            if self._in_lua_count > in_lua and (module := self._by_fallback(obj)) is not None:
                self.note(f"{obj.class_name} runs in Lua, as a layer inside it does")
                return module
            if self.options.allow_unsupported == "unknown":
                raise
            return self._placeholder(obj, error)

    def _mapping(self, obj: LuaObject) -> type[LuaClass] | None:
        registry.discover()  # its errors concern a plugin, not the object
        try:
            return registry.find(obj)
        except Exception as e:
            if _is_of_file(e):
                raise
            raise self.error(f"cannot identify the variant of the class: {type(e).__name__}: {e}", obj) from e

    def _by_fallback(self, obj: LuaObject) -> nn.Module | None:
        """Return the module that ``options.fallback`` creates, which may run a user's Lua file, or None."""
        with self._skip_init.during(active=False), self.budget.watched(False):
            module = self.options.fallback(obj, self) if self.options.fallback else None
        if module is not None:
            self.report.add(self.path, obj.class_name, module)
            self._in_lua_count += 1
            if isinstance(module, Placeholder):
                share_parameters(module, obj, self.sharing)
        return module

    def _build(self, obj: LuaObject, mapping: type[LuaClass]) -> nn.Module:
        """Create the module of an object by a mapping, and store its conversion metadata."""
        module, missing, in_lua = None, len(self._unsupported), self._in_lua_count
        try:
            obj = mapping.upgrade(obj)
            with self._skip_init.during(active=True):
                module = mapping.build(obj, self)
            if record_of(module) is None:
                module.__dict__["lua_record"] = LuaRecord(obj.class_name, tensor_type=tensor_type(obj))
                module.training = obj.get("train", mapping.default_training) is not False
            mapping.fill(module, obj, self)
            self._check_filled(module, obj, mapping)
            self._store_metadata(module, obj, mapping)
        except Exception as e:
            if module is not None:
                self.sharing.discard(module)
            if isinstance(e, ConversionError) or _is_of_file(e):
                raise
            detail = e.args[0] if isinstance(e, KeyError) and e.args else str(e) or type(e).__name__
            if self.options.pending and isinstance(e, RuntimeError):
                detail = f"{COMPUTED} ({detail})"
            if len(self._unsupported) > missing:
                detail = "it contains a module of a class without a mapping"
            elif self._in_lua_count > in_lua:
                detail = (
                    f"it contains a module that runs in Lua ({detail}); to run {obj.class_name} in Lua too, put a "
                    "checkout of its package next to the Lua file, or on lua_path"
                )
            raise self.error(f"cannot build the module: {detail}", obj) from e
        self.report.add(self.path, obj.class_name, module, is_identity=mapping.is_identity)
        return module

    def filled(self, owner: nn.Module, *names: str) -> None:
        self._filled.update((id(owner), name) for name in names)

    def _check_filled(self, module: nn.Module, obj: LuaObject, mapping: type[LuaClass]) -> None:
        """Refuse a module with a parameter, or a buffer that its mapping declares, that the file has not set.

        Also refuse an object of another class of this name: one with a ``weight`` that the mapping does not read.
        """
        if "weight" not in mapping.handled(module) and has_weight(obj):
            raise self.error("the mapping of this class does not read the field 'weight', which has a gradient", obj)
        for name, field in mapping.fields_of(module).items():
            owner, leaf = fields.resolve(module, field.attribute)
            tensor = fields.own_tensor(owner, leaf)
            if tensor is None or (id(owner), leaf) in self._filled:
                continue
            if mapping.optional.get(name, "") is not None:
                raise self.error(f"the field {name!r} of shape {tuple(tensor.shape)} is missing or empty", obj)
            self.filled(owner, leaf)
        stack = [("", module)]
        while stack:
            path, owner = stack.pop()
            if id(owner) in self._converted:
                continue
            for leaf, parameter in owner._parameters.items():
                if parameter is not None and (id(owner), leaf) not in self._filled:
                    raise self.error(
                        f"no field maps to the parameter {path}{leaf} of {type(module).__name__}: add it to `tensors` "
                        f"of {mapping.__module__}.{mapping.__qualname__}",
                        obj,
                    )
            stack += [(f"{path}{name}.", inner) for name, inner in owner._modules.items() if inner is not None]

    def children(self, obj: LuaObject, field: str = "modules") -> list[nn.Module]:
        table = obj.get(field)
        if table is None:
            return []
        if not isinstance(table, LuaTable):
            raise self.error(f"expected a table in field {field!r}, found {type(table).__name__}", obj)
        return [self.to_torch(child, field, i) for i, child in enumerate(table.as_list(), 1)]

    def _placeholder(self, obj: LuaObject, error: ConversionError | None = None) -> Placeholder:
        """Create a placeholder for an object of an unknown class, or whose mapping raised ``error``."""
        fields, mapped_by = tuple(sorted(str(k) for k in obj)), self.mapped_by.get(id(obj), "")
        if error is None and not mapped_by and registry.is_known(obj.class_name):
            error = self.error("its fields are not those of a known class of this name", obj)
        reason = str(error or "")
        entry = self._unsupported.get((obj.class_name, fields))
        if entry is None:
            suggest = error is None and not mapped_by and len(self._unsupported) < 5  # the search is slow
            nearest = registry.nearest_name(obj.class_name) if suggest else None
            entry = UnsupportedClass(obj.class_name, [], fields, nearest, reason, mapped_by)
            self._unsupported[obj.class_name, fields] = entry
        entry.paths.append(self.path)
        self._find_unsupported(obj.fields)
        return Placeholder(obj, self.path, mapped_by)

    def _find_unsupported(self, root: LuaTable) -> None:
        """Convert the modules inside an unknown object, so that one error lists all unknown classes."""
        stack: list[tuple[LuaTable, tuple[Any, ...]]] = [(root, ())]
        while stack:
            table, keys = stack.pop()
            for key, value in table.items():
                if isinstance(value, LuaTable) and id(value) not in self._searched and len(keys) < MAX_DEPTH:
                    self._searched.add(id(value))
                    stack.append((value, (*keys, key)))
                elif is_module(value) and id(value) not in self.active:
                    self.to_torch(value, *keys, key)

    def finish(self) -> None:
        """Finish the conversion: tie overlapping parameters, and set the modes of parametrizations.

        Raises:
            UnsupportedClassError: there are unknown classes, and ``allow_unsupported`` is false.
        """
        if self._unsupported and not self.options.allow_unsupported:
            raise UnsupportedClassError(list(self._unsupported.values()))
        self.report.unsupported = list(self._unsupported.values())
        if self._replaced:
            warnings.warn(replaced_methods(self._replaced), T7Warning, stacklevel=2)
        self.sharing.tie(self._roots)
        for part, layer in parametrizations(nn.ModuleList(self._roots)).items():
            part.training = layer.training

    # ------------------------------------------------------------------ tensors
    def assign(self, module: nn.Module, spec: Field, name: str, obj: LuaObject) -> None:
        tensor, grad = obj[name], obj.get(fields.grad_field(name, spec))
        owner, leaf = fields.resolve(module, spec.attribute)
        current = fields.own_tensor(owner, leaf)
        shape = None if current is None else current.shape
        if current is not None and spec.layout is None and current.numel() != tensor.size:
            raise self.error(
                f"field {name!r} has {tensor.size} elements in shape {tensor.shape}, "
                f"but the module's other fields require shape {tuple(current.shape)}",
                obj,
            )
        record = record_of(module)
        if record is not None and spec.layout is None and shape is not None and tuple(shape) != tensor.shape:
            record.shapes[name] = tensor.shape

        def arrange(value: Tensor) -> Tensor:
            if spec.layout is not None:
                return spec.layout.to_torch(value, module)
            return value if shape is None else value.reshape(shape)

        self.filled(owner, leaf)
        self.budget.spend(tensor.size * tensor.dtype.itemsize)
        number = self.sharing.assign(Site(module, name, spec, owner, leaf), tensor, grad, arrange, shape)
        if record is not None and number:
            record.gradients[name] = number
        if record is not None:
            places = ((name, place_of(tensor)), (fields.grad_field(name, spec), place_of(grad)))
            record.places |= {key: place for key, place in places if place is not None}
        parameter = owner._parameters.get(leaf)
        if self.options.gradients and parameter is not None and isinstance(grad, LuaTensor) and grad.size:
            self._load_gradient(parameter, arrange(contiguous_copy(grad)), number)

    def _load_gradient(self, parameter: nn.Parameter, gradient: Tensor, number: int) -> None:
        """Add a gradient to ``.grad``: Torch7 can have several gradients of a shared parameter, PyTorch has their sum.

        Args:
            parameter: the parameter.
            gradient: the gradient, in PyTorch's memory layout.
            number: its number among the gradients of the parameter; several modules may have the same gradient.
        """
        if parameter.grad is None:
            parameter.grad = gradient
        elif (id(parameter), number) not in self._loaded_gradients:
            parameter.grad += gradient
        self._loaded_gradients.add((id(parameter), number))

    # ------------------------------------------------------------------ metadata
    def _store_metadata(self, module: nn.Module, obj: LuaObject, mapping: type[LuaClass]) -> None:
        """Store the fields that the mapping does not convert in the conversion metadata of the module."""
        record = record_of(module)
        if record is None:
            return
        record.header = tuple(self.keep(value, "header") for value in obj.header)
        handled = mapping.handled(module)
        for key, value in obj.items():
            if key in METHODS and key not in handled and isinstance(value, LuaFunction):
                self._replaced.append(format_path([*self._path, key], self._root))
            is_buffer = key not in mapping.resets and (key in RESULTS or key in mapping.scratch or key in BUFFERS)
            if is_buffer and isinstance(value, (LuaTensor, LuaStorage, LuaTable)):
                record.scratch[key] = emptied(value, self._emptied)
                self._alive.append(value)
            elif key not in handled and (kept := self.keep(value, key)) is not None:
                record.fields[key] = kept

    def keep(self, value: Any, *keys: Any) -> Any:
        if isinstance(value, LuaFunction):
            self.report.drop(format_path([*self._path, *keys], self._root), "a Lua function; code in data is never run")
            return None
        if isinstance(value, (LuaTensor, LuaStorage)):
            if id(value) not in self._kept:
                self.budget.spend(distinct_elements(value) * value.dtype.itemsize)
                self._kept[id(value)] = private_copy(value)
                self._alive.append(value)
            return self._kept[id(value)]
        if isinstance(value, LuaObject) and is_module(value) and registry.find(value):
            return self._modules.get(id(value)) or (None if id(value) in self.active else self.to_torch(value, *keys))
        if isinstance(value, (LuaTable, LuaObject)):
            if id(value) in self._kept:
                return self._kept[id(value)]
            if len(self._path) > 4 * MAX_DEPTH:
                raise self.error(f"tables are nested deeper than {4 * MAX_DEPTH} levels")
            self._alive.append(value)
            copy = without_entries(value)
            self._kept[id(value)] = copy
            with self.at(*keys):
                for k, v in value.items():
                    if (kept := self.keep(k)) is not None:
                        copy[kept] = self.keep(v, k)
            return copy
        return value


def _is_of_file(error: Exception) -> bool:
    """Return whether an error concerns the file, its disk or the memory, so that no other mapping would avoid it."""
    return isinstance(error, (T7Error, MemoryError)) or (isinstance(error, OSError) and error.errno in DISK_ERRORS)
