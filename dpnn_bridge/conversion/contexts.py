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
    """One conversion from Lua to torch, as a class mapping sees it.

    Attributes:
        options: the caller's choices.
        report: the module of each object, and notes.
    """

    options: Options
    report: Report

    @property
    def index_base(self) -> int:
        """The caller's ``index_base``."""
        ...

    @property
    def path(self) -> str:
        """The current path for messages, such as ``modules[3].weight``, with shortened keys."""
        ...

    def error(self, message: str, obj: LuaObject | None = None) -> ConversionError:
        """Return an error that names the current place."""
        ...

    def note(self, text: str) -> None:
        """Add a remark on the current place to the report."""
        ...

    def to_torch(self, obj: Any, *keys: Any) -> nn.Module:
        """Return the module of a Lua object, the same one whenever the object is met again.

        Args:
            obj: a :class:`LuaObject` of a module or criterion class.
            *keys: how ``obj`` is reached from the current place, for messages.

        Raises:
            ConversionError: ``obj`` is not an object, contains itself, or lacks a field that its class needs.
        """
        ...

    def children(self, obj: LuaObject, field: str = "modules") -> list[nn.Module]:
        """Return the converted modules of an array field, in order."""
        ...

    def assign(self, module: nn.Module, spec: Field, name: str, obj: LuaObject) -> None:
        """Make the tensor ``obj[name]`` the parameter or buffer that ``spec`` names; one region gives one parameter.

        Raises:
            ConversionError: the number of elements does not match the module's other fields.
        """
        ...

    def filled(self, owner: nn.Module, *names: str) -> None:
        """Record that a mapping has set parameters itself, without :meth:`assign`."""
        ...

    def keep(self, value: Any, *keys: Any) -> Any:
        """Copy a Lua value for the metadata: modules for their objects, no functions, contiguous tensors."""
        ...


class LuaContext(Protocol):
    """One conversion from torch to Lua, as a class mapping sees it.

    Attributes:
        gradients: whether ``.grad`` (or zeros) is written into the gradient fields.
        root: the module that is converted.
        dimensions: ``id`` of modules that ran on an example -> dimensions of their input; None if they differed.
        inferred: ``id`` of modules -> dimensions of their input, inferred from the layers before them, None if unknown.
        stands_for: ``id`` of modules with computed weights as plain ones -> the module of the model.
    """

    gradients: bool
    root: nn.Module
    dimensions: dict[int, int | None]
    inferred: dict[int, int | None] | None
    stands_for: dict[int, nn.Module]

    def to_lua(self, module: nn.Module) -> LuaObject:
        """Return the Lua object of a module, the same one whenever the module is met again.

        Raises:
            ConversionError: no registered class describes the module.
        """
        ...

    def with_parameters_of_first(self, twin: nn.Module, source: nn.Module) -> nn.Module:
        """Let all modules that are made of the same parameters, for the uses of one module, share what they contain.

        Args:
            twin: A module whose parameters are computed from those of ``source``.
            source: The module.

        Returns:
            ``twin``.
        """
        ...

    def restore(self, value: Any) -> Any:
        """Return the Lua value of what :meth:`TorchContext.keep` kept."""
        ...

    def type_of(self, module: nn.Module) -> str:
        """Return the Lua tensor type of a module (``_type``): from its tensors, its file, or the model."""
        ...

    def class_of(self, tensor: Tensor, module: nn.Module) -> str:
        """Return the Lua class of one tensor of ``module``."""
        ...

    def writes_gradient(self, module: nn.Module, name: str) -> bool:
        """Return whether to write a field's gradient; False for modules without gradients (``accUpdateOnly``)."""
        ...

    def tensor(self, module: nn.Module, name: str, spec: Field) -> LuaTensor:
        """Return the parameter or buffer of a field as a Lua tensor; one torch tensor gives one Lua storage."""
        ...

    def gradient(self, module: nn.Module, name: str, spec: Field) -> LuaTensor:
        """Return the gradient of a field's parameter, zeros when it has none."""
        ...

    def empty_tensors(self, module: nn.Module, count: int) -> LuaTable:
        """Return a table of tensors without elements, which Torch7 resizes but does not make."""
        ...

    def constant(self, tensor: Tensor, module: nn.Module) -> LuaTensor:
        """Return a tensor of its own that is neither parameter nor buffer."""
        ...
