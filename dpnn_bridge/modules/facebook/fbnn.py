"""Layers of fbnn (``fbnn.*`` and ``nn.*``)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpnn_bridge.conversion.contexts import TorchContext
from dpnn_bridge.conversion.lua_class import LuaClass
from dpnn_bridge.conversion.noise import noise_of
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.conversion.tracing import is_traced
from dpnn_bridge.modules.nn.lookup import LookupTable
from dpnn_bridge.objects import LuaObject, LuaTensor


@lua_class("fbnn.L2Normalize", "nn.L2Normalize")
class L2Normalize(nn.Module):
    """Scales vectors to length 1, without an epsilon in the divisor: a zero vector gives NaN.

    Shape:
        - Input, output: :math:`(N, D)` or :math:`(D)`.

    Lua:
        ``fbnn.L2Normalize()``, fbnn L2Normalize.lua; ``nn.L2Normalize()``, karpathy's L2Normalize.lua
    """

    def forward(self, input: Tensor) -> Tensor:
        if input.dim() > 2:
            raise ValueError(f"L2Normalize: expected one or two dimensions, found {input.dim()}")
        return input / torch.linalg.vector_norm(input, dim=-1, keepdim=True)

    class Lua(LuaClass):
        scratch = ("norms", "buffer", "normSquared", "diag")

        @classmethod
        def upgrade(cls, obj: LuaObject) -> LuaObject:
            return obj.changed(eye=None)  # a buffer, which Torch7 creates if it is missing

        @classmethod
        def matches(cls, obj: LuaObject) -> bool:
            return not isinstance(obj.get("buffer"), (int, float))  # a number: a variant with one norm per batch


@lua_class("fbnn.LeakyReLU")
class LeakyReLU(LuaClass):
    """A PReLU with one weight, which Torch7 lists as a parameter but never trains."""

    torch_type = nn.PReLU
    tensors = ("weight",)
    import_only = True  # a PReLU created in PyTorch is exported as nn.PReLU

    @classmethod
    def fill(cls, module: nn.Module, obj: LuaObject, ctx: TorchContext) -> None:
        super().fill(module, obj, ctx)
        module.weight.requires_grad_(False)


@lua_class("fbnn.NestedDropout")
class NestedDropout(nn.Module):
    """Keeps a random number of leading features in training mode, and sets the others to zero.

    Args:
        p: parameter of the geometric distribution of that number.

    Shape:
        - Input: :math:`(N, D)`.
        - Output: :math:`(N, D)`; in training mode kept feature j, from 1, is divided by :math:`(1 - p)^j`.

    Lua:
        ``fbnn.NestedDropout(p)``, fbnn NestedDropout.lua
    """

    def __init__(self, p: float = 0.01) -> None:
        super().__init__()
        self.p = p

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return input
        position = torch.arange(1, input.shape[1] + 1, dtype=input.dtype, device=input.device)
        uniform = torch.rand(input.shape[0], 1, dtype=input.dtype, device=input.device).clamp(min=1e-30)
        kept = torch.floor(uniform.log() / torch.log1p(torch.tensor(-self.p))) + 1
        return input * (position <= kept) / (1 - self.p) ** position

    class Lua(LuaClass):
        scalars = ("p",)
        scratch = ("noise",)

        @classmethod
        def replay(cls, module: nn.Module, after: LuaObject) -> Callable[..., Any] | None:
            return (lambda input: input * noise_of(after, "noise", input)) if module.training else None


class LinearClass(LuaClass):
    """Base class of the mappings of fbnn's two variants of ``nn.Linear``."""

    tensors = ("weight", "bias")
    sizes = {"weight": ("out_features", "in_features")}
    scratch = ("addBuffer",)


