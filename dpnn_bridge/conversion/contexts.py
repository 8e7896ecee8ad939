"""Define the interface of a conversion for class mappings, in both directions."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor, nn

from dpnn_bridge.conversion.fields import Field
from dpnn_bridge.conversion.options import Options
from dpnn_bridge.conversion.report import Report
from dpnn_bridge.errors import ConversionError
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor


class TorchContext(Protocol):
    """The interface of one conversion from Lua to PyTorch for class mappings.

    Attributes:
        options: the caller's options.
        report: the module of each Lua object, and notes.
        active: ``id`` of the objects that are being converted -> object; each contains the next one.
    """

    options: Options
    report: Report
    active: dict[int, LuaObject]

    @property
    def index_base(self) -> int:
        """The caller's ``index_base``."""
        ...

    @property
    def path(self) -> str:
        """The path of the current object for messages, such as ``modules[3].weight``; long keys are shortened."""
        ...

    def error(self, message: str, obj: LuaObject | None = None) -> ConversionError:
        """Return an error with the current path."""
        ...

    def note(self, text: str) -> None:
        """Add a note with the current path to the report."""
        ...

    def to_torch(self, obj: Any, *keys: Any) -> nn.Module:
        """Return the module of a Lua object; one object gives one module.

        Args:
            obj: a :class:`LuaObject` of a module or criterion class.
            *keys: path from the current object to ``obj``, for messages.

        Raises:
            ConversionError: ``obj`` is not an object, contains itself, or lacks a field that its class needs.
        """
        ...

    def children(self, obj: LuaObject, field: str = "modules") -> list[nn.Module]:
        """Return the converted modules of an array field, in order."""
        ...

    def assign(self, module: nn.Module, spec: Field, name: str, obj: LuaObject) -> None:
        """Assign the tensor ``obj[name]`` to the parameter or buffer ``spec.attribute``.

        Tensors that view the same elements of a storage become one parameter.

        Raises:
            ConversionError: the number of elements does not match the module's other fields.
        """
        ...

    def filled(self, owner: nn.Module, *names: str) -> None:
        """Record that a mapping has set parameters itself, without :meth:`assign`."""
        ...

    def keep(self, value: Any, *keys: Any) -> Any:
        """Copy a Lua value for the metadata: objects become modules, functions None, tensors contiguous tensors.

        Args:
            value: a Lua value.
            *keys: path from the current object to ``value``, for messages.
        """
        ...


class LuaContext(Protocol):
    """The interface of one conversion from PyTorch to Lua for class mappings.

    Attributes:
        gradients: whether ``.grad`` (or zeros) is written into the gradient fields.
        compose: whether Torch7 must be able to run the objects; False: they describe the modules of a ``.pt`` file.
        root: the model that is converted.
        dimensions: ``id`` of each module that ran on an example -> number of dimensions of its input; None if it ran
            on inputs with different numbers.
        inferred: ``id`` of modules -> number of dimensions of their input, inferred from the previous layers, or None
            if unknown.
        assumed: number of dimensions of every input whose number is unknown; None: do not assume one.
        stands_for: copies with plain parameters instead of computed weights: ``id`` of the copy -> the original module.
    """

    gradients: bool
    compose: bool
    root: nn.Module
    dimensions: dict[int, int | None]
    inferred: dict[int, int | None] | None
    assumed: int | None = None
    stands_for: dict[int, nn.Module]

    def to_lua(self, module: nn.Module) -> LuaObject:
        """Return the Lua object of a module; one module gives one object.

        Raises:
            ConversionError: no registered class describes the module.
        """
        ...

    def with_parameters_of_first(self, copy: nn.Module, source: nn.Module) -> nn.Module:
        """Make ``copy`` use the parameters of the first earlier copy of ``source`` that has equal values.

        So a module that is used several times, and copied for each use, has shared parameters in the file.

        Args:
            copy: a module whose parameters were computed from the parameters of ``source``.
            source: the original module.

        Returns:
            ``copy``.
        """
        ...

    def restore(self, value: Any) -> Any:
        """Return the Lua value of a result of :meth:`TorchContext.keep`."""
        ...

    def type_of(self, module: nn.Module) -> str:
        """Return the Lua tensor type of a module (``_type``): from its tensors, its file, or the model."""
        ...

    def class_of(self, tensor: Tensor, module: nn.Module) -> str:
        """Return the Lua class of one tensor of ``module``."""
        ...

    def writes_gradient(self, module: nn.Module, name: str, spec: Field) -> bool:
        """Return whether to write a field's gradient; False for modules without gradients (``accUpdateOnly``)."""
        ...

    def tensor(self, module: nn.Module, name: str, spec: Field) -> LuaTensor:
        """Return the parameter or buffer of a field as a Lua tensor; one torch tensor gives one Lua storage."""
        ...

    def gradient(self, module: nn.Module, name: str, spec: Field) -> LuaTensor:
        """Return the gradient of a field's parameter as a Lua tensor; zeros if the parameter has no gradient."""
        ...

    def empty_tensors(self, module: nn.Module, count: int) -> LuaTable:
        """Return a table of empty tensors, for fields whose tensors Torch7 resizes but does not create."""
        ...

    def constant(self, tensor: Tensor, module: nn.Module) -> LuaTensor:
        """Return a new Lua tensor with the elements of a tensor that is neither a parameter nor a buffer."""
        ...

    def typed_constant(self, tensor: Tensor, module: nn.Module) -> LuaTensor:
        """Return a new Lua tensor with the elements of a tensor, in the tensor type of the module."""
        ...
