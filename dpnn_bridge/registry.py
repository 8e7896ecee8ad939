"""The one place that knows which Lua class is which PyTorch module.

A class is declared in one block, in its family's file under :mod:`dpnn_bridge.modules`::

    @lua_class("nn.Threshold", "nn.ReLU")
    class Threshold(LuaClass):
        torch_type = nn.Threshold
        scalars = {"threshold": "threshold", "val": "value"}

Both directions follow from the declaration: Lua fields -> constructor arguments, parameters and buffers;
attributes, parameters and buffers -> Lua fields. ``arguments``, ``build`` or ``to_lua`` are overridden only where the
mapping is more than renaming.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from dpnn_bridge.objects import LuaObject, LuaStorage, LuaTable, LuaTensor
from dpnn_bridge.ties import tie_of

if TYPE_CHECKING:
    from dpnn_bridge.lua_context import LuaContext
    from dpnn_bridge.torch_context import TorchContext

#: entry-point group through which other packages register Lua classes
ENTRY_POINTS = "dpnn_bridge.classes"

#: fields that every Torch7 module may hold and that say nothing about what it computes
TRANSIENT = frozenset({"output", "gradInput", "train", "_type"})


class Layout(NamedTuple):
    """How a tensor's elements are arranged in Lua and in torch. Both functions take ``(tensor, module)``."""

    to_torch: Callable[[Tensor, nn.Module], Tensor]
    to_lua: Callable[[Tensor, nn.Module], Tensor]


class Field(NamedTuple):
    """A tensor field of a Lua class.

    Args:
        attribute: name of the parameter or buffer in the torch module. Dots reach into submodules.
        layout: None when the elements have the same order (the shape may differ; Lua's is restored on the way back).
        grad: Lua field that holds the gradient; default ``weight`` -> ``gradWeight``.
    """

    attribute: str
    layout: Layout | None = None
    grad: str | None = None


@dataclass
class LuaRecord:
    """What a converted module remembers of its Lua object, beside what the torch module itself holds.

    Attributes:
        class_name: the Lua class in the file (an alias such as ``cudnn.ReLU`` is kept).
        tensor_type: Lua type of the module's tensors, such as ``torch.FloatTensor``; None when the file names none.
        fields: fields that no attribute stands for, kept for the way back.
        scratch: buffers that were dropped: field -> tensor or storage class, or ``"table"``.
        shapes: shapes of tensor fields in Lua where they differ from torch's.
        header: values that the class writes before its fields (``nn.GPU``).
    """

    class_name: str
    tensor_type: str | None = None
    fields: dict[Any, Any] = field(default_factory=dict)
    scratch: dict[str, str] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    header: tuple[Any, ...] = ()


def record_of(module: nn.Module) -> LuaRecord | None:
    """The Lua side of a converted module, None for a module that never was Lua's."""
    return module.__dict__.get("lua_record")


def submodules(module: nn.Module) -> list[nn.Module]:
    """Direct children in order; unlike ``module.children()`` one that occurs twice is listed twice."""
    return [m for m in module._modules.values() if m is not None]


