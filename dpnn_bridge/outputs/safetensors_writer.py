"""Write ``.safetensors`` files in chunks. They contain only tensors, with their ``state_dict`` names.

Everything else that loading needs is in the metadata, as strings: ``format`` (``pt``), ``dpnn_bridge`` and its
``version``, ``graph``, ``constants`` (dtype and base64 of each) and ``metadata``. Files of earlier versions contain
constants as tensors named ``constant:N``, and tied tensors once, with their other names in ``aliases``.
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

from dpnn_bridge.base.writing import open_output
from dpnn_bridge.compare.bits import byte_array, same_in_file
from dpnn_bridge.conversion.deferred import COMPUTED, deferred_of
from dpnn_bridge.errors import ConversionError, T7FormatError, VerificationError
from dpnn_bridge.outputs import container, safetensors_file
from dpnn_bridge.outputs.plain import json_text
from dpnn_bridge.outputs.safetensors_file import LARGEST_HEADER

_NAMES = {dtype: name for name, dtype in safetensors_file.DTYPES.items()}
_CONSTANT = "constant:"


class Part(NamedTuple):
    """One tensor: its type and shape, and its elements in pieces."""

    dtype: torch.dtype
    shape: torch.Size
    pieces: Callable[[], Iterator[Tensor]]

    @property
    def size(self) -> int:
        """Bytes."""
        return self.shape.numel() * self.dtype.itemsize


def part_of(value: Tensor) -> Part:
    """Return a tensor in one piece."""
    return Part(value.dtype, value.shape, partial(_piece, value))


def parts_of(module: nn.Module, state_dict: Mapping[str, Tensor]) -> dict[str, Part]:
    """Return the parameters and buffers of a module; those that stay in its file are read piece by piece."""
    parameters = dict(module.named_parameters(remove_duplicate=False))
    parts: dict[str, Part] = {}
    for name, value in state_dict.items():
        parameter = parameters.get(name)
        held = deferred_of(parameter)
        if held is not None and parameter is not None:
            parts[name] = Part(value.dtype, value.shape, partial(held.chunks, parameter))
        elif value.is_meta:
            raise ConversionError(f"{name}: {COMPUTED}")
        else:
            parts[name] = part_of(value)
    return parts


def _piece(value: Tensor) -> Iterator[Tensor]:
    yield value.detach().cpu().contiguous().reshape(-1)


# ---------------------------------------------------------------------- files
def write(path: Path, parts: Mapping[str, Part], strings: dict[str, str]) -> None:
    """Write a file.

    Raises:
        ConversionError: the format has no such dtype, or the metadata are too long for it.
    """
    header: dict[str, Any] = {"__metadata__": strings}
    ordered = sorted(parts.items(), key=lambda item: (-item[1].dtype.itemsize, item[0]))  # aligned, as the library does
    at = 0
    for name, part in ordered:
        if part.dtype not in _NAMES:
            raise ConversionError(
                f".safetensors does not support the dtype {part.dtype} of {name}; select another with dtype= (--dtype)"
            )
        header[name] = {"dtype": _NAMES[part.dtype], "shape": list(part.shape), "data_offsets": [at, at + part.size]}
        at += part.size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > LARGEST_HEADER:
        raise ConversionError(
            f"the structure of this model takes {len(text):,} bytes and .safetensors allows "
            f"{LARGEST_HEADER:,}; .pt has "
            "no such limit"
        )
    with open_output(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, part in ordered:
            for piece in part.pieces():
                file.write(byte_array(piece).data)


def check(path: Path, parts: Mapping[str, Part], name: str = "") -> dict[str, str]:
    """Return the metadata of a file, once every byte of its tensors is compared with what they are made from.

    Raises:
        VerificationError: something differs.
    """
    name = name or str(path)
    source, strings, entries, base = safetensors_file.opened(path)
    if entries.keys() != parts.keys():
        raise VerificationError(f"{name}: the names differ after reading back")
    for key, part in parts.items():
        dtype, shape, at, _ = entries[key]
        if (dtype, tuple(shape)) != (part.dtype, tuple(part.shape)) or not _same(part, source, base + at):
            raise VerificationError(f"{name}: {key} differs after reading back; the disk may be full or failing")
    return strings


def _same(part: Part, source: Any, at: int) -> bool:
    for piece in part.pieces():
        if not same_in_file(piece, source, at):
            return False
        at += piece.nbytes
    return True


# ---------------------------------------------------------------------- metadata
def strings_of(content: dict[str, Any]) -> dict[str, str]:
    """Return the metadata of a file: all of a ``.pt`` content but its tensors."""
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
    """Return the content as in a ``.pt`` file, for :func:`dpnn_bridge.outputs.container.unpack`.

    Raises:
        ConversionError: the file is another program's.
        T7FormatError: its metadata are damaged.
    """
    if container.FORMAT not in (strings.get("dpnn_bridge"), strings.get("format")):  # the latter in older files
        raise ConversionError(f"{name} was not written by dpnn_bridge; use safetensors to read its tensors")
    try:
        constants = _constants(strings, tensors)
        aliases = json.loads(strings.get("aliases", "{}"))
        return {
            "format": container.FORMAT,
            "version": int(strings["version"]),
            "graph": strings["graph"],
            "constants": constants,
            "state_dict": tensors | {name: tensors[first] for name, first in aliases.items()},
            "metadata": json.loads(strings["metadata"]),
        }
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as e:
        message = f"its metadata are damaged ({type(e).__name__}: {str(e)[:300]}); convert the .t7 file again"
        raise T7FormatError(message, source=name) from e


def _constants(strings: dict[str, str], tensors: dict[str, Tensor]) -> list[Tensor]:
    if "constants" not in strings:
        return [tensors.pop(f"{_CONSTANT}{i}") for i in range(sum(name.startswith(_CONSTANT) for name in tensors))]
    found = []
    for kind, text in json.loads(strings["constants"]):
        data = bytearray(base64.b64decode(text, validate=True))
        dtype = safetensors_file.DTYPES[kind]
        found.append(torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype))
    return found


def _as_json(metadata: dict[str, Any]) -> dict[str, Any]:
    """Return the metadata; without the checkpoint if its shared tables are too large for JSON."""
    return metadata if container.is_small(metadata) else container.without_checkpoint(metadata)
