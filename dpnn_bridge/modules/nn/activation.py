"""Element-wise activation functions and the softmax family."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from dpnn_bridge.conversion.contexts import LuaContext, TorchContext
from dpnn_bridge.conversion.fields import record_of
from dpnn_bridge.conversion.lua_class import LuaClass, plain_object
from dpnn_bridge.conversion.lua_values import fresh
from dpnn_bridge.conversion.noise import noise_of
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.errors import ConversionError
from dpnn_bridge.objects import LuaObject, LuaTensor


class Inplace(LuaClass):
    """A layer with Torch7's field ``inplace``, which is used only if the caller of the conversion sets ``inplace``."""

    constants = {"inplace": False}

    @classmethod
    def arguments(cls, obj: LuaObject, ctx: TorchContext) -> dict[str, Any]:
        return {**super().arguments(obj, ctx), "inplace": ctx.options.inplace and bool(obj.get("inplace"))}


@lua_class("nn.Threshold")
class Threshold(Inplace):
    torch_type = nn.Threshold
    scalars = {"threshold": "threshold", "val": "value"}


@lua_class("nn.ReLU", "cudnn.ReLU")
class ReLU(Inplace):
    torch_type = nn.ReLU
    constants = {**Inplace.constants, "threshold": 0, "val": 0}


@lua_class("nn.ReLU")
class ChangedReLU(Threshold):
    """``nn.ReLU``, in Lua a subclass of ``nn.Threshold``, whose threshold or value was changed after construction."""

    import_only = True
    defaults = {"threshold": 0, "val": 0}
    checked_by = "formula"
    test = "test_a_relu_with_another_threshold"

    @classmethod
    def matches(cls, obj: LuaObject) -> bool:
        return bool(obj.get("threshold") or obj.get("val"))


@lua_class("nn.ReLU6")
class ReLU6(Inplace):
    torch_type = nn.ReLU6


@lua_class("nn.LeakyReLU")
class LeakyReLU(Inplace):
    torch_type = nn.LeakyReLU
    scalars = {"negval": "negative_slope"}


@lua_class("nn.RReLU")
class RReLU(Inplace):
    torch_type = nn.RReLU
    scalars = ("lower", "upper")
    constants = {**Inplace.constants, "noise": LuaTensor.empty}
    scratch = ("noise",)

    @classmethod
    def replay(cls, module: nn.RReLU, after: LuaObject) -> Callable[[Tensor], Tensor] | None:
        return (lambda x: x * noise_of(after, "noise", x)) if module.training else None


class PReLU(nn.PReLU):
    """:class:`torch.nn.PReLU` that also accepts a single sample, a vector with one element per slope.

    Args:
        num_parameters: number of slopes: 1, or the number of channels C.

    Shape:
        - Input, output: :math:`(N, C, *)`, or :math:`(C)`.

    Lua:
        ``nn.PReLU(nOutputPlane)``, PReLU.lua
    """

    def forward(self, input: Tensor) -> Tensor:
        if input.dim() == 1:
            return super().forward(input.unsqueeze(0)).squeeze(0)
        return super().forward(input)


@lua_class("nn.PReLU")
class PReLUClass(LuaClass):
    torch_type = (nn.PReLU, PReLU)
    tensors = ("weight",)
    scratch = ("gradWeightBuf", "gradWeightBuf2")

    @classmethod
    def build(cls, obj: LuaObject, ctx: TorchContext) -> nn.PReLU:
        shared = obj.get("nOutputPlane", 0 if obj["weight"].size == 1 else None) == 0
        return (nn.PReLU if shared else PReLU)(obj["weight"].size)

    @classmethod
    def to_lua(cls, module: nn.PReLU, ctx: LuaContext) -> dict[str, Any]:
        slopes = module.weight.numel()
        channels = slopes if isinstance(module, PReLU) or slopes > 1 else 0
        return {**super().to_lua(module, ctx), "nOutputPlane": channels}


@lua_class("nn.HardTanh", "nn.Clamp")
class HardTanh(Inplace):
    torch_type = nn.Hardtanh
    scalars = ("min_val", "max_val")
    defaults = {"min_val": -1, "max_val": 1}


@lua_class("cudnn.ClippedReLU")
class ClippedReLU(Inplace):
    torch_type = nn.Hardtanh
    import_only = True  # nn.HardTanh has both bounds
    scalars = {"ceiling": "max_val"}

    @classmethod
    def arguments(cls, obj: LuaObject, ctx: TorchContext) -> dict[str, Any]:
        return {"min_val": 0.0, **super().arguments(obj, ctx)}


