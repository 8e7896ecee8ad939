"""Layers of published models: inputs that Torch7 refuses raise an error, and inputs of every shape that it takes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from formula import DOUBLE, agree, converted, lua, random
from torch import Tensor, nn

from dpnn_bridge.conversion import to_lua, to_torch
from dpnn_bridge.conversion.lua_class import size_storage
from dpnn_bridge.objects import LuaObject, LuaTensor
from dpnn_bridge.zoo import captioning, densecap, inn, multipathnet, neural_doodle, ntm
from dpnn_bridge.zoo.torch_rnn import LSTM

REFUSED: dict[str, tuple[nn.Module, tuple[Any, ...]]] = {
    "three dimensions": (inn.ConstAffine(3), (torch.ones(3, 3, 5),)),
    "boxes of 3 numbers": (densecap.ApplyBoxTransform(), ([torch.ones(2, 3), torch.ones(2, 3)],)),
    "targets of 3 numbers": (densecap.InvertBoxTransform(), ([torch.ones(2, 3), torch.ones(2, 3)],)),
    "more ground truth than features": (densecap.PosSlicer(), ([torch.ones(2, 3), torch.ones(4, 5)],)),
    "no boxes of 4 numbers": (
        multipathnet.BBoxNorm(torch.ones(1, 4), torch.ones(1, 4)).eval(),
        (torch.ones(2, 6),),
    ),
    "a mask of other channels": (neural_doodle.MaskNoiseFill(1, 1, 2), (torch.ones(1, 3, 2, 2),)),
    "maps to expand": (captioning.FeatExpander(2), (torch.ones(1, 3, 2, 2),)),
    "fewer words than scores": (captioning.LanguageModelCriterion(), (torch.ones(5, 2, 4), torch.ones(2, 2))),
    "fewer captions than scores": (captioning.LanguageModelCriterion(), (torch.ones(5, 2, 4), torch.ones(3, 1))),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_torch7_refuses_is_refused(name: str) -> None:
    module, arguments = REFUSED[name]
    with pytest.raises((ValueError, RuntimeError)):
        module(*arguments)


def test_pooling_without_the_size_of_the_image_says_which_module_needs_it() -> None:
    pooling = densecap.BilinearRoiPooling(nn.Identity(), densecap.BoxToAffine(5, 5))
    with pytest.raises(ValueError, match="BilinearRoiPooling: set image_height and image_width"):
        pooling([torch.ones(1, 4, 4), torch.ones(1, 4)])


# ---------------------------------------------------------------------- shapes that Torch7 takes
@pytest.mark.parametrize("training", [True, False])
def test_stochastic_pooling_of_one_sample_gives_one_sample(training: bool) -> None:
    module = inn.SpatialStochasticPooling((2, 2), (2, 2)).train(training)
    x = torch.rand(2, 5, 4)
    assert module(x).shape == (2, 3, 2)
    assert module.eval()(x).equal(module(x[None])[0])


def test_outer_products_of_a_batch() -> None:
    a, b = random(3, 2), random(3, 4, seed=1)
    agree(converted(lua("nn.OuterProd"))([a, b]), torch.stack([torch.outer(x, y) for x, y in zip(a, b, strict=True)]))


def test_half_away_from_zero_is_exact() -> None:
    below = torch.nextafter(torch.tensor(0.5), torch.tensor(0.0))
    large = torch.tensor(2.0**23 + 1)
    x = torch.stack([below, -below, torch.tensor(0.5), torch.tensor(-2.5), torch.tensor(1.25), large])
    assert inn.round_half_away(x).tolist() == [0, 0, 1, -3, 1, 2**23 + 1]


# ---------------------------------------------------------------------- gradients
@pytest.mark.parametrize(("x", "exponent"), [([0.0, 2.0], -1.0), ([-2.0, 2.0], 0.5)])
def test_the_exponent_gets_its_gradient_from_positive_elements_alone(x: list[float], exponent: float) -> None:
    power = torch.tensor([exponent], dtype=DOUBLE, requires_grad=True)
    out = ntm.PowTable()([torch.tensor(x, dtype=DOUBLE), power])
    out.backward(torch.ones(2, dtype=DOUBLE))
    assert power.grad is not None
    agree(power.grad, [2**exponent * torch.tensor(2.0, dtype=DOUBLE).log()])


# ---------------------------------------------------------------------- state
class Failing(nn.Module):
    def forward(self, input: Tensor) -> Tensor:
        raise RuntimeError("no memory")


def test_sampling_that_fails_leaves_no_state_behind() -> None:
    memory = LSTM(3, 3)
    rnn = nn.Sequential(memory, Failing())
    model = captioning.DenseCapLanguageModel(nn.Linear(2, 3), nn.Embedding(9, 3), rnn, [], [], 7, 4)
    with pytest.raises(RuntimeError, match="no memory"):
        model.sample(torch.ones(1, 2))
    assert memory.last is None
    assert memory.remember_states is False


def test_no_captions_for_no_images() -> None:
    rnn = nn.Sequential(LSTM(3, 3), nn.Linear(3, 8))
    model = captioning.DenseCapLanguageModel(nn.Linear(2, 3), nn.Embedding(9, 3), rnn, [], [], 7, 4)
    assert model.sample(torch.ones(0, 2)).shape == (0, 4)


# ---------------------------------------------------------------------- modules that were created in PyTorch
def test_new_modules_hold_the_tensors_that_torch7_resizes() -> None:
    for module in (densecap.ApplyBoxTransform(), densecap.InvertBoxTransform()):
        assert [type(t) for t in to_lua(module)["gradInput"].as_list()] == [LuaTensor] * 2
    assert {"gradInput_classes", "gradInput_boxes"} <= {*to_lua(multipathnet.SelectBoxes())}
    assert {"gradInput1", "gradInput2"} <= {*to_lua(multipathnet.ConvertFrom())}


# ---------------------------------------------------------------------- imagine-nn of 2015
def test_pyramids_of_2015_keep_their_branches_in_a_concat() -> None:
    def branch(width: int) -> LuaObject:
        pool = lua("nn.SpatialAdaptiveMaxPooling", W=width, H=width)
        return lua("nn.Sequential", pool, lua("nn.View", numElements=-1, numInputDims=3, size=size_storage([-1])))

    branches = lua("nn.Concat", branch(1), branch(2), dimension=1)
    module, x = to_torch(lua("inn.SpatialPyramidPooling", module=branches, dimd=1)), random(2, 3, 4, 4)
    pools = [nn.functional.adaptive_max_pool2d(x, n).flatten(1) for n in (1, 2)]
    agree(module(x), torch.cat(pools, 1))
    agree(module(x[0]), torch.cat(pools, 1)[0])
    agree(to_torch(to_lua(module))(x), torch.cat(pools, 1))


def test_same_response_normalization_of_2015_keeps_its_parts_in_a_sequential() -> None:
    square = lua("nn.Sequential", lua("nn.Power", pow=2), lua("nn.AddConstant", constant_scalar=1, inplace=False))
    parts = lua("nn.Sequential", lua("nn.ConcatTable", lua("nn.Identity"), square), lua("nn.CDivTable"))
    obj, x = lua("inn.SpatialSameResponseNormalization", size=3, alpha=1, beta=1), random(1, 2, 3, 3)
    obj["modules"] = parts
    agree(to_torch(obj)(x), x / (1 + x * x))
