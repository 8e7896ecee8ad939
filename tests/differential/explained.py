"""Differences of random instances that are on purpose: which, when, and what stands here instead."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import torch
from instances import Instance
from torch import Tensor, nn
from torch7 import EXCEPTION, differences

from dpnn_bridge.compare.differences import Difference
from dpnn_bridge.compare.nested import backward, leaves, map_tensors, require_grad
from dpnn_bridge.conversion import convert_object, registry
from dpnn_bridge.conversion.fields import record_of
from dpnn_bridge.conversion.lua_values import lua_value, to_value
from dpnn_bridge.conversion.options import Options
from dpnn_bridge.modules.nn.elementwise import MulConstant
from dpnn_bridge.modules.nn.weight_norm import WeightNorm, accumulated, as_rows
from dpnn_bridge.objects import LuaTable
from dpnn_bridge.parity.fixture import random_numbers
from dpnn_bridge.training import parameters


class Explained(NamedTuple):
    """A difference that may be.

    Attributes:
        layer: pattern of the class.
        described: pattern of the description of the instance.
        difference: pattern of the comparison and its message.
        reason: why it is.
        here: what changes Torch7's values into those that are right here, or its input into what Torch7 took it for:
            the difference is explained if it is gone then.
        within: the largest absolute difference that the reason accounts for.
        instead: where Torch7 refuses a call, whether what the converted layer computes is right.
    """

    layer: str
    described: str
    difference: str
    reason: str
    here: Callable[[LuaTable], None] | None = None
    within: Callable[[LuaTable], float] | None = None
    instead: Callable[[LuaTable], bool] | None = None

    def covers(self, case: Instance, fixture: LuaTable, difference: Difference) -> bool:
        """Whether it explains a difference of an instance."""
        described = fnmatchcase(fixture["class"], self.layer) and fnmatchcase(repr(case), f"*{self.described}*")
        if not described or not fnmatchcase(f"{difference.name}: {difference.message}", self.difference):
            return False
        if self.within is not None:
            return difference.absolute <= self.within(fixture)
        if self.instead is not None:
            return difference.message.startswith("Torch7 refused") and self.instead(fixture)
        assert self.here is not None
        amended = LuaTable(list(fixture.items()))
        self.here(amended)
        return not {difference.name, EXCEPTION} & {d.name for d in differences(amended)}


def explanation(case: Instance, fixture: LuaTable, difference: Difference) -> str:
    """The reason of a difference, empty where there is none."""
    return next((known.reason for known in EXPLAINED if known.covers(case, fixture, difference)), "")


def perturbed(fixture: LuaTable, difference: Difference) -> LuaTable:
    """The instance with another reference value; of a call that Torch7 refuses it is the output."""
    name = "output" if difference.message.startswith("Torch7 refused") else difference.name.partition("[")[0]
    value = to_value(fixture.get(name))
    changed = LuaTable(list(fixture.items()))
    if isinstance(value, float):
        changed[name] = value + 1
    else:
        changed[name] = lua_value(torch.ones(1) if value is None else map_tensors(_other, value))
    return changed


def _other(x: Tensor) -> Tensor:
    """Other numbers, of which none is infinite, and farther off than a jump at a tie, which rounding may cause."""
    x = x.nan_to_num(0, 0, 0)
    return x + 10 * (1 + x.abs().max()) if x.numel() else x


# ---------------------------------------------------------------------- what stands here
def in_memory_order(*names: str) -> Callable[[LuaTable], None]:
    """Takes a tensor's elements in the order of its memory, as code does that forgets about strides."""

    def change(fixture: LuaTable) -> None:
        for name in names:
            fixture[name] = lua_value(map_tensors(_memory, to_value(fixture[name])))

    return change


def _memory(x: Tensor) -> Tensor:
    order = sorted(range(x.dim()), key=lambda i: -x.stride(i))
    return x.permute(order).contiguous().view(x.shape)


def no_sign_at_zero(fixture: LuaTable) -> None:
    """No gradient where both inputs are equal."""
    x, y = to_value(fixture["input"])
    fixture["gradInput"] = lua_value([g.masked_fill(x == y, 0) for g in to_value(fixture["gradInput"])])