@lua_class("nn.HardShrink")
class HardShrink(LuaClass):
    torch_type = nn.Hardshrink
    scalars = {"lambda": "lambd"}


@lua_class("nn.SoftShrink")
class SoftShrink(LuaClass):
    torch_type = nn.Softshrink
    scalars = {"lambda": "lambd"}


@lua_class("nn.TanhShrink")
class TanhShrink(LuaClass):
    torch_type = nn.Tanhshrink
    constants = {"tanh": plain_object("nn.Tanh")}


@lua_class("nn.Tanh", "cudnn.Tanh")
class Tanh(LuaClass):
    torch_type = nn.Tanh


@lua_class("nn.Sigmoid", "cudnn.Sigmoid")
class Sigmoid(LuaClass):
    torch_type = nn.Sigmoid


@lua_class("nn.LogSigmoid")
class LogSigmoid(LuaClass):
    torch_type = nn.LogSigmoid
    scratch = ("buffer",)


@lua_class("nn.SoftSign")
class SoftSign(LuaClass):
    torch_type = nn.Softsign
    scratch = ("temp", "tempgrad")


@lua_class("nn.GatedLinearUnit")
class GatedLinearUnit(LuaClass):
    torch_type = nn.GLU

    @classmethod
    def arguments(cls, obj: LuaObject, ctx: TorchContext) -> dict[str, Any]:
        return {"dim": obj.get("dim", 0) - 1}

    @classmethod
    def to_lua(cls, module: nn.GLU, ctx: LuaContext) -> dict[str, Any]:
        if module.dim < -1:  # a subclass of nn.GLU; nn.GLU itself is exported as a composition
            raise ConversionError(
                f"Torch7 does not support dim={module.dim}; set dim to -1, or count it from the first dimension",
                class_name=type(module).__name__,
            )
        return {"dim": module.dim + 1} if module.dim >= 0 else {}  # without the field, Torch7 uses the last dimension


# ---------------------------------------------------------------------- the softmax family
def over_classes(softmax: Callable[[Tensor, int], Tensor], input: Tensor, instance: bool) -> Tensor:
    """Apply ``softmax`` over the classes; with ``instance`` over all elements of a sample together."""
    dim = class_dim(input)
    if instance and input.dim() > 2:
        return softmax(input.flatten(dim), -1).reshape(input.shape)
    return softmax(input, dim)


def class_dim(input: Tensor) -> int:
    """Return the 0-based dimension of the classes: 0 for shapes (C) and (C, H, W), 1 for (N, C) and (N, C, H, W).

    Raises:
        ValueError: the input has 0 or more than 4 dimensions.
    """
    if not 1 <= input.dim() <= 4:
        raise ValueError(f"expected 1 to 4 dimensions, found shape {tuple(input.shape)}")
    return 0 if input.dim() in (1, 3) else 1


class StockSoftMax(LuaClass):
    """Base class of softmax mappings: PyTorch's layer equals Torch7's for a batch if its ``dim`` is 1."""

    @classmethod
    def represents(cls, module: nn.Module) -> bool:
        return not getattr(module, "instance", False)

    @classmethod
    def to_lua(cls, module: nn.Module, ctx: LuaContext) -> dict[str, Any]:
        if not isinstance(module, cls.torch_type[0]) and module.dim not in (None, 1):
            raise ConversionError(
                f"Torch7 normalizes over dimension 1 of a batch, not over dim={module.dim}; set dim=1",
                class_name=type(module).__name__,
            )
        return {}


class _OverClasses(nn.Module):
    """Base class of softmaxes over the classes; the number of dimensions of the input determines the class dimension.

    Args:
        instance: normalize over all elements of a sample together instead of over the channels at each position.
    """

    softmax: ClassVar[Callable[..., Tensor]]

    def __init__(self, instance: bool = False) -> None:
        super().__init__()
        self.instance = instance

    def forward(self, input: Tensor) -> Tensor:
        return over_classes(type(self).softmax, input, self.instance)

    def extra_repr(self) -> str:
        return "instance=True" if self.instance else ""


@lua_class("nn.SoftMax", "nn.SpatialSoftMax")
class SoftMax(_OverClasses, nn.Softmax):
    r"""Softmax over the classes; the number of dimensions of the input determines the class dimension.

    Args:
        instance: normalize over all elements of a sample together instead of over the channels at each position.

    Shape:
        - Input, output: :math:`(C)`, :math:`(N, C)`, :math:`(C, H, W)` or :math:`(N, C, H, W)`.

    Lua:
        ``nn.SoftMax()``, SoftMax.lua; ``cudnn.SoftMax()`` with ``instance=True``
    """

    softmax = staticmethod(F.softmax)

    class Lua(StockSoftMax):
        torch_type = nn.Softmax


