"""A network of PyTorch and its export to Torch7: the results of both are compared, whatever the reference."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import dpnn_bridge
from dpnn_bridge import write_t7
from dpnn_bridge.compare.verdict import Verdict
from dpnn_bridge.conversion.lua_values import lua_value
from dpnn_bridge.modules.nn import ConcatTable
from dpnn_bridge.parity.exported import compare_with_network
from dpnn_bridge.parity.verification import Verification
from dpnn_bridge.parity.verify import verify

NETWORK = "output of the network in PyTorch"


def files(folder: Path, net: nn.Module, example: Any, *, swapped: bool) -> list[Path]:
    """A network and its export, or the export and the network."""
    found = [folder / "net.pt", folder / "net.t7"]
    dpnn_bridge.save(found[0], net)
    dpnn_bridge.save(found[1], net, input=example)
    return found[::-1] if swapped else found


def failed(result: Verification) -> list[str]:
    return [d.name for d in result.differences if not d.ok]


both_orders = pytest.mark.parametrize("swapped", [False, True])


@both_orders
@pytest.mark.parametrize("with_reference", [False, True])
@pytest.mark.parametrize(
    ("example", "input", "expected"), [((3, 4), (3, 4), Verdict.EQUAL), ((3, 4), (2, 3, 4), Verdict.DIFFERENT)]
)
def test_an_export_that_computes_something_else_than_its_network(
    example: tuple[int, ...],
    input: tuple[int, ...],
    expected: Verdict,
    with_reference: bool,
    swapped: bool,
    tmp_path: Path,
) -> None:
    """The last dimension of the example is the second one in Torch7, whatever the input."""
    net, x = nn.Sequential(nn.Linear(4, 4), nn.Softmax(-1)).eval(), torch.randn(input)
    model, other = files(tmp_path, net, torch.randn(example), swapped=swapped)
    given: dict[str, Any] = {"input": x}
    if with_reference:
        output = dpnn_bridge.load(tmp_path / "net.t7").eval()(x).detach()
        write_t7(tmp_path / "ref.t7", lua_value({"mode": "eval", "input": x, "output": output}))
        given = {"reference": tmp_path / "ref.t7"}
    result = verify(model, other, **given)
    assert result.verdict == expected
    assert failed(result) == ([] if expected == Verdict.EQUAL else [NETWORK])


def test_a_reference_hides_no_difference_between_the_files(tmp_path: Path) -> None:
    net, x = nn.Sequential(nn.Linear(4, 4)).eval(), torch.randn(2, 4)
    write_t7(tmp_path / "net.t7", net)
    dpnn_bridge.save(tmp_path / "more.pt", nn.Sequential(net[0], nn.Linear(7, 3)).eval())
    write_t7(tmp_path / "ref.t7", lua_value({"mode": "eval", "input": x, "output": net(x).detach()}))
    result = verify(tmp_path / "net.t7", tmp_path / "more.pt", reference=tmp_path / "ref.t7")
    assert result.verdict == Verdict.DIFFERENT
    assert "converted 1.weight" in failed(result)


@both_orders
def test_an_embedding_of_pytorch_counts_from_zero(swapped: bool, tmp_path: Path) -> None:
    net = nn.Sequential(nn.Embedding(10, 4), nn.LSTM(4, 3, batch_first=True)).eval()
    model, other = files(tmp_path, net, torch.randint(1, 10, (2, 5)), swapped=swapped)
    indices = torch.arange(1, 11).view(2, 5)
    assert verify(model, other, input=indices).verdict == Verdict.EQUAL


@both_orders
def test_a_recurrent_layer_in_a_table_returns_its_output(swapped: bool, tmp_path: Path) -> None:
    x = torch.randn(2, 4, 3)
    net = nn.Sequential(ConcatTable(nn.LSTM(3, 5, batch_first=True), nn.Linear(3, 5))).eval()
    model, other = files(tmp_path, net, x, swapped=swapped)
    assert verify(model, other, input=x).verdict == Verdict.EQUAL


@both_orders
@pytest.mark.parametrize("dtype", [None, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("offset", [0, 1e4])
def test_rounding_is_no_difference(dtype: torch.dtype | None, offset: float, swapped: bool, tmp_path: Path) -> None:
    x = offset + torch.randn(4, 8)
    model, other = files(tmp_path, nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 5)).eval(), x, swapped=swapped)
    assert NETWORK not in failed(verify(model, other, input=x, dtype=dtype))


@both_orders
@pytest.mark.parametrize(
    ("layer", "size"),
    [
        (nn.UpsamplingBilinear2d(scale_factor=3), (2, 3, 13, 9)),
        (nn.UpsamplingBilinear2d((256, 256)), (1, 1, 97, 101)),
        (nn.Upsample((20, 30), mode="bilinear", align_corners=True), (2, 3, 7, 7)),
        (nn.Upsample(scale_factor=2, mode="trilinear", align_corners=True), (1, 2, 3, 5, 7)),
    ],
    ids=repr,
)
def test_torch7_computes_positions_of_an_interpolation_in_single_precision(
    layer: nn.Module, size: tuple[int, ...], swapped: bool, tmp_path: Path
) -> None:
    x, net = torch.randn(size), nn.Sequential(layer, nn.Sigmoid()).eval()
    model, other = files(tmp_path, net, x, swapped=swapped)
    assert verify(model, other, input=x).verdict == Verdict.EQUAL


def test_the_network_has_the_precision_of_its_file(tmp_path: Path) -> None:
    x, net = torch.randn(3, 4), nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)).eval()
    dpnn_bridge.save(tmp_path / "net.pt", net)
    dpnn_bridge.save(tmp_path / "net.t7", net, tensor_type="torch.CudaHalfTensor")
    assert verify(tmp_path / "net.pt", tmp_path / "net.t7", input=x).verdict == Verdict.EQUAL


def test_a_small_difference_is_no_rounding() -> None:
    norm, other, x = nn.LayerNorm(8, eps=1e-5), nn.LayerNorm(8, eps=2e-5), torch.randn(4, 8)
    for module, ok in ((norm, True), (other, False)):
        (found,) = compare_with_network(norm, module, x, lambda _: nullcontext(), 1)
        assert found.ok is ok


@both_orders
def test_parts_in_another_mode_stay_in_it(swapped: bool, tmp_path: Path) -> None:
    x, net = torch.randn(6, 4), nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.LayerNorm(4))
    net[1].eval()
    model, other = files(tmp_path, net.double(), x.double(), swapped=swapped)
    assert verify(model, other, input=x.double()).verdict == Verdict.EQUAL
