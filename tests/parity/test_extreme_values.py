"""Values whose squares, sums or quotients overflow or underflow: the verdict is different, or equal if they are."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from torch import Tensor, nn

from dpnn_bridge import parity, port, save, write_t7
from dpnn_bridge.cli.verify import verify_command
from dpnn_bridge.compare.differences import BITS, Tolerance, compare_tensor
from dpnn_bridge.loaders import write_t7 as write_table
from dpnn_bridge.objects import LuaTable, LuaTensor
from dpnn_bridge.parity.folded import compare_elements
from dpnn_bridge.porting import judge
from dpnn_bridge.porting.networks import inputs
from dpnn_bridge.porting.values import Fingerprint, size_of

DOUBLE = (1e200, -1e308, 1.7e308, math.inf, -math.inf, math.nan, 5e-324, 1e-310, 1e-160)
SINGLE = (3e38, 1e30, math.inf, math.nan, 1e-45, 1e-40)
VALUES = [*((torch.float64, v) for v in DOUBLE), *((torch.float32, v) for v in SINGLE)]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.tanh(self.a(x)))


def models(dtype: torch.dtype, value: float) -> tuple[nn.Module, nn.Module]:
    """Two models that differ in one weight of the first layer, which is 0 in the first model."""
    torch.manual_seed(1)
    plain = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).to(dtype).eval()
    with torch.no_grad():
        plain[0].weight[1, 2] = 0.0
        other = copy.deepcopy(plain)
        other[0].weight[1, 2] = value
    return plain, other


def run(*args: object) -> Result:
    return CliRunner().invoke(verify_command, [str(a) for a in args])


def check(result: Result, different: bool) -> None:
    assert result.exit_code == (4 if different else 0), result.output
    assert not different or "first: modules[1]" in result.output or "modules[1] (nn.Linear)" in result.output


@pytest.mark.parametrize(("dtype", "value"), VALUES)
def test_a_weight_that_differs_by_any_amount_is_named(dtype: torch.dtype, value: float, tmp_path: Path) -> None:
    plain, other = models(dtype, value)
    torch.manual_seed(0)
    for model, expected in ((plain, other), (other, plain), (other, other)):
        different, file = model is not expected, tmp_path / "model.t7"
        write_t7(file, model, force=True)
        parity.record(expected, torch.randn(5, 3, dtype=dtype), tmp_path / "reference.t7", force=True)
        check(run(file, "--reference", tmp_path / "reference.t7", "--html", tmp_path / "page.html"), different)
        result = run(file, "--reference", tmp_path / "reference.t7", "--json")
        assert json.loads(result.output, parse_constant=pytest.fail)["ok"] is not different
        for suffix in ("t7", "pt", "safetensors"):
            save(tmp_path / f"converted.{suffix}", expected, force=True)
            check(run(file, tmp_path / f"converted.{suffix}", "--input", "5x3"), different)


@pytest.mark.parametrize("value", [1e200, -1e308, 1.7e308, math.inf, 5e-324, 1e-310])
def test_a_port_with_such_weights_is_equal_and_wrong_ones_are_named(value: float) -> None:
    plain, other = models(torch.float64, value)
    x, net = torch.randn(5, 3, dtype=torch.float64), Net().double()
    report = port(other, net, x)
    assert report.equal, report
    report.apply()
    assert net.a.weight[1, 2].item() == value
    assert judge(other, net, x).equal
    report = judge(plain, net, x)
    if abs(value) > 1:  # smaller values are within the tolerance, which is relative to the largest weight
        assert not report.equal
        assert report.first is not None
        assert report.first.layer == "a"


@pytest.mark.parametrize("value", [1e200, 1e308, 1.7e308])
def test_the_inputs_of_a_port_may_be_large(value: float) -> None:
    first, second = inputs(torch.tensor([value, -value, 1.0, 0.0] * 4, dtype=torch.float64))
    assert bool(second.isfinite().all())
    assert not torch.equal(first, second)
    assert size_of(first) == pytest.approx(value / 2**0.5)


@pytest.mark.parametrize("value", [1e200, 1e308, -1.7e308, math.inf, math.nan])
@pytest.mark.parametrize("expects_value", [True, False])
def test_an_output_alone_that_differs_by_any_amount(value: float, expects_value: bool, tmp_path: Path) -> None:
    layer = nn.Linear(1, 3).double()
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.copy_(torch.tensor([0.0, 0.0 if expects_value else value, 0.0]))
    write_t7(tmp_path / "model.t7", layer)
    expected = torch.tensor([[0.0, value if expects_value else 0.0, 0.0]] * 2, dtype=torch.float64)
    data = {"input": torch.ones(2, 1, dtype=torch.float64), "output": expected}
    table = LuaTable({name: LuaTensor.from_numpy(t.numpy()) for name, t in data.items()})
    write_table(tmp_path / "reference.t7", table)
    result = run(tmp_path / "model.t7", "--reference", tmp_path / "reference.t7")
    assert result.exit_code == 4, result.output


def test_sums_of_large_values_do_not_depend_on_their_order() -> None:
    """Sums that overflowed equalled no others."""
    values = torch.randn(50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for factor in (1e200, 1e307):
        found = Fingerprint.of(values * factor)
        assert found.matches(Fingerprint.of(values.flip(0) * factor))
        assert not found.matches(Fingerprint.of(values * factor * 1.001))


PAIRS = [
    (1e308, -1e308),
    (-1.7e308, 1.7e308),
    (1e200, 0.0),
    (0.0, 1e308),
    (5e-324, 0.0),
    (1e-310, 2e-310),
    (1e-20, 2e-20),
    (math.inf, 1e308),
    (math.nan, 1.0),
    (math.inf, -math.inf),
]


@pytest.mark.parametrize(("found", "expected"), PAIRS)
@pytest.mark.parametrize("beside", [0.0, 1.0, 1.7e308])
def test_numbers_of_a_comparison_are_numbers(found: float, expected: float, beside: float) -> None:
    actual, other = (torch.tensor([beside, v, beside], dtype=torch.float64) for v in (found, expected))
    for tolerance in (BITS, Tolerance(0.0, 0.0)):
        d = compare_tensor("output", actual, other, tolerance)
        finite = math.isfinite(found) and math.isfinite(expected)
        assert not d.ok
        assert d.index == (1,)
        assert (0 < d.error < math.inf) is finite
        assert (0 < d.absolute < math.inf) is finite
        assert not math.isnan(d.cosine)
        assert not math.isnan(d.snr)
        assert "1 of 3 elements differ" in d.message
        assert compare_tensor("output", other, other, tolerance).error == 0


def test_the_similarity_does_not_depend_on_the_scale() -> None:
    a, b = (torch.tensor(v, dtype=torch.float64) for v in ([3.0, 4.0], [4.0, 3.0]))
    for power in (-1070, -600, 0, 600, 1021):
        d = compare_tensor("output", a * 2.0**power, b * 2.0**power, BITS)
        assert (d.cosine, d.snr) == (pytest.approx(0.96), pytest.approx(10 * math.log10(12.5)))


@pytest.mark.parametrize(
    ("found", "expected", "equal"),
    [(math.nan, math.nan, True), (math.inf, math.inf, True), (1.0, math.inf, False), (math.nan, 1.0, False)],
)
def test_folded_weights_that_are_not_finite(found: float, expected: float, equal: bool) -> None:
    f, e = (torch.tensor([1.0, v], dtype=torch.float64) for v in (found, expected))
    d = compare_elements("weight", f, e, e.abs())
    assert d.ok is equal
    assert d.error == (0.0 if equal else math.inf)
