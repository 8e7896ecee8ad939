"""Define :class:`LuaClass`, the class mapping, with every attribute and hook that a mapping may define."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from torch import Tensor, nn

from dpnn_bridge.conversion.constructor import each, is_required, takes_flag, takes_number
from dpnn_bridge.conversion.faults import Fault, OtherVersion
from dpnn_bridge.conversion.fields import Field, check_complete, get_tensor, grad_field, hooked, submodules
from dpnn_bridge.conversion.hooks import Hooks
from dpnn_bridge.conversion.lua_values import fresh
from dpnn_bridge.conversion.tensors import is_parameter
from dpnn_bridge.objects import LuaFunction, LuaObject, LuaStorage, LuaTable, LuaTensor

if TYPE_CHECKING:
    from dpnn_bridge.conversion.contexts import LuaContext, TorchContext

#: a parameter: the module that owns it, its Lua field, and the :class:`Field` of its PyTorch tensor
ParameterSite = tuple[nn.Module, str, Field]

#: fields of every Torch7 module that no mapping needs to handle
TRANSIENT = frozenset({"output", "gradInput", "train", "_type"})

#: values that are never numbers
_NO_NUMBERS = (str, bytes, LuaTable, LuaObject, LuaTensor, LuaStorage)


class LuaClass(Hooks):
    """The mapping of one Lua class to a PyTorch module and back. Subclass it and decorate with :func:`lua_class`.

    Attributes:
        names: Lua class names, canonical first (set by the decorator).
        torch_type: Module class, or a tuple of classes. The import creates the first one unless ``build`` selects
            another; the export accepts all. In an inner class ``Lua``, the enclosing module class is the first and need
            not be listed.
        computed_fields: Other fields that ``to_lua`` computes, beside those of the base mapping; no metadata has them.
        version: Class version that ``to_lua`` writes (``__version`` in Lua).
        scalars: Lua field, or a tuple of fields -> constructor argument and attribute of the same name.
        defaults: Values of Lua fields that a file may lack.
        tensors: Lua field -> PyTorch parameter or buffer, in the order of Torch7's ``parameters()``. A tensor that the
            module has and the file lacks is an error.
        optional: Fields of ``tensors`` that a file may lack -> constructor argument that states whether the tensor
            exists. None: the module keeps the value of its constructor.
        sizes: Field of ``tensors`` -> constructor arguments for the dimensions of its shape in Lua (None ignores a
            dimension). A string instead of a tuple is the argument for the number of elements.
        tensor_args: Fields of ``tensors`` that the constructor takes as tensors, by the name of the attribute.
        constant_kwargs: Constructor arguments that are the same for every object.
        constants: Field that Torch7 needs -> its constant value, or a function ``tensor class -> new value`` such as
            :func:`empty_table`; written for modules that were created in PyTorch.
        indexed: Whether the constructor takes ``index_base``, because inputs or outputs are indices.
        container: Whether the constructor takes the converted ``modules`` as positional arguments.
        members: Lua field with one module -> constructor argument and submodule of the same name.
        scratch: Fields with temporary buffers: dropped on import, written empty. The fields in
            :data:`~dpnn_bridge.conversion.buffers.BUFFERS` need not be listed.
        resets: Fields to reset when the buffers are emptied -> value in a new object, or None to omit the field.
        import_only: Whether modules created in PyTorch are exported as another Lua class of the same torch type.
        is_identity: Whether the module returns its input (``nn.Copy``, ``nn.GPU``); the report states this.
        keeps_types: Whether a cast of the model does not change the types of the modules inside.
        default_training: Whether a file without the field ``train`` is in training mode.
        checked_by: How the parity of this class was tested: ``"torch7"``, ``"formula"`` or ``"structure"``.
        test: For the latter two, the test function in ``tests/modules``.
        repeats: Whether the class runs the modules inside several times in one pass.
        is_graph: Whether the class runs each of its modules once, like a container, in another order.
        faults: Faults of Torch7 in this class. A comparison that they affect is not a failure.
        other_version: Another version of Torch7's packages, with which the class computes other results.
    """

    names: ClassVar[tuple[str, ...]] = ()
    torch_type: ClassVar[Any] = nn.Module
    version: ClassVar[int] = 1
    scalars: ClassVar[Any] = {}  # a tuple in a subclass becomes a dict; the same for `tensors` and `members`
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
    repeats: ClassVar[bool] = False
    is_graph: ClassVar[bool] = False
    faults: ClassVar[tuple[Fault, ...]] = ()
    other_version: ClassVar[OtherVersion | None] = None

    # ------------------------------------------------------------------ Lua -> torch
    @classmethod
    def matches(cls, obj: LuaObject) -> bool:
        """Return whether this mapping applies to ``obj``; to override where packages use one name for two classes."""
        return True

    @classmethod
    def upgrade(cls, obj: LuaObject) -> LuaObject:
        """Return ``obj``, or an updated copy if an older version wrote it; the default adds fields with a default."""
        missing = {k: v for k, v in cls.defaults.items() if v is not None and obj.get(k) is None}
        return obj.changed(missing) if missing else obj

    @classmethod
    def arguments(cls, obj: LuaObject, ctx: TorchContext) -> dict[str, Any]:
        """Return the keyword arguments of ``torch_type``."""
        arguments: dict[str, Any] = {**cls.constant_kwargs, **cls._sizes(obj, ctx)}
        for name, attribute in cls.members.items():
            if name in obj or is_required(torch_types(cls)[0], attribute):
                arguments[attribute] = ctx.to_torch(obj[name], name)
        for name in cls.tensor_args:
            if name not in cls.optional or has_tensor(obj, name):
                spec = cls.tensors[name]
                arguments[spec.attribute if isinstance(spec, Field) else spec] = tensor_of(obj, name, ctx).torch()
        for name, argument in cls.optional.items():
            if argument is not None:
                arguments[argument] = has_tensor(obj, name)
        for names, attribute in cls.scalars.items():
            several = isinstance(names, tuple)
            found = {name: cls.scalar(obj, name) for name in (names if several else (names,))}
            for name, value in found.items():
                if isinstance(value, _NO_NUMBERS) and takes_number(torch_types(cls)[0], attribute, several):
                    raise TypeError(f"expected a number in field {name!r}, found {type(value).__name__}")
                if value is not None and takes_flag(torch_types(cls)[0], attribute):
                    found[name] = value is not False  # the number 0 is true in Lua
            arguments[attribute] = tuple(map(found.get, names)) if several else found[names]
        if cls.indexed:
            arguments["index_base"] = ctx.index_base
        return arguments

    @classmethod
    def _sizes(cls, obj: LuaObject, ctx: TorchContext) -> dict[str, int]:
        """Return the constructor arguments that are sizes of tensors, from ``sizes``."""
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
        """Return the value of a Lua field, or its default. Raise ``KeyError`` if there is neither."""
        value = obj.get(name)
        if isinstance(value, LuaFunction):  # only .t7 can store a function
            raise TypeError(f"the field {name!r} of {obj.class_name} is a function")
        if value is not None:
            return value
        if name in cls.defaults:
            return cls.defaults[name]
        return obj[name]

    @classmethod
    def build(cls, obj: LuaObject, ctx: TorchContext) -> nn.Module:
        """Return the torch module of ``obj``. :meth:`fill` sets its tensors afterwards."""
        children = ctx.children(obj) if cls.container else []
        return torch_types(cls)[0](*children, **cls.arguments(obj, ctx))

    @classmethod
    def fill(cls, module: nn.Module, obj: LuaObject, ctx: TorchContext) -> None:
        """Assign the tensors of ``obj`` to the parameters and buffers of ``module``."""
        for name, spec in cls.fields_of(module).items():
            if has_tensor(obj, name):
                ctx.assign(module, spec, name, obj)

    @classmethod
    def fields_of(cls, module: nn.Module) -> dict[str, Field]:
        """Return the tensor fields of one module. Override this if they depend on the configuration."""
        return {name: Field(spec) if isinstance(spec, str) else spec for name, spec in cls.tensors.items()}

    @classmethod
    def handled(cls, module: nn.Module) -> set[str]:
        """Return the Lua fields that the declarations convert; the metadata stores all other fields."""
        names = {*TRANSIENT, *cls.scratch, *cls.resets, *cls.members}
        names.update(name for base in cls.__mro__ for name in base.__dict__.get("computed_fields", ()))
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
        """Return the Lua class for the export of a module that was created in PyTorch."""
        return cls.names[0]

    @classmethod
    def version_of(cls, module: nn.Module) -> int:
        """Return the class version to write for ``module``. Modules of older files may keep their version."""
        return cls.version

    @classmethod
    def represents(cls, module: nn.Module) -> bool:
        """Return whether a module of ``torch_type`` that was created in PyTorch can be exported as this Lua class.

        If several classes share a torch type, those that override this method are tried first, then the one that does
        not. So a class with the ``torch_type`` of another class must override this method or set ``import_only``. An
        identity class does not represent PyTorch's own modules, which have a more specific class.
        """
        return not (cls.is_identity and type(module).__module__.startswith("torch.nn."))

    @classmethod
    def to_lua(cls, module: nn.Module, ctx: LuaContext) -> dict[str, Any]:
        """Return the Lua fields of ``module``, except those in its :class:`LuaRecord`."""
        fields: dict[str, Any] = {}
        for names, attribute in cls.scalars.items():
            value = getattr(module, attribute)
            if isinstance(names, tuple):
                fields.update(each(names, value, attribute))
            elif value is not None:
                fields[names] = value
        for name, spec in cls.fields_of(module).items():
            tensor = get_tensor(module, spec.attribute)
            if tensor is None:
                continue
            fields[name] = ctx.tensor(module, name, spec)
            if is_parameter(module, spec.attribute) and ctx.writes_gradient(module, name, spec):
                fields[grad_field(name, spec)] = ctx.gradient(module, name, spec)
        for name, attribute in cls.members.items():
            member = getattr(module, attribute)
            if member is not None:
                fields[name] = ctx.to_lua(member)
        if cls.container:
            check_complete(module)
            fields["modules"] = LuaTable.from_list(ctx.to_lua(m) for m in cls.children(module))
        return fields

    @classmethod
    def serialize(cls, obj: LuaObject) -> Any:
        """Return the value that represents ``obj`` in a file."""
        return obj

    @classmethod
    def header(cls, obj: LuaObject) -> tuple[Any, ...]:
        """Return the values that the class writes in addition to its table; all fields of ``obj`` are set already."""
        return obj.header

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
            inner: function that yields the parameters of a submodule.
        """
        for name, spec in cls.fields_of(module).items():
            stored = [spec] if is_parameter(module, spec.attribute) else hooked(module, spec)
            yield from ((module, name, field) for field in stored)
        for child in cls.children(module):
            yield from inner(child)

    @classmethod
    def stepped(
        cls, module: nn.Module, inner: Callable[[nn.Module], Iterator[ParameterSite]]
    ) -> Iterator[ParameterSite]:
        """Yield :meth:`parameters`; a parameter that Torch7's ``updateParameters`` updates twice is yielded twice."""
        return cls.parameters(module, inner)

    @classmethod
    def hidden_parameters(cls, module: nn.Module) -> Iterator[ParameterSite]:
        """Yield parameters of modules in other fields than ``modules``, which ``parameters()`` omits.

        The attribute may be a computed tensor. Only dpnn's ``getParameters()`` lists it.
        """
        return iter(())

    # ------------------------------------------------------------------ parity
    @classmethod
    def joined_gradient(cls, module: nn.Module, name: str, gradients: dict[str, list[Tensor]]) -> Tensor | None:
        """Combine the gradients of Torch7's clones with shared parameters into the gradient of the PyTorch module.

        Args:
            module: the module that represents all clones.
            name: the Lua field of the parameter.
            gradients: Lua field -> gradients of all clones, in the order of their backward passes.

        Returns:
            The gradient, or None for the sum of the clones' gradients.
        """
        return None

    @classmethod
    def output_memory(cls, obj: LuaObject, input: Any, trace: Any) -> Any:
        """Return where Torch7 stores the output; ``input`` is where the input is. ``trace``: a ``memory.Trace``."""
        if cls.is_identity:
            return input
        return trace.overwrite(input) if obj.get("inplace") else trace.computed(input)

    @classmethod
    def last_ran(cls, module: nn.Module, after: LuaObject) -> list[tuple[nn.Module, LuaObject]] | None:
        """Return each submodule with the Lua object, such as a clone, that ran last for it.

        None: the objects in the field ``modules`` ran last.
        """
        return None

    @classmethod
    def replay(cls, module: nn.Module, after: LuaObject) -> Callable[..., Any] | None:
        """Return a forward that uses random numbers in ``after``; None: not random; NotImplemented: some are absent."""
        return None


