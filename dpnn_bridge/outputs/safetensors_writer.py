"""Write ``.safetensors`` files in chunks. They contain only tensors, with their ``state_dict`` names.

Everything else that ``load`` needs is in the metadata, as strings: ``format`` (``pt``), ``dpnn_bridge`` and the
``version`` of the format, ``graph``, ``constants`` (dtype and base64 of each) and ``metadata``. Files of earlier
versions contain constants as tensors named ``constant:N``. They contain shared tensors once, with the other names in
``aliases``.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dpnn_bridge.base.json_text import parse_json
from dpnn_bridge.base.writing import not_as_written, open_compared
from dpnn_bridge.compare.bits import byte_array, same_in_file
from dpnn_bridge.conversion.deferred import COMPUTED, deferred_of
from dpnn_bridge.errors import ConversionError, T7FormatError
from dpnn_bridge.outputs import container, safetensors_file
from dpnn_bridge.outputs.plain import json_text
from dpnn_bridge.outputs.safetensors_file import MAX_HEADER

_NAMES = {dtype: name for name, dtype in safetensors_file.DTYPES.items()}
_CONSTANT = "constant:"


class Part(NamedTuple):
    """A tensor to write.

    Attributes:
        dtype: dtype.
        shape: shape.
        chunks: function that yields the elements in row-major order, as 1-D tensors.
    """

    dtype: torch.dtype
    shape: torch.Size
    chunks: Callable[[], Iterator[Tensor]]

    @property
    def size(self) -> int:
        """Number of bytes."""
        return self.shape.numel() * self.dtype.itemsize


def part_of(value: Tensor) -> Part:
    """Return the :class:`Part` of a tensor in memory, in one chunk."""
    return Part(value.dtype, value.shape, partial(_chunks, value))


def parts_of(module: nn.Module, state_dict: Mapping[str, Tensor]) -> dict[str, Part]:
    """Return the tensors of a module by name; deferred parameters are read from the file in chunks.

    Raises:
        ConversionError: a tensor has no elements.
    """
    parameters = dict(module.named_parameters(remove_duplicate=False))
    parts: dict[str, Part] = {}
    for name, value in state_dict.items():
        parameter = parameters.get(name)
        deferred = deferred_of(parameter)
        if deferred is not None and parameter is not None:
            parts[name] = Part(value.dtype, value.shape, partial(deferred.chunks, parameter))
        elif value.is_meta:
            raise ConversionError(f"{name}: {COMPUTED}")
        else:
            parts[name] = part_of(value)
    return parts


def _chunks(value: Tensor) -> Iterator[Tensor]:
    yield value.detach().cpu().contiguous().reshape(-1)


# ---------------------------------------------------------------------- files
def write(path: Path, parts: Mapping[str, Part], strings: dict[str, str]) -> None:
    """Write a file.

    Raises:
        ConversionError: the format does not support a dtype, or the metadata is too long.
    """
    header: dict[str, Any] = {"__metadata__": strings}
    ordered = sorted(parts.items(), key=lambda item: (-item[1].dtype.itemsize, item[0]))  # aligned, as in the library
    position = 0
    for name, part in ordered:
        if part.dtype not in _NAMES:
            raise ConversionError(
                f".safetensors does not support the dtype {part.dtype} of {name}; select another with dtype= (--dtype)"
            )
        offsets = [position, position + part.size]
        header[name] = {"dtype": _NAMES[part.dtype], "shape": list(part.shape), "data_offsets": offsets}
        position += part.size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER:
        raise ConversionError(
            f"the structure and metadata of this model have {len(text):,} bytes, and .safetensors allows "
            f"{MAX_HEADER:,}; use .pt, which has no such limit"
        )
    with open_compared(path, tensors=True) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, part in ordered:
            for chunk in part.chunks():
                file.write(byte_array(chunk).data)


def check(path: Path, parts: Mapping[str, Part], strings: dict[str, str], name: str = "") -> None:
    """Compare a file with what was written: the metadata, and every byte of the tensors.

    Args:
        path: the file.
        parts: the tensors.
        strings: the metadata.
        name: name of the file for messages; default: its path.

    Raises:
        VerificationError: the metadata or a tensor differs.
    """
    name = name or str(path)
    source, read, entries, base = safetensors_file.opened(path)
    if read != strings or entries.keys() != parts.keys():
        what = "metadata" if read != strings else "names of the tensors"
        raise not_as_written(name, f"the {what} differ")
    for key, part in parts.items():
        dtype, shape, start, _ = entries[key]
        if (dtype, tuple(shape)) != (part.dtype, tuple(part.shape)) or not _same(part, source, base + start):
            raise not_as_written(name, f"{key} differs")


def _same(part: Part, source: Any, position: int) -> bool:
    for chunk in part.chunks():
        if not same_in_file(chunk, source, position):
            return False
        position += chunk.nbytes
    return True


# ---------------------------------------------------------------------- metadata
def strings_of(content: dict[str, Any]) -> dict[str, str]:
    """Return the metadata of a file for the content of a ``.pt`` file, without ``state_dict``."""
    constants = [[_NAMES[c.dtype], base64.b64encode(byte_array(c).tobytes()).decode()] for c in content["constants"]]
    return {
        "format": "pt",  # required by loaders of PyTorch's ecosystem
        "dpnn_bridge": content["format"],
        "version": str(content["version"]),
        "graph": content["graph"],
        "constants": json.dumps(constants),
        "metadata": json_text(_as_json(content["metadata"]), ".safetensors"),
    }


def content_of(strings: dict[str, str], tensors: dict[str, Tensor], name: str) -> dict[str, Any]:
    """Return the content in the form of a ``.pt`` file, for :func:`dpnn_bridge.outputs.container.unpack`.

    Args:
        strings: the metadata of the file.
        tensors: the tensors.
        name: name of the file for messages.

    Raises:
        ConversionError: another program wrote the file, or it contains data.
        T7FormatError: the metadata is damaged.
    """
    if container.FORMAT not in (strings.get("dpnn_bridge"), strings.get("format")):  # older files have it in `format`
        raise ConversionError(f"{name} contains no model of dpnn_bridge; use safetensors to read its tensors")
    try:
        constants = _constants(strings, tensors)
        aliases = parse_json(strings.get("aliases", "{}"))
        return {
            "format": container.FORMAT,
            "version": parse_json(strings["version"]),
            "graph": strings["graph"],
            "constants": constants,
            "state_dict": tensors | {name: tensors[first] for name, first in aliases.items()},
            "metadata": parse_json(strings["metadata"]),
        }
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as e:
        message = f"its metadata is damaged ({type(e).__name__}: {str(e)[:300]}); convert the .t7 file again"
        raise T7FormatError(message, source=name) from e


def _constants(strings: dict[str, str], tensors: dict[str, Tensor]) -> list[Tensor]:
    if "constants" not in strings:
        return [tensors.pop(f"{_CONSTANT}{i}") for i in range(sum(name.startswith(_CONSTANT) for name in tensors))]
    found = []
    for kind, text in parse_json(strings["constants"]):
        data = bytearray(base64.b64decode(text, validate=True))
        dtype = safetensors_file.DTYPES[kind]
        found.append(torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype))
    return found


def _as_json(metadata: dict[str, Any]) -> dict[str, Any]:
    """Return the metadata, without the other entries of the checkpoint if their shared tables are too large as JSON."""
    return metadata if container.is_small(metadata) else container.without_checkpoint(metadata)
