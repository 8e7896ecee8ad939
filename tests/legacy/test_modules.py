"""What modules, criterions and optimizers of ``torch.legacy`` do together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import FIXTURES
from torch import Tensor
from torch.nn import functional as F

from dpnn_bridge import write_t7
from dpnn_bridge.errors import ConversionError
from dpnn_bridge.legacy import load_lua, nn, optim
from dpnn_bridge.legacy.encoding import Encoder


def net() -> Any:
    branches = nn.Concat(0).add(nn.Linear(2, 5)).add(nn.Linear(2, 5))
    return nn.Sequential().add(branches).add(nn.ReLU()).add(nn.Linear(10, 20))


def test_parameters_and_gradients_are_the_fields() -> None:
    built = net()
    weights, gradients = built.parameters()
    leaves = [*built.get(0).modules, built.get(2)]
    assert [id(w) for w in weights] == [id(v) for m in leaves for v in (m.weight, m.bias)]
    assert [id(g) for g in gradients] == [id(v) for m in leaves for v in (m.gradWeight, m.gradBias)]
    assert nn.ReLU().parameters() is None
    assert nn.Sequential().add(nn.ReLU()).parameters() is None


def test_flat_parameters() -> None:
    built = net()
    weight, values = built.get(2).weight, built.parameters()[0]
    copies = [v.clone() for v in values]
    params, gradients = built.flattenParameters()
    assert params.shape == gradients.shape == (250,)
    assert weight is built.get(2).weight
    assert all(map(torch.equal, values, copies))
    assert torch.equal(params, torch.cat([c.flatten() for c in copies]))
    params.fill_(1)
    assert torch.equal(weight, torch.ones(20, 10))
    built.backward(x := torch.ones(2), built.forward(x))
    assert gradients.abs().sum() > 0
    tied = nn.Sequential().add(nn.Linear(3, 3)).add(nn.Linear(3, 3))
    tied.get(1).share(tied.get(0), "weight", "gradWeight")
    assert tied.flattenParameters()[0].shape == (15,)
    assert tied.get(0).weight.data_ptr() == tied.get(1).weight.data_ptr()


def test_a_module_that_occurs_twice_is_flattened_once() -> None:
    layer = nn.Linear(3, 3)
    twice = nn.Sequential().add(layer).add(nn.Tanh()).add(layer)
    assert twice.flattenParameters()[0].shape == (12,)
    assert layer.weight.untyped_storage().nbytes() == 48


def test_parameters_of_several_types_are_not_flattened() -> None:
    mixed = nn.Sequential().add(nn.Linear(3, 3).float()).add(nn.Linear(3, 3).double())
    with pytest.raises(ConversionError, match=r"the types .*float32 and .*float64"):
        mixed.flattenParameters()


def test_a_container_with_parameters_of_its_own_is_trained() -> None:
    """Torch7's results; only the bias was changed."""
    path = FIXTURES / "nn" / "nn.WeightNorm" / "WeightNorm__conv__double_train.t7"
    fixture = load_lua(path)
    module = fixture["module"]
    module.training()
    module.zeroGradParameters()
    module.forward(fixture["input"])
    module.backward(fixture["input"], fixture["gradOutput"])
    module.updateParameters(0.1)
    sums = [float(p.sum()) for p in module.parameters()[0]]
    assert sums == pytest.approx([1.199354666101, 3.430367955573, 0.195471674466], rel=1e-11)
    module.zeroGradParameters()
    assert not any(g.any() for g in module.parameters()[1])


def test_structure() -> None:
    built = net()
    seen: list[Any] = []
    built.apply(seen.append)
    assert seen == built.listModules()
    assert len(seen) == 6
    found, containers = built.findModules(nn.Linear)
    assert len(found) == len(containers) == 3
    assert containers.count(built.get(0)) == 2
    built.replace(lambda m: nn.Tanh() if isinstance(m, nn.ReLU) else m)
    assert isinstance(built.get(1), nn.Tanh)
    built.evaluate()
    assert not any(m.train for m in built.listModules())
    built.training()
    assert all(m.train for m in built.listModules())