class LuaClass:
    """How one Lua class becomes a torch module and back. Subclass it and decorate with :func:`lua_class`.

    Attributes:
        names: Lua class names, canonical first (set by the decorator).
        torch_type: the module class, or a tuple: files become the first unless ``build`` chooses, all are written.
        version: the class version that ``to_lua`` writes (``__version`` in Lua).
        scalars: Lua field, or a tuple of fields, -> constructor argument and attribute of the same name.
        defaults: values of Lua fields that a file may lack.
        tensors: Lua field -> torch parameter or buffer, in the order of Torch7's ``parameters()``.
        constants: fields that Torch7 needs and that never vary, or functions ``tensor class -> fresh value`` such as
            :func:`empty_table`; written for modules that were not read from a file.
        indexed: the constructor takes ``index_base``, since inputs or outputs are indices.
        container: the constructor takes the converted ``modules`` as positional arguments.
        members: Lua field that holds one module -> constructor argument and submodule of the same name.
        scratch: fields that hold buffers: dropped when reading, empty when written back.
        passes_through: the class computes nothing here (``nn.Copy``, ``nn.GPU``); the report says so.
        checked_by: what the parity of this class rests on: ``"torch7"``, ``"formula"`` or ``"structure"``.
    """

    names: ClassVar[tuple[str, ...]] = ()
    torch_type: ClassVar[Any] = nn.Module
    version: ClassVar[int] = 1
    scalars: ClassVar[dict[str | tuple[str, ...], str]] = {}
    defaults: ClassVar[dict[str, Any]] = {}
    tensors: ClassVar[dict[str, str | Field]] = {}
    constants: ClassVar[dict[str, Any]] = {}
    indexed: ClassVar[bool] = False
    container: ClassVar[bool] = False
    members: ClassVar[dict[str, str]] = {}
    scratch: ClassVar[tuple[str, ...]] = ()
    passes_through: ClassVar[bool] = False
    checked_by: ClassVar[str] = "torch7"

    # ------------------------------------------------------------------ Lua -> torch
    @classmethod
    def matches(cls, obj: LuaObject) -> bool:
        """Whether this block is the right one for ``obj``; for names that several packages use."""
        return True

    @classmethod
    def upgrade(cls, obj: LuaObject) -> LuaObject:
        """``obj``, or a changed copy when it was written by an older version of its class.

        This one adds the fields that are missing and have a default.
        """
        missing = {k: v for k, v in cls.defaults.items() if v is not None and obj.get(k) is None}
        if not missing:
            return obj
        fields = LuaTable([*obj.items(), *missing.items()])
        return LuaObject(obj.class_name, fields, version=obj.version, header=obj.header)

    @classmethod
    def arguments(cls, obj: LuaObject, ctx: TorchContext) -> dict[str, Any]:
        """Keyword arguments of ``torch_type``."""
        arguments: dict[str, Any] = {
            attribute: ctx.to_torch(obj[name], name) for name, attribute in cls.members.items() if name in obj
        }
        for names, attribute in cls.scalars.items():
            if isinstance(names, tuple):
                arguments[attribute] = tuple(cls.scalar(obj, name) for name in names)
            else:
                arguments[attribute] = cls.scalar(obj, names)
        if cls.indexed:
            arguments["index_base"] = ctx.index_base
        return arguments

    @classmethod
    def scalar(cls, obj: LuaObject, name: str) -> Any:
        """The value of a Lua field, or its default; raises ``KeyError`` when there is neither."""
        value = obj.get(name)
        if value is not None:
            return value
        if name in cls.defaults:
            return cls.defaults[name]
        return obj[name]

    @classmethod
    def build(cls, obj: LuaObject, ctx: TorchContext) -> nn.Module:
        """The torch module of ``obj``. Its tensors are filled in afterwards by :meth:`fill`."""
        children = ctx.children(obj) if cls.container else []
        kind = cls.torch_type[0] if isinstance(cls.torch_type, tuple) else cls.torch_type
        return kind(*children, **cls.arguments(obj, ctx))

    @classmethod
    def fill(cls, module: nn.Module, obj: LuaObject, ctx: TorchContext) -> None:
        """Puts the tensors of ``obj`` into ``module``'s parameters and buffers."""
        for name, spec in cls.fields_of(module).items():
            tensor = obj.get(name)
            if isinstance(tensor, LuaTensor) and tensor.size:
                ctx.assign(module, spec, name, obj)

    @classmethod
    def fields_of(cls, module: nn.Module) -> dict[str, Field]:
        """The tensor fields of one module; override when they depend on its configuration."""
        return {name: Field(spec) if isinstance(spec, str) else spec for name, spec in cls.tensors.items()}

    @classmethod
    def handled(cls, module: nn.Module) -> set[str]:
        """Lua fields that the declaration accounts for, so that the record need not keep them."""
        names = {*TRANSIENT, *cls.scratch, *cls.members}
        for key in cls.scalars:
            names.update(key if isinstance(key, tuple) else (key,))
        for name, spec in {**cls.tensors, **cls.fields_of(module)}.items():
            names.update((name, grad_field(name, spec)))
        if cls.container:
            names.add("modules")
        return names

    # ------------------------------------------------------------------ torch -> Lua
    @classmethod
    def represents(cls, module: nn.Module) -> bool:
        """Whether a module of ``torch_type`` that came from no file can be written as this Lua class.

        Of several classes that share a torch type the first is asked first; others only if they override this. A class
        that only passes its input through does not stand for torch's own modules: they have one that says more.
        """
        return not (cls.passes_through and type(module).__module__.startswith("torch.nn."))

    @classmethod
    def to_lua(cls, module: nn.Module, ctx: LuaContext) -> dict[str, Any]:
        """The Lua fields of ``module``, without what its :class:`LuaRecord` holds."""
        fields: dict[str, Any] = {}
        for names, attribute in cls.scalars.items():
            value = getattr(module, attribute)
            if isinstance(names, tuple):
                fields.update(zip(names, value, strict=True))
            elif value is not None:
                fields[names] = value
        for name, spec in cls.fields_of(module).items():
            tensor = get_tensor(module, spec.attribute)
            if tensor is None:
                continue
            fields[name] = ctx.tensor(module, name, spec)
            if ctx.gradients and is_parameter(module, spec.attribute):
                fields[grad_field(name, spec)] = ctx.gradient(module, name, spec)
        for name, attribute in cls.members.items():
            member = getattr(module, attribute)
            if member is not None:
                fields[name] = ctx.to_lua(member)
        if cls.container:
            fields["modules"] = LuaTable.from_list(ctx.to_lua(m) for m in cls.children(module))
        return fields

    @classmethod
    def children(cls, module: nn.Module) -> list[nn.Module]:
        """Submodules in Torch7's order of ``modules``, which is also the order of ``parameters()``."""
        return submodules(module)

    @classmethod
    def parameters(cls, module: nn.Module) -> Iterator[tuple[nn.Module, str, Field]]:
        """Every parameter as ``(owner, Lua field, Field)`` in the order of Torch7's ``parameters()``."""
        for name, spec in cls.fields_of(module).items():
            if is_parameter(module, spec.attribute):
                yield module, name, spec
        for child in cls.children(module):
            yield from spec_of(child).parameters(child)

    # ------------------------------------------------------------------ parity
    @classmethod
    def replay(cls, module: nn.Module, after: LuaObject) -> Callable[..., Any] | None:
        """For a random module: a forward that uses the noise which Torch7 stored in ``after``. None when not random."""
        return None


