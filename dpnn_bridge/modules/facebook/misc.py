"""Other layers of fbnn and fbcunn."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.conversion.contexts import LuaContext, TorchContext
from dpnn_bridge.conversion.fields import Field, Layout
from dpnn_bridge.conversion.lua_class import LuaClass
from dpnn_bridge.conversion.lua_values import fresh
from dpnn_bridge.conversion.memory import decorated_memory
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.modules.dpnn.constant import Constant
from dpnn_bridge.modules.facebook.fbnn import KMaxPooling
from dpnn_bridge.modules.nn.convolution import Temporal
from dpnn_bridge.modules.nn.convolution_special import SpatialConvolutionLocal
from dpnn_bridge.modules.nn.dropout import Dropout
from dpnn_bridge.objects import LuaObject, LuaTensor
from dpnn_bridge.torch7.gradient import with_gradient_of


@lua_class("fbnn.ProjectiveGradientNormalization")
class ProjectiveGradientNormalization(nn.Module):
    """Returns its input; removes the component along the input from the gradient.

    Args:
        eps: not used, as in fbnn; stored for the export.

    Shape:
        - Input: :math:`(*)`.
        - Output: the input.

    Lua:
        ``fbnn.ProjectiveGradientNormalization(eps)``, fbnn ProjectiveGradientNormalization.lua
    """

    def __init__(self, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, input: Tensor) -> Tensor:
        direction = input.detach() / torch.linalg.vector_norm(input.detach()).clamp(min=torch.finfo(input.dtype).tiny)
        return with_gradient_of(input, input - direction * (direction * input).sum())

    class Lua(LuaClass):
        scalars = ("eps",)
        checked_by = "formula"
        test = "test_the_gradient_loses_its_part_along_the_input"


@lua_class("fbnn.Constant")
class FbnnConstantClass(Constant.Lua):
    """A ``nn.Constant`` that repeats the constant for every row of the input."""

    scalars = {}
    checked_by = "formula"
    test = "test_constant_of_fbnn_is_repeated"
    import_only = True  # nn.Constant has more settings

    @classmethod
    def arguments(cls, obj: LuaObject, ctx: TorchContext) -> dict[str, Any]:
        return {**super().arguments(obj, ctx), "n_input_dim": 0}


@lua_class("fbnn.Dropout")
class FbnnDropoutClass(LuaClass):
    """Dropout without scaling in training mode; evaluation mode scales by 1 - p."""

    torch_type = Dropout
    scalars = ("p",)
    scratch = ("noise",)
    checked_by = "formula"
    test = "test_dropouts_of_fbnn"
    import_only = True  # nn.Dropout has more settings

    @classmethod
    def arguments(cls, obj: LuaObject, ctx: TorchContext) -> dict[str, Any]:
        return {**super().arguments(obj, ctx), "v2": False}


@lua_class("fbnn.IndividualDropout")
class IndividualDropout(nn.Module):
    """Dropout with a probability for each feature; kept features are scaled in training mode.

    Args:
        keep: probability of each feature that it is kept, of shape :math:`(D)`; registered as a buffer.

    Shape:
        - Input, output: :math:`(N, D)`.

    Lua:
        ``fbnn.IndividualDropout(p)``, fbnn IndividualDropout.lua, whose field ``p`` contains ``1 - p``
    """

    keep: Tensor

    def __init__(self, keep: Tensor) -> None:
        super().__init__()
        self.register_buffer("keep", keep)

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return input
        keep = self.keep.to(input.dtype)
        return input * torch.bernoulli(keep.expand_as(input)) / keep

    class Lua(LuaClass):
        tensors = {"p": "keep"}
        tensor_args = ("p",)
        scratch = ("noise", "noisegpu")
        checked_by = "formula"
        test = "test_dropouts_of_fbnn"

        @classmethod
        def upgrade(cls, obj: LuaObject) -> LuaObject:
            """Remove the copy ``pgpu`` of ``p``; fbnn creates the copy again."""
            return obj.changed(pgpu=None)


@lua_class("fbnn.Probe")
class Probe(nn.Sequential):
    """Container of one module. fbnn prints moments of its input and gradient; this class prints nothing.

    Args:
        module: the module.

    Shape:
        - Input, output: the module's input and output.

    Lua:
        ``fbnn.Probe(module, name)``, fbnn Probe.lua
    """

    class Lua(LuaClass):
        output_memory = decorated_memory
        computed_fields = ("weight", "bias", "gradWeight", "gradBias")
        container = True
        is_identity = True
        checked_by = "formula"
        test = "test_a_probe_is_its_module"


@lua_class("nn.UnfoldedTemporalConvolution")
class UnfoldedTemporalConvolutionClass(Temporal):
    """A temporal convolution with padding; Torch7 computes it with an inner ``nn.Linear`` that has the parameters."""

    scalars = {
        "inputFrameSize": "in_channels",
        "outputFrameSize": "out_channels",
        ("kW",): "kernel_size",
        ("dW",): "stride",
        ("pad",): "padding",
    }
    computed_fields = ("linear",)
    scratch = ("_paddedInput", "_paddedGradInput", "_unfoldedInput", "_linearGradOutput", "_unfoldedGradInput")
    checked_by = "formula"
    test = "test_unfolded_convolution_pads_in_time"
    import_only = True  # modules without padding are nn.TemporalConvolution, others cudnn.TemporalConvolution

    @classmethod
    def to_lua(cls, module: nn.Module, ctx: LuaContext) -> dict[str, Any]:
        fields = super().to_lua(module, ctx)
        names = ("weight", "bias", "gradWeight", "gradBias")
        tensor_class = ctx.type_of(module)
        linear = fresh("nn.Linear", tensor_class, **{name: fields[name] for name in names if name in fields})
        return {**fields, "linear": linear}


def _positions_first(weight: Tensor, module: nn.Module) -> Tensor:
    """Convert Lua's ``nOut x oH x oW x nIn x kH x kW`` to PyTorch's ``oH x oW x nOut x nIn x kH x kW``."""
    return weight.permute(1, 2, 0, 3, 4, 5)


def _outputs_first(weight: Tensor, module: nn.Module) -> Tensor:
    """Undo :func:`_positions_first`."""
    return weight.permute(2, 0, 1, 3, 4, 5)


@lua_class("nn.LocallyConnected")
class LocallyConnectedClass(LuaClass):
    """A convolution with another kernel at each position."""

    torch_type = SpatialConvolutionLocal
    tensors = {"weight": Field("weight", Layout(_positions_first, _outputs_first)), "bias": "bias"}
    scalars = {
        "nInputPlane": "in_channels",
        "nOutputPlane": "out_channels",
        ("kH", "kW"): "kernel_size",
        ("dH", "dW"): "stride",
    }
    scratch = ("input_cache", "gradOutput_cache")
    checked_by = "formula"
    test = "test_locally_connected_has_a_kernel_for_each_place"
    import_only = True  # nn.SpatialConvolutionLocal has more settings

    @classmethod
    def arguments(cls, obj: LuaObject, ctx: TorchContext) -> dict[str, Any]:
        if obj["weight"].class_name.startswith("torch.Cuda"):
            raise ctx.error(
                "the weights of this layer on CUDA have another memory layout; save it again after :float() in Torch7",
                obj,
            )
        return {**super().arguments(obj, ctx), "output_size": obj["weight"].shape[1:3]}


@lua_class("nn.TemporalKMaxPooling")
class TemporalKMaxPooling(KMaxPooling):
    """Returns the k largest values of every column, in their original order.

    Args:
        k: number of values.
        k_dynamic: return at least this fraction of the length, rounded up; -1: only ``k`` counts.

    Shape:
        - Input: :math:`(N, T, D)` or :math:`(T, D)`.
        - Output: :math:`(N, k, D)` or :math:`(k, D)`.

    Lua:
        ``nn.TemporalKMaxPooling(k, k_dynamic)``, fbcunn TemporalKMaxPooling.lua
    """

    def wanted(self, length: int) -> int:
        return self.k if self.k_dynamic == -1 else max(self.k, math.ceil(self.k_dynamic * length))

    def forward(self, input: Tensor) -> Tensor:
        k = self.wanted(input.shape[-2])
        rows = torch.sort(input.detach(), stable=True, dim=-2, descending=True).indices.narrow(-2, 0, k)
        return input.gather(-2, rows.sort(-2).values)

    class Lua(KMaxPooling.Lua):
        scratch = ("indices",)
        constants = {"indices": LuaTensor.empty}
        checked_by = "formula"
        test = "test_temporal_k_max_keeps_the_order"
