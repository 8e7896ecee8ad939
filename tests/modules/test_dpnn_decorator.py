"""Decorators change what they say and nothing else."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from dpnn_bridge import to_lua, to_torch
from dpnn_bridge.modules.dpnn.category import CategoricalEntropy
from dpnn_bridge.modules.dpnn.constant import PrintSize
from dpnn_bridge.modules.dpnn.convert import Convert
from dpnn_bridge.modules.dpnn.decorator import DontCast, NaN, Serial
from dpnn_bridge.modules.dpnn.inception import FireModule, Inception
from dpnn_bridge.modules.nn.decorator import Decorator


def test_nan_names_the_module_and_what_is_wrong() -> None:
    net = nn.Sequential(NaN(nn.Linear(3, 4), id="first"), NaN(nn.Linear(4, 2), id="second"))
    with torch.no_grad():
        net[1].module.bias.fill_(math.nan)  # type: ignore[union-attr, operator]
    with pytest.raises(FloatingPointError, match=r"NaN found in parameters of module: NaN\(second\) @ Linear\(in_fea"):
        net(torch.zeros(2, 3))
    with pytest.raises(FloatingPointError, match=r"in input of module: NaN\(first\)"):
        net(torch.full((2, 3), math.nan))
    with pytest.raises(FloatingPointError, match="in output"):
        NaN(nn.Threshold(0, math.nan))(torch.tensor([-1.0]))


def test_nan_checks_gradients_on_the_way_back() -> None:
    with pytest.raises(FloatingPointError, match=r"in gradOutput of module: NaN\(a\)"):
        NaN(nn.Linear(3, 2), id="a")(torch.zeros(1, 3)).backward(torch.full((1, 2), math.nan))
    sqrt = NaN(Square(), id="b")
    with pytest.raises(FloatingPointError, match=r"in gradInput of module: NaN\(b\)"):
        (sqrt(torch.zeros(2, requires_grad=True)) * 0).sum().backward()
    linear = NaN(nn.Linear(1, 1), id="c")
    linear(torch.ones(1, 1)).sum().backward()
    assert linear.module.weight.grad == 1


class Square(nn.Module):
    """Its gradient at 0 is 0 times infinity."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return input.sqrt()


def test_nan_numbers_itself() -> None:
    first, second = NaN(nn.Identity()), NaN(nn.Identity())
    assert second.id == first.id + 1  # type: ignore[operator]


def test_dont_cast_keeps_its_module_and_casts_around_it() -> None:
    net = nn.Sequential(DontCast(nn.Linear(3, 2), castin=True), nn.Linear(2, 2)).double()
    assert net[0].module.weight.dtype == torch.float32  # type: ignore[union-attr]
    assert net(torch.zeros(1, 3, dtype=torch.float64)).dtype == torch.float64
    assert net.half()[0].outer.dtype == torch.float16
    assert copy.deepcopy(net).double()[0].module.weight.dtype == torch.float32  # type: ignore[union-attr]


def test_print_size_prints_both_ways(capsys: pytest.CaptureFixture[str]) -> None:
    PrintSize("here")(torch.zeros(2, 3, requires_grad=True)).sum().backward()
    assert capsys.readouterr().out == "here:input\n (2, 3)\nhere:gradOutput\n (2, 3)\n"


@pytest.mark.parametrize(
    "module",
    [
        Decorator(nn.Linear(4, 2)),
        DontCast(nn.Linear(4, 2), castin=True),
        NaN(nn.Linear(4, 2)),
        Serial(nn.Linear(4, 2), "torch.FloatTensor"),
    ],
)
def test_what_is_made_here_is_what_lua_makes(module: nn.Module) -> None:
    obj = to_lua(module)
    assert obj["module"] is obj["modules"][1]
    x = torch.randn(3, 4)
    assert torch.equal(to_torch(obj)(x), module(x))


def test_inception_has_the_branches_of_its_configuration() -> None:
    net = Inception.create(3, [8, 6], [4, 4, 5, 7], batch_norm=True, pool=nn.MaxPool2d(3, 1, 1)).eval()
    x = torch.randn(2, 3, 9, 9)
    assert net(x).shape == (2, 8 + 6 + 5 + 7, 9, 9)
    assert [m.padding[0] for m in net.modules() if isinstance(m, nn.Conv2d)] == [0, 2, 0, 1, 0, 0]
    torch.testing.assert_close(to_torch(to_lua(net))(x), net(x))
    with pytest.raises(ValueError, match="pass a batch"):
        net(x[0])


def test_fire_module_squeezes_and_expands() -> None:
    net = FireModule.create(3, 2, 4, 5)
    x = torch.randn(2, 3, 6, 6)
    assert net(x).shape == (2, 9, 6, 6)
    torch.testing.assert_close(to_torch(to_lua(net))(x), net(x))


@pytest.mark.parametrize(
    ("source", "target", "shape", "expected"),
    [("bchw", "bf", (2, 3, 4, 5), (2, 60)), ("chw", "f", (3, 4, 5), (60,)), ("chw", "hwc", (3, 4, 5), (4, 5, 3))],
)
def test_convert_arranges(source: str, target: str, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    assert Convert(source, target)(torch.zeros(shape)).shape == expected


def test_convert_refuses_what_it_does_not_know() -> None:
    with pytest.raises(ValueError, match="cannot convert from shape 'bchw' to 'bt'"):
        Convert("bchw", "bt")(torch.zeros(2, 3, 4, 5))
    with pytest.raises(ValueError, match="one feature"):
        Convert("bf", "b")(torch.zeros(2, 2))


def test_entropy_made_here_holds_torch7s_network() -> None:
    obj = to_lua(CategoricalEntropy(scale=2))
    probabilities = torch.rand(4, 5).softmax(1)
    obj["_mul"]["constant_scalar"] = 1 / float(probabilities.sum())
    network = to_torch(obj["module"])
    module = CategoricalEntropy()
    module(probabilities)
    torch.testing.assert_close(network(probabilities).squeeze(), module.entropy)
    assert obj["minusOne"].torch().tolist() == [-2]
