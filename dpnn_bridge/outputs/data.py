"""Data without a model: tensors, tables and datasets of a ``.t7`` file in other formats.

In the flat formats nested keys are joined with dots, ``train.mean`` or ``batches.1.x``, counted from 1 as in Lua;
``.safetensors`` keeps what is no tensor as JSON in its metadata. ``.json`` and ``.pt`` keep the nesting: tables with
the keys 1 to n become lists, other tables and objects dicts, an object with its class under ``"torch class"``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import torch

from dpnn_bridge.base.display import shortened
from dpnn_bridge.base.extras import install_advice
from dpnn_bridge.base.graph import key_text
from dpnn_bridge.compare.bits import same_tensors
from dpnn_bridge.conversion.budget import MOST_VALUES, PER_ENTRY, Budget
from dpnn_bridge.errors import ConversionError, ConversionLimitError, VerificationError
from dpnn_bridge.loaders.compare import difference
from dpnn_bridge.loaders.t7_reader import read_t7
from dpnn_bridge.loaders.t7_writer import write_t7
from dpnn_bridge.objects import LuaFunction, LuaObject, LuaStorage, LuaTable, LuaTensor

#: key of the class name of an object
CLASS = "torch class"
#: bytes that an element takes while it becomes text
_AS_TEXT = 512
#: characters of the names of all values, which repeat the key of a table for each of its entries
MOST_CHARACTERS = 1 << 28


@dataclass
class Data:
    """What was written.

    Attributes:
        tensors: how many.
        values: how many numbers, strings and booleans.
        tables: how many tables and objects that hold them.
        dropped: paths of functions, and of tables inside themselves, which no format holds.
        characters: how many the names of all values have.
    """

    tensors: int = 0
    values: int = 0
    tables: int = 0
    dropped: list[str] = field(default_factory=list)
    characters: int = 0


def write(value: Any, path: Path, suffix: str) -> Data:
    """Writes a Lua value, reads it back and compares.

    Raises:
        ConversionError: the format cannot hold it.
        VerificationError: what was read back differs.
    """
    if suffix == ".t7":
        write_t7(path, value, verify=False)
        if found := difference(value, read_t7(path), exact_nan=True, shared=True):
            raise VerificationError(f"{path}: reading it back gave something else: {found}")
    found = Data()
    plain = _plain(value, "", found, (), Budget(value, _AS_TEXT if suffix == ".json" else 0))
    if suffix != ".t7":
        _WRITERS[suffix](plain, path)
    return found


def _plain(value: Any, path: str, found: Data, above: tuple[int, ...], budget: Budget) -> Any:
    """Lists, dicts, numbers, strings and numpy arrays."""
    most = MOST_VALUES + PER_ENTRY * budget.entries
    if found.tensors + found.values + found.tables > most:
        raise ConversionLimitError(f"more than {most:,} values: its tables are reached in so many ways")
    found.characters += len(path)
    if found.characters > MOST_CHARACTERS:
        raise ConversionLimitError(f"the names of all values have more than {MOST_CHARACTERS:,} characters")
    if isinstance(value, (LuaTensor, LuaStorage)):
        found.tensors += 1
        try:
            budget.show(value.size, value.dtype.itemsize)  # a view may repeat one element
        except ConversionLimitError as error:
            raise ConversionLimitError(str(error), path=path or "the file") from None
        return value.numpy()
    if isinstance(value, (LuaTable, LuaObject)) and id(value) not in above and len(above) < 200:
        above = (*above, id(value))
        found.tables += 1
        budget.spend(0, "tables")
        fields = value.fields if isinstance(value, LuaObject) else value
        array = fields.as_list()
        if array and len(array) == len(fields) and not isinstance(value, LuaObject):
            return [_plain(v, f"{path}[{i}]", found, above, budget) for i, v in enumerate(array, 1)]
        items: dict[str, Any] = {CLASS: value.class_name} if isinstance(value, LuaObject) else {}
        for key, inner in fields.items():
            if not isinstance(key, (str, int, float, bool)):
                found.dropped.append(f"{path}: an entry whose key is a {type(key).__name__}")
                continue
            name = str(key).lower() if isinstance(key, bool) else str(key)
            plain = _plain(inner, (path + key_text(key)).removeprefix("."), found, above, budget)
            if plain is not None:
                items[name] = plain
        return items
    if isinstance(value, (LuaFunction, LuaTable, LuaObject)):
        what = "a Lua function" if isinstance(value, LuaFunction) else "a table inside itself"
        found.dropped.append(f"{path or 'the file'}: {what}")
        return None
    found.values += value is not None
    return value.decode("latin-1") if isinstance(value, bytes) else value


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """``("a.b.1", leaf)`` for every leaf."""
    if isinstance(value, (list, dict)):
        items = value.items() if isinstance(value, dict) else enumerate(value, 1)
        for key, inner in items:
            yield from _leaves(inner, f"{name}.{key}" if name else str(key))
    elif value is not None:
        yield name or "data", value


def _flat(value: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, leaf in _leaves(value):
        if name in found:
            raise ConversionError(f"two entries would both be called {name!r}; .pt and .json keep them apart")
        found[name] = leaf
    return found


def _text(value: str) -> str:
    """Bytes that are no UTF-8 as escapes, since these formats hold text."""
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _clean(value: Any, array: Callable[[np.ndarray], Any]) -> Any:
    """With texts that every format holds, and arrays as the format holds them."""
    if isinstance(value, dict):
        return {_text(k): _clean(v, array) for k, v in value.items()}
    if isinstance(value, list):
        return [_clean(v, array) for v in value]
    if isinstance(value, np.ndarray):
        return array(value)
    return _text(value) if isinstance(value, str) else value


def _need_names(names: Iterable[str], suffix: str, possible: Callable[[str], bool]) -> None:
    """Raises a :class:`ConversionError` that names the first entry whose name a format cannot hold."""
    bad = next((name for name in names if not possible(name)), None)
    if bad is not None:
        raise ConversionError(
            f"{suffix} cannot hold an entry of the name {shortened(repr(bad))}; .pt and .json keep it, and key= (--key)"
            " chooses another part of the file"
        )


def _npz(value: Any, path: Path) -> None:
    arrays = {name: np.asarray(leaf) for name, leaf in _flat(_clean(value, np.ascontiguousarray)).items()}
    # a zip archive ends names at a zero byte and counts their bytes in 16 bits; numpy leaves ".npy" away
    taken = {f"{name}.npy" for name in arrays}
    _need_names(arrays, ".npz", lambda name: "\0" not in name and len(name.encode()) < 65_000 and name not in taken)
    with ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)
    with np.load(path, allow_pickle=False) as archive:
        for name, expected in arrays.items():
            if archive[name].dtype != expected.dtype or archive[name].tobytes() != expected.tobytes():
                raise VerificationError(f"{path}: {name} differs after reading back")


def _safetensors(value: Any, path: Path) -> None:
    try:
        from safetensors.numpy import load_file, save_file
    except ImportError as e:
        raise ConversionError(f"safetensors is not installed: {install_advice('safetensors')}") from e
    flat = _flat(_clean(value, np.ascontiguousarray))
    arrays = {name: leaf for name, leaf in flat.items() if isinstance(leaf, np.ndarray)}
    rest = {name: leaf for name, leaf in flat.items() if not isinstance(leaf, np.ndarray)}
    _need_names(arrays, ".safetensors", lambda n: n != "__metadata__")
    save_file(arrays, path, metadata={"format": "pt", "values": json.dumps(rest)})
    read = {name: torch.from_numpy(array.copy()) for name, array in load_file(path).items()}
    same_tensors(path, read, {name: torch.from_numpy(array.copy()) for name, array in arrays.items()})


def _json(value: Any, path: Path) -> None:
    plain = _clean(value, np.ndarray.tolist)
    text = json.dumps(plain, indent=1, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8")
    if json.dumps(json.loads(path.read_text(encoding="utf-8")), indent=1, ensure_ascii=False) + "\n" != text:
        raise VerificationError(f"{path}: differs after reading back")


def _pt(value: Any, path: Path) -> None:
    plain = _clean(value, lambda array: torch.from_numpy(np.array(array)))
    torch.save(plain, path)
    expected = {n: v for n, v in _leaves(plain) if isinstance(v, torch.Tensor)}
    read = {n: v for n, v in _leaves(torch.load(path, weights_only=True)) if isinstance(v, torch.Tensor)}
    same_tensors(path, read, expected)


_WRITERS: dict[str, Callable[[Any, Path], None]] = {
    ".npz": _npz,
    ".safetensors": _safetensors,
    ".json": _json,
    ".pt": _pt,
    ".pth": _pt,
}
#: formats that hold data without a model
SUFFIXES = (*_WRITERS, ".t7")
