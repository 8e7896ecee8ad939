"""Convert Lua objects to PyTorch modules, and back."""

from __future__ import annotations

from typing import Any

from torch import nn
from typing_extensions import Unpack

from dpnn_bridge.base.arguments import check_no_file, checks_arguments, renamed
from dpnn_bridge.base.boundary import wrap_errors
from dpnn_bridge.conversion import registry
from dpnn_bridge.conversion.customized import check_customized
from dpnn_bridge.conversion.dimensions import input_dimensions
from dpnn_bridge.conversion.lua_context import LuaConversion
from dpnn_bridge.conversion.lua_values import Convertible, lua_value
from dpnn_bridge.conversion.options import OptionKeywords, Options
from dpnn_bridge.conversion.report import Report
from dpnn_bridge.conversion.settings import plain_settings
from dpnn_bridge.conversion.stock_classes import with_stock_classes
from dpnn_bridge.conversion.torch_context import TorchConversion
from dpnn_bridge.conversion.unshared import unshared
from dpnn_bridge.errors import ConversionError, OptionError
from dpnn_bridge.objects import element_dtype


@checks_arguments
@wrap_errors(ConversionError, "converting")
def to_torch(obj: Any, **options: Unpack[OptionKeywords]) -> nn.Module:
    """Convert a Lua object to a torch module.

    Args:
        obj: a :class:`~dpnn_bridge.objects.LuaObject` of a module or criterion, as :func:`read_t7` returns it.
        **options: fields of :class:`Options`.

    Raises:
        UnsupportedClassError: some classes have no mapping; the message lists them all.
        ConversionError: the object lacks a field that its class needs.
    """
    return convert_object(obj, Options(**options))[0]


def convert_object(obj: Any, options: Options, root: str = "") -> tuple[nn.Module, Report]:
    """Convert like :func:`to_torch`, and also return the report."""
    ctx = TorchConversion(options, root)
    module = ctx.to_torch(obj)
    ctx.finish()
    return module, ctx.report


@renamed(example="input")
@checks_arguments
@wrap_errors(ConversionError, "converting")
def to_lua(module: nn.Module, *, gradients: bool = True, tensor_type: str | None = None, input: Any = None) -> Any:
    """Convert a module to a Lua object that Torch7 can load; a module that was converted from a table, to that table.

    A module that occurs twice in a PyTorch container is written as two objects that share weights and gradients.

    The object shares its memory with the module, and a later training step changes both. Convert a ``copy.deepcopy`` of
    the module to keep its weights.

    Args:
        module: a converted module, or a module of registered PyTorch layers (``nn.Linear``, ``nn.Conv2d``, …).
        gradients: whether to write gradient tensors, which Torch7 needs for training.
        tensor_type: Lua type of floating point tensors; default: the type in the file that the module came from.
        input: an input of the module. Some PyTorch layers accept inputs with any number of dimensions, and Torch7 has
            one class for each number (``nn.Linear`` on sequences, ``nn.Softmax(1)``). The module runs on ``input`` to
            determine these numbers. The tensor type of ``input`` becomes the type of a module without tensors.

    Raises:
        ConversionError: a submodule has no Lua class, or computes more than its class does (a hook, a replaced
            ``forward``).
    """
    dtype = None if tensor_type is None else element_dtype(str(tensor_type))
    if tensor_type is not None and (dtype is None or dtype.kind != "f" or not str(tensor_type).endswith("Tensor")):
        raise OptionError(
            f"tensor_type={tensor_type!r}: expected a class of floating point tensors, such as 'torch.FloatTensor', "
            "'torch.DoubleTensor' or 'torch.CudaTensor'"
        )
    return _to_lua(module, gradients=gradients, tensor_type=tensor_type, input=input)[0]


@wrap_errors(ConversionError, "converting")
def to_lua_with_gradients(module: nn.Module) -> tuple[Any, set[int]]:
    """Convert a module like :func:`to_lua`.

    Returns:
        The Lua object, and the ``id`` of its tensors that contain a gradient from PyTorch. Other fields whose names
        begin with ``grad`` are those of the file.
    """
    obj, ctx = _to_lua(module, gradients=True)
    return obj, ctx.computed_gradients


@wrap_errors(ConversionError, "converting")
def to_lua_assuming(module: nn.Module, dimensions: int | None) -> tuple[Any, bool]:
    """Convert a module like :func:`to_lua`, without gradients and input.

    Args:
        module: the module.
        dimensions: number of dimensions of every input for which the layers before it do not determine this number;
            None: do not assume one.

    Returns:
        The Lua object, and whether it may depend on ``dimensions``.
    """
    obj, ctx = _to_lua(module, gradients=False, assumed=dimensions)
    return obj, ctx.inferred is not None


def _to_lua(
    module: nn.Module,
    *,
    gradients: bool,
    tensor_type: str | None = None,
    input: Any = None,
    assumed: int | None = None,
) -> tuple[Any, LuaConversion]:
    """Return the Lua object of a module, and its conversion.

    For the arguments see :func:`to_lua` and :func:`to_lua_assuming`.
    """
    check_no_file("input", input)
    check_customized(module, "a .t7 file", torch7=True)
    with plain_settings(module):
        module = with_stock_classes(unshared(module))
        dimensions = None if input is None else input_dimensions(module, input)
        ctx = LuaConversion(gradients=gradients, tensor_type=tensor_type, dimensions=dimensions, example=input)
        ctx.assumed = assumed
        return registry.mapping_of(module).serialize(ctx.to_lua(module)), ctx


def to_lua_value(value: Any) -> Any:
    """Convert a module, or a nested value that contains modules, tensors, arrays, numbers and strings, to a Lua value.

    Modules that share parameters share them in the result too.
    """
    if isinstance(value, nn.Module):
        return to_lua(value)
    context, memo = LuaConversion(), dict[str, Any]()

    def convert(module: Any) -> Any:
        if isinstance(module, Convertible):
            return module.to_lua(memo)
        check_customized(module, "a .t7 file", torch7=True)
        with plain_settings(module):
            return registry.mapping_of(module).serialize(context.to_lua(with_stock_classes(unshared(module))))

    return lua_value(value, convert)