@lua_class("fbnn.NormalizedLinearNoBias")
class NormalizedLinearNoBias(nn.Linear):
    """A linear layer that scales its weight in place to norm :math:`\\sqrt{H}` in each forward pass in training mode.

    Args:
        in_features, out_features: numbers of features, D and H.

    Shape:
        - Input: :math:`(N, D)` or :math:`(D)`.
        - Output: :math:`(N, H)` or :math:`(H)`.

    Differs from PyTorch:
        As in Torch7, the layer has a bias, which is never trained.

    Lua:
        ``fbnn.NormalizedLinearNoBias(inputSize, outputSize)``, fbnn NormalizedLinearNoBias.lua
    """

    def forward(self, input: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.detach()
        if self.training:
            scale = self.out_features**0.5 / self.weight.detach().norm()
            if is_traced():
                weight = self.weight + self.weight.detach() * (scale - 1)
                return F.linear(input, weight, bias)
            with torch.no_grad():
                self.weight.mul_(scale)
        return F.linear(input, self.weight, bias)

    class Lua(LinearClass):
        default_training = False


@lua_class("nn.LinearNoBackprop")
class LinearNoBackprop(nn.Linear):
    """A linear layer without an input gradient.

    Args:
        in_features, out_features: numbers of features, D and H.

    Shape:
        - Input: :math:`(N, D)` or :math:`(D)`.
        - Output: :math:`(N, H)` or :math:`(H)`.

    Lua:
        ``nn.LinearNoBackprop(inputSize, outputSize)``, fbnn LinearNoBackprop.lua
    """

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.detach())

    class Lua(LinearClass):
        pass


@lua_class("nn.Upsample")
class Upsample(nn.Module):
    """Nearest-neighbor upsampling by an integer factor.

    Args:
        factor: factor of height and width.

    Shape:
        - Input: :math:`(N, C, H, W)` or :math:`(C, H, W)`.
        - Output: the input's shape with H and W multiplied by ``factor``.

    Lua:
        ``nn.Upsample(factor)``, fbnn Upsample.lua
    """

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, input: Tensor) -> Tensor:
        return input.repeat_interleave(self.factor, -2).repeat_interleave(self.factor, -1)

    class Lua(LuaClass):
        scalars = ("factor",)
        scratch = ("buffer",)
        constants = {"buffer": LuaTensor.empty}

        @classmethod
        def matches(cls, obj: LuaObject) -> bool:
            return "weight" not in obj and "conv" not in obj


@lua_class("nn.SequentialCriterion")
class SequentialCriterion(nn.Module):
    """Applies a module to the input of a criterion.

    Args:
        module: module applied to the input.
        criterion: criterion for the module's output and the target.

    Shape:
        - Input: the module's input; target: the criterion's target.
        - Output: scalar.

    Lua:
        ``nn.SequentialCriterion(module, criterion)``, fbnn SequentialCriterion.lua
    """

    def __init__(self, module: nn.Module, criterion: nn.Module) -> None:
        super().__init__()
        self.module, self.criterion = module, criterion

    def forward(self, input: Any, target: Any) -> Tensor:
        return self.criterion(self.module(input), target)

    class Lua(LuaClass):
        members = ("module", "criterion")