class WithoutParameters(LuaClass):
    """A class whose ``parameters()`` is empty in Torch7 although it holds modules: criterions and some wrappers."""

    @classmethod
    def parameters(cls, module: nn.Module) -> Iterator[tuple[nn.Module, str, Field]]:
        return iter(())


class PlainModule(LuaClass):
    """Stands for modules that no Lua class describes: their own parameters, then their children's."""

    @classmethod
    def fields_of(cls, module: nn.Module) -> dict[str, Field]:
        return {name: Field(name) for name, p in module._parameters.items() if p is not None}


def empty_table(kind: str = "") -> LuaTable:
    """For ``constants``: a field that must be a table of its own."""
    return LuaTable()


def empty_sizes(kind: str = "") -> LuaStorage:
    """For ``constants``: a field that must be a ``torch.LongStorage`` of its own."""
    return size_storage()


def plain_object(class_name: str, **fields: Any) -> Callable[[str], LuaObject]:
    """For ``constants``: a field that must be a module of its own, of a class without tensors."""

    def make(kind: str) -> LuaObject:
        buffers = {"output": LuaTensor.empty(kind), "gradInput": LuaTensor.empty(kind)}
        return LuaObject(class_name, LuaTable({"_type": kind, **buffers, **fields}))

    return make


def size_storage(sizes: Iterable[int] = ()) -> LuaStorage:
    """``sizes`` as Torch7 keeps them, in a ``torch.LongStorage``."""
    array = np.array([*sizes], np.int64)
    return LuaStorage("torch.LongStorage", array.size, array)


def grad_field(name: str, spec: str | Field) -> str:
    """``weight`` -> ``gradWeight``, unless the field names another."""
    if isinstance(spec, Field) and spec.grad:
        return spec.grad
    return f"grad{name[:1].upper()}{name[1:]}"


def get_tensor(module: nn.Module, attribute: str) -> Tensor | None:
    """The parameter or buffer at a dotted name."""
    owner, leaf = resolve(module, attribute)
    return getattr(owner, leaf, None)


def resolve(module: nn.Module, attribute: str) -> tuple[nn.Module, str]:
    """``(owner, name)`` of a dotted attribute."""
    *path, leaf = attribute.split(".")
    for name in path:
        module = getattr(module, name)
    return module, leaf


def is_parameter(module: nn.Module, attribute: str) -> bool:
    """Whether a dotted name is a parameter, its own or tied to another's."""
    owner, leaf = resolve(module, attribute)
    return owner._parameters.get(leaf) is not None or tie_of(owner, leaf) is not None


