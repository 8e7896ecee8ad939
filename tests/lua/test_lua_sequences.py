"""Random sequences of tensor operations give what they gave in Torch7: see sequences/compare.py, which records them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest.importorskip("lupa")

from dpnn_bridge.lua import LuaBridge
from tests.lua.sequences import compare

luajit = pytest.mark.skipif("luajit" not in LuaBridge().runtime.lower(), reason="a constant -0.0 needs LuaJIT")
FOLDER = Path(compare.__file__).parent
#: products into views whose elements overlap: of integers in TH's order, and one that BLAS refuses in Torch7
KNOWN = {107, 132}
#: a product into one of its factors makes that factor larger, and multiplies by memory that nobody wrote
UNDEFINED = {87}


@luajit
def test_sequences_give_what_torch7_recorded() -> None:
    expected = dict(line.split() for line in (FOLDER / "expected.txt").read_text().splitlines())
    texts, crashed = compare.run(compare.BRIDGE, 7, max(map(int, expected)))
    assert not crashed
    different = {int(n) for n, digest in expected.items() if compare.digest(texts[int(n)]) != digest}
    different -= UNDEFINED
    assert different <= KNOWN, [texts[n] for n in sorted(different - KNOWN)]


@luajit
@pytest.mark.torch7
def test_other_sequences_give_what_torch7_gives_now() -> None:
    torch7 = [os.environ["DPNN_TORCH7"]]
    (one, crashed), (other, _) = (compare.run(torch7, 11, 200, perturb=p) for p in (255, 77))
    texts, failed = compare.run(compare.BRIDGE, 11, 200)
    assert not failed
    defined = [n for n, text in one.items() if n not in crashed and text == other[n]]
    different = [compare.first_difference(one[n], texts[n]) for n in defined if texts[n] != one[n]]
    assert len(different) <= 4, different  # overlapping memory and results that are sources: see docs/lua.md
