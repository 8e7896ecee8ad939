"""A result that the module around it changed in Torch7's memory is no reference."""

from __future__ import annotations

from pathlib import Path

import pytest

from dpnn_bridge import read_t7, write_t7
from dpnn_bridge.compare.verdict import Verdict
from dpnn_bridge.objects import LuaObject, LuaTable
from dpnn_bridge.parity.verify import verify

FIXTURES = sorted(Path(__file__).parents[2].glob("fixtures/third/*/nn.ResidualDrop/*eval.t7"))


def around(obj: LuaObject, fixture: LuaTable) -> LuaObject:
    """Return a Sequential of an object, after a run."""
    inner = {"modules": LuaTable.from_list([obj]), "train": False}
    return LuaObject("nn.Sequential", LuaTable({**inner, "output": fixture["output"]}.items()))


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.stem)
def test_the_branch_that_is_scaled_in_evaluation(path: Path, tmp_path: Path) -> None:
    fixture = read_t7(path)
    write_t7(tmp_path / "model.t7", around(fixture["module"], fixture))
    fields = {name: fixture[name] for name in ("input", "output", "mode")}
    reference = LuaTable({**fields, "after": around(fixture["after"], fixture)}.items())
    assert verify(tmp_path / "model.t7", reference=reference).verdict is Verdict.EQUAL