def lua_value(module: nn.Module, name: str, spec: Field, *, gradient: bool = False) -> Tensor:
    """A field's tensor, or its gradient (zeros when there is none), detached and in Lua's arrangement.

    It is a view of the torch tensor where the strides allow it.
    """
    owner, leaf = resolve(module, spec.attribute)
    tie = tie_of(owner, leaf)
    tensor = tie.parameter() if tie else getattr(owner, leaf)
    if gradient:
        tensor = tensor.grad if tensor.grad is not None else torch.zeros_like(tensor)
    tensor = tensor.detach()
    if tie:
        return tie.lua_view(tensor)
    if spec.layout is not None:
        return spec.layout.to_lua(tensor, module)
    record = record_of(module)
    shape = record.shapes.get(name) if record else None
    return tensor.reshape(shape) if shape and torch.Size(shape).numel() == tensor.numel() else tensor


# ---------------------------------------------------------------------- lookup
_BY_NAME: dict[str, list[type[LuaClass]]] = {}
_BY_TYPE: dict[type[nn.Module], list[type[LuaClass]]] = {}
_discovered = False

SpecT = TypeVar("SpecT", bound=type[LuaClass])


def lua_class(*names: str) -> Callable[[SpecT], SpecT]:
    """Registers a :class:`LuaClass` under its Lua names, canonical first.

    Raises:
        ValueError: a name is taken by a block that does not tell its variant apart with ``matches``.
    """

    def register(cls: SpecT) -> SpecT:
        cls.names = names
        for name in names:
            known = _BY_NAME.setdefault(name, [])
            general = [c for c in [*known, cls] if c.matches.__func__ is LuaClass.matches.__func__]  # type: ignore[attr-defined]
            if len(general) > 1:
                raise ValueError(f"{name} is registered in {known[-1].__module__} and in {cls.__module__}")
            known.append(cls)
            known.sort(key=lambda c: c in general)  # the block without `matches` is the last resort
        types = cls.torch_type if isinstance(cls.torch_type, tuple) else (cls.torch_type,)
        for torch_type in types:
            known_types = _BY_TYPE.setdefault(torch_type, [])
            if not _is_general(cls) or not any(map(_is_general, known_types)):
                known_types.append(cls)
                known_types.sort(key=_is_general)  # in whatever order the families are imported
        return cls

    return register


def _is_general(cls: type[LuaClass]) -> bool:
    """Whether a block takes every module of its torch type."""
    return cls.represents.__func__ is LuaClass.represents.__func__  # type: ignore[attr-defined]


def discover() -> None:
    """Imports every family under ``dpnn_bridge.modules`` and every installed plugin, once."""
    global _discovered
    if _discovered:
        return
    from dpnn_bridge import modules

    for info in pkgutil.iter_modules(modules.__path__):
        importlib.import_module(f"{modules.__name__}.{info.name}")
    for entry_point in entry_points(group=ENTRY_POINTS):
        entry_point.load()
    _discovered = True  # at the end: a family that fails to import fails every time, not only the first


def find(obj: LuaObject) -> type[LuaClass] | None:
    """The block for a Lua object, or None when its class (or this variant of it) is unknown."""
    discover()
    return next((spec for spec in _BY_NAME.get(obj.class_name, ()) if spec.matches(obj)), None)


def spec_of(module: nn.Module) -> type[LuaClass]:
    """The block for a torch module: that of its Lua class, else that of its type, else :class:`PlainModule`."""
    discover()
    record = record_of(module)
    for spec in _BY_NAME.get(record.class_name, ()) if record else ():
        if isinstance(module, spec.torch_type):
            return spec
    candidates = (spec for t in type(module).__mro__ if t is not nn.Module for spec in _BY_TYPE.get(t, ()))
    return next((spec for spec in candidates if spec.represents(module)), PlainModule)


def known_names() -> dict[str, list[type[LuaClass]]]:
    """All registered Lua names with their blocks, sorted."""
    discover()
    return dict(sorted(_BY_NAME.items()))


def torch_name(spec: type[LuaClass]) -> str:
    """What a block makes of its class, for tables."""
    types = spec.torch_type if isinstance(spec.torch_type, tuple) else (spec.torch_type,)
    names = [f"torch.nn.{t.__qualname__}" if t.__module__.startswith("torch.nn.") else t.__qualname__ for t in types]
    return ", ".join(dict.fromkeys(names))


def nearest_name(name: str) -> str | None:
    """The registered name most like ``name``, for error messages."""
    known = known_names()
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
    if close:
        return close[0]
    tail = name.rpartition(".")[2]
    return next((k for k in known if k.rpartition(".")[2] == tail), None)
