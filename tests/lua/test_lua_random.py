"""Torch7's generator from Python, against noise that Torch7 stored."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SEED_OF_THE_SYSTEM

pytest.importorskip("lupa")

import dpnn_bridge
from dpnn_bridge.torch7.random import Generator

FIXTURES = Path(__file__).parents[2] / "fixtures"
RECORDED = Path(__file__).parent / "conformance" / "expected" / "random.jsonl"


def _stochastic(name: str) -> list[str]:
    manifest = json.loads((FIXTURES / "manifest.json").read_text())
    rows = manifest if isinstance(manifest, list) else manifest["fixtures"]
    return [
        row["file"]
        for row in rows
        if row.get("class") == name and (row.get("set"), row.get("mode"), row.get("kind")) == ("nn", "train", "module")
    ]


@pytest.mark.parametrize("file", _stochastic("nn.Dropout"))
def test_dropout_masks_of_torch7_are_redrawn_bit_for_bit(file: str) -> None:
    fixture = dpnn_bridge.read_t7(FIXTURES / file)
    module, noise = fixture["module"], fixture["after"]["noise"].torch()
    if not noise.numel():
        pytest.skip("this module drew nothing")
    keep = 1 - module["p"]
    drawn = Generator(int(fixture["seed"])).fill_bernoulli(torch.empty(noise.shape, dtype=noise.dtype), keep)
    scale = drawn.new_tensor(keep) if module.get("v2") else 1
    assert torch.equal(drawn / scale, noise)


def test_the_raw_stream_is_mt19937_across_its_blocks() -> None:
    words = Generator(5).words(2000)
    assert (words == np.random.RandomState(5).randint(0, 1 << 32, 2000, dtype=np.uint32)).all()


def test_scalar_draws_are_those_that_torch7_recorded() -> None:
    record = next(r for r in map(json.loads, RECORDED.open()) if r["name"] == "scalar_mix/1234")
    g, drawn = Generator(1234), []
    for _ in range(8):
        drawn += [g.random(), g.randint(1, 10), g.randint(5, 9), g.uniform(), g.uniform(-2, 3), g.normal()]
        drawn += [g.normal(1, 2), g.exponential(1.5), g.cauchy(0, 2), g.log_normal(0.5, 0.25), g.geometric(0.3)]
        drawn += [g.bernoulli(), g.bernoulli(0.2), g.normal()]
    assert drawn == [value for _, value in record["values"][0]["t"]]


def test_a_seed_of_the_system_is_a_number_that_lua_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.urandom", lambda n: b"\xff" * n)
    drawn = Generator()
    assert SEED_OF_THE_SYSTEM(drawn) == 2**53 - 1
    assert drawn.get_state() == Generator(2**53 - 1).get_state()


def test_a_state_continues_where_it_was_taken() -> None:
    first = Generator(7)
    first.normal(), first.words(700)
    second = Generator(0)
    second.set_state(first.get_state())
    assert [first.normal() for _ in range(3)] == [second.normal() for _ in range(3)]
    with pytest.raises(ValueError, match="wrong size"):
        second.set_state(b"short")


def test_tensors_are_filled_as_in_lua() -> None:
    from dpnn_bridge.lua import LuaBridge

    bridge = LuaBridge()
    bridge.manual_seed(3)
    uniform, normal = bridge.execute("return torch.Tensor(5):uniform(2, 3), torch.Tensor(4):normal(1, 2)")
    g = Generator(3)
    assert torch.equal(g.fill_uniform(torch.empty(5, dtype=torch.float64), 2, 3), uniform)
    assert torch.equal(g.fill_normal(torch.empty(4, dtype=torch.float64), 1, 2), normal)


@pytest.mark.parametrize("before", [0, 1, 2, 623, 624, 1000])
@pytest.mark.parametrize("count", [1, 2, 3, 700, 1001])
def test_whole_tensors_of_draws_are_the_single_draws(before: int, count: int) -> None:
    one, many = Generator(7), Generator(7)
    for g in (one, many):
        g.words(before)
    for n in (count, 2, count):  # after an odd number of draws a normal is left over
        assert many.normals(n, 0.5, 2.0).tolist() == [one.normal(0.5, 2.0) for _ in range(n)]
        assert many.words(n).tolist() == [one.random() for _ in range(n)]
        assert many.get_state() == one.get_state()


DRAWS = """
torch.manualSeed(3)
local drawn, add = {}, table.insert
local g, state = torch.Generator(), torch.getRNGState()
for round = 1, 40 do
   for _, T in ipairs {torch.DoubleTensor, torch.FloatTensor} do
      for _, x in ipairs {
         T(3, 5):uniform(-1, 2), T(5):normal(1, 3), T(3):cauchy(0, 2), T(3):logNormal(0.1, 0.4), T(3):exponential(0.7),
         T(4, 4):t():narrow(1, 2, 2):uniform(), T(2, 3):select(2, 1):normal(), T(3, 1):expand(3, 2):uniform(),
         T(4, 5):bernoulli(T(4, 5):uniform()), torch.multinomial(T(4, 5):uniform(), 3),
         T.multinomial(torch.LongTensor(), T{1, 2}, 6, true),
      } do add(drawn, x) end
   end
   for _, ty in ipairs {'Byte', 'Char', 'Short', 'Int', 'Long', 'Float', 'Double'} do
      local T = torch[ty .. 'Tensor']
      for _, x in ipairs {
         T(3):random(), T(3):random(5), T(3):random(2, 100), T(3):bernoulli(), T(3):geometric(0.5)
      } do add(drawn, x) end
   end
   for _, x in ipairs {
      torch.uniform(2, 3), torch.normal(), torch.random(), torch.random(-5, 7), torch.bernoulli(), torch.geometric(0.4)
   } do add(drawn, torch.DoubleTensor{x}) end
   for _, x in ipairs {
      torch.rand(2, 3), torch.randn(5), torch.randperm(9), torch.rand(torch.LongStorage{2}), torch.rand(700)
   } do add(drawn, x) end
   add(drawn, torch.IntTensor(3):random(-5, 5))      -- what Python draws in any case
   add(drawn, torch.Tensor(2):normal(g and 0, 1))
   if round == 20 then torch.setRNGState(state) end
