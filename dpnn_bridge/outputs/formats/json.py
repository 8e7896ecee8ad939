"""Write ``.json``: data without a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from dpnn_bridge.base.atomic import reading_back
from dpnn_bridge.base.json_text import parse_json
from dpnn_bridge.base.reading import file_status, open_input
from dpnn_bridge.base.writing import not_as_written, write_file
from dpnn_bridge.outputs import data
from dpnn_bridge.outputs.format import Format
from dpnn_bridge.outputs.plain import unique_keys

#: a file that is more than this many times as large is not read, and counts as different
_MAX_RATIO = 16


class Json(Format):
    """The format ``.json``: tables become arrays and objects, tensors nested arrays; NaN is written as Python does."""

    suffix = ".json"
    models = False
    data = True
    text = True

    def same_content(self, one: Path, other: Path) -> bool:
        """Return whether two files contain equal values, with keys in any order and other white space."""
        if file_status(other).st_size > _MAX_RATIO * file_status(one).st_size:
            return False
        texts = [_text(self.read_data(path), sort_keys=True) for path in (one, other)]
        return texts[0] == texts[1]

    def read_data(self, path: Path) -> Any:
        with open_input(path) as file:
            return parse_json(file.read(), object_pairs_hook=unique_keys)

    def write_data(self, found: data.Data, path: Path) -> None:
        text = _text(data.cleaned(found, np.ndarray.tolist))
        write_file(path, text)
        with reading_back(path):
            read = _text(self.read_data(path))
        if read != text:
            raise not_as_written(path)


def _text(value: Any, *, sort_keys: bool = False) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False, sort_keys=sort_keys) + "\n"


FORMAT = Json()