def test_steps() -> None:
    layer, x = nn.Linear(3, 2), torch.randn(4, 3)
    gradient, before = torch.randn(4, 2), layer.weight.clone()
    layer.forward(x)
    layer.zeroGradParameters()
    layer.backward(x, gradient, 0.5)
    torch.testing.assert_close(layer.gradWeight, 0.5 * gradient.t() @ x)
    layer.accGradParameters(x, gradient)
    torch.testing.assert_close(layer.gradWeight, 1.5 * gradient.t() @ x)
    torch.testing.assert_close(layer.updateGradInput(x, gradient), gradient @ before)
    layer.updateParameters(0.1)
    torch.testing.assert_close(layer.weight, before - 0.15 * gradient.t() @ x)
    before = layer.weight.clone()
    layer.backwardUpdate(x, gradient, 0.2)
    torch.testing.assert_close(layer.weight, before - 0.2 * gradient.t() @ x)
    torch.testing.assert_close(layer.gradWeight, 1.5 * gradient.t() @ x)


def test_backward_follows_the_last_input() -> None:
    layer, first, second = nn.Linear(3, 2), torch.randn(4, 3), torch.randn(4, 3)
    layer.forward(first)
    layer.zeroGradParameters()
    layer.backward(second, torch.ones(4, 2))
    torch.testing.assert_close(layer.gradWeight, second.sum(0).expand(2, 3))
    assert nn.Linear(3, 2).backward(first, torch.ones(4, 2)).shape == (4, 3)  # without a forward


def test_modules_inside_have_outputs_and_gradients() -> None:
    built, x = net(), torch.randn(2)
    output = built.forward(x)
    built.zeroGradParameters()
    built.backward(x, torch.ones(20))
    last = built.get(2)
    assert torch.equal(last.output, output)
    torch.testing.assert_close(last.gradInput, torch.ones(20) @ last.weight)
    torch.testing.assert_close(built.get(1).gradInput, last.gradInput * (built.get(0).output > 0))
    left, right = built.get(0).modules
    torch.testing.assert_close(built.gradInput, left.gradInput + right.gradInput)
    again = last.updateGradInput(built.get(1).output, torch.ones(20))  # a layer by itself, in the pass of the net
    torch.testing.assert_close(again, last.gradInput)


def test_running_statistics_are_kept() -> None:
    norm, x = nn.BatchNormalization(3), torch.randn(8, 3) * 2 + 1
    norm.forward(x)
    torch.testing.assert_close(norm.running_mean, 0.1 * x.mean(0))
    norm.evaluate()
    kept = norm.running_mean.clone()
    norm.forward(x)
    assert torch.equal(norm.running_mean, kept)


def test_noise_is_that_of_the_forward_pass() -> None:
    drop, x = nn.Sequential().add(nn.Dropout(0.5)), torch.ones(100)
    output = drop.forward(x).clone()
    assert torch.equal(drop.backward(x, torch.ones(100)), output)


def test_in_place_changes_of_results_harm_nothing() -> None:
    built, x = nn.Sequential().add(nn.Tanh()).add(nn.Linear(3, 2)), torch.randn(4, 3)
    built.forward(x).zero_()
    x.add_(0)
    assert built.backward(x, torch.ones(4, 2)).shape == (4, 3)
    with torch.no_grad():
        built.forward(x)
        assert built.backward(x, torch.ones(4, 2)).abs().sum() > 0


