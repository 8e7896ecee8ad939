"""References of old Torch7 versions, whose parameters have another layout."""

from __future__ import annotations

from pathlib import Path

import pytest

from dpnn_bridge import parity, read_t7, verify, write_t7
from dpnn_bridge.compare.verdict import Verdict
from dpnn_bridge.modules.nn.convolution import transposed
from dpnn_bridge.objects import LuaObject, LuaTable

NAME = "nn.VolumetricFullConvolution/VolumetricFullConvolution__k2__float_train.t7"  # 2 and 3 planes
FIXTURE = Path(__file__).parents[2] / "fixtures" / "nn" / NAME


def as_in_2015(obj: LuaObject) -> LuaObject:
    pads = {f"p{d}": obj[f"pad{d}"] for d in "THW"}
    removed = dict.fromkeys(f"{name}{d}" for name in ("pad", "adj") for d in "THW")
    return obj.changed(
        **{**pads, **removed}, weight=transposed(obj["weight"]), gradWeight=transposed(obj["gradWeight"])
    )


def old_reference(*, transposes: bool = True) -> LuaTable:
    """Torch7's results for a module of 2015, whose weight has the dimensions of input and output channels swapped.

    With ``transposes=False``, ``params`` and ``gradParams`` were saved after Torch7 had upgraded the module.
    """
    table = LuaTable(read_t7(FIXTURE).items())
    for name in ("module", "after"):
        table[name] = as_in_2015(table[name])
    for name in ("params", "gradParams") if transposes else ():
        weight, *others = table[name].as_list()
        table[name] = LuaTable.from_list([transposed(weight), *others])
    return table


@pytest.mark.parametrize("transposes", [True, False], ids=["old", "new"])
def test_parameters_and_gradients_of_2015_are_compared_in_the_new_layout(transposes: bool) -> None:
    result = parity.check(old_reference(transposes=transposes))
    assert result.ok, result.failures
    assert {"params[1]", "gradParams[1]"} <= {d.name for d in result.differences}


@pytest.mark.parametrize("transposes", [True, False], ids=["old", "new"])
def test_the_model_and_its_reference_in_two_files(transposes: bool, tmp_path: Path) -> None:
    table = old_reference(transposes=transposes)
    write_t7(tmp_path / "model.t7", table["module"])
    table["module"] = None
    assert verify(tmp_path / "model.t7", reference=table, mode="train").verdict is Verdict.EQUAL


def test_parameters_that_are_no_list_are_another_number(tmp_path: Path) -> None:
    table = old_reference()
    table["params"] = LuaTable(zip(("weight", "bias"), table["params"].as_list(), strict=True))
    write_t7(tmp_path / "model.t7", table["module"])
    assert verify(tmp_path / "model.t7", reference=table).verdict is Verdict.DIFFERENT


INDEX_LINEAR = Path(__file__).parents[2] / "fixtures" / "nn" / "nn.IndexLinear"


@pytest.mark.parametrize("file", sorted(INDEX_LINEAR.glob("*.t7")), ids=lambda file: file.stem)
@pytest.mark.parametrize("changed", [0.0, 1e-2], ids=["equal", "changed"])
def test_containers_omit_gradients_that_are_tables(file: Path, changed: float, tmp_path: Path) -> None:
    """``nn.Container`` flattens the tables of ``parameters()``; IndexLinear's table of gradients has no list part."""
    table = LuaTable(read_t7(file).items())
    if "gradParams" not in table:
        pytest.skip("forward pass only")
    container = LuaObject("nn.Sequential", LuaTable({"modules": LuaTable.from_list([table["module"]])}))
    write_t7(tmp_path / "model.t7", container)
    (_, bias) = table["gradParams"].as_list()
    bias.numpy().flat[0] += changed
    table["gradParams"] = LuaTable.from_list([bias])
    table["module"] = table["after"] = None
    result = verify(tmp_path / "model.t7", reference=table)
    assert result.verdict is (Verdict.DIFFERENT if changed else Verdict.KNOWN), result


@pytest.mark.parametrize(
    "value", [5.0, True, "x", LuaTable({"weight": 1.0})], ids=["number", "boolean", "string", "table"]
)
@pytest.mark.parametrize(
    "file", [next(INDEX_LINEAR.glob("*batch__double*")), FIXTURE], ids=["IndexLinear", "convolution"]
)
def test_gradients_that_are_no_list_are_different(file: Path, value: object, tmp_path: Path) -> None:
    table = LuaTable(read_t7(file).items())
    write_t7(tmp_path / "model.t7", table["module"])
    table["gradParams"] = value
    assert verify(tmp_path / "model.t7", reference=table).verdict is Verdict.DIFFERENT
