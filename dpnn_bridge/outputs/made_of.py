"""What a file says it was made of, by which it is told whether it is what a conversion would give."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch

#: options of a conversion that change its result, beside the key and the type
CHANGING = ("dynamic", "opset", "input_names", "max_shard_size")


def origin_text(sha256: str, key: str | None, dtype: torch.dtype | None, options: Mapping[str, Any]) -> str:
    """The checksums of an input, and of the arguments that change the result.

    Args:
        sha256: of the input.
        key, dtype, options: as for :func:`dpnn_bridge.files.convert`.
    """
    arguments: list[Any] = [key, str(dtype)]
    if chosen := {name: options[name] for name in CHANGING if options.get(name)}:
        arguments.append(chosen)
    text = json.dumps(arguments, sort_keys=True)
    return f"sha256:{sha256}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
