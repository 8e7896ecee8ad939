"""Elements that Torch7 does not write: a known difference, whatever the memory contained. Others are compared."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from formula import lua, random
from torch import Tensor

from dpnn_bridge.compare.verdict import Verdict
from dpnn_bridge.conversion import to_torch
from dpnn_bridge.conversion.lua_values import lua_value
from dpnn_bridge.loaders import dumps
from dpnn_bridge.objects import LuaObject, LuaTable
from dpnn_bridge.parity.fixture import check
from dpnn_bridge.parity.verification import Verification
from dpnn_bridge.parity.verify import verify


def language_model() -> tuple[LuaObject, Any, Tensor]:
    """A model whose captions have words in the first two of four time steps, and the mask of the elements without."""
    step = lua("nn.Sequential", lua("nn.CAddTable", inplace=False), lua("nn.LogSoftMax"))
    core = lua("nn.ConcatTable", lua("nn.CAddTable", inplace=False), step)
    table = lua("nn.LookupTable", weight=random(4, 4))
    obj = lua(
        "nn.LanguageModel", core=core, lookup_table=table, vocab_size=3, seq_length=4, num_state=1, rnn_size=4,
        init_state=LuaTable(), train=True,
    )  # fmt: skip
    captions = torch.tensor([[2, 1], [0, 3], [0, 0], [0, 0]])
    return obj, [random(2, 4, seed=1), captions], (torch.arange(6) >= 4).view(6, 1, 1).expand(6, 2, 4)


def stereo() -> tuple[LuaObject, Any, Tensor]:
    outside = torch.arange(3).view(3, 1, 1) > torch.arange(5)
    return lua("nn.StereoJoin", disp_max=3), random(2, 4, 2, 5), outside.expand(1, 3, 2, 5)


CASES = pytest.mark.parametrize("case", [language_model, stereo])


def fixture(obj: LuaObject, input: Any, output: Tensor) -> LuaTable:
    return LuaTable({"module": obj, "input": lua_value(input), "output": lua_value(output)})


@CASES
@pytest.mark.parametrize("garbage", [1e33, 1e-7, -2.0, math.nan, math.inf])
def test_uninitialized_memory_is_a_known_difference(case: Any, garbage: float) -> None:
    obj, x, unwritten = case()
    result = check(fixture(obj, x, to_torch(obj)(x).masked_fill(unwritten, garbage)))
    assert {d.name: d.verdict for d in result.differences if d.name.startswith("output")} == {
        "output": Verdict.EQUAL,
        "output.affected_elements": Verdict.KNOWN,
    }
    [known] = [d for d in result.differences if d.verdict is Verdict.KNOWN]
    assert known.reason.endswith("uninitialized memory")
    assert known.index is not None
    assert unwritten[known.index]


@CASES
@pytest.mark.parametrize("garbage", [0.0, 1e33, math.nan])
def test_every_other_element_is_compared(case: Any, garbage: float) -> None:
    obj, x, unwritten = case()
    right = to_torch(obj)(x).masked_fill(unwritten, garbage)
    for i in (~unwritten).flatten().nonzero().flatten().tolist():
        wrong = right.clone()
        wrong.view(-1)[i] += 1e-6
        assert [d.name for d in check(fixture(obj, x, wrong)).failures] == ["output"]


@CASES
def test_a_file_is_equal_except_for_these_elements(case: Any, tmp_path: Any) -> None:
    obj, x, unwritten = case()
    output = to_torch(obj)(x).masked_fill(unwritten, 1e33)
    model = tmp_path / "model.t7"
    model.write_bytes(dumps(obj))
    found = verify(model, reference=fixture(obj, x, output))
    assert isinstance(found, Verification)
    assert found.forward is Verdict.KNOWN
    assert max(found.histogram) < -9  # relative to the results, not to the memory


def test_a_step_that_is_written_is_never_affected() -> None:
    obj, (images, _), _ = language_model()
    x = [images, torch.tensor([[2, 1], [0, 3], [1, 0], [0, 2]])]
    output = to_torch(obj)(x)
    for step in range(6):
        wrong = output.clone()
        wrong[step] = 0
        assert [d.name for d in check(fixture(obj, x, wrong)).failures] == ["output"]