def only_the_smallest_target(fixture: LuaTable) -> None:
    """No gradient for targets that are not the smallest."""
    x, target, gradient = (to_value(fixture[name]) for name in ("input", "target", "gradInput"))
    for row, targets, g in zip(x, target.long() - 1, gradient, strict=True):
        least = min(targets.tolist(), key=lambda t, row=row: row[t].item())
        for t in set(targets.tolist()) - {least}:
            g[t] = 0
    fixture["gradInput"] = lua_value(gradient)


def undivided(fixture: LuaTable) -> None:
    """The gradient without the sums that Torch7 has divided it by."""
    after, gradient = fixture["after"], to_value(fixture["gradOutput"])
    divided = gradient / to_value(after["sum"]) / to_value(after["prob"])
    if torch.allclose(divided, to_value(fixture["gradInput"]), 1e-5, 0, equal_nan=True):
        fixture["gradInput"] = fixture["gradOutput"]


def signs_as_drawn(fixture: LuaTable) -> None:
    """Inputs that are equal, apart by the least there is on the side that Torch7 drew, and the margin wider by that."""
    a, b = to_value(fixture["input"])
    side = to_value(fixture["gradInput"])[0] * fixture["target"]
    apart = torch.where(a == b, torch.nextafter(a, a + side), a)
    fixture["input"] = lua_value([apart, b])
    criterion = fixture["module"]
    margin = criterion["margin"] + 2 * float((apart - a).abs().sum())
    fixture["module"] = criterion.changed(margin=margin)


def input_comes_out(fixture: LuaTable) -> None:
    """What the field output holds, where Torch7 returns nothing."""
    fixture["output"] = fixture["input"]


def one_step_of_single_precision(fixture: LuaTable) -> float:
    """Rounding of a factor near 1, times the gradient."""
    return torch.finfo(torch.float32).eps * float(to_value(fixture["gradOutput"]).abs().max())


