"""Find the files that a ``.onnx`` file needs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


def external_files(path: Path) -> list[Path]:
    """Return the files with the external data of a ``.onnx`` file; its reader reports errors."""
    try:
        import onnx
        from google.protobuf.message import Message

        nested: list[Any] = [onnx.load(str(path), load_external_data=False)]
    except Exception:
        return []
    names: dict[str, None] = {}
    while nested:
        message = nested.pop()
        if isinstance(message, onnx.TensorProto):
            names.update((entry.value, None) for entry in message.external_data if entry.key == "location")
            continue
        for field, value in message.ListFields():
            if field.message_type is not None:
                nested.extend([value] if isinstance(value, Message) else value)
    return [path.parent / name for name in names if not os.path.isabs(name)]  # onnx refuses absolute paths
