"""Write ``.npz``: the ``state_dict`` as numpy arrays, or data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile

import numpy as np
import torch
from torch import Tensor, nn

from dpnn_bridge.base.atomic import reading_back
from dpnn_bridge.base.display import shortened
from dpnn_bridge.base.reading import open_archive, open_zip
from dpnn_bridge.base.writing import not_as_written, open_compared
from dpnn_bridge.compare.bits import same_tensors
from dpnn_bridge.conversion.distributed import FULL_STATE, is_distributed
from dpnn_bridge.conversion.placeholder import Placeholder
from dpnn_bridge.errors import ConversionError, T7FormatError, VerificationError
from dpnn_bridge.modules.several import prefix_of
from dpnn_bridge.outputs import data
from dpnn_bridge.outputs.format import ExportContext, Format
from dpnn_bridge.outputs.npy import ArrayHeader
from dpnn_bridge.outputs.verification import check_zip
from dpnn_bridge.outputs.written import Written

#: maximum number of arrays in a file that the model does not have; a report lists them
_MAX_OTHERS = 100


def _weights(module: nn.Module) -> dict[str, Tensor]:
    """Return the ``state_dict`` on the CPU; bfloat16, which numpy lacks, becomes float32.

    Raises:
        ConversionError: a value is not a tensor, or is distributed.
    """
    weights = module.state_dict()
    if other := next((k for k, v in weights.items() if not isinstance(v, Tensor)), None):
        raise ConversionError(f"{other} is not a tensor; if the model is quantized, pass the model before quantization")
    if distributed := next(filter(lambda k: is_distributed(weights[k]), weights), None):
        raise ConversionError(f"{distributed} is distributed; {FULL_STATE}")
    return {k: (v.float() if v.dtype == torch.bfloat16 else v).detach().cpu() for k, v in weights.items()}


def _write(path: Path, arrays: Mapping[str, np.ndarray], comment: str = "") -> None:
    """Write arrays like ``numpy.savez``, which cannot write an array with the name ``file``."""
    with open_compared(path, tensors=True) as file, ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)
        archive.comment = comment.encode()


def _same_entry(expected: ZipFile, found: ZipFile, name: str) -> bool:
    """Return whether an array is equal in two archives; no more of ``found`` is read than ``expected`` contains."""
    with expected.open(name) as one, found.open(name) as other:
        if (text := one.read()) == other.read(len(text) + 1):
            return True
    with expected.open(name) as one, found.open(name) as other:
        a, b = ArrayHeader(one, text=True), ArrayHeader(other, text=True)
        if a.shape != b.shape or a.dtype.newbyteorder("=") != b.dtype.newbyteorder("="):
            return False
        return a.elements(one).tobytes() == b.elements(other).tobytes()


def _arrays(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the name and the array of each entry; numpy's reader could not run in several threads on older Pythons."""
    with open_archive(path) as archive:
        for name in archive.namelist():
            with archive.open(name) as file:
                yield name.removesuffix(".npy"), ArrayHeader(file, text=True).elements(file)


def _check_names(path: Path, expected: Mapping[str, Tensor], names: Sequence[str]) -> None:
    """Refuse the weights of another network: no name is equal, or layers have other tensors.

    The export to Torch7 divides some layers of PyTorch: instead of ``1.weight``, the model has ``1.module.2.weight``.
    """
    found = set(names)
    missing = [name for name in expected if name not in found]
    others = [name for name in names if name not in expected]
    replaced = {name.rpartition(".")[0] for name in others} - {""}
    replaced -= {name.rpartition(".")[0] for name in expected if name in found}  # one tensor has another name there
    divided = all(any(owner in replaced for owner in _owners(name)) for name in missing)
    if missing and others and (divided or expected.keys().isdisjoint(names)):
        raise VerificationError(
            f"{path}: contains {shortened(others[0])} and lacks {shortened(missing[0])}, a tensor of the model; it was "
            "converted from another model. If this model was exported from a network of PyTorch, compare the file "
            "with the network's own file"
        )


def _owners(name: str) -> Iterator[str]:
    """Yield the names of the modules around a tensor, such as ``1.module`` and ``1`` of ``1.module.weight``."""
    while name := name.rpartition(".")[0]:
        yield name


def _without_dimensions(one: Sequence[int], other: Sequence[int]) -> bool:
    """Return whether two shapes are equal except for more dimensions of size 1 in one of them."""
    return len(one) != len(other) and [n for n in one if n != 1] == [n for n in other if n != 1]


