"""Small stateless modules of rnn: SAdd, CopyGrad, LinearNoBias, ExpandAs."""

from __future__ import annotations

from torch import Tensor, nn

from dpnn_bridge.conversion.contexts import TorchContext
from dpnn_bridge.conversion.lua_class import LuaClass
from dpnn_bridge.conversion.memory import same_memory
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.objects import LuaObject


@lua_class("nn.SAdd")
class SAdd(nn.Module):
    """Adds a number and optionally negates the sum: :math:`\\pm (x + a)`.

    Args:
        addend: the number, a.
        negate: whether to negate the sum.

    Shape:
        - Input, output: :math:`(*)`.

    Examples:
        >>> SAdd(-1, negate=True)(torch.tensor([0.25]))
        tensor([0.7500])

    Lua:
        ``nn.SAdd(addend, negate)``, SAdd.lua
    """

    def __init__(self, addend: float, negate: bool = False) -> None:
        super().__init__()
        self.addend, self.negate = addend, negate

    def forward(self, input: Tensor) -> Tensor:
        output = input + self.addend
        return -output if self.negate else output

    class Lua(LuaClass):
        scalars = ("addend", "negate")
        defaults = {"negate": False}


@lua_class("nn.CopyGrad")
class CopyGrad(nn.Identity):
    """Returns its input. In Torch7 the layer copies the gradient; autograd does not need this.

    Shape:
        - Input, output: :math:`(*)`.

    Lua:
        ``nn.CopyGrad()``, CopyGrad.lua
    """

    class Lua(LuaClass):
        output_memory = same_memory
        scratch = ("norm",)


@lua_class("nn.LinearNoBias")
class LinearNoBias(LuaClass):
    """A linear layer without bias; that of July to September 2015 adds one, which does not train."""

    torch_type = nn.Linear
    tensors = ("weight", "bias")
    optional = {"bias": "bias"}
    sizes = {"weight": ("out_features", "in_features")}
    scratch = ("addBuffer",)
    import_only = True  # exported as nn.Linear without bias, which does not require rnn

    @classmethod
    def fill(cls, module: nn.Linear, obj: LuaObject, ctx: TorchContext) -> None:
        super().fill(module, obj, ctx)
        if module.bias is not None:
            module.bias.requires_grad_(False)  # it sets the gradient to 0


@lua_class("nn.ExpandAs")
class ExpandAs(nn.Module):
    """Expands the second input to the size of the first.

    Shape:
        - Input: the list ``[a, b]``; every dimension of ``b`` has size 1 or the size in ``a``.
        - Output: the list ``[a, expanded b]``.

    Lua:
        ``nn.ExpandAs()``, ExpandAs.lua, which ``require 'rnn'`` does not load
    """

    def forward(self, input: list[Tensor]) -> list[Tensor]:
        return [input[0], input[1].expand_as(input[0])]

    class Lua(LuaClass):
        scratch = ("sum1", "sum2")
