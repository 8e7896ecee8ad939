"""Classes that no fixture of Torch7 holds, checked by what their Lua sources compute."""

from __future__ import annotations

import torch
from formula import agree, converted, linear, lua, random
from torch.nn import functional as F

from dpnn_bridge.conversion import to_torch
from dpnn_bridge.objects import LuaTable, LuaTensor


def test_captions_are_judged_word_by_word() -> None:
    """The mean over words and the first empty place, which counts as the last class; Torch7's loop, written out."""
    scores, target = random(4, 2, 6).log_softmax(2), torch.tensor([[1.0, 5], [3, 0]])
    picked = [scores[1, 0, 0], scores[2, 0, 2], scores[3, 0, 5], scores[1, 1, 4], scores[2, 1, 5]]
    agree(converted(lua("nn.LanguageModelCriterion"))(scores, target), -sum(picked) / 5)


def test_a_caption_starts_with_the_image() -> None:
    core = lua("nn.ConcatTable", lua("nn.CAddTable", inplace=False), lua("nn.CAddTable", inplace=False))
    table = lua("nn.LookupTable", weight=random(4, 3))
    obj = lua(
        "nn.LanguageModel", core=core, lookup_table=table, vocab_size=3, seq_length=1, num_state=1, rnn_size=3,
        init_state=LuaTable(),
    )  # fmt: skip
    images, words = random(2, 3, seed=1), torch.tensor([[2, 1]])
    weight = table["weight"].torch()
    states = torch.stack([images, weight[3] + torch.zeros(2, 3), weight[[1, 0]]]).cumsum(0)
    agree(to_torch(obj)([images, words]), states)


def test_memory_runs_over_the_frames_of_each_video() -> None:
    net = lua("nn.ConcatTable", lua("nn.CAddTable", inplace=False))
    module = converted(lua("nn.STMM", net=net, N=2, T=3, D=1, M=1))
    x = random(2, 3, 1, 2, 2)
    before = torch.cat([x[:, :1], x[:, :-1]], 1)
    agree(module(x.flatten(0, 1)), (x + before).cumsum(1).flatten(0, 1))


def encoder(weight: LuaTensor, name: str = "onmt.Encoder") -> object:
    """Adds the state and the embedded word."""
    embedded = lua("nn.Sequential", lua("nn.SelectTable", index=2), lua("nn.LookupTable", weight=weight.torch()))
    step = lua("nn.ConcatTable", lua("nn.SelectTable", index=1), embedded)
    return lua(name, lua("nn.Sequential", step, lua("nn.CAddTable", inplace=False)), args=sizes())


def sizes(**others: object) -> LuaTable:
    return LuaTable({"numStates": 1, "rnnSize": 3, **others})


def test_a_sentence_is_read_both_ways() -> None:
    table = LuaTensor.from_numpy(random(5, 3).numpy())
    both = lua("onmt.BiEncoder", encoder(table), encoder(table), args=LuaTable({"brnn_merge": "concat"}))
    words = torch.tensor([[1, 2], [3, 4]])
    states, context = to_torch(both)([words, torch.tensor([2, 2])])
    vectors = table.torch()[words - 1]
    forwards, backwards = vectors.cumsum(0), vectors.flip(0).cumsum(0).flip(0)
    agree(context, torch.cat([forwards, backwards], 2).transpose(0, 1))
    agree(states[0], torch.cat([forwards[-1], backwards[0]], 1))


def test_a_decoder_goes_on_from_the_encoder() -> None:
    table = LuaTensor.from_numpy(random(5, 3).numpy())
    embedded = lua("nn.Sequential", lua("nn.SelectTable", index=2), lua("nn.LookupTable", weight=table.torch()))
    state = lua("nn.Sequential", lua("nn.ConcatTable", lua("nn.SelectTable", index=1), embedded), lua("nn.CAddTable"))
    step = lua("nn.Sequential", state, lua("nn.ConcatTable", lua("nn.Identity"), lua("nn.Identity")))
    decoder = lua("onmt.Decoder", step, linear(3, 4), args=sizes(inputFeed=0))
    model = to_torch(lua("onmt.Seq2Seq", encoder=encoder(table), decoder=decoder))
    source, target = torch.tensor([[1, 2], [3, 4]]), torch.tensor([[5, 1], [2, 2]])
    outputs = model([source, torch.tensor([2, 2]), target])
    vectors = table.torch()
    states = vectors[source - 1].sum(0) + vectors[target - 1].cumsum(0)
    for output, expected in zip(outputs, states, strict=True):
        agree(output, F.linear(expected, random(4, 3), random(4, seed=1)))


def test_normalization_of_fbnn_keeps_the_inverse_deviation() -> None:
    std = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    fields = {"running_mean": random(3), "running_std": std, "eps": 1e-3, "momentum": 0.1, "affine": False}
    module = to_torch(lua("fbnn.BatchNormalization", train=False, **fields))
    x = random(4, 3, seed=1)
    agree(module(x), (x - random(3)) * std)


def test_convolution_of_fbnn_names_its_padding() -> None:
    fields = {"inputPlanes": 2, "outputPlanes": 3, "kH": 3, "kW": 2, "padUp": 1, "padLeft": 0}
    module = converted(lua("fbnn.SpatialConvolution", weight=random(3, 2, 3, 2), bias=random(3), **fields))
    x = random(1, 2, 5, 5, seed=1)
    agree(module(x), F.conv2d(x, random(3, 2, 3, 2), random(3), padding=(1, 0)))


def test_convolution_of_fbcunn_keeps_frames_apart() -> None:
    weight = random(3, 2, 4)  # outputs, frames, inputs
    fields = {"inputFrameSize": 4, "outputFrameSize": 3, "kW": 2, "dW": 1}
    module = converted(lua("nn.TemporalConvolutionFB", weight=weight, bias=random(3), **fields))
    x = random(2, 5, 4, seed=1)
    expected = torch.einsum("ntki,oki->nto", x.unfold(1, 2, 1).transpose(2, 3), weight) + random(3)
    agree(module(x), expected)


def test_a_relu_with_another_threshold() -> None:
    """``nn.ReLU`` inherits the computation of ``nn.Threshold``, and so its fields."""
    x = random(3, 4)
    agree(converted(lua("nn.ReLU", threshold=0.5, val=-1, inplace=False))(x), torch.where(x > 0.5, x, -1))
    agree(converted(lua("nn.ReLU", threshold=0, val=0, inplace=False))(x), x.clamp(min=0))
