"""Several models of equal rank in one file become one module, and one table again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

import dpnn_bridge
from dpnn_bridge.cli.convert import convert_command
from dpnn_bridge.errors import ConversionError, ModelNotFoundError
from dpnn_bridge.files import model_keys
from dpnn_bridge.loaders import dumps
from dpnn_bridge.modules.several import Models
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor


def tied() -> dict[str, nn.Module]:
    """Encoder, decoder and generator; the generator's weight is the decoder's."""
    torch.manual_seed(0)
    parts: dict[str, Any] = {"encoder": nn.Linear(3, 4), "decoder": nn.Linear(4, 2), "generator": nn.Linear(4, 2)}
    parts["generator"].weight = parts["decoder"].weight
    return parts


def as_lua(parts: dict[str, nn.Module]) -> list[LuaObject]:
    return dpnn_bridge.to_lua(nn.Sequential(*parts.values()))["modules"].as_list()


def as_table(parts: dict[str, nn.Module]) -> LuaTable:
    return LuaTable(zip(parts, as_lua(parts), strict=True))


def as_array(parts: dict[str, nn.Module]) -> LuaTable:
    return LuaTable.from_list([LuaTable.from_list(as_lua(parts)), LuaTable({"lr": 0.1})])


def as_project_class(parts: dict[str, nn.Module]) -> LuaObject:
    return LuaObject("chatbot.Seq2Seq", LuaTable([*as_table(parts).items(), ("goToken", 1)]))


def as_string(parts: dict[str, nn.Module]) -> LuaTable:
    return LuaTable({"epoch": 3, "state": dumps(as_table(parts)).decode("utf-8", "surrogateescape")})


FORMS = {
    as_table: ("encoder", "decoder", "generator"),
    as_array: ("[1][1]", "[1][2]", "[1][3]"),
    as_project_class: ("encoder", "decoder", "generator"),
    as_string: ("state.encoder", "state.decoder", "state.generator"),
}


@pytest.fixture(params=list(FORMS), ids=lambda form: form.__name__)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, dict[str, nn.Module], tuple[str, ...]]:
    parts = tied()
    dpnn_bridge.write_t7(tmp_path / "in.t7", request.param(parts))
    return tmp_path / "in.t7", parts, FORMS[request.param]


def equal(models: nn.Module, parts: dict[str, nn.Module], keys: tuple[str, ...]) -> None:
    assert isinstance(models, Models)
    assert set(models) == set(keys)
    for key, part in zip(keys, parts.values(), strict=True):
        x = torch.randn(2, part.in_features)  # type: ignore[call-overload]
        assert torch.equal(models[key](x), part(x))
    decoder, generator = (models[key] for key in keys[1:])
    assert decoder.weight is generator.weight


Case = tuple[Path, dict[str, nn.Module], tuple[str, ...]]


def test_one_module_holds_them_by_key(case: Case) -> None:
    path, parts, keys = case
    models = dpnn_bridge.load(path)
    equal(models, parts, keys)
    with pytest.raises(TypeError, match="several models"):
        models(torch.zeros(1))


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_one_file_holds_them(case: Case, suffix: str) -> None:
    path, parts, keys = case
    if suffix == ".safetensors":
        pytest.importorskip("safetensors", reason="optional extra is not installed")
    out = path.with_suffix(suffix)
    report = dpnn_bridge.convert(path, out)
    assert any("several models" in note for note in report.notes)
    equal(dpnn_bridge.load(out), parts, keys)
    assert isinstance(dpnn_bridge.load(out, key=keys[0]), nn.Linear)
    with pytest.raises(ModelNotFoundError, match="no entry at key"):
        dpnn_bridge.load(out, key="other")


def test_the_file_is_given_back_with_what_was_trained(case: Case) -> None:
    path, parts, keys = case
    models = dpnn_bridge.load(path)
    for model in (models, parts):
        tensors = model.values() if isinstance(model, dict) else [model]
        for p in {id(p): p for m in tensors for p in m.parameters()}.values():
            p.data.add_(1)
    dpnn_bridge.save(path.with_suffix(".pt"), models)
    dpnn_bridge.convert(path.with_suffix(".pt"), path.with_name("out.t7"))
    old, new = dpnn_bridge.read_t7(path), dpnn_bridge.read_t7(path.with_name("out.t7"))
    assert (type(old), list(old)) == (type(new), list(new))
    for key in ("goToken", "epoch"):
        assert old.get(key) == new.get(key)
    assert getattr(old, "class_name", "") == getattr(new, "class_name", "")
    equal(dpnn_bridge.load(path.with_name("out.t7")), parts, keys)


def test_one_can_be_chosen(case: Case) -> None:
    path, parts, keys = case
    assert set(model_keys(path)) == set(keys)
    chosen = dpnn_bridge.load(path, key=keys[1])
    x = torch.randn(2, 4)
    assert torch.equal(chosen(x), parts["decoder"](x))


def test_formats_of_one_model_refuse_them(case: Case) -> None:
    path, _, _ = case
    with pytest.raises(ConversionError, match="--key"):
        dpnn_bridge.convert(path, path.with_suffix(".py"))


def test_what_is_beside_them_comes_back(tmp_path: Path) -> None:
    parts = tied()
    root = as_table(parts)
    root["criterion"] = LuaObject("nn.UnknownCriterion", LuaTable({"gradInput": LuaTensor.empty()}))
    root["mean"] = LuaTensor.from_numpy(torch.ones(3).numpy())
    dpnn_bridge.write_t7(tmp_path / "in.t7", root)
    models = dpnn_bridge.load(tmp_path / "in.t7")
    again = dpnn_bridge.to_lua(models)
    assert again["criterion"].class_name == "nn.UnknownCriterion"
    assert again["mean"].torch().tolist() == [1, 1, 1]


def test_made_in_python(tmp_path: Path) -> None:
    models = Models({"encoder": nn.Linear(1, 2), "protos.cnn": nn.Linear(2, 1)})
    del models["encoder"]
    models["rnn"] = nn.Linear(3, 1)
    assert list(models.state_dict()) == ["protos/cnn.weight", "protos/cnn.bias", "rnn.weight", "rnn.bias"]
    table = dpnn_bridge.to_lua(models)
    assert {k: v.class_name for k, v in table.items()} == {"protos.cnn": "nn.Linear", "rnn": "nn.Linear"}


def test_tensor_type_reaches_all(case: Case) -> None:
    models = dpnn_bridge.load(case[0], dtype=torch.float64)
    assert {p.dtype for p in models.parameters()} == {torch.float64}
    assert isinstance(next(iter(models.values()))(torch.zeros(1, 3, dtype=torch.float64)), Tensor)


def test_keys_with_slashes_and_dots_are_different_keys(tmp_path: Path) -> None:
    keys = (
        "a.b",
        "a/b",
        "50%",
        "50%2F",
        "%25",
        "%%2525",
        "%/",
        "%2/F",
        "train",
        "train%00",
        "train%2500",
        "keys",
        "Lua",
        "to",
    )
    table = LuaTable({key: dpnn_bridge.to_lua(nn.Linear(i + 1, 2)) for i, key in enumerate(keys)})
    dpnn_bridge.write_t7(tmp_path / "net.t7", table)
    models = dpnn_bridge.load(tmp_path / "net.t7")
    assert len(models) == len(keys)
    assert "['50%'].weight" in models.state_dict()  # as in files of earlier versions
    for i, key in enumerate(models.keys()):
        assert models[key].in_features == i + 1
        assert dpnn_bridge.load(tmp_path / "net.t7", key=key).in_features == i + 1
        assert key in models
    models.update({key: nn.Linear(9, 9) for key in models})
    assert models.pop(key).in_features == 9
    assert len(models) == len(keys) - 1


#: what defines the class of the second model, and the option that names it
DEFINITIONS = {
    "--plugin": """
