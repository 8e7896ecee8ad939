"""One name, several classes: the fields decide. And third-party classes that no fixture holds."""

from __future__ import annotations

import copy
import io
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dpnn_bridge import training
from dpnn_bridge.checkpoints.find import candidates
from dpnn_bridge.conversion import registry, to_lua, to_torch
from dpnn_bridge.errors import ConversionError
from dpnn_bridge.modules.cuda import cudnn_rnn, parallel
from dpnn_bridge.modules.nn import table
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor
from dpnn_bridge.zoo import captioning, onmt, onmt_model, torch_rnn
from dpnn_bridge.zoo.encoding import Encoding


def tensor(*shape: int, seed: int = 0) -> LuaTensor:
    return LuaTensor.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def lua(class_name: str, **fields: Any) -> LuaObject:
    return LuaObject(class_name, LuaTable({"_type": "torch.FloatTensor", **fields}))


def linear(inputs: int, outputs: int, seed: int = 0) -> LuaObject:
    return lua("nn.Linear", weight=tensor(outputs, inputs, seed=seed), bias=tensor(outputs, seed=seed + 1))


@pytest.mark.parametrize(
    ("class_name", "fields", "expected"),
    [
        ("nn.LSTM", ("hidden_dim",), "LSTM.Lua"),
        ("nn.LanguageModel", ("rnns",), "LanguageModel.Lua"),
        ("nn.LanguageModel", ("image_encoder", "view_in"), "DenseCapLanguageModel.Lua"),
        ("nn.LanguageModel", ("core", "init_state"), "NeuralTalkLanguageModel.Lua"),
        ("nn.ModelParallelTable", ("dimension",), "ModelParallelTable.Lua"),
        ("nn.ModelParallelTable", ("nResFunc",), "ParallelBranches.Lua"),
    ],
)
def test_fields_decide_which_class_it_is(class_name: str, fields: tuple[str, ...], expected: str) -> None:
    mapping = registry.find(lua(class_name, **dict.fromkeys(fields, LuaTable())))
    assert mapping is not None
    assert mapping.__qualname__ == expected


def test_an_unknown_variant_is_unknown() -> None:
    assert registry.find(lua("nn.LanguageModel", something=1)) is None


# ---------------------------------------------------------------------- several GPUs
def data_parallel(version: int) -> LuaObject:
    gpus = LuaTable.from_list([1, 2])
    table = lua("nn.DataParallelTable", modules=LuaTable.from_list([linear(3, 2), linear(3, 2)]), dimension=1)
    table["gpuAssignments"], table.version = gpus, version
    table["impl"] = LuaObject("nn.DataParallelTable.Basic", LuaTable({"dpt": table}))
    table["flattenedParams"] = LuaTable.from_list([LuaTable.from_list([tensor(8), tensor(8)])])
    if version >= 2:
        table.header = (gpus,)
    return table


@pytest.mark.parametrize("version", [1, 2])
def test_data_parallel_table_is_its_first_replica(version: int) -> None:
    obj = data_parallel(version)
    module: Any = to_torch(obj)
    x = torch.randn(4, 3)
    assert isinstance(module, parallel.DataParallelTable)
    assert torch.equal(module(x), to_torch(obj["modules"][1])(x))
    assert len(training.parameters(module)[0]) == 2


def test_data_parallel_table_is_written_back_without_what_torch7_derives() -> None:
    back = to_lua(to_torch(data_parallel(1)))
    assert back.version == 2
    assert back.header[0].as_list() == [1, 2] == back["gpuAssignments"].as_list()
    assert len(back["modules"]) == 1
    assert not {"impl", "flattenedParams"} & set(back)


def test_data_parallel_of_fbcunn_keeps_one_replica() -> None:
    obj = lua(
        "nn.DataParallel",
        modules=LuaTable.from_list([linear(3, 2), linear(3, 2)]),
        gpu_assignments=LuaTable.from_list([1, 2]),
        dimension=1,
    )
    back = to_lua(to_torch(obj))
    assert len(back["modules"]) == len(back["gpu_assignments"]) == 1


