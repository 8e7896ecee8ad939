"""Write ``.json``: data without a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from dpnn_bridge.base.reading import open_input
from dpnn_bridge.base.writing import write_file
from dpnn_bridge.errors import VerificationError
from dpnn_bridge.outputs import data
from dpnn_bridge.outputs.format import Format


class Json(Format):
    """The format ``.json``: tables become arrays and objects, tensors nested arrays."""

    suffix = ".json"
    models = False
    data = True
    text = True

    def write_data(self, found: data.Data, path: Path) -> None:
        text = _text(data.cleaned(found, np.ndarray.tolist))
        write_file(path, text)
        with open_input(path) as file:
            written = json.loads(file.read())
        if _text(written) != text:
            raise VerificationError(f"{path}: differs after reading back")


def _text(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


FORMAT = Json()