@lua_class("nn.LogSoftMax", "nn.SpatialLogSoftMax")
class LogSoftMax(_OverClasses, nn.LogSoftmax):
    r"""Log softmax over the classes; the number of dimensions of the input determines the class dimension.

    Args:
        instance: normalize over all elements of a sample together instead of over the channels at each position.

    Shape:
        - Input, output: :math:`(C)`, :math:`(N, C)`, :math:`(C, H, W)` or :math:`(N, C, H, W)`.

    Lua:
        ``nn.LogSoftMax()``, LogSoftMax.lua; ``cudnn.LogSoftMax()`` with ``instance=True``
    """

    softmax = staticmethod(F.log_softmax)

    class Lua(StockSoftMax):
        torch_type = nn.LogSoftmax


@lua_class("nn.SoftMin")
class SoftMin(nn.Softmin):
    r"""Softmax of the negated input, over the classes.

    Shape:
        - Input, output: :math:`(C)`, :math:`(N, C)`, :math:`(C, H, W)` or :math:`(N, C, H, W)`.

    Lua:
        ``nn.SoftMin()``, SoftMin.lua
    """

    def forward(self, input: Tensor) -> Tensor:
        return F.softmax(-input, class_dim(input))

    def extra_repr(self) -> str:
        return ""

    class Lua(StockSoftMax):
        torch_type = nn.Softmin
        scratch = ("mininput",)


@lua_class("cudnn.SoftMax", "cudnn.LogSoftMax", "cudnn.SpatialSoftMax", "cudnn.SpatialLogSoftMax")
class CudnnSoftMax(LuaClass):
    torch_type = (SoftMax, LogSoftMax)

    @classmethod
    def build(cls, obj: LuaObject, ctx: TorchContext) -> nn.Module:
        log = "Log" in obj.class_name or obj.get("algorithm") == "CUDNN_SOFTMAX_LOG"
        spatial = "Spatial" in obj.class_name and obj.get("mode") != "CUDNN_SOFTMAX_MODE_INSTANCE"
        return (LogSoftMax if log else SoftMax)(instance=not spatial)

    @classmethod
    def represents(cls, module: nn.Module) -> bool:
        return isinstance(module, (SoftMax, LogSoftMax)) and module.instance

    @classmethod
    def to_lua(cls, module: nn.Module, ctx: LuaContext) -> dict[str, Any]:
        return {} if record_of(module) else {"algorithm": softmax_algorithm(isinstance(module, LogSoftMax))}


def softmax_algorithm(log: bool) -> str:
    """Return cuDNN's name of the accurate algorithm for softmax or log softmax."""
    return "CUDNN_SOFTMAX_LOG" if log else "CUDNN_SOFTMAX_ACCURATE"


@lua_class("cudnn.VolumetricSoftMax", "cudnn.VolumetricLogSoftMax")
class VolumetricSoftMax(nn.Softmax):
    r"""Softmax over the channels of volumes.

    Args:
        log: return the logarithm.

    Shape:
        - Input, output: :math:`(C, T, H, W)` or :math:`(N, C, T, H, W)`.

    Lua:
        ``cudnn.VolumetricSoftMax(fast)``, VolumetricSoftMax.lua of cudnn.torch
    """

    def __init__(self, log: bool = False) -> None:
        super().__init__()
        self.log = log

    def forward(self, input: Tensor) -> Tensor:
        if input.dim() not in (4, 5):
            raise ValueError(f"expected 4 or 5 dimensions, found shape {tuple(input.shape)}")
        return (F.log_softmax if self.log else F.softmax)(input, input.dim() - 4)

    def extra_repr(self) -> str:
        return "log=True" if self.log else ""

    class Lua(LuaClass):
        @classmethod
        def build(cls, obj: LuaObject, ctx: TorchContext) -> VolumetricSoftMax:
            return VolumetricSoftMax(log=obj["ssm"].get("algorithm") == "CUDNN_SOFTMAX_LOG")

        @classmethod
        def to_lua(cls, module: VolumetricSoftMax, ctx: LuaContext) -> dict[str, Any]:
            if record_of(module):
                return {}
            algorithm = {"mode": "CUDNN_SOFTMAX_MODE_CHANNEL", "algorithm": softmax_algorithm(module.log)}
            return {"ssm": fresh("cudnn.SpatialSoftMax", ctx.type_of(module), **algorithm)}