# ---------------------------------------------------------------------- where Torch7 refuses
def _loss(fixture: LuaTable, module: nn.Module, inputs: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Output and its gradient, put together to the number whose gradient Torch7's backward computes."""
    target = [map_tensors(change, to_value(fixture["target"]))] if "target" in fixture else []
    with random_numbers(module, fixture):
        output = module(inputs, *target)
    given = map_tensors(change, to_value(fixture.get("gradOutput"))) if "gradOutput" in fixture else None
    weights = [1.0] if given is None else leaves(given)
    return sum((y * w).sum() for y, w in zip(leaves(output), weights, strict=True))


def _gradients(fixture: LuaTable, change: Callable[[Tensor], Tensor], moves: list[Tensor] | None = None) -> Any:
    """The loss, after a step of all that has a gradient if there are ``moves``, and the gradients."""
    module = convert_object(fixture["module"], Options())[0]
    inputs = require_grad(map_tensors(change, to_value(fixture["input"])))
    for p in module.parameters():
        p.data = change(p.data)
    for buffers in (m._buffers for m in module.modules()):
        buffers.update({name: b if b is None else change(b) for name, b in buffers.items()})
    tensors = [t for t in [*leaves(inputs), *module.parameters()] if isinstance(t, Tensor) and t.requires_grad]
    for tensor, move in zip(tensors, moves or [], strict=False):
        tensor.data += move
    loss = _loss(fixture, module, inputs, change)
    loss.backward()
    return loss.detach(), [torch.zeros_like(t) if t.grad is None else t.grad for t in tensors]


def as_in_plain_order(fixture: LuaTable) -> bool:
    """The same gradients as for tensors in plain order of memory, which other instances compare with Torch7."""
    there, here = (_gradients(fixture, change)[1] for change in (Tensor.clone, Tensor.contiguous))
    return all(torch.allclose(a, b, 1e-5, 1e-7) for a, b in zip(there, here, strict=True))


def is_derivative(fixture: LuaTable, inputs: bool = True) -> bool:
    """The gradients, those of the inputs too or of parameters alone, are the derivative in a random direction."""

    def double(x: Tensor) -> Tensor:
        return x.double() if x.is_floating_point() else x

    _, gradients = _gradients(fixture, double)
    generator = torch.Generator().manual_seed(0)
    moves = [1e-6 * torch.randn(g.shape, generator=generator, dtype=g.dtype) for g in gradients]
    if not inputs:
        count = len(list(convert_object(fixture["module"], Options())[0].parameters()))
        moves = [m * (i >= len(moves) - count) for i, m in enumerate(moves)]
    after, before = (_gradients(fixture, double, [s * m for m in moves])[0] for s in (1, -1))
    expected = sum((g * m).sum() for g, m in zip(gradients, moves, strict=True))
    return torch.allclose((after - before) / 2, torch.as_tensor(expected), 1e-5, 1e-12)


def is_derivative_by_parameters(fixture: LuaTable) -> bool:
    """As :func:`is_derivative`, for layers whose inputs need no gradient."""
    return is_derivative(fixture, inputs=False)


def repeated_weight_norms(fixture: LuaTable) -> set[str]:
    """The comparisons in which Torch7 has what WeightNorm.lua makes of several backward calls, one after the other.

    Each call adds to the gradient of ``v`` that the call before has left in ``gradWeight``.
    """
    module = convert_object(fixture["module"], Options())[0]
    calls: dict[int, list[Tensor]] = {}
    owner: Any
    for norm in (m for m in module.modules() if isinstance(m, WeightNorm)):
        seen = calls[id(norm)] = []
        norm.module.parametrizations.weight[0].register_forward_hook(_kept(seen))  # type: ignore[index, union-attr]
    inputs = require_grad(to_value(fixture["input"]))
    with random_numbers(module, fixture):
        output = module(inputs)
    backward(output, to_value(fixture["gradOutput"]))
    found = set()
    single = fixture["dtype"] == "float"
    expected = to_value(fixture["gradParams"])
    for i, ((owner, name, _), there) in enumerate(zip(registry.parameters(module), expected, strict=True), 1):
        if name not in ("v", "g") or len(calls.get(id(owner), [])) < 2:
            continue
        rows: Any = 0
        for weight in calls[id(owner)]:
            made = accumulated(owner, rows + as_rows(weight, owner))
            rows = made[0]
        if torch.allclose(made[name == "g"].flatten(), there.flatten(), *((1e-4, 1e-6) if single else (1e-9, 1e-12))):
            found.add(f"gradParams[{i}]")
    return found


def restored_inputs(fixture: LuaTable) -> set[str]:
    """The comparisons in which Torch7 has the gradient of a weight for an input that was restored too early.

    ``nn.MulConstant(c, true)`` computes in the memory of its input, and divides it by ``c`` in ``updateGradInput``. In
    a graph and in ``nn.DontCast``, which call ``accGradParameters`` for the whole inside afterwards, the layers behind
    it then find their input divided by ``c``.
    """
    module = convert_object(fixture["module"], Options())[0]
    layers = ((m, record_of(m)) for m in module.modules() if isinstance(m, MulConstant))
    constants = {m.constant_scalar for m, record in layers if record and record.fields.get("inplace")}
    with random_numbers(module, fixture):
        output = module(require_grad(to_value(fixture["input"])))
    backward(output, to_value(fixture["gradOutput"]))
    pairs = zip(parameters(module)[1], to_value(fixture["gradParams"]), strict=True)
    return {
        f"gradParams[{i}]"
        for i, (here, there) in enumerate(pairs, 1)
        if any(there.dim() > 1 and torch.allclose(there * c, here.reshape(there.shape), 1e-5) for c in constants)
    }


def _kept(seen: list[Tensor]) -> Callable[..., None]:
    """A forward hook that keeps the gradients of the outputs, in the order of backward."""

    def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
        if output.requires_grad:
            output.register_hook(lambda gradient: seen.append(gradient.clone()))

    return hook


STRIDED = "Torch7 takes a gradient in another arrangement of memory for one in plain order; here it is used as it is"
STRIDED_INPUT = (
    "Torch7 takes an input in another arrangement of memory for one in plain order; here it is used as it is"
)
REFUSED = "Torch7 refuses backward in evaluation; here it is the derivative"
VIEW = "Torch7 refuses a view of a strided gradient; here it works"
BALANCE = "in evaluation Torch7 divides the gradient by sums of an earlier training batch, or by unset memory"
UNSET = "Torch7 leaves what its memory held in the gradient of targets that are not the smallest"
CANCELS = "1 - (1 - tanh^2) for small numbers in single precision: what is left is rounding error on both sides"
SIGN = "where a difference is 0 Torch7 draws a random sign"
SINGLE = "Torch7 forgets that a single sample has no gradInput; nothing stands in the way here"
CROPPED = "Torch7's backward takes no target larger than the input, which its forward crops; here it works"
NOTHING = "the abstract class returns nothing in Torch7; here what it would keep in its field output"
BUFFERS = "Torch7's backward needs the buffers of a training forward; here it is the derivative"
COUNTS = "Torch7's PushTable takes the gradients behind its element for those before it, and misses one"
DEFAULT = "Torch7 makes buffers of the default type, double, whatever the criterion's is; here it works"

EXPLAINED = (
    Explained("*", "strided '?*'", "backward: *expecting a contiguous tensor*", VIEW, instead=as_in_plain_order),
    Explained(
        "nn.LayerNormalization", "strided '?*'", "backward: *expecting a contiguous*", VIEW, instead=as_in_plain_order
    ),
    Explained("nn.SparseLinear", "strided '?*'", "backward: *SparseLinear.c:191*", VIEW, instead=as_in_plain_order),
    Explained("nn.IndexLinear", "strided '?*'", "backward: *IndexLinear.c:638*", VIEW, instead=as_in_plain_order),
    Explained("nn.SpatialDropout", "eval", "backward: *SpatialDropout.lua*", REFUSED, instead=is_derivative),
    Explained("nn.VolumetricDropout", "eval", "backward: *VolumetricDropout.lua*", REFUSED, instead=is_derivative),
    Explained("nn.Sequencer", "NormStabilizer*eval", "backward: *NormStabilizer*", REFUSED, instead=is_derivative),
    Explained("nn.SpatialUniformCrop", "eval", "backward: *THTensor.c:43[89]*", REFUSED, instead=is_derivative),
    Explained("nn.NCEModule", "eval", "backward: *", BUFFERS, instead=is_derivative),
    Explained("nn.IndexLinear", "", "backward: *IndexLinear.lua:310*", SINGLE, instead=is_derivative_by_parameters),
    Explained(
        "nn.SpatialAutoCropMSECriterion", "", "backward: *must have the same size*", CROPPED, instead=is_derivative
    ),
    Explained(
        "nn.SuperCriterion",
        "float",
        "backward: *torch.DoubleTensor expected, got torch.FloatTensor*",
        DEFAULT,
        instead=is_derivative,
    ),
    Explained(
        "nn.Sequential",
        "nn.PushTable(1)",
        "backward: *PushTable.lua*tables size mismatch*",
        COUNTS,
        instead=is_derivative,
    ),
    Explained("nn.SpatialDepthWiseConvolution", "strided 'gradient'", "grad*", STRIDED, in_memory_order("gradOutput")),
    Explained("nn.SpatialDepthWiseConvolution", "strided 'both'", "grad*", STRIDED, in_memory_order("gradOutput")),
    Explained("nn.SpatialClassifier", "strided '?*'", "*", STRIDED_INPUT, in_memory_order("input", "gradOutput")),
    Explained("nn.PairwiseDistance", "PairwiseDistance(1)", "gradInput*", SIGN, no_sign_at_zero),
    Explained("nn.L1HingeEmbeddingCriterion", "", "gradInput*", SIGN, signs_as_drawn),
    Explained("nn.DistMarginCriterion", "", "gradInput: *", UNSET, only_the_smallest_target),
    Explained("nn.Balance", "eval", "gradInput: *", BALANCE, undivided),
    Explained("nn.Reinforce", "", "output: expected None*", NOTHING, input_comes_out),
    Explained("nn.TanhShrink", "float", "gradInput: *", CANCELS, within=one_step_of_single_precision),
)
