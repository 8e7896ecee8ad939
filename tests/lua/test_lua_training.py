"""Lua layers in a training loop of PyTorch: several forwards, copies, casts, tables, shared parameters."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("lupa")

from dpnn_bridge.errors import LuaBridgeError
from dpnn_bridge.lua import LuaBridge

pytestmark = pytest.mark.usefixtures("warm_sandboxes")

LAYERS = """
    require 'nn'
    local function layer(name, forward, backward)
       local class, parent = torch.class(name, 'nn.Module')
       function class:updateOutput(input) self.output = forward(self, input) return self.output end
       function class:updateGradInput(input, gradOutput)
          self.gradInput = backward(self, input, gradOutput)
          return self.gradInput
       end
    end
    layer('nn.Exponential', function(self, input) return torch.exp(input) end,
       function(self, input, gradOutput) return torch.cmul(gradOutput, self.output) end)
    layer('nn.Noise',
       function(self, input)
          self.noise = torch.rand(input:size())
          return torch.cmul(input, self.noise)
       end,
       function(self, input, gradOutput) return torch.cmul(gradOutput, self.noise) end)
    layer('nn.Doubled', function(self, input) return input:mul(2) end,
       function(self, input, gradOutput) return gradOutput:mul(2) end)
    layer('nn.Logarithm', function(self, input) return torch.log(input) end,
       function(self, input, gradOutput) return torch.cdiv(gradOutput, input) end)
    layer('nn.Flat', function(self, input) return input:view(input:nElement()) end,
       function(self, input, gradOutput) return gradOutput:view(input:size()) end)
    layer('nn.Split', function(self, input) return {input:view(-1), input:view(-1):mul(3)} end,
       function(self, input, gradOutput) return (gradOutput[1]:view(-1) + gradOutput[2]:view(-1) * 3):viewAs(input) end)
    layer('nn.Largest', function(self, input)
          local values, indices = input:max(2)
          self.indices = indices
          return {indices, values}
       end,
       function(self, input, gradOutput)
          return torch.zeros(input:size()):scatter(2, self.indices, gradOutput[2])
       end)
    layer('nn.Product', function(self, input) return torch.cmul(input.first, input.second) end,
       function(self, input, gradOutput)
          return {first = torch.cmul(gradOutput, input.second), second = torch.cmul(gradOutput, input.first)}
       end)
    layer('nn.Chosen', function(self, input) return torch.mul(input[2], 5) end,
       function(self, input, gradOutput) return {[2] = torch.mul(gradOutput, 5)} end)
    layer('nn.Wrong', function(self, input) return input:clone() end,
       function(self, input, gradOutput) return torch.zeros(3) end)
    local Buffered, parent = torch.class('nn.Buffered', 'nn.Criterion')
    function Buffered:__init() parent.__init(self) self.difference = torch.Tensor() end
    function Buffered:updateOutput(input, target)
       self.difference:resizeAs(input):copy(input):add(-1, target)
       self.output = self.difference:dot(torch.add(input, -1, target)) / 2
       return self.output
    end
    function Buffered:updateGradInput(input, target)
       self.gradInput = torch.add(input, -1, target)
       return self.gradInput
    end