def test_model_parallel_table_joins_nested_outputs() -> None:
    members = LuaTable.from_list([linear(3, 2), linear(3, 2, seed=5)])
    module: Any = to_torch(lua("nn.ModelParallelTable", modules=members, dimension=2))
    x = torch.randn(4, 3)
    assert torch.equal(module(x), torch.cat([m(x) for m in module], 1))
    assert [t.shape for t in module._joined([[x, x], [x, x]])] == [(4, 6), (4, 6)]


def test_parallel_branches_are_summed() -> None:
    branches = lua("nn.Sequential", modules=LuaTable.from_list([linear(3, 3, seed=s) for s in range(3)]))
    module: Any = to_torch(lua("nn.ModelParallelTable", modules=LuaTable.from_list([branches]), nResFunc=2, nGpus=2))
    x = torch.randn(4, 3)
    torch.testing.assert_close(module(x), sum(branch(x) for branch in module[0]))


# ---------------------------------------------------------------------- cuDNN
def cudnn_lstm(**changes: Any) -> LuaObject:
    size = 4 * 4 * (3 + 4 + 2)
    fields = {"inputSize": 3, "hiddenSize": 4, "numLayers": 1, "mode": "CUDNN_LSTM", "weight": tensor(size)}
    return lua("cudnn.LSTM", **{**fields, **changes})


def test_cudnn_layer_remembers_states() -> None:
    module: Any = to_torch(cudnn_lstm(rememberStates=True))
    x = torch.randn(6, 2, 3)
    whole = to_torch(cudnn_lstm())(x)
    torch.testing.assert_close(torch.cat([module(x[:2]), module(x[2:])]), whole)
    restored = to_torch(to_lua(module))
    torch.testing.assert_close(restored(x), module(x))
    module.reset_states()
    torch.testing.assert_close(module(x), whole)


def test_cudnn_layer_starts_from_given_states() -> None:
    module: Any = to_torch(cudnn_lstm(hiddenInput=tensor(1, 2, 4), cellInput=tensor(1, 2, 4, seed=1)))
    x = torch.randn(5, 2, 3)
    torch.testing.assert_close(module(x), module.rnn(x, (module.hidden_input, module.cell_input))[0])


def test_cudnn_layer_takes_packed_sequences() -> None:
    module: Any = to_torch(cudnn_lstm())
    long, short = torch.randn(3, 3), torch.randn(1, 3)
    packed = torch.cat([long[:1], short, long[1:]])
    output = module([packed, [2, 1, 1]])
    torch.testing.assert_close(output[[0, 2, 3]], module(long.unsqueeze(1))[:, 0])
    torch.testing.assert_close(output[1:2], module(short.unsqueeze(1))[:, 0])


def test_cudnn_layer_without_input_matrix_adds_its_input() -> None:
    weight = tensor(4 * 4 + 2 * 4)
    module: Any = to_torch(cudnn_lstm(inputSize=4, mode="CUDNN_RNN_TANH", inputMode="CUDNN_SKIP_INPUT", weight=weight))
    x = torch.randn(1, 2, 4)
    expected = torch.tanh(x + weight.torch()[16:20] + weight.torch()[20:])
    torch.testing.assert_close(module(x), expected)
    assert torch.equal(training.parameters(module)[0][0], weight.torch())


def test_cudnn_layer_of_the_wrong_size_is_refused() -> None:
    with pytest.raises(ConversionError, match="expected a flat weight with 144 elements, found 10"):
        to_torch(cudnn_lstm(weight=tensor(10)))