end
local all = {}
for i, x in ipairs(drawn) do all[i] = x:double():contiguous():view(-1) end
return torch.cat(all), torch.getRNGState()
"""


def test_lua_and_python_draw_from_one_stream() -> None:
    """On Lua 5.1 Python makes every draw; on LuaJIT most are Lua's own, from the same memory."""
    from dpnn_bridge.lua import LuaBridge

    pytest.importorskip("lupa.luajit21")
    mixed, state = LuaBridge(runtime="luajit21").execute(DRAWS)
    expected, expected_state = LuaBridge(runtime="lua51").execute(DRAWS)
    assert torch.equal(mixed, expected)
    assert torch.equal(state, expected_state)


@pytest.mark.parametrize("runtime", ["luajit21", "lua51"])
def test_arguments_of_draws_of_floats_are_floats(runtime: str) -> None:
    """The values are those that Torch7 printed; bounds in double give 0.167951271 and 0.291169167."""
    from dpnn_bridge.lua import LuaBridge

    drawn = LuaBridge(runtime=runtime).execute(
        "torch.manualSeed(7) local t = torch.FloatTensor(3):uniform(-0.3, 0.3)"
        "torch.manualSeed(7) return t[3], torch.FloatTensor(3):normal(0.1, 0.3)[1]"
    )
    assert [f"{x:.9g}" for x in drawn] == ["0.167951286", "0.291169196"]


@pytest.mark.filterwarnings("error")
def test_infinite_and_large_arguments_give_no_warning() -> None:
    assert np.isnan(Generator().uniforms(3, np.inf, -np.inf)).all()
    assert not np.isfinite(Generator().normals(4, -np.inf, np.inf)).any()
    large = 1.7e308
    assert np.isinf(Generator().normals(100, 0, large)).any()
    assert Generator().multinomial([large, large], 2) == [1, 0]
