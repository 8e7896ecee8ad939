"""Define :class:`LuaClass`, the class mapping, with every attribute and hook that a mapping may define."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from torch import Tensor, nn

from dpnn_bridge.conversion.faults import Fault
from dpnn_bridge.conversion.fields import Field, get_tensor, grad_field, submodules
from dpnn_bridge.conversion.hooks import Hooks
from dpnn_bridge.conversion.lua_values import fresh
from dpnn_bridge.conversion.tensors import is_parameter
from dpnn_bridge.objects import LuaFunction, LuaObject, LuaStorage, LuaTable, LuaTensor

if TYPE_CHECKING:
    from dpnn_bridge.conversion.lua_context import LuaContext
    from dpnn_bridge.conversion.torch_context import TorchContext

#: a parameter of a module: its owner, Lua field and where its torch tensor is
ParameterSite = tuple[nn.Module, str, Field]

#: fields that every Torch7 module may hold and that say nothing about what it computes
TRANSIENT = frozenset({"output", "gradInput", "train", "_type"})


class LuaClass(Hooks):
    """How one Lua class becomes a torch module and back. Subclass it and decorate with :func:`lua_class`.

    Attributes:
        names: Lua class names, canonical first (set by the decorator).
        torch_type: the module class, or a tuple: files become the first unless ``build`` chooses, all are written.
        computed_fields: other fields that ``to_lua`` works out, so that the record need not keep them; added to those
            of the parent's mapping.
        version: the class version that ``to_lua`` writes (``__version`` in Lua).
        scalars: Lua field, or a tuple of fields, -> constructor argument and attribute of the same name.
        defaults: values of Lua fields that a file may lack.
        tensors: Lua field -> torch parameter or buffer, in the order of Torch7's ``parameters()``. One that the module
            has and the file lacks is an error.
        optional: fields of ``tensors`` that a file may lack -> the constructor argument that says whether it is there;
            None: the module keeps what its constructor made.
        sizes: field of ``tensors`` -> the constructor arguments that its shape in Lua gives, one for each dimension
            (None for one that says nothing); a plain name: its number of elements.
        tensor_args: fields of ``tensors`` that the constructor takes, as the argument of the attribute's name.
        constant_kwargs: constructor arguments that are the same for every object.
        constants: fields that Torch7 needs and that never vary, or functions ``tensor class -> fresh value`` such as
            :func:`empty_table`; written for modules that were not read from a file.
        indexed: the constructor takes ``index_base``, since inputs or outputs are indices.
        container: the constructor takes the converted ``modules`` as positional arguments.
        members: Lua field that holds one module -> constructor argument and submodule of the same name.
        scratch: fields that hold buffers: dropped when reading, empty when written back; those of
            :data:`~dpnn_bridge.conversion.buffers.BUFFERS` are for every class.
        resets: fields that say that buffers are current (the size or the batch that they were made for) -> their value
            in a new object, None where it has no such field: they go when the buffers go.
        import_only: modules made in PyTorch are written as another class of the same torch type.
        is_identity: the class computes nothing here (``nn.Copy``, ``nn.GPU``); the report says so.
        keeps_types: a cast of the net leaves the modules inside as they are.
        default_training: a file without the field ``train`` is in training mode.
        checked_by: what the parity of this class rests on: ``"torch7"``, ``"formula"`` or ``"structure"``.
        test: for the latter two, the test function under ``tests/modules`` that checks it.
        faults: what Torch7 itself gets wrong in this class; a comparison that they spoil is no failure.
    """

    names: ClassVar[tuple[str, ...]] = ()
    torch_type: ClassVar[Any] = nn.Module
    version: ClassVar[int] = 1
    scalars: ClassVar[Any] = {}  # these three are dicts, whatever a subclass declares
    defaults: ClassVar[dict[str, Any]] = {}
    tensors: ClassVar[Any] = {}
    optional: ClassVar[dict[str, str | None]] = {}
    sizes: ClassVar[dict[str, str | tuple[str | None, ...]]] = {}
    tensor_args: ClassVar[tuple[str, ...]] = ()
    constant_kwargs: ClassVar[dict[str, Any]] = {}
    constants: ClassVar[dict[str, Any]] = {}
    indexed: ClassVar[bool] = False
    container: ClassVar[bool] = False
    members: ClassVar[Any] = {}
    scratch: ClassVar[tuple[str, ...]] = ()
    resets: ClassVar[dict[str, Any]] = {}
    computed_fields: ClassVar[tuple[str, ...]] = ()
    import_only: ClassVar[bool] = False
    is_identity: ClassVar[bool] = False
    keeps_types: ClassVar[bool] = False
    default_training: ClassVar[bool] = True
    checked_by: ClassVar[str] = "torch7"
    test: ClassVar[str] = ""
    faults: ClassVar[tuple[Fault, ...]] = ()

    # ------------------------------------------------------------------ Lua -> torch
    @classmethod
    def matches(cls, obj: LuaObject) -> bool:
        """Return whether this mapping is the right one for ``obj``; for names that several packages use."""
        return True

    @classmethod
    def upgrade(cls, obj: LuaObject) -> LuaObject:
        """Return ``obj``, or a changed copy when it was written by an older version of its class.

        This one adds the fields that are missing and have a default.
        """
        missing = {k: v for k, v in cls.defaults.items() if v is not None and obj.get(k) is None}
        return obj.changed(missing) if missing else obj

    @classmethod
    def arguments(cls, obj: LuaObject, ctx: TorchContext) -> dict[str, Any]:
        """Return the keyword arguments of ``torch_type``."""
        arguments: dict[str, Any] = {**cls.constant_kwargs, **cls._sizes(obj, ctx)}
        for name, attribute in cls.members.items():
            if name in obj:
                arguments[attribute] = ctx.to_torch(obj[name], name)
        for name in cls.tensor_args:
            if name not in cls.optional or has_tensor(obj, name):
                spec = cls.tensors[name]
                arguments[spec.attribute if isinstance(spec, Field) else spec] = tensor_of(obj, name, ctx).torch()
        for name, argument in cls.optional.items():
            if argument is not None:
                arguments[argument] = has_tensor(obj, name)
        for names, attribute in cls.scalars.items():
            if isinstance(names, tuple):
                arguments[attribute] = tuple(cls.scalar(obj, name) for name in names)
            else:
                arguments[attribute] = cls.scalar(obj, names)
        if cls.indexed:
            arguments["index_base"] = ctx.index_base
        return arguments

    @classmethod
    def _sizes(cls, obj: LuaObject, ctx: TorchContext) -> dict[str, int]:
        """Return the arguments that shapes of tensors give."""
        found: dict[str, int] = {}
        for name, arguments in cls.sizes.items():
            tensor = tensor_of(obj, name, ctx)
            if isinstance(arguments, str):
                found[arguments] = tensor.size
            elif tensor.ndim == len(arguments):
                found.update((a, n) for a, n in zip(arguments, tensor.shape, strict=True) if a is not None)
            else:
                text = f"field {name!r} has shape {tensor.shape}, expected {len(arguments)} dimensions"
                raise ctx.error(f"{text} ({', '.join(a or 'any' for a in arguments)})", obj)
        return found

    @classmethod
    def scalar(cls, obj: LuaObject, name: str) -> Any:
        """Return the value of a Lua field, or its default; raises ``KeyError`` when there is neither."""
        value = obj.get(name)
        if isinstance(value, LuaFunction):  # no format but .t7 could say so
            raise TypeError(f"the field {name!r} of {obj.class_name} is a function")
        if value is not None:
            return value
        if name in cls.defaults:
            return cls.defaults[name]
        return obj[name]

    @classmethod
    def build(cls, obj: LuaObject, ctx: TorchContext) -> nn.Module:
        """Return the torch module of ``obj``. Its tensors are filled in afterwards by :meth:`fill`."""
        children = ctx.children(obj) if cls.container else []
        kind = cls.torch_type[0] if isinstance(cls.torch_type, tuple) else cls.torch_type
        return kind(*children, **cls.arguments(obj, ctx))

    @classmethod
    def fill(cls, module: nn.Module, obj: LuaObject, ctx: TorchContext) -> None:
        """Put the tensors of ``obj`` into ``module``'s parameters and buffers."""
        for name, spec in cls.fields_of(module).items():
            if has_tensor(obj, name):
                ctx.assign(module, spec, name, obj)

    @classmethod
    def fields_of(cls, module: nn.Module) -> dict[str, Field]:
        """Return the tensor fields of one module; override when they depend on its configuration."""
        return {name: Field(spec) if isinstance(spec, str) else spec for name, spec in cls.tensors.items()}

    @classmethod
    def handled(cls, module: nn.Module) -> set[str]:
        """Return the Lua fields that the declaration accounts for, so that the record need not keep them."""
        names = {*TRANSIENT, *cls.scratch, *cls.resets, *cls.members}
        names.update(name for block in cls.__mro__ for name in block.__dict__.get("computed_fields", ()))
        for key in cls.scalars:
            names.update(key if isinstance(key, tuple) else (key,))
        for name, spec in {**cls.tensors, **cls.fields_of(module)}.items():
            names.update((name, grad_field(name, spec)))
        if cls.container:
            names.add("modules")
        return names

    # ------------------------------------------------------------------ torch -> Lua
    @classmethod
    def name_of(cls, module: nn.Module) -> str:
        """Return the Lua class that a module is written as which did not come from a file."""
        return cls.names[0]

    @classmethod
    def version_of(cls, module: nn.Module) -> int:
        """Return the class version to write for ``module``. Modules of older files may keep their version."""
        return cls.version

    @classmethod
    def represents(cls, module: nn.Module) -> bool:
        """Return whether a module of ``torch_type`` that came from no file can be written as this Lua class.

        Of several classes that share a torch type, those that override this are asked first, then the one that does
        not; so a class whose ``torch_type`` names one that another class writes has to override it, or to say
        ``import_only``. A class that only passes its input through does not represent torch's own modules: they
        have one that says more.
        """
        return not (cls.is_identity and type(module).__module__.startswith("torch.nn."))

    @classmethod
    def to_lua(cls, module: nn.Module, ctx: LuaContext) -> dict[str, Any]:
        """Return the Lua fields of ``module``, without what its :class:`LuaRecord` holds."""
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
            if is_parameter(module, spec.attribute) and ctx.writes_gradient(module, name):
                fields[grad_field(name, spec)] = ctx.gradient(module, name, spec)
        for name, attribute in cls.members.items():
            member = getattr(module, attribute)
            if member is not None:
                fields[name] = ctx.to_lua(member)
        if cls.container:
            fields["modules"] = LuaTable.from_list(ctx.to_lua(m) for m in cls.children(module))
        return fields

    @classmethod
    def serialize(cls, obj: LuaObject) -> Any:
        """Return the value that represents ``obj`` in a file."""
        return obj

    @classmethod
    def children(cls, module: nn.Module) -> list[nn.Module]:
        """Return the submodules in Torch7's order of ``modules``, which is also the order of ``parameters()``."""
        return submodules(module)

    @classmethod
    def parameters(
        cls, module: nn.Module, inner: Callable[[nn.Module], Iterator[ParameterSite]]
    ) -> Iterator[ParameterSite]:
        """Yield every parameter as ``(owner, Lua field, Field)`` in the order of Torch7's ``parameters()``.

        Args:
            module: the module.
            inner: the parameters of a module inside it, by whatever mapping describes that one.
        """
        for name, spec in cls.fields_of(module).items():
            if is_parameter(module, spec.attribute):
                yield module, name, spec
        for child in cls.children(module):
            yield from inner(child)

    @classmethod
    def stepped(
        cls, module: nn.Module, inner: Callable[[nn.Module], Iterator[ParameterSite]]
    ) -> Iterator[ParameterSite]:
        """Yield :meth:`parameters`, each as often as Torch7's ``updateParameters`` changes it."""
        return cls.parameters(module, inner)

    @classmethod
    def hidden_parameters(cls, module: nn.Module) -> Iterator[ParameterSite]:
        """Yield parameters of modules in other fields than ``modules``, which ``parameters()`` omits.

        The attribute may be a tensor that the module computes. Only dpnn's ``getParameters()`` lists it.
        """
        return iter(())

    # ------------------------------------------------------------------ parity
    @classmethod
    def joined_gradient(cls, module: nn.Module, name: str, gradients: dict[str, list[Tensor]]) -> Tensor | None:
        """Return the one gradient here that follows from those which Torch7 keeps of clones with shared parameters.

        Args:
            module: represents all clones.
            name: the field.
            gradients: of each field of the clones, in the order of their backward.

        Returns:
            None where it is their sum.
        """
        return None

    @classmethod
    def replay(cls, module: nn.Module, after: LuaObject) -> Callable[..., Any] | None:
        """Return a forward function that uses the random numbers in ``after``; None if the module is not random."""
        return None