def torch_types(mapping: type[LuaClass]) -> tuple[Any, ...]:
    """Return the PyTorch classes of a mapping; the import creates the first."""
    return mapping.torch_type if isinstance(mapping.torch_type, tuple) else (mapping.torch_type,)


def has_tensor(obj: LuaObject, name: str) -> bool:
    """Return whether a field is a tensor with elements."""
    tensor = obj.get(name)
    return isinstance(tensor, LuaTensor) and tensor.size > 0


def tensor_of(obj: LuaObject, name: str, ctx: TorchContext) -> LuaTensor:
    """Return the tensor in a field.

    Raises:
        ConversionError: the field is not a tensor.
    """
    value = obj[name]
    if not isinstance(value, LuaTensor):
        raise ctx.error(f"expected a tensor in field {name!r}, found {type(value).__name__}", obj)
    return value


class WithoutParameters(LuaClass):
    """A mapping for classes, such as criterions, whose ``parameters()`` in Torch7 ignores the modules they contain."""

    @classmethod
    def parameters(
        cls, module: nn.Module, inner: Callable[[nn.Module], Iterator[ParameterSite]]
    ) -> Iterator[ParameterSite]:
        return iter(())


class PlainModule(LuaClass):
    """The mapping for modules without a Lua class: lists their own parameters, then those of their children."""

    @classmethod
    def fields_of(cls, module: nn.Module) -> dict[str, Field]:
        return {name: Field(name) for name, p in module._parameters.items() if p is not None}


