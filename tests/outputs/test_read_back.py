"""What a .pt file holds is compared with what was to be written, every part of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import dpnn_bridge
from dpnn_bridge.errors import VerificationError
from dpnn_bridge.outputs import pt_writer


@pytest.mark.parametrize("part", ["graph", "constants", "metadata", "state_dict"])
def test_another_part_is_noticed(part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = pt_writer.save
    others = {
        "graph": lambda value: value.replace("nn.Linear", "nn.Linaer"),
        "constants": lambda value: [*value, torch.zeros(1)],
        "metadata": lambda value: {**value, "source": "another file"},
        "state_dict": lambda value: {name: tensor + 1 for name, tensor in value.items()},
    }

    def save(content: Any, *args: Any) -> None:
        assert content[part] != others[part](content[part]) if part != "state_dict" else True
        real({**content, part: others[part](content[part])}, *args)

    model = dpnn_bridge.to_torch(dpnn_bridge.to_lua(nn.Linear(3, 2)))
    dpnn_bridge.save(tmp_path / "right.pt", model)
    monkeypatch.setattr(pt_writer, "save", save)
    with pytest.raises(VerificationError, match=r"differs? after reading back"):
        dpnn_bridge.save(tmp_path / "out.pt", model)
    assert not (tmp_path / "out.pt").exists()
