"""Step modules of rnn whose class is defined in Lua keep their states in Lua."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import dpnn_bridge
from dpnn_bridge import memory
from dpnn_bridge.conversion import to_lua
from dpnn_bridge.errors import UnsupportedClassError
from dpnn_bridge.lua import LuaBridge
from dpnn_bridge.modules.rnn import LSTM, SeqLSTM, Sequencer
from dpnn_bridge.modules.rnn.memory import at_sequence_start

pytestmark = pytest.mark.usefixtures("warm_sandboxes")

COUNTER = """
require 'nn'
local Counter, parent = torch.class('nn.Counter', 'nn.Module')
function Counter:__init() parent.__init(self) self.count = 0 end
function Counter:updateOutput(input)
   self.count = self.count + 1
   self.output:resizeAs(input):fill(self.count)
   return self.output
end
function Counter:forget() self.count = 0 end
"""


@pytest.mark.parametrize("sandbox", [False, True])
def test_forget_reaches_a_module_in_lua(sandbox: bool) -> None:
    bridge = LuaBridge(sandbox=sandbox)
    bridge.execute(COUNTER)
    net = torch.nn.Sequential(bridge.module("nn.Counter"))
    x = torch.zeros(1, dtype=torch.float64)
    assert [net(x).item(), net(x).item()] == [1, 2]
    memory.forget(net)
    assert net(x).item() == 1


@pytest.mark.parametrize("sandbox", [False, True])
@pytest.mark.parametrize("gate", ["nn.Sigmoid()", "true", "{1}", "torch.ones(2)"])
def test_a_field_of_this_name_is_no_method(gate: str, sandbox: bool) -> None:
    bridge = LuaBridge(sandbox=sandbox)
    bridge.execute(f"{COUNTER} nn.Counter.forget = nil function nn.Counter:setGate() self.forget = {gate} end")
    counter = bridge.module("nn.Counter")
    bridge.method(counter.lua, "setGate")
    counter(torch.zeros(1, dtype=torch.float64))
    memory.forget(counter)
    assert counter(torch.zeros(1, dtype=torch.float64)).item() == 2


def test_a_method_with_an_argument_is_no_reason_that_a_layer_does_not_run() -> None:
    bridge = LuaBridge()
    bridge.execute(f"{COUNTER} function nn.Counter:forget(n) self.count = n - 1 end")
    copy = at_sequence_start(torch.nn.Sequential(bridge.module("nn.Counter")))
    assert copy(torch.zeros(1, dtype=torch.float64)).item() == 1


def test_a_sequencer_without_rnn_takes_no_step_module_in_lua(tmp_path: Path) -> None:
    obj = to_lua(Sequencer(LSTM(SeqLSTM(2, 3))))
    obj["module"].class_name = "nn.MyLSTM"  # modules[1] too
    dpnn_bridge.write_t7(tmp_path / "model.t7", obj)
    (tmp_path / "my.lua").write_text("require 'nn'\ntorch.class('nn.MyLSTM', 'nn.LSTM')")
    with pytest.raises(UnsupportedClassError, match=r"a step module that runs in Lua.*put a checkout of its package"):
        dpnn_bridge.load(tmp_path / "model.t7", lua=tmp_path / "my.lua")