"""


@pytest.fixture
def bridge() -> LuaBridge:
    bridge = LuaBridge()
    bridge.execute(LAYERS)
    return bridge


def _input(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


# ---- several forwards before a backward


def test_a_backward_after_two_other_forwards_and_a_backward_is_its_own(bridge: LuaBridge) -> None:
    layer, (a, b, c) = bridge.module("nn.Exponential"), map(_input, (1.0, 2.0, 3.0))
    first, second = layer(a), layer(b)
    first.backward()
    layer(c)
    second.backward()
    assert torch.equal(a.grad, a.exp())
    assert torch.equal(b.grad, b.exp())


def test_a_forward_that_cannot_be_repeated_leaves_no_other_backward_wrong(bridge: LuaBridge) -> None:
    layer, x = bridge.module("nn.Noise"), _input(1.0, 2.0)
    first, second = layer(x), layer(x)
    for output in (first, second):  # running the first forward again has overwritten the noise of the second
        with pytest.raises(LuaBridgeError, match="ran forward again"):
            output.sum().backward()


def test_a_layer_that_works_in_place_repeats_its_forward(bridge: LuaBridge) -> None:
    layer, x = bridge.module("nn.Doubled"), _input(1.0, 2.0)
    first = layer(x)
    layer(x)
    first.sum().backward()
    assert x.grad.tolist() == [2, 2]


def test_a_forward_that_gives_nan_is_repeated(bridge: LuaBridge) -> None:
    layer, x = bridge.module("nn.Logarithm"), _input(-1.0, 2.0)
    first = layer(x)
    layer(x)
    first.sum().backward()
    assert x.grad.tolist() == [-1, 0.5]


def test_a_criterion_that_keeps_its_loss_in_a_tensor_is_asked_again(bridge: LuaBridge) -> None:
    bridge.execute(
        """
        local Drawn = torch.class('nn.Drawn', 'nn.Criterion')
        function Drawn:updateOutput(input) self.kept = self.kept or torch.Tensor(1) return self.kept:uniform() end
        function Drawn:updateGradInput(input) return input:clone() end
        """
    )
    loss, x = bridge.criterion("nn.Drawn"), _input(1.0)
    first = loss(x)
    loss(x)
    with pytest.raises(LuaBridgeError, match="gave different outputs"):
        first.backward()


# ---- gradients of tables


@pytest.mark.parametrize("names", [("first", "second"), ("second", "first")])
def test_gradients_of_named_inputs_go_to_their_names(bridge: LuaBridge, names: tuple[str, str]) -> None:
    inputs = dict(zip(names, (_input(2.0), _input(3.0)), strict=True))
    bridge.module("nn.Product")(inputs).backward()
    assert [inputs[name].grad.item() for name in names] == [3, 2]


def test_a_gradient_of_the_second_input_alone_is_that_of_the_second(bridge: LuaBridge) -> None:
    first, second = _input(1.0), _input(2.0)
    bridge.module("nn.Chosen")([first, second]).backward()
    assert first.grad is None
    assert second.grad.item() == 5


def test_an_output_of_integers_beside_one_of_numbers_has_no_gradient(bridge: LuaBridge) -> None:
    x = _input(1.0, 3.0, 2.0, 0.0)
    indices, values = bridge.module("nn.Largest")(x.view(2, 2))
    assert indices.flatten().tolist() == [2, 1]
    (values * torch.tensor([[2.0], [3.0]])).sum().backward()
    assert x.grad.tolist() == [0, 2, 3, 0]


def test_a_gradient_of_other_sizes_is_refused(bridge: LuaBridge) -> None:
    with pytest.raises(
        LuaBridgeError, match=r"nn.Wrong returned a gradient of sizes \[3\] for an input of sizes \[2\]"
    ):
        bridge.module("nn.Wrong")(_input(1.0, 2.0)).sum().backward()


def test_gradients_of_any_memory_layout_reach_lua_contiguous(bridge: LuaBridge) -> None:
    x = torch.arange(6.0, dtype=torch.float64).view(2, 3).requires_grad_()
    weight = torch.arange(6.0, dtype=torch.float64).view(3, 2)
    flat = bridge.module("nn.Flat")
    (flat(x.t()).view(3, 2) * weight).sum().backward()
    assert torch.equal(x.grad, weight.t())
    first, second = bridge.module("nn.Split")(x)
    (first.view(2, 3).t() * weight + second.view(2, 3).t()).sum().backward()


# ---- parameters


def test_a_module_that_is_in_a_container_twice_has_one_parameter(bridge: LuaBridge) -> None:
    net = bridge.wrap(bridge.execute("local m = nn.Linear(2, 1, false) return nn.ParallelTable():add(m):add(m)"))
    (weight,) = net.parameters()
    inputs = [torch.tensor([x], dtype=torch.float64) for x in ([1, 2], [3, 4])]
    sum(net(inputs)).backward()
    assert weight.grad.tolist() == [[4, 6]]


def test_gradients_of_shared_weights_add_up(bridge: LuaBridge) -> None:
    net = bridge.wrap(
        bridge.execute(
            """
            local net = nn.Sequential():add(nn.Linear(2, 2, false)):add(nn.Linear(2, 2, false))
            net:get(2):share(net:get(1), 'weight')
            return net
            """
        )
    )
    (weight,) = net.parameters()
    expected = weight.detach().clone().requires_grad_()
    x = torch.ones(1, 2, dtype=torch.float64)
    (x @ expected.t() @ expected.t()).sum().backward()
    net(x).sum().backward()
    torch.testing.assert_close(weight.grad, expected.grad)


def test_a_parameter_without_a_gradient_in_lua_has_none(bridge: LuaBridge) -> None:
    layer = bridge.wrap(
        bridge.execute(
            """
            local m = nn.Exponential()
            m.scale = torch.ones(2)
            function m:parameters() return {self.scale}, {} end
            return m
            """
        )
    )
    x = _input(1.0, 2.0)
    layer(x).sum().backward()
    assert torch.equal(x.grad, x.exp())
    assert layer.scale.grad is None


def test_modules_in_fields_have_names_and_buffers(bridge: LuaBridge) -> None:
    layer = bridge.wrap(
        bridge.execute(
            """
            local Held, parent = torch.class('nn.Held', 'nn.Module')
            function Held:__init() parent.__init(self) self.norm, self.module = nn.BatchNormalization(2), 'a name' end
            function Held:parameters() return self.norm:parameters() end
            function Held:updateOutput(input) self.output = self.norm:forward(input) return self.output end
            return nn.Held()
            """
        )
    )
    names = {"norm_weight", "norm_bias", "norm_running_mean", "norm_running_var"}
    assert set(layer.state_dict()) == names
    layer(torch.tensor([[1.0, 2.0], [3.0, 2.0]], dtype=torch.float64))
    assert layer.norm_running_mean.tolist() == [pytest.approx(0.2), pytest.approx(0.2)]


@pytest.mark.parametrize("sandbox", [False, True])
def test_parameters_whose_memory_python_replaced_are_lua_s_again(sandbox: bool) -> None:
    bridge = LuaBridge(sandbox=sandbox)
    layer = bridge.wrap(bridge.execute("require 'nn' return nn.Linear(2, 1, false)"))
    x = torch.ones(1, 2, dtype=torch.float64)
    layer.load_state_dict({"weight": torch.tensor([[1.0, 2.0]], dtype=torch.float64)}, assign=True)
    assert layer(x).item() == 3
    vector = torch.tensor([3.0, 4.0], dtype=torch.float64)
    nn.utils.vector_to_parameters(vector, layer.parameters())
    assert layer(x).item() == 7
    assert layer.obj["weight"].torch().tolist() == [[3, 4]]
    layer.weight.data = torch.ones(1, 3)
    with pytest.raises(LuaBridgeError, match=r"sizes \[1, 3\] in Python and \[1, 2\] in Lua"):
        layer(x)


# ---- types


def test_a_layer_without_parameters_keeps_its_type_on_the_cpu(bridge: LuaBridge) -> None:
    layer = bridge.module("nn.Exponential").float().to("cpu").cpu()
    assert bridge.execute("return (...):type()", layer.lua) == "torch.FloatTensor"
    assert bridge.execute("return (...):type()", layer.double().lua) == "torch.DoubleTensor"


def test_gradients_follow_the_type(bridge: LuaBridge) -> None:
    layer = bridge.wrap(bridge.execute("return nn.Linear(2, 1)"))
    layer(torch.ones(1, 2, dtype=torch.float64)).sum().backward()
    layer.float()
    assert layer.weight.grad.dtype == torch.float32
    layer(torch.ones(1, 2)).sum().backward()
    assert layer.weight.grad.tolist() == [[2, 2]]


def test_a_criterion_changes_its_type(bridge: LuaBridge) -> None:
    loss, x = bridge.criterion("nn.Buffered").float(), torch.ones(2, requires_grad=True)
    loss(x, torch.zeros(2)).backward()
    assert x.grad.tolist() == [1, 1]
    with pytest.raises(LuaBridgeError, match="float or double"):
        loss.half()


# ---- copies


def test_an_optimizer_that_is_copied_with_a_layer_trains_the_copy(bridge: LuaBridge) -> None:
    layer = bridge.wrap(bridge.execute("return nn.Linear(2, 1, false)"))
    optimizer = torch.optim.SGD(layer.parameters(), lr=1)
    copied, optimizer = copy.deepcopy((layer, optimizer))
    before = copied.weight.detach().clone()
    copied(torch.ones(1, 2, dtype=torch.float64)).sum().backward()
    optimizer.step()
    torch.testing.assert_close(copied.weight.detach(), before - 1)
    assert torch.equal(layer.weight, before)


def test_a_copy_keeps_hooks_and_attributes(bridge: LuaBridge) -> None:
    layer, calls = bridge.module("nn.Exponential").eval(), []
    layer.register_forward_hook(lambda *_: calls.append(1))
    layer.note = ["kept"]
    copied: Any = copy.deepcopy(layer)
    copied(_input(1.0))
    assert calls == [1]
    assert copied.note == ["kept"]
    assert copied.note is not layer.note
    assert not copied.training


def test_a_criterion_is_copied(bridge: LuaBridge) -> None:
    loss = bridge.criterion("nn.Buffered").float()
    copied, x = copy.deepcopy(loss), torch.ones(2, requires_grad=True)
    copied(x, torch.zeros(2)).backward()
    assert x.grad.tolist() == [1, 1]
    assert copied.lua is not loss.lua


def test_an_object_in_evaluation_is_a_module_in_evaluation(bridge: LuaBridge) -> None:
    assert not bridge.wrap(bridge.execute("local m = nn.Exponential() m:evaluate() return m")).training
    assert bridge.module("nn.Exponential").training
