"""A recorded fixture agrees with itself: with the recorded model, and with its own module if it has one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

import dpnn_bridge
from dpnn_bridge import parity
from dpnn_bridge.compare.verdict import Verdict
from dpnn_bridge.conversion.lua_values import lua_value
from dpnn_bridge.objects import LuaTable

X = torch.linspace(-1, 1, 24).view(4, 6)


def frozen() -> nn.Module:
    net = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 2))
    net[0].requires_grad_(False)
    return net


def partly_in_evaluation_mode() -> nn.Module:
    net = nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 2))
    net[0].eval()
    return net


MODELS: dict[str, tuple[Any, Tensor, bool]] = {
    "plain": (nn.Sequential(nn.Linear(6, 5), nn.Tanh()), X, True),
    "indices from 0": (nn.Sequential(nn.Embedding(7, 5)), torch.tensor([[1, 2], [3, 0]]), False),
    "computed weights": (nn.Sequential(parametrizations.spectral_norm(nn.Linear(6, 5))).eval(), X, False),
    "frozen": (frozen(), X, False),
    "two outputs in Torch7 one": (nn.LSTM(6, 5), X, False),
    "groups": (nn.Sequential(nn.Conv1d(4, 8, 3, groups=2)), X, False),
    "two modes": (partly_in_evaluation_mode(), X, True),
    "random": (nn.Sequential(nn.Dropout(0.5)), X, True),
    "TorchScript": (torch.jit.trace(nn.Linear(6, 5), X), X, False),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_recorded_fixture_agrees_with_itself(name: str, tmp_path: Path) -> None:
    model, x, alone = MODELS[name]
    path = tmp_path / "recorded.t7"
    parity.record(model, x, path)
    if name != "random":
        parity.assert_parity(model, path)
    fixture = dpnn_bridge.read_t7(path)
    assert ("module" in fixture) == alone
    if alone:
        assert dpnn_bridge.verify(path).ok


@pytest.mark.parametrize(("dtype", "samples"), [(torch.bfloat16, 2), (torch.float32, 0)])
def test_a_run_that_a_file_cannot_repeat_is_recorded(dtype: torch.dtype, samples: int, tmp_path: Path) -> None:
    """A .t7 file has no bfloat16, and no sizes of an empty batch."""
    parity.record(nn.Linear(2, 2).to(dtype), torch.ones(samples, 2, dtype=dtype), tmp_path / "m.t7")
    assert "module" in dpnn_bridge.read_t7(tmp_path / "m.t7")


def test_a_random_model_keeps_its_module_although_another_run_may_have_equal_results(tmp_path: Path) -> None:
    for seed in range(8):
        torch.manual_seed(seed)
        parity.record(nn.Dropout(0.5), torch.ones(2), tmp_path / "recorded.t7", force=True)
        assert "module" in dpnn_bridge.read_t7(tmp_path / "recorded.t7")


class Noisy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(x + torch.randn_like(x), 0.4, self.training)


@pytest.mark.parametrize(
    "model",
    [nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5)), Noisy(), torch.compile(Noisy(), backend="eager")],
    ids=["module", "own", "compiled"],
)
def test_a_random_model_draws_the_same_numbers_again(model: Any, tmp_path: Path) -> None:
    x = torch.randn(8, 3)
    parity.record(model, x, tmp_path / "f.t7")
    fixture = dpnn_bridge.read_t7(tmp_path / "f.t7")
    assert fixture["seed"] == 1
    parity.assert_parity(model, tmp_path / "f.t7")
    if "module" in fixture:
        assert dpnn_bridge.verify(tmp_path / "f.t7").verdict is Verdict.EQUAL
    assert not torch.equal(model(x), fixture["output"].torch())  # only recording and comparing replace the numbers


def test_a_model_without_random_numbers_has_no_seed(tmp_path: Path) -> None:
    parity.record(nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5)).eval(), torch.randn(2, 3), tmp_path / "f.t7")
    assert "seed" not in dpnn_bridge.read_t7(tmp_path / "f.t7")


def test_an_export_that_refuses_the_recorded_input_is_omitted_although_results_are_random(tmp_path: Path) -> None:
    parity.record(nn.LSTM(3, 4, 2, dropout=0.5), torch.randn(5, 3), tmp_path / "f.t7")
    assert "module" not in dpnn_bridge.read_t7(tmp_path / "f.t7")


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5))

    def forward(self, x: Tensor) -> Any:
        return checkpoint(self.inner, x, use_reentrant=False)


def test_a_backward_pass_that_runs_layers_again_gets_the_same_numbers(tmp_path: Path) -> None:
    model, x = Checkpointed(), torch.ones(4, 3)
    parity.record(model, x, tmp_path / "f.t7", grad_output=torch.ones(4, 8))
    fixture = dpnn_bridge.read_t7(tmp_path / "f.t7")
    assert "seed" not in fixture
    kept = (fixture["output"].torch() != 0).float() * 2
    torch.testing.assert_close(fixture["gradInput"].torch(), kept @ model.get_parameter("inner.0.weight").detach())


class ByHand(nn.Module):
    """A network whose modules have other names than those of the converted one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(6, 3), nn.BatchNorm1d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.first(x))


@pytest.mark.parametrize("training", [True, False])
def test_statistics_of_a_network_by_hand_are_compared_in_their_order(training: bool) -> None:
    """The names of `after` are those of the converted model, which the network does not have."""
    converted, by_hand = nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3)), ByHand()
    by_hand.load_state_dict(dict(zip(by_hand.state_dict(), converted.state_dict().values(), strict=True)))
    for module in (converted, by_hand):
        module.train(training)
    output = converted(X).detach()
    values = {"mode": "train" if training else "eval", "input": lua_value(X), "output": lua_value(output)}
    reference = LuaTable({**values, "after": dpnn_bridge.to_lua(converted)})
    parity.assert_parity(by_hand, reference)
    if training:
        by_hand.norm.momentum = 0.2
        with pytest.raises(AssertionError, match="after"):
            parity.assert_parity(by_hand, reference)


def test_a_reference_in_single_precision_of_a_model_in_double_precision(tmp_path: Path) -> None:
    """The module runs in its own precision on the cast input, with the tolerance of the reference."""
    model = nn.Linear(3, 2)
    parity.record(model, torch.randn(4, 3), tmp_path / "m.t7")
    parity.assert_parity(model.double(), tmp_path / "m.t7")
    with torch.no_grad():
        model.bias += 1e-3
    with pytest.raises(AssertionError, match="output"):
        parity.assert_parity(model, tmp_path / "m.t7")