class Scale(nn.Module):
    """A layer as users wrote them."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.weight, self.gradWeight = torch.full((1,), factor), torch.zeros(1)

    def updateOutput(self, input: Tensor) -> Tensor:  # noqa: N802
        self.output = input * self.weight
        return self.output

    def updateGradInput(self, input: Tensor, gradOutput: Tensor) -> Tensor:  # noqa: N802
        self.gradInput = gradOutput * self.weight
        return self.gradInput

    def accGradParameters(self, input: Tensor, gradOutput: Tensor, scale: float = 1) -> None:  # noqa: N802
        self.gradWeight.add_((input * gradOutput).sum(), alpha=scale)


class Doubled(nn.Sequential):
    """A container with a name of its own."""


def test_layers_of_users(tmp_path: Path) -> None:
    built = Doubled().add(nn.Linear(3, 3)).add(Scale(2.0)).add(nn.Tanh())
    x = torch.randn(4, 3)
    output = built.forward(x)
    hidden = built.get(0).output
    torch.testing.assert_close(output, torch.tanh(2 * hidden))
    built.zeroGradParameters()
    built.get(1).gradWeight.zero_()
    built.backward(x, torch.ones(4, 3), 0.5)
    slope = 1 - output**2
    torch.testing.assert_close(built.get(0).gradBias, 0.5 * 2 * slope.sum(0))
    torch.testing.assert_close(built.get(1).gradWeight, 0.5 * (slope * hidden).sum().view(1))
    assert len(built.parameters()[0]) == 3
    with pytest.raises(ConversionError, match=r"Scale.*is defined in Python"):
        write_t7(tmp_path / "net.t7", built)
    built.modules[1] = nn.MulConstant(2)
    write_t7(tmp_path / "net.t7", {"model": built, "again": built, "epoch": 3})
    found = load_lua(tmp_path / "net.t7")
    assert found.model is found.again
    assert type(found.model) is nn.Sequential
    torch.testing.assert_close(found.model.forward(x), output)


# ---------------------------------------------------------------------- criterions
def pair(*size: int) -> list[Tensor]:
    return [torch.randn(size), torch.randn(size)]


def signs(*size: int) -> Tensor:
    return torch.randn(size).sign()


CRITERIONS: dict[str, tuple[Any, Any, Any, Any]] = {
    "AbsCriterion": (nn.AbsCriterion, (5, 3), (5, 3), F.l1_loss),
    "AbsCriterion sum": (lambda: nn.AbsCriterion(False), (5, 3), (5, 3), lambda x, y: (x - y).abs().sum()),
    "BCECriterion": (nn.BCECriterion, lambda: torch.rand(5, 3), lambda: torch.eye(5, 3), F.binary_cross_entropy),
    "ClassNLLCriterion": (nn.ClassNLLCriterion, (4, 3), lambda: torch.tensor([0, 2, 1, 0]), F.nll_loss),
    "ClassNLLCriterion ignored": (
        lambda: nn.ClassNLLCriterion(ignore_index=2),
        (4, 3),
        lambda: torch.tensor([0, 2, 1, 0]),
        lambda x, y: F.nll_loss(x, y, ignore_index=2),
    ),
    "ClassNLLCriterion padded": (
        lambda: nn.ClassNLLCriterion(ignore_index=-1),
        (4, 3),
        lambda: torch.tensor([0, -1, 1, 0]),
        lambda x, y: F.nll_loss(x, y, ignore_index=-1),
    ),
    "ClassSimplexCriterion": (lambda: nn.ClassSimplexCriterion(5), (4, 5), lambda: torch.tensor([0, 4, 1, 3]), None),
    "CosineEmbeddingCriterion": (
        lambda: nn.CosineEmbeddingCriterion(0.2),
        lambda: pair(4, 3),
        lambda: torch.tensor([1.0, -1, 1, -1]),
        lambda x, y: F.cosine_embedding_loss(*x, y, margin=0.2),
    ),
    "CrossEntropyCriterion": (nn.CrossEntropyCriterion, (4, 3), lambda: torch.tensor([0, 2, 1, 0]), F.cross_entropy),
    "DistKLDivCriterion": (nn.DistKLDivCriterion, (4, 3), lambda: torch.rand(4, 3), F.kl_div),
    "HingeEmbeddingCriterion": (
        nn.HingeEmbeddingCriterion,
        (10,),
        lambda: torch.randn(10).sign(),
        F.hinge_embedding_loss,
    ),
    "L1Cost": (nn.L1Cost, (2, 3), lambda: None, lambda x, y: x.abs().sum()),
    "L1HingeEmbeddingCriterion": (
        lambda: nn.L1HingeEmbeddingCriterion(9),
        lambda: pair(3, 4),
        lambda: -1,
        lambda x, y: (9 - (x[0] - x[1]).abs().sum()).clamp(min=0),
    ),
    "MSECriterion": (nn.MSECriterion, (2, 3, 4), (2, 3, 4), F.mse_loss),
    "MarginCriterion": (
        nn.MarginCriterion,
        (5, 10),
        lambda: torch.randn(5, 10).sign(),
        lambda x, y: (1 - x * y).clamp(min=0).mean(),
    ),
    "MarginRankingCriterion": (
        nn.MarginRankingCriterion,
        lambda: pair(50),
        lambda: torch.randn(50).sign(),
        lambda x, y: F.margin_ranking_loss(*x, y),
    ),
    "MultiCriterion": (
        lambda: nn.MultiCriterion().add(nn.MSECriterion(), 0.5).add(nn.AbsCriterion()),
        (4, 3),
        (4, 3),
        lambda x, y: F.mse_loss(x, y) / 2 + F.l1_loss(x, y),
    ),
    "MultiLabelMarginCriterion": (
        nn.MultiLabelMarginCriterion,
        (2, 4),
        lambda: torch.tensor([[3, 0, -1, 1], [2, -1, 0, 0]]),
        F.multilabel_margin_loss,
    ),
    "MultiLabelSoftMarginCriterion": (
        nn.MultiLabelSoftMarginCriterion,
        (5, 3),
        lambda: torch.eye(5, 3),
        F.multilabel_soft_margin_loss,
    ),
    "MultiMarginCriterion": (nn.MultiMarginCriterion, (5, 10), lambda: torch.arange(5), F.multi_margin_loss),
    "ParallelCriterion": (
        lambda: nn.ParallelCriterion().add(nn.ClassNLLCriterion(), 0.5).add(nn.MSECriterion()),
        lambda: pair(2, 10),
        lambda: [torch.tensor([1, 8]), torch.randn(2, 10)],
        lambda x, y: F.nll_loss(x[0], y[0]) / 2 + F.mse_loss(x[1], y[1]),
    ),
    "ParallelCriterion repeated": (
        lambda: nn.ParallelCriterion(True).add(nn.MSECriterion(), 0.5).add(nn.MSECriterion()),
        lambda: pair(2, 10),
        (2, 10),
        lambda x, y: F.mse_loss(x[0], y) / 2 + F.mse_loss(x[1], y),
    ),
    "SmoothL1Criterion": (nn.SmoothL1Criterion, (5, 10), (5, 10), F.smooth_l1_loss),
    "SoftMarginCriterion": (nn.SoftMarginCriterion, (5, 5), lambda: torch.randn(5, 5).sign(), F.soft_margin_loss),
    "SpatialClassNLLCriterion": (
        nn.SpatialClassNLLCriterion,
        (2, 3, 5, 5),
        lambda: torch.randint(3, (2, 5, 5)),
        F.nll_loss,
    ),
    "WeightedMSECriterion": (
        lambda: nn.WeightedMSECriterion(torch.full((3, 4), 0.5)),
        (2, 3, 4),
        (2, 3, 4),
        lambda x, y: F.mse_loss(x, y / 2),
    ),
}


def test_all_criterions_are_here() -> None:
    tested = {name.split()[0] for name in CRITERIONS}
    assert tested == {n for n, k in nn.CLASSES.items() if issubclass(k, nn.Criterion)} - {"Criterion"}


@pytest.mark.parametrize("name", CRITERIONS)
@pytest.mark.filterwarnings("ignore:reduction:UserWarning")
def test_criterions(name: str, tmp_path: Path) -> None:
    torch.manual_seed(3)
    make, *sizes, expected = CRITERIONS[name]
    value, target = [torch.randn(s).double() if isinstance(s, tuple) else s() for s in sizes]
    value = [v.double() for v in value] if isinstance(value, list) else value.double()
    if isinstance(target, list):
        target = [target[0], target[1].double()]
    elif isinstance(target, Tensor) and target.is_floating_point():
        target = target.double()
    criterion = make().double()
    loss = criterion.forward(value, target)
    assert isinstance(loss, float)
    gradient = criterion.backward(value, target)
    leaves = value if isinstance(value, list) else [value]
    if expected is not None:
        for leaf in leaves:
            leaf.requires_grad_()
        found = expected(value, target)
        assert loss == pytest.approx(float(found), rel=1e-10)
        gradients = torch.autograd.grad(found, leaves)
        for a, b in zip(gradient if isinstance(value, list) else [gradient], gradients, strict=True):
            torch.testing.assert_close(a, b)
    write_t7(tmp_path / "criterion.t7", criterion)
    again = load_lua(tmp_path / "criterion.t7")
    assert type(again) is type(criterion)
    assert again.forward(value, target) == loss


def test_images_with_ignored_pixels() -> None:
    x, y = torch.randn(2, 3, 2, 2), torch.tensor([[[0, 2], [1, 2]], [[2, 2], [0, 1]]])
    criterion = nn.SpatialClassNLLCriterion(torch.tensor([1.0, 2, 3]), ignore_index=2)
    loss = F.nll_loss(x.requires_grad_(), y, criterion.weights, ignore_index=2)
    assert criterion.forward(x, y) == pytest.approx(float(loss))
    torch.testing.assert_close(criterion.backward(x, y), *torch.autograd.grad(loss, x))
    with pytest.raises(ConversionError, match="Torch7 does not have it"):
        criterion.to_lua()


def test_predictions_of_a_simplex() -> None:
    criterion = nn.ClassSimplexCriterion(4)
    torch.testing.assert_close(criterion.simplex.norm(2, 1), torch.ones(4))
    assert criterion.getTopPrediction(criterion.simplex.clone()).tolist() == [0, 1, 2, 3]


# ---------------------------------------------------------------------- optimizers
@pytest.mark.parametrize("method", optim.__all__)
def test_a_step_moves_the_net(method: str) -> None:
    torch.manual_seed(4)
    built, criterion = nn.Sequential().add(nn.Linear(3, 4)).add(nn.Tanh()).add(nn.Linear(4, 1)), nn.MSECriterion()
    built.double()
    x, y = torch.randn(16, 3).double(), torch.randn(16, 1).double()
    params, gradients = built.flattenParameters()

    def evaluate(at: Tensor) -> tuple[float, Tensor]:
        assert at is params
        gradients.zero_()
        loss = criterion.forward(built.forward(x), y)
        built.backward(x, criterion.backward(built.output, y))
        return loss, gradients

    rates = {
        "adadelta": None,
        "asgd": {"eta0": 0.1},
        "cg": {},
        "rprop": {},
        "sgd": {"learningRate": 0.1, "momentum": 0.9},
    }
    config: Any = rates.get(method, {"learningRate": 0.01}) or {}
    before = evaluate(params)[0]
    for _ in range(20):
        found, value = getattr(optim, method)(evaluate, params, config)[:2]
        assert found is params
        assert isinstance(value, (float, list))
    assert evaluate(params)[0] < before
    assert config or method == "cg"


def test_a_step_is_that_of_torch7() -> None:
    x, state, config = torch.tensor([1.0, -2.0], dtype=torch.float64), {}, {"learningRate": 0.5, "momentum": 0.5}
    optim.sgd(lambda at: (0.0, at.clone()), x, config, state)
    assert x.tolist() == [0.5, -1.0]
    optim.sgd(lambda at: (0.0, at.clone()), x, config, state)  # 0.5 * (0.5 * (1, -2) + 0.5 * (0.5, -1)) further
    assert x.tolist() == [0.125, -0.25]
    assert state["evalCounter"] == 2
    assert state["dfdx"].tolist() == [0.75, -1.5]
    with pytest.raises(ValueError, match="adam requires a dictionary"):
        optim.adam(lambda at: (0.0, at), x, None)
    with pytest.raises(ConversionError, match="not support a line search"):
        optim.lbfgs(lambda at: (0.0, at), x, {"lineSearch": max})


def test_adam_reads_no_learning_rate_decay() -> None:
    """PyTorch's function had no such setting, unlike Torch7's."""
    steps = []
    for settings in ({"learningRate": 0.1}, {"learningRate": 0.1, "learningRateDecay": 1.0}):
        x = torch.ones(2)
        for _ in range(3):
            optim.adam(lambda x: (0.0, x.clone()), x, settings)
        steps.append(x)
    assert torch.equal(*steps)


def test_random_maps_give_every_output_different_inputs() -> None:
    table = nn.SpatialConvolutionMap.maps.random(7, 9, 3)
    inputs, outputs = table.long().t()
    assert outputs.tolist() == [k // 3 for k in range(27)]
    draws = inputs.split(6)  # six of seven inputs are used of each permutation
    assert all(len(set(draw.tolist())) == len(draw) for draw in draws)
    assert set(inputs.tolist()) == set(range(7))


def test_storages_of_types_that_torch7_lacks_are_copied() -> None:
    flags, halves = torch.tensor([True, False]), torch.tensor([1.0, 2.5], dtype=torch.bfloat16)
    for tensor, name in ((flags, "Byte"), (halves, "Float")):
        storage = Encoder().value(torch.storage.TypedStorage(wrap_storage=tensor.untyped_storage(), dtype=tensor.dtype))
        assert (storage.class_name, storage.numpy().tolist()) == (f"torch.{name}Storage", tensor.tolist())