def empty_table(kind: str) -> LuaTable:
    """Return an empty table, for ``constants``."""
    return LuaTable()


def empty_tensors(count: int) -> Callable[[str], LuaTable]:
    """Return a function that creates a table of empty tensors, for ``constants``."""
    return lambda kind: LuaTable.from_list(LuaTensor.empty(kind) for _ in range(count))


def empty_sizes(kind: str) -> LuaStorage:
    """Return an empty ``torch.LongStorage``, for ``constants``."""
    return size_storage()


def constant_fields(mapping: type[LuaClass], kind: str) -> dict[str, Any]:
    """Return new values of a mapping's ``constants``, and an empty ``gradInput``; ``kind`` is the class of tensors."""
    fields = {"gradInput": LuaTensor.empty, **mapping.constants}
    return {name: value(kind) if callable(value) else value for name, value in fields.items()}


def plain_object(class_name: str, **fields: Any) -> Callable[[str], LuaObject]:
    """Return a function that creates a Lua object of a module class without tensors, for ``constants``."""
    return lambda kind: fresh(class_name, kind, **fields)


def size_storage(sizes: Iterable[int] = ()) -> LuaStorage:
    """Return ``sizes`` as a ``torch.LongStorage``, Torch7's type for sizes."""
    array = np.array([*sizes], np.int64)
    return LuaStorage("torch.LongStorage", array.size, array)
