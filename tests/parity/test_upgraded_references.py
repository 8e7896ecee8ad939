"""References of old Torch7 versions, whose parameters have another layout."""

from __future__ import annotations

from pathlib import Path

from dpnn_bridge import parity, read_t7, verify, write_t7
from dpnn_bridge.compare.verdict import Verdict
from dpnn_bridge.modules.nn.convolution import transposed
from dpnn_bridge.objects import LuaObject, LuaTable

NAME = "nn.VolumetricFullConvolution/VolumetricFullConvolution__single__double_train.t7"
FIXTURE = Path(__file__).parents[2] / "fixtures" / "nn" / NAME


def as_in_2015(obj: LuaObject) -> LuaObject:
    pads = {f"p{d}": obj[f"pad{d}"] for d in "THW"}
    removed = dict.fromkeys(f"{name}{d}" for name in ("pad", "adj") for d in "THW")
    return obj.changed(
        **{**pads, **removed}, weight=transposed(obj["weight"]), gradWeight=transposed(obj["gradWeight"])
    )


def old_reference() -> LuaTable:
    """Torch7's results, with the weight of 2015: the dimensions of input and output channels are swapped."""
    table = LuaTable(read_t7(FIXTURE).items())
    for name in ("module", "after"):
        table[name] = as_in_2015(table[name])
    for name in ("params", "gradParams"):
        weight, *others = table[name].as_list()
        table[name] = LuaTable.from_list([transposed(weight), *others])
    return table


def test_parameters_and_gradients_of_2015_are_compared_in_the_new_layout() -> None:
    result = parity.check(old_reference())
    assert result.ok, result.failures
    assert {"params[1]", "gradParams[1]"} <= {d.name for d in result.differences}


def test_the_model_and_its_reference_in_two_files(tmp_path: Path) -> None:
    table = old_reference()
    write_t7(tmp_path / "model.t7", table["module"])
    table["module"] = None
    assert verify(tmp_path / "model.t7", reference=table, mode="train").verdict is Verdict.EQUAL
