"""Layers of fairseq-lua (``nn.TemporalConvolutionTBC`` is in :mod:`dpnn_bridge.modules.facebook.fbnn`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from dpnn_bridge.conversion.contexts import LuaContext
from dpnn_bridge.conversion.lua_class import LuaClass, ParameterSite, empty_table
from dpnn_bridge.conversion.memory import decorated_memory
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.modules.nn.arithmetic import shaped_like
from dpnn_bridge.modules.nn.pairwise import MM
from dpnn_bridge.modules.nn.run_buffers import RunBuffers
from dpnn_bridge.objects import LuaTensor
from dpnn_bridge.torch7.gradient import scale_gradient, with_gradient_of


@lua_class("nn.AppendBias")
class AppendBias(nn.Module):
    """Appends a column of ones.

    Shape:
        - Input: :math:`(*, D)`.
        - Output: :math:`(*, D + 1)`.

    Lua:
        ``nn.AppendBias()``, fairseq-lua modules/AppendBias.lua
    """

    def forward(self, input: Tensor) -> Tensor:
        return F.pad(input, (0, 1), value=1)


@lua_class("nn.BeamableMM")
class BeamableMM(MM):
    """A product of two batches of matrices; the samples of one beam share the second matrix.

    As in Torch7, the matrix is shared only in training mode (Torch7's comment wrongly names the test phase) and only
    for single time steps (M = 1); the gradient is that of the ordinary product.

    Args:
        transpose_a, transpose_b: as in :class:`~dpnn_bridge.modules.nn.pairwise.MM`.
        beam: number of samples of a beam; 0: no matrix is shared.

    Shape:
        - Input: ``[a, b]``, :math:`(N, M, K)` and :math:`(N, K, P)`.
        - Output: :math:`(N, M, P)`.

    Lua:
        ``nn.BeamableMM(transA, transB)``, fairseq-lua modules/BeamableMM.lua
    """

    def __init__(self, transpose_a: bool = False, transpose_b: bool = False, beam: int = 0) -> None:
        super().__init__(transpose_a, transpose_b)
        self.beam = beam

    def forward(self, input: list[Tensor]) -> Tensor:
        a, b = input
        product = super().forward(input)
        if not self.training or self.beam == 0 or a.dim() != 3 or a.shape[1] != 1:
            return product
        shared = super().forward([a[:, 0].unflatten(0, (-1, self.beam)), b[:: self.beam]])
        return with_gradient_of(shared.flatten(0, 1).unsqueeze(1), product)

    class Lua(MM.Lua):
        scalars = {**MM.Lua.scalars, "beam": "beam"}
        defaults = {**MM.Lua.defaults, "beam": 0}


@lua_class("nn.CAddTableMulConstant")
class CAddTableMulConstant(nn.Module):
    """Sum of tensors times a constant.

    Args:
        factor: the constant.

    Shape:
        - Input: list of tensors of equal shape.
        - Output: a tensor of that shape.

    Lua:
        ``nn.CAddTableMulConstant(constant_scalar)``, fairseq-lua modules/CAddTableMulConstant.lua
    """

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, input: list[Tensor]) -> Tensor:
        total, *others = input
        for other in others:
            total = total + shaped_like(total, other)
        return total * self.factor

    class Lua(LuaClass):
        scalars = {"constant_scalar": "factor"}
        constants = {"gradInput": empty_table}


@lua_class("nn.GradMultiply")
class GradMultiply(nn.Sequential):
    """Scales the parameter gradients of a module, but not its input gradient.

    Args:
        module: the module.
        factor: factor of the gradients.

    Shape:
        - Input, output: the module's input and output.

    Lua:
        ``nn.GradMultiply(module, factor)``, fairseq-lua modules/GradMultiply.lua
    """

    def __init__(self, module: nn.Module, factor: float) -> None:
        super().__init__(module)
        self.factor = factor

    def forward(self, input: Any) -> Any:  # type: ignore[override]
        scaled = {name: scale_gradient(p, self.factor) for name, p in self[0].named_parameters()}
        return functional_call(self[0], scaled, (input,))

    class Lua(LuaClass):
        output_memory = decorated_memory
        container = True
        scalars = ("factor",)


@lua_class("nn.LinearizedConvolution")
class LinearizedConvolution(RunBuffers, nn.Linear):
    """A convolution over time for inference, which computes one time step per call.

    Args:
        in_features: kernel size times number of input channels.
        out_features: number of output channels, :math:`H`.
        kernel_size: number of frames that the module keeps.

    Shape:
        - Input: :math:`(N, T, C)`; only the last frame is used.
        - Output: :math:`(N, 1, H)`.

    Attributes:
        frames: the last frames, a buffer of shape :math:`(N, kernel\\_size, C)`, or None.

    Lua:
        ``nn.LinearizedConvolution()``, fairseq-lua modules/LinearizedConvolution.lua
    """

    frames: Tensor | None

    run_buffers = ("frames",)

    def __init__(self, in_features: int, out_features: int, kernel_size: int, device: Any = None) -> None:
        super().__init__(in_features, out_features, device=device)
        self.kernel_size = kernel_size
        self.register_buffer("frames", None)

    def forward(self, input: Tensor) -> Tensor:
        last = input[:, -1:].detach()
        if self.kernel_size > 1:
            if self.frames is None:
                self.frames = last.new_zeros(last.shape[0], self.kernel_size, last.shape[2])
            last = self.frames = torch.cat([self.frames[:, :-1], last], 1)
        return super().forward(last.flatten(1)).unsqueeze(1)

    def shift_state(self, reorder: Tensor | None = None) -> None:
        """Shift the frames by one time step; ``reorder`` are 0-based indices that select samples of the batch."""
        if self.frames is not None:
            frames = self.frames if reorder is None else self.frames[reorder]
            self.frames = torch.cat([frames[:, 1:], frames[:, -1:]], 1)

    def reset_state(self) -> None:
        """Forget the frames."""
        self.frames = None

    forget_own = reset_state

    class Lua(LuaClass):
        scalars = {"kw": "kernel_size"}
        tensors = {"weight": "weight", "bias": "bias", "inputBuffer": "frames"}
        sizes = {"weight": ("out_features", "in_features")}
        scratch = ("tmpBuffer", "addBuffer")
        constants = {"inputBuffer": LuaTensor.empty, "tmpBuffer": LuaTensor.empty}

        @classmethod
        def to_lua(cls, module: nn.Module, ctx: LuaContext) -> dict[str, Any]:
            return {"inputBuffer": LuaTensor.empty(ctx.type_of(module)), **super().to_lua(module, ctx)}


@lua_class("nn.SeqMultiply")
class SeqMultiply(nn.Module):
    """Multiplies a tensor by the square root of the length of a sequence.

    Shape:
        - Input: ``[x, sequence]``, :math:`(*)` and :math:`(N, T, *)`.
        - Output: x times :math:`T \\sqrt{1 / T}`.

    Lua:
        ``nn.SeqMultiply()``, fairseq-lua modules/SeqMultiply.lua
    """

    def forward(self, input: list[Tensor]) -> Tensor:
        length = input[1].shape[1]
        return input[0] * (length * (1 / length) ** 0.5)

    class Lua(LuaClass):
        scratch = ("zeroGrads", "grads")
        constants = {"scale": 1}


@lua_class("nn.TrainTestLayer")
class TrainTestLayer(nn.Sequential):
    """Two modules, one for training and one for evaluation.

    Args:
        train_module, eval_module: the modules.

    Shape:
        - Input, output: the input and output of the module in use.

    Differs from Torch7:
        In Torch7, two functions of the file copy parameters when the mode changes. Functions in files are not run: copy
        the parameters to ``eval_module`` yourself before evaluation.

    Lua:
        ``nn.TrainTestLayer(trainModule, evalModule, onTrain, onEvaluate)``, fairseq-lua modules/TrainTestLayer.lua
    """

    def __init__(self, train_module: nn.Module, eval_module: nn.Module) -> None:
        super().__init__(train_module, eval_module)

    def forward(self, input: Any) -> Any:  # type: ignore[override]
        return self[0 if self.training else 1](input)

    class Lua(LuaClass):
        container = True
        checked_by = "structure"
        test = "test_object_becomes_a_module_and_an_object_again"

        @classmethod
        def parameters(
            cls, module: nn.Module, inner: Callable[[nn.Module], Iterator[ParameterSite]]
        ) -> Iterator[ParameterSite]:
            train_module = cls.children(module)[0]
            return inner(train_module)


@lua_class("nn.ZipAlong")
class ZipAlong(nn.Module):
    """Pairs every element of a list with one value.

    Shape:
        - Input: ``[list, value]``.
        - Output: list of pairs ``[element, value]``.

    Lua:
        ``nn.ZipAlong()``, fairseq-lua modules/ZipAlong.lua
    """

    def forward(self, input: list[Any]) -> list[list[Any]]:
        elements, value = input
        return [[element, value] for element in elements]

    class Lua(LuaClass):
        scratch = ("gradInputBase", "gradInputDup")
        constants = {"gradInputBase": empty_table, "output": empty_table}