def test_deepspeech_layer_follows_the_size_of_its_input() -> None:
    view_in, view_out = lua("nn.View", size=tensor(2)), lua("nn.View", size=tensor(2))
    rnn = cudnn_lstm(inputSize=3)
    modules = LuaTable.from_list([view_in, linear(5, 3), view_out, rnn])
    obj = lua("cudnn.BatchBRNNReLU", modules=modules, view_in=view_in, view_out=view_out, rnn=rnn)
    for view in (view_in, view_out):
        view["size"], view["numElements"] = _sizes(1, -1), 1
    module: Any = to_torch(obj)
    assert isinstance(module, cudnn_rnn.BatchBRNN)
    for T, N in ((4, 2), (3, 5)):
        x = torch.randn(T, N, 5)
        torch.testing.assert_close(module(x), module[3](module[1](x)))


def _sizes(*sizes: int) -> Any:
    from dpnn_bridge.conversion.lua_class import size_storage

    return size_storage(sizes)


# ---------------------------------------------------------------------- layers that no fixture holds
def test_repeated_features() -> None:
    module: Any = to_torch(lua("nn.FeatExpander", n=3))
    x = torch.randn(2, 4)
    assert torch.equal(module(x), x[[0, 0, 0, 1, 1, 1]])


def test_caption_loss_counts_words_and_one_end() -> None:
    criterion = captioning.LanguageModelCriterion()
    log_p = torch.randn(5, 2, 4).log_softmax(-1)
    target = torch.tensor([[3, 1], [2, 0], [0, 0]])
    picked = [log_p[1, 0, 2], log_p[2, 0, 1], log_p[3, 0, 3], log_p[1, 1, 0], log_p[2, 1, 3]]
    torch.testing.assert_close(criterion(log_p, target), -torch.stack(picked).mean())


def test_tensor_product() -> None:
    module: Any = to_torch(lua("nn.TensorProd", weight=tensor(2, 3, 4), bias=tensor(2)))
    a, b = torch.randn(5, 3), torch.randn(5, 4)
    expected = torch.stack([((a @ w) * b).sum(1) for w in module.weight], 1) + module.bias
    torch.testing.assert_close(module([a, b]), expected)
    torch.testing.assert_close(module([a[0], b[0]]), expected[0])


def test_division_by_a_number() -> None:
    module: Any = to_torch(lua("nn.ScalarDivTable"))
    torch.testing.assert_close(module([torch.tensor([2.0, 4.0]), torch.tensor([4.0])]), torch.tensor([0.5, 1.0]))


def test_encoding_draws_its_parameters_within_the_bounds_of_its_lua_source() -> None:
    drawn = Encoding(100, 4)
    for parameter, bound in ((drawn.weight, 0.05), (drawn.bias, 0.1)):
        assert 0.8 * bound < parameter.max() <= bound
        assert -bound <= parameter.min() < -0.8 * bound


def test_shake_shake_block_in_evaluation_is_the_mean_of_its_branches() -> None:
    def net(seed: int) -> LuaObject:
        scale = lua("nn.MulConstant", constant_scalar=0.5, inplace=False)
        return lua("nn.Sequential", modules=LuaTable.from_list([linear(3, 3, seed), scale]))

    flags = dict.fromkeys(("forwardShake", "backwardShake", "shakeImage"), "true")
    block = lua("nn.ShakeShakeBlock", net1=net(0), net2=net(3), skip=lua("nn.Identity"), batchSize=2, **flags)
    module: Any = to_torch(block).eval()
    x = torch.randn(2, 3)
    torch.testing.assert_close(module(x), x + module.net1(x) + module.net2(x))
    module.train()
    gradient = torch.autograd.grad(module(x.requires_grad_()).sum(), x)[0]
    assert gradient.shape == x.shape


def test_caption_pooling_keeps_order() -> None:
    module: Any = to_torch(lua("nn.KMaxPooling", k=2, k_dynamic=-1))
    x = torch.tensor([[1.0, 9.0], [5.0, 2.0], [3.0, 4.0]])
    assert torch.equal(module(x), torch.tensor([[5.0, 9.0], [3.0, 4.0]]))
    group: Any = to_torch(lua("nn.GroupKMaxPooling", k=2, k_dynamic=-1))
    assert torch.equal(group(x), x[:2])


