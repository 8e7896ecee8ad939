"""Results of another version of Torch7's packages are a known difference, and hide no other difference."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from dpnn_bridge import read_t7, write_t7
from dpnn_bridge.compare.verdict import Verdict
from dpnn_bridge.conversion.lua_values import lua_value
from dpnn_bridge.objects import LuaObject, LuaTable
from dpnn_bridge.parity.verify import verify

FIXTURES = Path(__file__).parents[2] / "fixtures" / "third"
#: fixtures of classes for which nn of 2017 and later has other results, which the fields "…Head" contain
WITH_HEAD = sorted(FIXTURES.glob("*/nn.*InstanceNormalization/*.t7"))


def of_head(path: Path) -> LuaTable | None:
    """Return the fixture with the results of the newest nn in place of those of the earlier nn; None if it has none."""
    fixture = read_t7(path)
    if "outputHead" not in fixture:
        return None
    fields = ("output", "gradInput", "gradParams", "after")
    newest = {name: fixture[f"{name}Head"] for name in fields if f"{name}Head" in fixture}
    return LuaTable({**{k: v for k, v in fixture.items() if k not in fields}, **newest}.items())


@pytest.mark.parametrize("path", WITH_HEAD, ids=lambda p: f"{p.parts[-3]}-{p.stem}")
def test_results_of_the_newest_nn_are_a_known_difference(path: Path, tmp_path: Path) -> None:
    fixture = of_head(path)
    if fixture is None:
        pytest.skip("both versions of nn have the same results")
    inner = fixture["module"].get("bn")
    if isinstance(inner, LuaObject) and inner["running_mean"].numpy().any():
        pytest.skip("Torch7 continues the running statistics of its inner normalization, which is not converted")
    write_t7(tmp_path / "model.t7", fixture["module"])
    found = verify(tmp_path / "model.t7", reference=fixture)
    assert found.verdict in (Verdict.KNOWN, Verdict.EQUAL), str(found)


def test_another_difference_beside_it_is_found(tmp_path: Path) -> None:
    path = FIXTURES / "cyclegan" / "nn.InstanceNormalization" / "InstanceNormalization__b3__double_train.t7"
    fixture = of_head(path)
    assert fixture is not None
    fixture["output"].numpy().reshape(-1)[0] *= 1.001
    write_t7(tmp_path / "model.t7", fixture["module"])
    assert verify(tmp_path / "model.t7", reference=fixture).verdict is Verdict.DIFFERENT


@pytest.mark.parametrize("batch", [(), (2,)])
@pytest.mark.parametrize("right", [True, False])
def test_windows_in_single_precision_are_a_known_difference(
    batch: tuple[int, ...], right: bool, tmp_path: Path
) -> None:
    """Of 25 rows, the third of 5 windows has 6 in Torch7, see quirks-spatial.md. A wrong weight stays different."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Conv2d(2, 3, 1), nn.AdaptiveMaxPool2d((5, 1))).double(), torch.zeros(*batch, 2, 25, 4)
    x = x.double().normal_()
    x[..., 15, :] = 10 * model[0].weight.detach().sum(0).flatten().sign()[:, None]
    expected = model(x).detach()
    expected[..., 2, :] = model[0](x)[..., 10:16, :].flatten(-2).amax(-1, keepdim=True)
    reference = LuaTable({"input": lua_value(x), "output": lua_value(expected)})
    assert not torch.equal(expected, model(x))
    if not right:
        with torch.no_grad():
            model[0].bias[1] += 1e-3
    write_t7(tmp_path / "model.t7", model)
    found = verify(tmp_path / "model.t7", reference=reference)
    assert found.verdict == (Verdict.KNOWN if right else Verdict.DIFFERENT), str(found)
