"""Where several Lua classes share a torch type, one alone takes a module made in PyTorch."""

from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from mapping_examples import MAPPINGS, ClassMapping, example, mapping_id
from torch import nn

from dpnn_bridge import read_t7, to_lua, to_torch, write_t7
from dpnn_bridge.conversion import registry
from dpnn_bridge.conversion.lua_class import LuaClass, torch_types
from dpnn_bridge.modules.nn.convolution import TemporalConvolution
from dpnn_bridge.modules.nn.unpooling import MaxUnpooling
from dpnn_bridge.objects import LuaFunction, LuaObject, LuaStorage, LuaTable


def born_in_pytorch(module: nn.Module) -> nn.Module:
    """A copy without what it remembers of its file."""
    module = copy.deepcopy(module)
    for m in module.modules():
        m.__dict__.pop("lua_record", None)
    return module


SHARED = [
    (torch_type, mapping)
    for torch_type, count in Counter(t for b in MAPPINGS for t in torch_types(b)).items()
    for mapping in MAPPINGS
    if count > 1 and torch_type in torch_types(mapping)
]


@pytest.mark.parametrize(
    ("torch_type", "mapping"), SHARED, ids=lambda v: v.__name__ if issubclass(v, nn.Module) else mapping_id(v)
)
def test_one_mapping_claims_a_module_of_a_shared_type(torch_type: type[nn.Module], mapping: ClassMapping) -> None:
    """Of the project's mappings of a torch type one alone takes a module that came from no file."""
    module = born_in_pytorch(to_torch(example(mapping)))
    if type(module) is not torch_type:
        pytest.skip("the example is of the mapping's other type")
    own = filter(registry.is_built_in, registry._BY_TYPE[torch_type])  # other tests of the process register plugins
    claims = [b for b in own if b.represents(module)]
    specific = [b for b in claims if not registry._takes_every_module(b)]
    assert len(specific or claims) == 1
    assert registry.mapping_of(module) is (specific or claims)[0]


def test_two_mappings_that_take_every_module_of_a_type_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_BY_NAME", "_BY_TYPE"):
        monkeypatch.setattr(registry, name, {k: [*v] for k, v in getattr(registry, name).items()})

    class Mine(nn.Module):
        pass

    registry.lua_class("my.First")(type("First", (LuaClass,), {"torch_type": Mine}))
    with pytest.raises(ValueError, match=r"Mine is the torch_type of First in .* and of Second"):
        registry.lua_class("my.Second")(type("Second", (LuaClass,), {"torch_type": Mine}))
    assert registry.mappings_of("my.Second") == []
    third = registry.lua_class("my.Third")(type("Third", (LuaClass,), {"torch_type": Mine, "import_only": True}))
    assert registry.mapping_of(Mine()).names == ("my.First",)
    assert third.names == ("my.Third",)


def test_functions_that_are_keys_are_left_out() -> None:
    """As those that are values: an entry without a key could not be written."""
    fields = LuaTable({"callbacks": LuaTable([(LuaFunction(b"code"), 1), ("kept", 2)])})
    written = to_lua(to_torch(LuaObject("nn.Identity", fields)))
    assert dict(written["callbacks"]) == {"kept": 2}


def test_a_model_does_not_read_its_file_again(tmp_path: Path) -> None:
    """A storage in a field without an attribute is copied like a tensor there."""
    path = tmp_path / "m.t7"
    storage = LuaStorage("torch.LongStorage", 10_000, np.arange(10_000))
    write_t7(path, LuaObject("nn.Identity", LuaTable({"sizes": storage, "again": storage})))
    module = to_torch(read_t7(path))
    path.write_bytes(b"")
    written = to_lua(module)
    assert written["sizes"].numpy().tolist() == list(range(10_000))
    assert written["sizes"] is written["again"]


def test_unpooling_made_in_pytorch_is_that_of_its_pooling() -> None:
    for pooling, name in ((nn.MaxPool2d(2), "nn.SpatialMaxUnpooling"), (nn.MaxPool3d(2), "nn.VolumetricMaxUnpooling")):
        net = nn.Sequential(pooling, MaxUnpooling(pooling))
        assert to_lua(net)["modules"][2].class_name == name


def test_a_temporal_convolution_with_padding_is_cudnns() -> None:
    for padding, name in ((0, "nn.TemporalConvolution"), (1, "cudnn.TemporalConvolution")):
        assert to_lua(TemporalConvolution(2, 3, 2, padding=padding)).class_name == name
