"""REINFORCE: rewards reach the modules in an ordinary ``loss.backward()``, and samples have their distribution."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import FIXTURES, fixture_id, manifest
from torch import nn

from dpnn_bridge import load_checkpoint, read_t7, to_lua, to_torch, training, write_t7
from dpnn_bridge.conversion.lua_values import to_value
from dpnn_bridge.modules.dpnn import ReinforceBernoulli, ReinforceCategorical, ReinforceGamma, ReinforceNormal
from dpnn_bridge.modules.dpnn.category import ArgMax
from dpnn_bridge.modules.dpnn.glimpse import SpatialGlimpse
from dpnn_bridge.modules.dpnn.reward import BinaryClassReward, ClassReward, VRClassReward
from dpnn_bridge.parity import compare

REWARDS = [
    e for name in ("nn.VRClassReward", "nn.BinaryClassReward") for e in manifest(kind="criterion", **{"class": name})
]


@pytest.mark.parametrize("entry", REWARDS, ids=fixture_id)
def test_the_broadcast_reward_is_torch7s(entry: dict[str, Any]) -> None:
    fixture = read_t7(FIXTURES / entry["file"])
    criterion = to_torch(fixture["module"])
    assert isinstance(criterion, ClassReward)
    prediction, baseline = to_value(fixture["input"])
    criterion([prediction, baseline.requires_grad_()], to_value(fixture["target"])).backward()
    rewarded = next(m for m in criterion.module.modules() if hasattr(m, "reward"))
    for name, found in (
        ("reward", criterion.reward),
        ("vrReward", criterion.vr_reward),
        ("moduleReward", rewarded.reward),
    ):
        assert compare(name, found, to_value(fixture[name]))[0].ok


@pytest.mark.parametrize("size_average", [True, False])
def test_the_reward_arrives_before_the_gradients(size_average: bool) -> None:
    net = nn.Sequential(nn.Linear(4, 6), ReinforceNormal(0.5), nn.Linear(6, 3), nn.LogSoftmax(1))
    baseline = nn.Parameter(torch.full((8, 1), 0.4))
    criterion, n = VRClassReward(net, scale=2, size_average=size_average), 8 if size_average else 1
    x, target = torch.randn(8, 4), torch.randint(1, 4, (8,))
    prediction = net(x)
    (nn.functional.nll_loss(prediction, target - 1) + criterion([prediction, baseline], target)).backward()
    right = (prediction.argmax(1) + 1 == target).float()
    torch.testing.assert_close(criterion.vr_reward, (2 * right - 0.4) / n)
    sample = net[1].reward
    torch.testing.assert_close(sample, criterion.vr_reward)
    assert net[0].weight.grad is not None  # type: ignore[union-attr]
    assert baseline.grad is not None
    torch.testing.assert_close(baseline.grad[:, 0], 2 * (0.4 - 2 * right) / 8)


def test_a_location_is_rewarded_through_a_glimpse() -> None:
    """The glimpse has no gradient for the location; REINFORCE replaces it."""
    locator = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), ReinforceNormal(0.2))
    glimpse, head = SpatialGlimpse(3, depth=2), nn.Linear(18, 4)
    image = torch.randn(5, 1, 8, 8)
    prediction = head(glimpse([image, locator(torch.randn(5, 2))]).flatten(1))
    VRClassReward(locator)([prediction, torch.zeros(5, 1)], prediction.argmax(1) + 1).backward()
    assert bool(locator[0].weight.grad.any())  # type: ignore[union-attr]


def test_a_choice_is_rewarded_through_arg_max() -> None:
    policy = nn.Sequential(nn.Linear(3, 4), nn.Softmax(1), ReinforceCategorical(), ArgMax(2, as_long=False))
    choice = policy(torch.randn(6, 3))
    training.reinforce(policy, torch.ones(6))
    choice.sum().backward()
    assert bool(policy[0].weight.grad.any())  # type: ignore[union-attr]


def test_without_a_reward_backward_says_what_to_do() -> None:
    with pytest.raises(RuntimeError, match=r"ReinforceNormal has no reward.*training\.reinforce.*load_checkpoint"):
        ReinforceNormal(1.0)(torch.zeros(3, 2, requires_grad=True)).sum().backward()
    module = ReinforceNormal(1.0)
    output = module(torch.zeros(3, 2, requires_grad=True))
    training.reinforce(module, torch.zeros(4))
    with pytest.raises(RuntimeError, match=r"expected 3 rewards for an input of shape \(3, 2\), found 4"):
        output.sum().backward()


def test_the_criterion_of_a_file_rewards_the_model_of_the_file(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(4, 3), ReinforceNormal(0.5))
    write_t7(tmp_path / "a.t7", {"model": net, "criterion": VRClassReward(net)})
    found = load_checkpoint(tmp_path / "a.t7")
    assert found.criterions["criterion"].module is found.model
    write_t7(tmp_path / "b.t7", {"model": found.model, "criterion": found.criterions["criterion"]})
    again = read_t7(tmp_path / "b.t7")
    assert again["criterion"]["module"] is again["model"]


def test_one_module_at_several_steps_uses_one_reward() -> None:
    module, total = ReinforceBernoulli(), torch.zeros(3)
    p = torch.full((3,), 0.3, requires_grad=True)
    samples = [module(p) for _ in range(4)]
    training.reinforce(module, torch.tensor([1.0, 2.0, 0.0]))
    torch.stack(samples).sum().backward()
    for x in samples:
        total = total - (x.detach() - 0.3) / (0.3 * 0.7) * torch.tensor([1.0, 2.0, 0.0])
    torch.testing.assert_close(p.grad, total)


def test_binary_rewards() -> None:
    criterion = BinaryClassReward(nn.Identity())
    loss = criterion([torch.tensor([0.5, 0.6, 0.1]), torch.zeros(3)], torch.tensor([0, 1, 1]))
    assert float(loss) == pytest.approx(-2 / 3)


@pytest.mark.parametrize(
    ("module", "x", "mean", "variance"),
    [
        (ReinforceBernoulli(), torch.tensor([0.2, 0.9]), [0.2, 0.9], [0.16, 0.09]),
        (ReinforceNormal(0.5), torch.tensor([-1.0, 2.0]), [-1.0, 2.0], [0.25, 0.25]),
        (ReinforceNormal(torch.tensor([0.5, 2.0])), torch.tensor([0.0, 1.0]), [0.0, 1.0], [0.25, 4.0]),
        (ReinforceGamma(2.0), torch.tensor([0.7, 3.0]), [1.4, 6.0], [2.8, 12.0]),
        (ReinforceCategorical(), torch.tensor([0.1, 0.9]), [0.1, 0.9], [0.09, 0.09]),
    ],
)
def test_samples_have_their_distribution(module: nn.Module, x: torch.Tensor, mean: Any, variance: Any) -> None:
    torch.manual_seed(0)
    n = 40_000
    samples = module.train()(x.expand(n, 2))
    error = 5 * (torch.tensor(variance) / n).sqrt()
    assert bool(((samples.mean(0) - torch.tensor(mean)).abs() < error).all())
    torch.testing.assert_close(samples.var(0), torch.tensor(variance), rtol=0.1, atol=0)
    evaluated = module.eval()(x.expand(4, 2))
    torch.testing.assert_close(evaluated, torch.tensor(mean).expand(4, 2))


@pytest.mark.parametrize(
    "module", [ReinforceNormal(0.1), ReinforceNormal(), ReinforceGamma(torch.ones(2)), ReinforceCategorical()]
)
def test_what_is_made_here_is_what_lua_makes(module: nn.Module) -> None:
    assert str(to_torch(to_lua(module))) == str(module)
