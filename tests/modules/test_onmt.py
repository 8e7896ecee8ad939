"""OpenNMT: files of all versions, features, padding, bridges, and models that OpenNMT can load."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import FIXTURES
from formula import agree, linear, lua, random
from standalone import executed
from torch import Tensor, nn

import dpnn_bridge
from dpnn_bridge import training
from dpnn_bridge.conversion import to_lua, to_torch
from dpnn_bridge.modules.nn.container import ConcatTable
from dpnn_bridge.objects import LuaObject, LuaTable
from dpnn_bridge.outputs import ExportContext
from dpnn_bridge.outputs.py import program
from dpnn_bridge.zoo import onmt, onmt_model


def identity() -> LuaObject:
    return lua("nn.Identity")


def fixture(name: str) -> LuaObject:
    content = dpnn_bridge.read_t7(FIXTURES / f"third/onmt/{name}.t7")
    assert isinstance(content, LuaTable)
    return content["module"]


# ---------------------------------------------------------------------- attention
def attention(**fields: Any) -> LuaObject:
    """The softmax of a decoder that saw sentences of 4, 2 and 3 words before it was saved."""
    obj = fixture("onmt.MaskedSoftmax/onmt.MaskedSoftmax__left_pad__double_train")
    for name, value in fields.items():
        obj[name] = value
    return obj


def test_a_decoder_from_a_file_forgets_the_mask_of_its_last_batch() -> None:
    module, scores = to_torch(attention(name="softmaxAttn")), random(2, 6)
    agree(module(scores), scores.softmax(1))
    again = to_lua(module)
    assert (again.class_name, again["name"], again["net"].class_name) == (
        "onmt.MaskedSoftmax",
        "softmaxAttn",
        "nn.SoftMax",
    )
    agree(to_torch(again)(scores), scores.softmax(1))
    with pytest.raises(IndexError):  # a softmax alone keeps it
        to_torch(attention())(scores)


def test_a_decoder_masks_the_padding_of_every_batch() -> None:
    first = lua("nn.Select", dimension=3, index=1)
    scores = lua("nn.Sequential", lua("nn.SelectTable", index=3), first, attention(name="softmaxAttn"))
    step = lua("nn.ConcatTable", lua("nn.SelectTable", index=1), scores)
    args = LuaTable({"numStates": 1, "rnnSize": 3, "inputFeed": False})
    decoder: Any = to_torch(lua("onmt.Decoder", step, identity(), args=args))
    context, words = random(2, 5, 3), torch.ones(1, 2, dtype=torch.long)
    for lengths in ([5, 5], [3, 4]):
        (weights,) = decoder([words, [torch.zeros(2, 3)], context, torch.tensor(lengths)])
        for row, length, found in zip(context[..., 0], lengths, weights, strict=True):
            expected = torch.cat([torch.zeros(5 - length), row[5 - length :].softmax(0)])
            torch.testing.assert_close(found, expected)  # OpenNMT divides by the sum plus 1e-10


# ---------------------------------------------------------------------- inputs
class Noted(nn.Module):
    """A step that notes the word it is given, and adds 1 to its states."""

    def __init__(self, states: int) -> None:
        super().__init__()
        self.words: list[Any] = []
        self.states = states
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, input: list[Any]) -> list[Tensor]:
        self.words.append(input[self.states])
        return [state + 1 for state in input[: self.states]]


@pytest.mark.parametrize("features", [0, 1, 2])
def test_features_of_a_word_come_as_opennmt_passes_them(features: int) -> None:
    step, words = Noted(1), torch.arange(3)[:, None]
    others = [words + 10 * i for i in range(1, features + 1)]
    onmt_model.Encoder(step, 1, 2)([[words, *others] if others else words, torch.tensor([3])])
    second: Any = step.words[1]
    if not features:
        assert second.tolist() == [1]
        return
    word, rest = second
    assert word.tolist() == [1]
    if features == 1:
        assert rest.tolist() == [11]
    else:
        assert [f.tolist() for f in rest] == [[11], [21]]


def test_a_decoder_without_a_bridge_starts_from_zeros() -> None:
    bridge = to_torch(fixture("onmt.Bridge/onmt.Bridge__none__double_structure"))
    step, seen = Noted(2), []
    step.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    encoder = onmt_model.Encoder(Noted(2), 2, 3)
    decoder = onmt_model.Decoder(step, nn.Identity(), 2, 3, input_feed=False)
    words = torch.ones(1, 2, dtype=torch.long)
    onmt_model.Seq2Seq(encoder, decoder, bridge)([words, torch.tensor([1, 1]), words])
    first, second = seen[0][:2]
    assert first.shape == second.shape == (2, 3)
    assert not first.any()


# ---------------------------------------------------------------------- files
def test_embeddings_of_2017_are_fixed_where_their_gradient_is_missing() -> None:
    obj = fixture("onmt.WordEmbedding/onmt.WordEmbedding__fixed__double_structure")
    obj.fields.pop("fix")
    module: Any = to_torch(obj)
    assert module.fix is True
    assert not module[0].weight.requires_grad
    assert training.parameters(module) == ([], [])
    trained = fixture("onmt.WordEmbedding/onmt.WordEmbedding__plain__double_train")
    for name in ("fix", "net"):  # the table of modules is enough
        trained.fields.pop(name)
    assert to_torch(trained).fix is False


def test_a_new_model_has_what_opennmt_loads() -> None:
    forwards, backwards = (onmt_model.Encoder(nn.Linear(3, 3), 2, 3) for _ in range(2))
    args = to_lua(onmt_model.BiEncoder(forwards, backwards, "concat"))["args"]
    assert dict(args) == {"brnn_merge": "concat", "numStates": 2, "rnn_size": 3, "hiddenSize": 6}
    assert to_lua(onmt_model.BiEncoder(forwards, backwards, "sum"))["args"]["hiddenSize"] == 3
    generator = onmt.Generator(ConcatTable(nn.Linear(3, 5)))
    for input_feed in (True, False):
        args = to_lua(onmt_model.Decoder(nn.Linear(3, 3), generator, 2, 3, input_feed))["args"]
        assert args["inputFeed"] is input_feed  # in Lua 0 is true
        expected = {"x": 3, "context": 4, "inputFeed": 5} if input_feed else {"x": 3, "context": 4}
        assert dict(args["inputIndex"]) == expected
    assert "version" not in to_lua(onmt.Generator())
    assert to_lua(generator)["version"] == 2  # without it OpenNMT takes the network for one of 2016
    assert to_lua(onmt.PositionEmbedding(5, 3))["dimension"] == 2


def sequence(*modules: LuaObject) -> LuaObject:
    return lua("nn.Sequential", *modules)


def test_generators_of_2016_return_words_and_features() -> None:
    words = sequence(linear(4, 5), lua("nn.LogSoftMax"))
    inner = lua("onmt.Generator", net=words, modules=LuaTable.from_list([words]))
    branches = [sequence(inner, lua("nn.SelectTable", index=1)), sequence(linear(4, 3), lua("nn.LogSoftMax"))]
    net = lua("nn.ConcatTable", *branches)
    obj = lua("onmt.FeaturesGenerator", net=net, modules=LuaTable.from_list([net]))
    module, x = to_torch(obj), random(2, 4)
    expected = [to_torch(branch)(x) for branch in (words, branches[1])]
    again = to_lua(module)
    for generator in (module, to_torch(again)):
        for output, value in zip(generator(x), expected, strict=True):
            agree(output, value)
    assert again["version"] == 2
    assert [m.class_name for m in again["net"]["modules"].as_list()] == ["nn.Sequential"] * 2
    assert again["net"]["modules"][1]["modules"][1].class_name == "nn.Linear"


# ---------------------------------------------------------------------- other formats
def attending_decoder() -> Any:
    """Attends from its state, which stays as it is."""
    attention = fixture("onmt.GlobalAttention/onmt.GlobalAttention__dot__float_train")
    both = lua("nn.ConcatTable", lua("nn.SelectTable", index=1), lua("nn.SelectTable", index=3))
    step = lua("nn.ConcatTable", lua("nn.SelectTable", index=1), lua("nn.Sequential", both, attention))
    args = LuaTable({"numStates": 1, "rnnSize": 4, "inputFeed": False})
    return to_torch(lua("onmt.Decoder", step, identity(), args=args)).double()


def test_python_source_masks_the_padding() -> None:
    decoder = attending_decoder()
    built = executed(program.Program(decoder, ExportContext()).text()).build()
    built.load_state_dict(decoder.state_dict())
    given: Any = [torch.ones(1, 2, dtype=torch.long), [random(2, 4)], random(2, 3, 4, seed=1)]
    padded, whole = ([*given, torch.tensor(lengths)] for lengths in ([3, 1], [3, 3]))
    assert not decoder(padded)[0].equal(decoder(whole)[0])
    for input in (padded, whole):
        agree(built(input)[0], decoder(input)[0])


@pytest.mark.parametrize("suffix", ["pt", "t7", "safetensors"])
def test_a_model_with_a_bridge_can_be_saved(suffix: str, tmp_path: Path) -> None:
    word = sequence(lua("nn.SelectTable", index=2), lua("nn.LookupTable", weight=random(5, 4)))
    step = sequence(lua("nn.ConcatTable", lua("nn.SelectTable", index=1), word), lua("nn.CAddTable", inplace=False))
    encoder = lua("onmt.Encoder", step, args=LuaTable({"numStates": 1, "rnnSize": 4}))
    bridge = fixture("onmt.Bridge/onmt.Bridge__copy__float_train")
    decoder = to_lua(attending_decoder())
    model = to_torch(lua("onmt.Seq2Seq", encoder=encoder, decoder=decoder, bridge=bridge))
    words = torch.tensor([[1, 2], [3, 4]])
    input = [words, torch.tensor([2, 1]), words]
    dpnn_bridge.save(tmp_path / f"model.{suffix}", model)
    again = dpnn_bridge.load(tmp_path / f"model.{suffix}")
    for output, expected in zip(again(input), model(input), strict=True):
        agree(output, expected)


def test_threads_mask_their_own_padding() -> None:
    decoder, other = attending_decoder(), []
    given: Any = [torch.ones(1, 2, dtype=torch.long), [random(2, 4)], random(2, 3, 4, seed=1)]
    padded, whole = ([*given, torch.tensor(lengths)] for lengths in ([3, 1], [3, 3]))
    expected = [decoder(input)[0] for input in (padded, whole)]

    def run_in_thread(module: nn.Module, args: Any) -> None:
        hook.remove()
        with ThreadPoolExecutor(1) as pool:
            other.append(pool.submit(decoder, whole).result()[0])

    hook = decoder.step.register_forward_pre_hook(run_in_thread)
    agree(decoder(padded)[0], expected[0])
    agree(other[0], expected[1])
