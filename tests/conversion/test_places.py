"""Lua paths and names lead to modules; containers index and slice; Lua's names of settings work."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from formula import lua
from samples import SAMPLES
from torch import nn

import dpnn_bridge
from dpnn_bridge import lua_names, lua_paths, model_at, to_lua, to_torch
from dpnn_bridge.errors import ModelNotFoundError
from dpnn_bridge.modules.dpnn.nce import NCEModule
from dpnn_bridge.modules.nn.container import Concat, ConcatTable, Container, MapTable
from dpnn_bridge.modules.nn.criterion_classification import ClassNLLCriterion
from dpnn_bridge.modules.nn.lookup import LookupTable


@pytest.fixture(scope="module")
def rnn() -> Any:
    return dpnn_bridge.load(SAMPLES / "char-rnn__lstm" / "model.t7", key="protos.rnn")


@pytest.mark.parametrize("name", ["char-rnn__lstm", "rnn__recurrent-visual-attention", "torch-rnn__lstm"])
def test_every_module_has_a_path_that_leads_back(name: str) -> None:
    model = dpnn_bridge.load(SAMPLES / name / "model.t7")
    paths = list(lua_paths(model))
    assert paths[0] == ("", model)
    for path, module in paths[1:]:
        assert model_at(model, path) is module
    assert len({id(m) for _, m in paths}) >= 0.9 * len(list(model.modules()))


def test_lua_counts_from_1() -> None:
    model = dpnn_bridge.load(SAMPLES / "torch-demos__mnist_convnet" / "model.t7")
    assert model_at(model, "modules[4]") is model_at(model, "3") is model[3]  # type: ignore[index]
    assert model_at(model, "['modules'][4]") is model[3]  # type: ignore[index]
    with pytest.raises(ModelNotFoundError, match=r"no module at 'modules\[44\]'; did you mean modules\[4\]"):
        model_at(model, "modules[44]")
    with pytest.raises(ModelNotFoundError, match=r"no module at 'modules\[0\]'; indices in a path start at 1"):
        model_at(model, "modules[0]")
    with pytest.raises(ModelNotFoundError, match="lua_names and lua_paths list all"):
        model_at(model, "pool")
    with pytest.raises(ModelNotFoundError):
        model_at(model, "modules")


def test_names_given_in_lua() -> None:
    obj = to_lua(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()))
    obj["modules"][1]["name"], obj["modules"][2]["name"] = "conv4_1", "relu4_1"
    model = to_torch(obj)
    assert model_at(model, "relu4_1") is model[1]  # type: ignore[index]
    assert list(lua_names(model)) == ["conv4_1", "relu4_1"]
    assert to_lua(model)["modules"][2]["name"] == "relu4_1"
    with pytest.raises(ModelNotFoundError, match="did you mean relu4_1"):
        model_at(model, "relu4_2")


def test_names_of_graph_nodes(rnn: Any) -> None:
    assert isinstance(model_at(rnn, "i2h_1"), nn.Linear)
    assert model_at(rnn, "decoder") in set(rnn.modules())


def test_graphs_and_containers_index_like_sequential(rnn: Any) -> None:
    assert (rnn[0], rnn[-1]) == (rnn.get_submodule("0"), list(rnn)[-1])
    assert isinstance(rnn[1:3], nn.ModuleList)
    assert len(rnn[1:3]) == 2
    assert len(list(rnn)) == len(rnn) == len(to_lua(rnn)["modules"])
    container = Container(nn.ReLU(), nn.Tanh())
    assert (len(container), container[1]) == (2, list(container)[1])
    x = torch.randn(3, 2)
    concat = Concat(nn.Linear(2, 2), nn.ReLU(), nn.Tanh(), dimension=2)
    torch.testing.assert_close(concat[:2](x), torch.cat([concat[0](x), concat[1](x)], 1))
    assert concat[0:1][0] is concat[0]
    assert len(concat) == 3
    assert MapTable(nn.ReLU(), shared=False)[:1].shared is False
    assert isinstance(ConcatTable(nn.ReLU(), nn.Tanh())[1:], ConcatTable)
    part = to_torch(to_lua(concat))[1:]  # type: ignore[index]
    assert len(to_lua(part)["modules"]) == 2


def test_luas_names_of_settings_work() -> None:
    module: Any = NCEModule(4, 5, 3, torch.ones(5), normalized=True).eval()
    assert module([torch.randn(2, 4), torch.tensor([1, 2])]).sum(1).allclose(torch.ones(2))
    module.logsoftmax = True
    assert module.log_softmax is module.logsoftmax is True
    assert module([torch.randn(2, 4), torch.tensor([1, 2])]).exp().sum(1).allclose(torch.ones(2))
    assert to_lua(module)["logsoftmax"] is True


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        (LookupTable(3, 2), (torch.tensor([0, 1]),)),
        (ClassNLLCriterion(), (torch.randn(2, 3).log_softmax(1), torch.tensor([0, 1]))),
        (NCEModule(4, 5, 3, torch.ones(5)), ([torch.randn(2, 4), torch.tensor([0, 1])],)),
    ],
)
def test_wrong_index_says_where_counting_starts(module: nn.Module, arguments: tuple[Any, ...]) -> None:
    with pytest.raises(IndexError, match=r"start at 1, as in Lua.*index_base=0"):
        module(*arguments)


def test_an_object_without_a_module_of_its_own_has_no_place() -> None:
    criterion = to_torch(lua("nn.CrossEntropyCriterion", nll=lua("nn.ClassNLLCriterion", sizeAverage=True)))
    assert [path for path, _ in lua_paths(criterion)] == [""]
    with pytest.raises(ModelNotFoundError):
        model_at(criterion, "nll")