def has_tensor(obj: LuaObject, name: str) -> bool:
    """Return whether a field holds a tensor with elements."""
    tensor = obj.get(name)
    return isinstance(tensor, LuaTensor) and tensor.size > 0


def tensor_of(obj: LuaObject, name: str, ctx: TorchContext) -> LuaTensor:
    """Return the tensor in a field; an error says what is there instead."""
    value = obj[name]
    if not isinstance(value, LuaTensor):
        raise ctx.error(f"expected a tensor in field {name!r}, found {type(value).__name__}", obj)
    return value


class WithoutParameters(LuaClass):
    """A class whose ``parameters()`` is empty in Torch7 although it holds modules: criterions and some wrappers."""

    @classmethod
    def parameters(
        cls, module: nn.Module, inner: Callable[[nn.Module], Iterator[ParameterSite]]
    ) -> Iterator[ParameterSite]:
        return iter(())


class PlainModule(LuaClass):
    """Stands for modules that no Lua class describes: their own parameters, then their children's."""

    @classmethod
    def fields_of(cls, module: nn.Module) -> dict[str, Field]:
        return {name: Field(name) for name, p in module._parameters.items() if p is not None}


def empty_table(kind: str) -> LuaTable:
    """Return an empty table, for ``constants``."""
    return LuaTable()


def empty_sizes(kind: str) -> LuaStorage:
    """Return an empty ``torch.LongStorage``, for ``constants``."""
    return size_storage()


def plain_object(class_name: str, **fields: Any) -> Callable[[str], LuaObject]:
    """Return a new module of a class without tensors, for ``constants``."""
    return lambda kind: fresh(class_name, kind, **fields)


def size_storage(sizes: Iterable[int] = ()) -> LuaStorage:
    """Return ``sizes`` as Torch7 keeps them, in a ``torch.LongStorage``."""
    array = np.array([*sizes], np.int64)
    return LuaStorage("torch.LongStorage", array.size, array)
