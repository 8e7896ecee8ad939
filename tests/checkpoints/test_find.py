"""The model is found wherever training scripts put it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dpnn_bridge.checkpoints.contents import plain_entries
from dpnn_bridge.checkpoints.find import NAMESPACES, candidates, follow, select
from dpnn_bridge.conversion import registry
from dpnn_bridge.conversion.lua_values import to_value
from dpnn_bridge.errors import ModelNotFoundError
from dpnn_bridge.loaders import dumps
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor


def module(name: str = "nn.Sequential") -> LuaObject:
    return LuaObject(name, LuaTable({"modules": LuaTable()}))


def table(*values: Any, **fields: Any) -> LuaTable:
    t = LuaTable.from_list(values)
    t.update(fields)
    return t


NET = module()
FOUND = {
    "bare": (NET, ""),
    "model": (table(opt=table(lr=0.1), model=NET), "model"),
    "model beside others": (table(model_D=module(), model=NET, mean=0.5), "model"),
    "protos": (table(protos=table(criterion=module("nn.ClassNLLCriterion"), rnn=NET), vocab=table()), "protos.rnn"),
    "generator": (table(D=module(), G=NET), "G"),
    "array": (table(table(NET), table(lr=1)), "[1][1]"),
    "odd name": (table(**{"my net": NET}), "['my net']"),
    "project class": (LuaObject("chatbot.Seq2Seq", table(goToken=1, encoder=NET)), "encoder"),
    "dp experiment": (
        LuaObject("dp.Experiment", table(_model=LuaObject("dp.Model", table(_module=NET)))),
        "_model._module",
    ),
}


@pytest.mark.parametrize("name", FOUND)
def test_finds(name: str) -> None:
    root, key = FOUND[name]
    obj, found, _ = select(root)
    assert (obj, found) == (NET, key)
    if key:
        assert follow(root, key) is NET
        assert select(root, key)[0] is NET


@pytest.mark.parametrize("kind", ["string", "torch.CharTensor", "torch.ByteStorage"])
def test_opens_serialized_objects(kind: str) -> None:
    data = dumps(table(net=NET))
    if kind == "string":
        value: Any = data.decode("utf-8", "surrogateescape")
    else:
        dtype = np.int8 if "Char" in kind else np.uint8
        value = LuaTensor.from_numpy(np.frombuffer(data, dtype).copy())
        value = value if kind.endswith("Tensor") else value.storage
    obj, key, _ = select(table(state=value))
    assert key == "state.net"
    assert obj.class_name == "nn.Sequential"


def test_several_models_need_a_key() -> None:
    with pytest.raises(ModelNotFoundError, match=r"first.*second") as error:
        select(table(first=module(), second=module()), source="x.t7")
    assert "x.t7" in str(error.value)


def test_no_model() -> None:
    with pytest.raises(ModelNotFoundError, match="load_flat"):
        select(table(weights=LuaTensor.from_numpy(np.zeros(3, np.float32))))
    with pytest.raises(ModelNotFoundError) as raised:
        select(table(weights=LuaTensor.empty()))
    assert "load_flat" not in str(raised.value)


def data_loader() -> LuaObject:
    return LuaObject("dataLoader", table(split=0, samplingIds=LuaTensor.from_numpy(np.zeros((3, 1), np.int64))))


DATA = {
    "a data loader": (data_loader(), "an object of class dataLoader: split .*samplingIds .torch.LongTensor 3x1"),
    "of a namespace": (LuaObject("resnet.DataLoader", table(opt=table())), "an object of class resnet.DataLoader"),
    "a meter": (LuaObject("tnt.AverageValueMeter", table(sum=1, n=2)), "tnt.AverageValueMeter"),
    "a vocabulary": (table(a=1, b=2), r"a table of 2: a \(a number\), b \(a number\)\. It can be converted"),
    "tensors": (
        table(LuaTensor.from_numpy(np.zeros(10, np.int32))),
        r"a table of 1: \[1\] \(torch.IntTensor 10\)\. It can be converted",
    ),
    "a tensor": (LuaTensor.from_numpy(np.zeros((2, 3), np.float32)), "torch.FloatTensor 2x3"),
    "a string": ("nothing", "a string"),
}


@pytest.mark.parametrize("name", DATA)
def test_data_is_no_model(name: str) -> None:
    root, message = DATA[name]
    assert candidates(root) == []
    with pytest.raises(ModelNotFoundError, match=f"x.t7: contains no module but .*{message}"):
        select(root, source="x.t7")


def test_a_model_inside_a_data_loader_is_found() -> None:
    loader = data_loader()
    loader["preprocess"] = NET
    assert select(loader) == (NET, "preprocess", [])


@pytest.mark.parametrize(
    "fields", [{"gradInput": LuaTensor.empty()}, {"weight": LuaTensor.empty()}, {"modules": table(NET)}]
)
def test_unknown_class_with_what_a_module_has_is_the_model(fields: dict[str, Any]) -> None:
    root = LuaObject("MyNet", table(**fields))
    assert select(root)[0] is root


def test_class_that_lua_knows_is_a_model() -> None:
    root = LuaObject("my.Scale", table(power=2))
    assert select(root, knows=lambda name: name == "my.Scale")[0] is root


@pytest.mark.parametrize(
    "root",
    [
        table(epoch=5, modelFile="model_5.t7", optimFile="optimState_5.t7"),
        table(opt=1, best_model="/home/me/run/model_5.t7"),
    ],
)
def test_a_file_that_names_another_points_there(root: LuaTable, tmp_path: Path) -> None:
    with pytest.raises(
        ModelNotFoundError,
        match=r"contains no module but the path of another file, \w+ = '.*model_5.t7': convert that file",
    ):
        select(root, source=str(tmp_path / "latest.t7"))
    (tmp_path / "model_5.t7").touch()
    with pytest.raises(ModelNotFoundError, match=f"convert {tmp_path / 'model_5.t7'}, which exists"):
        select(root, source=str(tmp_path / "latest.t7"))


def test_a_name_that_no_file_can_have_is_shortened(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"modelFile = 'x+… \(880 more characters\) …x+': convert that file"):
        select(table(modelFile="x" * 1000), source=str(tmp_path / "latest.t7"))


def test_namespaces_cover_the_registry() -> None:
    known = registry.known_names().items()  # plugins of other tests among them
    own = [name for name, found in known if any(mapping.__module__.startswith("dpnn_bridge.") for mapping in found)]
    names = [n.partition(".")[0] for n in own if "." in n]
    assert len(names) > 400
    assert set(names) - {"nngraph", "dpnn_bridge"} <= NAMESPACES


def test_key_that_leads_nowhere_lists_the_models() -> None:
    with pytest.raises(ModelNotFoundError, match=r"protos\.rnn"):
        select(table(protos=table(rnn=NET)), "protos.cnn")


def test_a_key_of_data_describes_the_data() -> None:
    with pytest.raises(ModelNotFoundError, match="a table of 1, not a module, at key 'options'"):
        select(table(protos=NET, options=table(size=3)), "options")


def test_a_key_is_read_to_its_end() -> None:
    """``[1.5]`` is another entry than ``[1]``, and what is no key names no model."""
    root = LuaTable([(1, module("nn.Concat")), (1.5, module("nn.Parallel")), (True, module("nn.ParallelTable"))])
    for candidate in candidates(root):
        assert select(root, candidate.key)[0] is candidate.obj
    for key in ("[1.25]", "[1]x", "[foo]", "²", "[1"):
        with pytest.raises(ModelNotFoundError, match=r"no entry at key .*\[1\.5\] \(nn\.Parallel\), \[true\]"):
            select(root, key)


def test_a_message_lists_the_models_of_lua_classes_of_the_user() -> None:
    with pytest.raises(ModelNotFoundError, match=r"Modules in the file: net \(my\.Scale\)"):
        select(table(net=LuaObject("my.Scale", table(power=2))), "nut", knows=lambda name: name == "my.Scale")


def test_each_view_of_a_buffer_is_opened() -> None:
    first, second = (np.frombuffer(dumps(module(name)), np.uint8) for name in ("nn.Concat", "nn.Parallel"))
    both = LuaTensor.from_numpy(np.concatenate([first, second]))
    views = [
        LuaTensor(both.class_name, (n,), (1,), start, both.storage)
        for start, n in ((0, len(first)), (len(first), len(second)))
    ]
    assert [c.obj.class_name for c in candidates(table(*views))] == ["nn.Concat", "nn.Parallel"]


def test_many_views_of_one_buffer_are_opened_in_bounded_time() -> None:
    data = LuaTensor.from_numpy(np.tile(np.frombuffer(dumps(module()), np.uint8), 200))
    size = data.size // 200
    views = [LuaTensor(data.class_name, (data.size - i * size,), (1,), i * size, data.storage) for i in range(200)]
    assert len(candidates(table(*views))) < 10


def test_unknown_module_in_a_known_namespace_is_the_model() -> None:
    root = LuaObject("nn.MyContainer", table(modules=table(NET)))
    assert select(root)[0] is root


def test_cycles_end() -> None:
    root = table(net=NET)
    root["self"] = root
    assert [c.key for c in candidates(root)] == ["net"]


def test_boolean_keys_are_no_numbers() -> None:
    both = LuaTable([(1, "one"), (True, "yes"), (False, "no")])
    assert plain_entries(table(both=both, flags=LuaTable([(True, "yes")]))) == {
        "both": {1: "one", "true": "yes", False: "no"},
        "flags": {True: "yes"},
    }
    assert to_value(both) == {1: "one", "true": "yes", False: "no"}


def test_plain_entries() -> None:
    root = table(model=NET, opt=table(lr=0.1, sizes=table(3, 4)), mean=LuaTensor.from_numpy(np.ones(3)))
    root["big"] = LuaTensor.from_numpy(np.ones(200_000))
    kept = plain_entries(root)
    assert kept.keys() == {"opt", "mean"}
    assert kept["opt"] == {"lr": 0.1, "sizes": [3, 4]}
    assert kept["mean"].tolist() == [1, 1, 1]
    assert plain_entries(NET) is None


PATHS = {
    "one key": lambda n: table(**{"k" * n: NET}),
    "two keys": lambda n: table(**{"a" * 1500: table(**{"b" * (n - 1500): NET})}),
    "a number": lambda n: table(table(**{"k" * (n - 1): NET})),
}


@pytest.mark.parametrize("kind", PATHS)
def test_the_longest_path_of_a_model(kind: str) -> None:
    (found,) = candidates(PATHS[kind](2000))
    assert found.obj is NET
    assert candidates(PATHS[kind](2001)) == []


def test_the_first_path_of_a_table_counts() -> None:
    inner = table(**{"k" * 50: NET})
    assert candidates(table(**{"a" * 1990: inner, "b": inner})) == []
    assert [c.path[0] for c in candidates(table(**{"b": inner, "a" * 1990: inner}))] == ["b"]
    (found,) = candidates(table(**{"a" * 2001: NET, "b": NET}))
    assert found.path == ("b",)
