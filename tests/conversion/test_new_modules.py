"""A module that was created in PyTorch is written as an object that can be read, or raises an error."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from mapping_examples import MAPPINGS, ClassMapping, example, mapping_id
from torch import nn

from dpnn_bridge import save, to_lua, to_torch, write_t7
from dpnn_bridge.errors import ConversionError
from dpnn_bridge.loaders.t7_reader import loads
from dpnn_bridge.loaders.t7_writer import dumps
from dpnn_bridge.modules.nn.container import ConcatTable
from dpnn_bridge.zoo.deepmask import SharpMask
from dpnn_bridge.zoo.pyramid_packer import PyramidPacker
from dpnn_bridge.zoo.shake import ShakeShakeTable
from dpnn_bridge.zoo.torch_rnn import LanguageModel


def as_created(mapping: ClassMapping) -> torch.nn.Module:
    """The module of the example of a mapping, without what the conversion kept of its file."""
    module = copy.deepcopy(to_torch(example(mapping)))
    for part in module.modules():
        part.__dict__.pop("lua_record", None)
    return module


def settings(module: torch.nn.Module) -> dict[str, Any]:
    plain = (int, float, str, bool, type(None))
    return {k: v for k, v in vars(module).items() if k[0] != "_" and k != "training" and isinstance(v, plain)}


@pytest.mark.parametrize("mapping", MAPPINGS, ids=mapping_id)
def test_its_file_can_be_read(mapping: ClassMapping) -> None:
    module = as_created(mapping)
    try:
        written = dumps(to_lua(module))
    except ConversionError:
        return
    again = to_torch(loads(written))
    if type(again) is type(module):
        assert settings(again) == {**settings(again), **{k: v for k, v in settings(module).items() if k in vars(again)}}


@pytest.mark.parametrize("forward_shake", [False, True])
def test_flags_of_shake_shake_are_written(forward_shake: bool) -> None:
    obj = to_lua(ShakeShakeTable(forward_shake, not forward_shake, forward_shake))
    assert [obj[f] for f in ("forwardShake", "backwardShake")] == ["false", "true"][:: -1 if forward_shake else 1]
    assert to_torch(obj).forward_shake is forward_shake


def test_scales_of_a_packer_are_written_twice() -> None:
    packer = PyramidPacker([1, 0.5])
    assert to_lua(packer).header == (1, 0.5)
    read = to_torch(loads(dumps(to_lua(packer))))
    read.scales = [0.25]
    assert loads(dumps(to_lua(read))).header == (0.25,)


@pytest.mark.parametrize(
    "module",
    [
        LanguageModel(torch.nn.Sequential(torch.nn.Linear(2, 2)), [], []),
        SharpMask(torch.nn.Sequential(), torch.nn.Tanh(), torch.nn.Tanh(), [torch.nn.Tanh()], []),
    ],
    ids=lambda m: type(m).__name__,
)
def test_what_cannot_be_written_is_an_error(module: torch.nn.Module) -> None:
    with pytest.raises(ConversionError, match="created in PyTorch lacks fields"):
        to_lua(module)


@pytest.mark.parametrize(
    ("model", "place"),
    [
        (nn.Sequential(nn.Linear(2, 2), None), r"root \(Sequential\): its module '1'"),  # type: ignore[arg-type]
        (nn.Sequential(nn.ReLU(), ConcatTable(nn.ReLU(), None)), r"1 \(ConcatTable\): its module '1'"),  # type: ignore[arg-type]
    ],
)
def test_a_container_with_none_names_the_place(model: nn.Module, place: str, tmp_path: Path) -> None:
    for write in (to_lua, partial(write_t7, tmp_path / "model.t7")):
        with pytest.raises(ConversionError, match=f"{place} is None, which cannot run"):
            write(model)
    save(tmp_path / "model.py", model)