def test_stochastic_pooling_picks_from_each_window_and_averages_in_evaluation() -> None:
    obj = lua("inn.SpatialStochasticPooling", kW=2, kH=2, dW=2, dH=2, train=True)
    module: Any = to_torch(obj)
    x = torch.rand(1, 2, 5, 4)
    y = module(x)
    assert y.shape == (1, 2, 3, 2)
    windows = nn.functional.pad(x, (0, 0, 0, 1)).unfold(2, 2, 2).unfold(3, 2, 2).flatten(-2)
    assert (windows == y.unsqueeze(-1)).any(-1).all()
    module.eval()
    torch.testing.assert_close(module(x), windows.square().sum(-1) / windows.sum(-1))


def test_ctc_loss_of_a_batch() -> None:
    criterion = to_torch(lua("nn.CTCCriterion", batchFirst=True))
    scores = torch.randn(2, 5, 4, requires_grad=True)
    loss = criterion(scores, [[[1, 2], [3]], torch.tensor([5, 4])])
    each = [
        nn.functional.ctc_loss(
            s[:n, None].log_softmax(-1), torch.tensor([t]), torch.tensor([n]), torch.tensor([len(t)]), reduction="sum"
        )
        for s, n, t in zip(scores, (5, 4), ([1, 2], [3]), strict=True)
    ]
    torch.testing.assert_close(loss, torch.stack(each).mean())
    (gradient,) = torch.autograd.grad(loss, scores)
    (of_sum,) = torch.autograd.grad(torch.stack(each).sum(), scores)
    torch.testing.assert_close(gradient, of_sum)  # warp-ctc's gradient is not divided by the batch


# ---------------------------------------------------------------------- OpenNMT
class Step(nn.Module):
    """A small recurrent step: new state from state and word."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.cell = nn.Embedding(9, 3), nn.GRUCell(3, 4)

    def forward(self, input: list[torch.Tensor]) -> torch.Tensor:
        state, word = input
        return self.cell(self.embedding(word), state)


def test_padding_on_the_left_makes_no_difference_to_an_encoder() -> None:
    encoder = onmt_model.Encoder(Step(), num_states=1, rnn_size=4)
    source = torch.tensor([[1, 4], [5, 3], [2, 7]])
    padded = torch.cat([torch.ones(2, 2, dtype=torch.long), source])
    states, context = encoder([source, torch.tensor([3, 3])])
    padded_states, padded_context = encoder([padded, torch.tensor([3, 3])])
    torch.testing.assert_close(padded_states, states)
    torch.testing.assert_close(padded_context[:, 2:], context)
    assert not padded_context[:, :2].any()


def test_bidirectional_encoder_reads_every_sentence_backwards() -> None:
    forward, backward = (onmt_model.Encoder(Step(), 1, 4) for _ in range(2))
    encoder = onmt_model.BiEncoder(forward, backward, "concat")
    source = torch.tensor([[1, 4], [5, 3], [2, 7]])  # the first sentence has two words
    (state,), context = encoder([source, torch.tensor([2, 3])])
    alone = torch.tensor([[5], [2]])
    (back,), back_context = backward([alone.flip(0), torch.tensor([2])])
    torch.testing.assert_close(state[:1, 4:], back)
    torch.testing.assert_close(context[:1, 1:, 4:], back_context.flip(1))


def onmt_table(name: str | None, *modules: nn.Module, **args: Any) -> LuaTable:
    """What OpenNMT's ``serialize()`` returns; files of 2016 lack the name."""
    fields = LuaTable({"args": LuaTable(args), "modules": LuaTable.from_list(map(to_lua, modules))})
    return LuaTable([*fields.items(), *([("name", name)] if name else [])])