from torch import nn
from dpnn_bridge import LuaClass, lua_class

@lua_class("mine.Double")
class Double(nn.Module):
    def forward(self, x):
        return 2 * x

    class Lua(LuaClass):
        scalars = {}
""",
    "--lua": """
require 'nn'
mine = {}
local Double = torch.class('mine.Double', 'nn.Module')
function Double:updateOutput(x) return x * 2 end
""",
}


@pytest.mark.usefixtures("own_registry")
@pytest.mark.parametrize("option", DEFINITIONS)
def test_a_model_of_a_class_of_the_user_is_among_all(option: str, tmp_path: Path) -> None:
    if option == "--lua":
        pytest.importorskip("lupa")
    file = tmp_path / ("mine.py" if option == "--plugin" else "mine.lua")
    file.write_text(DEFINITIONS[option])
    parts = {"head": dpnn_bridge.to_lua(nn.Linear(3, 2)), "tail": LuaObject("mine.Double", LuaTable({"train": False}))}
    dpnn_bridge.write_t7(tmp_path / "in.t7", LuaTable(parts.items()))
    arguments = [str(tmp_path / "in.t7"), str(tmp_path / "out.pt"), "--all", option, str(file)]
    done = CliRunner().invoke(convert_command, arguments)
    assert done.exit_code == 0, done.output
    assert {path.name for path in tmp_path.glob("out*")} == {"out.head.pt", "out.tail.pt"}
