"""What a file says it was made of, which tells whether a conversion would give it; the options of formats."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch

from dpnn_bridge.base.suffixes import INDEX
from dpnn_bridge.loaders.t7_writer import WriteOptions

#: options that formats take; they change the result, as the key and the type do
OPTIONS: dict[str, tuple[str, ...]] = {
    ".onnx": ("dynamic", "opset", "input_names"),
    ".pt2": ("dynamic",),
    INDEX: ("max_shard_size",),
    ".t7": ("tensor_type", *(f.name for f in fields(WriteOptions))),
}


def origin_text(sha256: str, key: str | None, dtype: torch.dtype | None, options: Mapping[str, Any]) -> str:
    """The checksums of an input, and of the arguments that change the result.

    Args:
        sha256: of the input.
        key, dtype, options: as for :func:`dpnn_bridge.files.convert`.
    """
    arguments: list[Any] = [key, str(dtype)]
    if chosen := {name: options[name] for names in OPTIONS.values() for name in names if options.get(name)}:
        arguments.append(chosen)
    text = json.dumps(arguments, sort_keys=True)
    return f"sha256:{sha256}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