@lua_class("nn.TemporalConvolutionTBC")
class TemporalConvolutionTBC(nn.Module):
    """Convolution over time of :math:`(T, B, C)` sequences.

    Args:
        in_channels, out_channels: numbers of channels.
        kernel_size: number of input frames of one output frame.
        padding: number of zero frames added at both ends.

    Shape:
        - Input: :math:`(T, B, C_{in})`.
        - Output: :math:`(T + 2 padding - kernel\\_size + 1, B, C_{out})`.

    Attributes:
        weight: :math:`(kernel\\_size, C_{in}, C_{out})`.
        bias: :math:`(C_{out})`.

    Lua:
        ``nn.TemporalConvolutionTBC(nIn, nOut, kw, pad)``, fbnn TemporalConvolutionTBC.lua; fairseq-lua uses it too
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, padding: int = 0, device: Any = None
    ) -> None:
        super().__init__()
        self.kernel_size, self.padding = kernel_size, padding
        self.weight = nn.Parameter(torch.empty(kernel_size, in_channels, out_channels, device=device))
        self.bias = nn.Parameter(torch.empty(out_channels, device=device))
        bound = (kernel_size * in_channels) ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, input: Tensor) -> Tensor:
        return torch.conv_tbc(input, self.weight, self.bias, self.padding)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[1]}, {self.weight.shape[2]}, {self.kernel_size}, padding={self.padding}"

    class Lua(LuaClass):
        scalars = {"kw": "kernel_size", "pad": "padding"}
        defaults = {"pad": 0}
        tensors = ("weight", "bias")
        sizes = {"weight": (None, "in_channels", "out_channels")}
        checked_by = "formula"
        test = "test_computes_what_the_formula_gives"


@lua_class("nn.CrossMapNormalization")
class CrossMapNormalization(LuaClass):
    """Local response normalization over an odd number of channels."""

    torch_type = nn.LocalResponseNorm
    scalars = {"size": "size", "scale": "alpha", "power": "beta"}
    scratch = ("squaredSum",)
    checked_by = "structure"
    test = "test_object_becomes_a_module_and_an_object_again"
    import_only = True  # nn.LocalResponseNorm is exported as nn's class


@lua_class("nn.KMaxPooling")
class KMaxPooling(nn.Module):
    """Returns the k largest values of every column, in their original order.

    Args:
        k: number of values.
        k_dynamic: if positive, return at least this fraction of the length.

    Shape:
        - Input: :math:`(T, D)`.
        - Output: :math:`(k, D)`, padded with zeros at the end if T < k.

    Lua:
        ``nn.KMaxPooling(k, k_dynamic)``, fbnn KMaxPooling.lua and src/KMaxPooling.cpp
    """

    def __init__(self, k: int, k_dynamic: float = -1) -> None:
        super().__init__()
        self.k, self.k_dynamic = k, k_dynamic

    def wanted(self, length: int) -> int:
        """Return the number of values that are kept of ``length`` values."""
        return max(self.k, int(self.k_dynamic * length)) if self.k_dynamic > 0 else self.k

    def forward(self, input: Tensor) -> Tensor:
        k = self.wanted(input.shape[0])
        rows = torch.sort(input.detach(), stable=True, dim=0, descending=True).indices[:k].sort(0).values
        return F.pad(input.gather(0, rows), (0, 0, 0, k - rows.shape[0]))

    class Lua(LuaClass):
        scalars = ("k", "k_dynamic")
        defaults = {"k_dynamic": -1}
        scratch = ("switches", "input_length", "output_length")
        constants = {"switches": lambda tensor_class: LuaTensor.empty("torch.LongTensor")}
        checked_by = "structure"
        test = "test_caption_pooling_keeps_order"

        @classmethod
        def matches(cls, obj: LuaObject) -> bool:
            return "indices" not in obj or "k_dynamic" in obj


@lua_class("nn.GroupKMaxPooling")
class GroupKMaxPooling(KMaxPooling):
    """Returns the k rows with the largest norm, in their original order.

    Args:
        k, k_dynamic: as in :class:`KMaxPooling`.

    Shape:
        - Input: :math:`(T, D)` or :math:`(N, T, D)`.
        - Output: :math:`(k, D)` or :math:`(N, k, D)`.

    Lua:
        ``nn.GroupKMaxPooling(k, k_dynamic)``, fbnn GroupKMaxPooling.lua and src/GroupKMaxPooling.cpp
    """

    def forward(self, input: Tensor) -> Tensor:
        k = self.wanted(input.shape[-2])
        norms = torch.linalg.vector_norm(input.detach(), dim=-1)
        rows = torch.sort(norms, stable=True, dim=-1, descending=True).indices[..., :k].sort(-1).values
        kept = input.gather(-2, rows.unsqueeze(-1).expand(*rows.shape, input.shape[-1]))
        return F.pad(kept, (0, 0, 0, k - rows.shape[-1]))


@lua_class("nn.WeightedLookupTable")
class WeightedLookupTable(LookupTable):
    """A lookup table whose rows are multiplied by weights from the input.

    Args:
        num_embeddings, embedding_dim, index_base: as in :class:`~dpnn_bridge.modules.nn.lookup.LookupTable`.

    Shape:
        - Input: :math:`(N, 2)`, an index and a weight in each row.
        - Output: :math:`(N, D)`.

    Lua:
        ``nn.WeightedLookupTable(nIndex, nOutput)``, fbnn WeightedLookupTable.lua
    """

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input[:, 0].detach()) * input[:, 1:].detach()

    class Lua(LookupTable.Lua):
        version = 2
        checked_by = "structure"
        test = "test_object_becomes_a_module_and_an_object_again"

        @classmethod
        def build(cls, obj: LuaObject, ctx: TorchContext) -> WeightedLookupTable:
            sizes = cls._sizes(obj, ctx)
            return WeightedLookupTable(sizes["num_embeddings"], sizes["embedding_dim"], index_base=ctx.index_base)
