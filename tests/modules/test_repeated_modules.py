"""A module that occurs twice in a container or a sequence counts twice; other edges of containers and sequences."""

from __future__ import annotations

import pytest
import torch
from formula import lua
from torch import Tensor, nn

from dpnn_bridge import to_lua, to_torch
from dpnn_bridge.conversion.faster import without_faster
from dpnn_bridge.modules.cuda.parallel import ParallelBranches
from dpnn_bridge.modules.dpnn.decorator import DontCast
from dpnn_bridge.modules.dpnn.nce import NCEModule
from dpnn_bridge.modules.facebook.fbnn import NormalizedLinearNoBias
from dpnn_bridge.modules.facebook.softmax import HSM
from dpnn_bridge.modules.inputs import input_shapes
from dpnn_bridge.modules.nn.activation import SoftMax
from dpnn_bridge.modules.nn.container import ConcatTable, ParallelTable
from dpnn_bridge.modules.nn.linear import PartialLinear
from dpnn_bridge.modules.nn.lookup import LookupTable
from dpnn_bridge.modules.nn.sparse import IndexLinear, SparseLinear
from dpnn_bridge.modules.nnx.tree import SoftMaxTree
from dpnn_bridge.modules.rnn.cells import fast_lstm
from dpnn_bridge.modules.rnn.seq_lstm import SeqLSTM
from dpnn_bridge.modules.rnn.sequencer import Sequencer
from dpnn_bridge.objects import LuaTable


def test_a_branch_that_occurs_twice_is_added_twice() -> None:
    branch = nn.Identity()
    assert ParallelBranches(ConcatTable(branch, branch))(torch.ones(1)).tolist() == [2]


def test_a_branch_that_occurs_twice_gets_two_inputs() -> None:
    branch = nn.Linear(3, 2)
    assert input_shapes(ParallelTable(branch, branch)) == ["1x3", "1x3"]


def in_steps(model: nn.Module, x: Tensor) -> Tensor:
    with without_faster():
        return model(x)


def test_a_step_module_that_runs_twice_per_time_step_is_not_run_for_all_steps_first() -> None:
    layer = fast_lstm(2, 2)
    model, x = Sequencer(nn.Sequential(layer, layer)), torch.randn(3, 1, 2)
    torch.testing.assert_close(model(x), in_steps(model, x))


@pytest.mark.parametrize("shape", [(3, 2, 4), (3, 2)])
def test_a_softmax_after_words_does_not_mix_time_steps(shape: tuple[int, ...]) -> None:
    model, x = Sequencer(nn.Sequential(LookupTable(5, 4), SoftMax())), torch.randint(1, 6, shape)
    torch.testing.assert_close(model(x), in_steps(model, x))


def test_the_initial_state_of_the_user_is_kept_without_its_graph() -> None:
    module = SeqLSTM(2, 3)
    module.user_prev_output = torch.zeros(1, 3, requires_grad=True) * 2
    module(torch.ones(1, 1, 2))
    assert module.initial is not None
    assert not module.initial[0].requires_grad


def test_a_batch_without_samples_has_no_output() -> None:
    assert SparseLinear(3, 2)([]).shape == (0, 2)


def test_keys_that_start_at_zero_are_named_without_an_option_that_was_not_used() -> None:
    with pytest.raises(IndexError, match="indices start at 0 and end at 2"):
        IndexLinear(3, 2, offset=0)([torch.tensor([7]), torch.ones(1)])


def test_a_layer_without_bias_runs() -> None:
    layer = NormalizedLinearNoBias(3, 2, bias=False)
    assert layer(torch.ones(1, 3)).shape == layer.eval()(torch.ones(1, 3)).shape == (1, 2)


def test_a_scale_may_start_at_zero() -> None:
    crop = to_torch(lua("nn.SpatialUniformCrop", oheight=4, owidth=4, scale=LuaTable({"min": 0, "max": 1})))
    assert crop.scale == (0, 1)


def test_a_module_in_bfloat16_is_exported_in_a_type_of_torch7() -> None:
    assert to_lua(DontCast(nn.Linear(2, 2).bfloat16(), castin=True))["moduleType"] == "torch.FloatTensor"


@pytest.mark.parametrize(
    ("layer", "class_name"),
    [
        (nn.PixelUnshuffle(2), "nn.PixelSort"),
        (nn.FractionalMaxPool2d(2, output_size=3), "nn.SpatialFractionalMaxPooling"),
        (nn.FractionalMaxPool3d(2, output_ratio=0.5), "nn.VolumetricFractionalMaxPooling"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_layers_that_torch7_has_are_exported(layer: nn.Module, class_name: str) -> None:
    obj = to_lua(layer)
    assert obj.class_name == class_name
    assert repr(to_torch(obj)) == repr(layer)


def test_all_tensors_are_created_on_the_device() -> None:
    network = nn.Sequential(ParallelTable(nn.Identity(), LookupTable(4, 3)))
    layers = [
        NCEModule(3, 4, 2, torch.ones(4), device="meta"),
        PartialLinear(network, 4, device="meta"),
        SoftMaxTree(3, torch.ones(3, 2), torch.ones(1, 2), 1, 2, 1, 2, device="meta"),
        HSM(torch.tensor([[1, 1], [1, 2]]), 3, device="meta"),
    ]
    for layer in layers:
        own = [*layer.parameters(recurse=False), *layer.buffers(recurse=False)]
        assert {tensor.device.type for tensor in own} == {"meta"}, layer
