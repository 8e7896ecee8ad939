"""Metadata that a file accepts are loaded again."""

from __future__ import annotations

import re
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import dpnn_bridge
from dpnn_bridge.conversion.options import Options
from dpnn_bridge.errors import ConversionError, OptionError
from dpnn_bridge.files import load_with_report


def loaded(path: Path, metadata: dict[str, Any]) -> Any:
    dpnn_bridge.save(path, nn.Linear(2, 3), metadata=metadata)
    assert torch.load(path, weights_only=True) if path.suffix == ".pt" else True
    return load_with_report(path, None, Options())[1].metadata


@pytest.mark.parametrize(
    ("value", "again", "in_json"),
    [
        (np.float64(0.5), 0.5, 0.5),
        (np.int64(3), 3, 3),
        (torch.zeros(2, 3).shape, (2, 3), [2, 3]),
        (Counter("aab"), {"a": 2, "b": 1}, {"a": 2, "b": 1}),
        (OrderedDict(a=(1, None)), {"a": (1, None)}, {"a": [1, None]}),
        (float("inf"), float("inf"), float("inf")),
        ("\udcff", "\udcff", "\udcff"),
    ],
)
def test_values_come_back_in_types_of_python(value: Any, again: Any, in_json: Any, tmp_path: Path) -> None:
    found = loaded(tmp_path / "m.pt", {"value": value})["value"]
    assert found == again
    assert type(found) is type(again)
    assert loaded(tmp_path / "m.safetensors", {"value": value})["value"] == in_json


def test_bytes_and_complex_numbers_are_no_json(tmp_path: Path) -> None:
    complex_numbers = torch.tensor([1 + 2j])
    found = loaded(tmp_path / "m.pt", {"bytes": b"\xff", "numbers": complex_numbers})
    assert found["bytes"] == b"\xff"
    assert torch.equal(found["numbers"], complex_numbers)
    for value, kind in ((b"\xff", "bytes"), (complex_numbers, "tensor of torch.complex64")):
        with pytest.raises(ConversionError, match=f"JSON, which has no {kind}"):
            loaded(tmp_path / "m.safetensors", {"value": value})


def test_an_expanded_tensor_is_stored_in_full(tmp_path: Path) -> None:
    many = torch.ones(1).expand(5_000_000)
    assert torch.equal(loaded(tmp_path / "m.pt", {"value": many})["value"], many)
    layer = nn.BatchNorm1d(len(many), affine=False)
    layer.running_mean = many
    dpnn_bridge.save(tmp_path / "layer.pt", layer)
    assert torch.equal(dpnn_bridge.load(tmp_path / "layer.pt").running_mean, many)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({("a", "b"): 1}, "keys of a dict; found a tuple"),
        ({None: 1}, "keys of a dict; found a NoneType"),
        ({1, 2}, "found a set"),
        (torch.tensor([1 + 2j]).conj(), "lazily negated"),
        (torch.zeros(1, device="meta"), "meta device"),
    ],
)
def test_other_values_are_refused_before_writing(value: Any, reason: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=f"metadata=: .*{re.escape(reason)}"):
        loaded(tmp_path / "m.pt", {"value": value})
    assert not list(tmp_path.iterdir())


def test_metadata_do_not_contain_themselves(tmp_path: Path) -> None:
    metadata: dict[str, Any] = {"shared": (shared := [1])}
    assert loaded(tmp_path / "m.pt", {"a": shared, "b": shared}) == {"a": [1], "b": [1]}
    metadata["self"] = metadata
    with pytest.raises(OptionError, match="contain themselves"):
        loaded(tmp_path / "m.pt", metadata)


@pytest.mark.parametrize("keys", [(1, "1"), ("2.5", 2.5), (True, "true"), (float("inf"), "Infinity")])
def test_keys_that_are_one_in_json_are_refused_there(keys: tuple[Any, Any], tmp_path: Path) -> None:
    value = dict(zip(keys, "ab", strict=True))
    assert loaded(tmp_path / "m.pt", {"value": [value]})["value"] == [value]
    with pytest.raises(ConversionError, match=re.escape(f"the keys {keys[0]!r} and {keys[1]!r} are the same; use .pt")):
        loaded(tmp_path / "m.safetensors", {"value": [value]})
    assert not (tmp_path / "m.safetensors").exists()
    assert loaded(tmp_path / "m.safetensors", {"value": {1: "a", "2": "b"}})["value"] == {"1": "a", "2": "b"}