@pytest.mark.parametrize("name", ["Encoder", None])
def test_language_model_predicts_after_every_word(name: str | None) -> None:
    step = nn.Sequential(table.SelectTable(1), nn.Linear(3, 3))  # the state alone
    encoder = onmt_table(name, step, numEffectiveLayers=1, rnnSize=3)
    generator = to_lua(onmt.Generator(nn.Linear(3, 5)))
    checkpoint = LuaTable({"models": LuaTable({"encoder": encoder, "generator": generator})})
    (candidate,) = candidates(checkpoint)
    assert candidate.key == "models"
    model = to_torch(candidate.obj)
    assert isinstance(model, onmt_model.SequenceModel)
    words = model([torch.ones(4, 2), torch.tensor([4, 4])])
    state = torch.zeros(2, 3)
    assert len(words) == 4
    for (word,) in words:
        state = step[1](state)
        torch.testing.assert_close(word, to_torch(generator)(state)[0])


def test_unknown_encoder_is_named() -> None:
    encoder = onmt_table("CNNEncoder", nn.Linear(1, 1))
    decoder = onmt_table("Decoder", nn.Linear(1, 1), nn.Linear(1, 1), numStates=1, rnnSize=1)
    (candidate,) = candidates(LuaTable({"models": LuaTable({"encoder": encoder, "decoder": decoder})}))
    with pytest.raises(ConversionError, match=r"onmt\.CNNEncoder"):
        to_torch(candidate.obj)


# ---------------------------------------------------------------------- states and copies
def test_torch_rnn_layer_goes_on_where_it_stopped() -> None:
    module = torch_rnn.LSTM(3, 4, remember_states=True).double()
    x = torch.randn(2, 6, 3, dtype=torch.float64)
    whole = torch_rnn.LSTM(3, 4).double()
    whole.load_state_dict(module.state_dict())
    torch.testing.assert_close(torch.cat([module(x[:, :2]), module(x[:, 2:])], 1), whole(x))
    with pytest.raises(ValueError, match="reset_states"):
        module(x[:1])


def test_pushed_value_survives_copies_of_the_network() -> None:
    push = lua("nn.PushTable", _index=2)
    pull = lua("nn.PullTable", _index=1, _push=push)
    push["_pulls"] = LuaTable.from_list([pull])
    select = lua("nn.SelectTable", index=1)
    module: Any = to_torch(lua("nn.Sequential", modules=LuaTable.from_list([push, select, pull])))
    x = [torch.randn(2, requires_grad=True), torch.randn(3, requires_grad=True)]
    expected = [x[1], x[0]]
    for network in (module, copy.deepcopy(module), _pickled(module), to_torch(to_lua(module))):
        with pytest.raises(RuntimeError, match="call its PushTable before"):
            network[2](x)
        assert [torch.equal(a, b) for a, b in zip(network(x), expected, strict=True)] == [True, True]


def _pickled(module: nn.Module) -> nn.Module:
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@pytest.mark.parametrize("index_base", [0, 1])
def test_look_up_table_with_features_first_and_an_unknown_word(index_base: int) -> None:
    obj = lua("nn.LookupTableGPU", weight=tensor(5, 3), nInput=5, nOutput=3, featuresInDim2=True, unk_index=2)
    module: Any = to_torch(obj, index_base=index_base)
    rows = torch.from_numpy(obj["weight"].numpy())
    zero = torch.zeros(3)
    words = torch.tensor([[1, 2], [5, 1]]) - 1 + index_base
    expected = torch.stack([torch.stack([rows[0], zero], 1), torch.stack([rows[4], rows[0]], 1)])
    assert torch.equal(module(words), expected)
    assert torch.equal(module(words[1]), rows[[4, 0]])
    module(words).sum().backward()
    assert torch.equal(module.weight.grad[:, 0], torch.tensor([2.0, 0, 0, 0, 1]))
    written = to_lua(module)
    assert isinstance(written, LuaObject)
    assert [written[name] for name in ("unk_index", "nInput", "featuresInDim2")] == [2, 5, True]