class Npz(Format):
    """The format ``.npz``: arrays with the names of the ``state_dict``, or with the paths of data."""

    suffix = ".npz"
    bfloat16 = False
    data = True

    def write(self, module: nn.Module, path: Path, context: ExportContext) -> None:
        arrays = {k: v.numpy() for k, v in _weights(module).items()}
        _write(path, arrays, context.metadata.get("origin", ""))
        if any(type(m) is Placeholder for m in module.modules()):
            others = ".pt, .safetensors and .t7 contain them"
            context.notes.append(f"tensors of classes without a mapping are omitted; {others}")

    def verify(self, module: nn.Module, path: Path, context: ExportContext) -> None:
        same_tensors(path, {name: torch.from_numpy(array) for name, array in _arrays(path)}, _weights(module))

    def origin(self, path: Path) -> str | None:
        check_zip(path)
        with open_zip(path) as archive:
            return archive.comment.decode() or None

    def open(self, path: Path, module: nn.Module, key: str = "") -> Written:
        """Return the weights. Of an array with an unexpected shape, which may be huge, only the header is read.

        Layers of PyTorch have other names if the model was exported to Torch7. If no name is equal, the arrays have
        the order of the model's tensors, which may have more or fewer dimensions of size 1.

        Raises:
            VerificationError: the arrays are the weights of another network.
        """
        expected = module.state_dict()
        tensors: dict[str, Tensor] = {}
        with open_archive(path) as archive:
            entries = archive.infolist()
            prefix = prefix_of(key, (e.filename.removesuffix(".npy") for e in entries), expected)
            entries = [e for e in entries if e.filename.startswith(prefix)]
            if len(entries) > len(expected) + _MAX_OTHERS:
                found = f"contains {len(entries):,} arrays, and the model has {len(expected):,} tensors"
                raise VerificationError(f"{path}: {found}; it was converted from another model")
            names = [e.filename.removesuffix(".npy").removeprefix(prefix) for e in entries]
            renamed = 0 < len(names) == len(expected) and expected.keys().isdisjoint(names)
            if not renamed:
                _check_names(path, expected, names)
            for entry, name in zip(entries, expected if renamed else names, strict=True):
                if entry.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
                    raise T7FormatError(f"{shortened(entry.filename)} has a compression method that numpy does not use")
                if name in tensors:  # a small file may list a large array many times
                    raise T7FormatError(f"it contains {shortened(name)} twice")
                with archive.open(entry) as file:
                    header = ArrayHeader(file)
                    shape = tuple(expected[name].shape) if name in expected else (-1,)
                    if header.shape == shape or (renamed and _without_dimensions(header.shape, shape)):
                        tensors[name] = torch.from_numpy(header.elements(file)).reshape(shape)
                    else:
                        tensors[name] = torch.from_numpy(np.zeros((), header.dtype)).expand(header.shape)
        note = "contains weights and no layers"
        if renamed:
            note += ", and no name of a tensor of MODEL; its arrays were compared in their order"
        return Written(tensors, note=note)

    def same_content(self, one: Path, other: Path) -> bool:
        """Return whether two files contain equal arrays, in any order; a compressed file is no output."""
        check_zip(other)
        with open_archive(one) as expected, open_archive(other) as found:
            names = expected.namelist()
            if sorted(names) != sorted(found.namelist()):
                return False
            return all(_same_entry(expected, found, name) for name in names)

    def read_data(self, path: Path) -> dict[str, np.ndarray]:
        check_zip(path)
        return dict(_arrays(path))

    def write_data(self, found: data.Data, path: Path) -> None:
        cleaned = data.flat(data.cleaned(found, np.ascontiguousarray))
        arrays = {name: np.asarray(leaf) for name, leaf in cleaned.items()}
        # names in a zip archive end at a zero byte and have a 16-bit length; numpy omits ".npy" when it reads names
        reserved = {f"{name}.npy" for name in arrays}
        data.check_names(arrays, ".npz", lambda n: "\0" not in n and len(n.encode()) < 65_000 and n not in reserved)
        _write(path, arrays)
        with reading_back(path):
            for (name, expected), (other, array) in zip(arrays.items(), _arrays(path), strict=True):
                if (name, expected.dtype) != (other, array.dtype) or array.tobytes() != expected.tobytes():
                    raise not_as_written(path, f"{name} differs")


FORMAT = Npz()
