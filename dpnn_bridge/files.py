"""Whole files: load, save, convert. Everything written is read back, compared, and only then renamed."""

from __future__ import annotations

import hashlib
import os
import runpy
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dpnn_bridge import checkpoint
from dpnn_bridge.conversion import Options, convert_object, to_lua
from dpnn_bridge.errors import ConversionError, NotT7Error, OutputExistsError, VerificationError
from dpnn_bridge.find import select
from dpnn_bridge.loaders import t7_writer
from dpnn_bridge.loaders.t7_reader import read_t7
from dpnn_bridge.report import Report

StrPath = str | os.PathLike[str]


def load(
    path: StrPath,
    *,
    key: str | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    index_base: int = 1,
    inplace: bool = False,
    gradients: bool = False,
    plugins: Sequence[StrPath] = (),
    allow_unsupported: bool = False,
) -> nn.Module:
    """Loads a model from a ``.t7`` file or from a ``.pt`` file written by :func:`save`.

    Args:
        path: the file.
        key: path of the module inside a checkpoint table, such as ``"protos.rnn"``; default: the one the file is about.
        device: where the tensors go; CUDA tensors in the file are read on the CPU first.
        dtype: casts floating point tensors; default: as in the file.
        index_base: 1 as in Lua or 0, for modules whose inputs or outputs are indices.
        inplace: run modules in place where the file says so.
        gradients: take the gradients of the file into ``.grad``.
        plugins: Python files that register classes with ``@lua_class``.
        allow_unsupported: unknown classes become placeholders that raise when they run.

    Returns:
        The module, with the train/eval flags, dtypes and sharing of the file.

    Raises:
        T7Error: the file cannot be read.
        ConversionError: it holds no module, or one that cannot be converted.

    Examples:
        >>> model = dpnn_bridge.load("fixtures/samples/mnist.t7").eval()   # doctest: +SKIP
    """
    load_plugins(plugins)
    options = Options(
        index_base=index_base, inplace=inplace, gradients=gradients, allow_unsupported=allow_unsupported
    )
    module, _ = load_with_report(path, key, options)
    return module.to(device=device, dtype=dtype)


def load_plugins(plugins: Sequence[StrPath]) -> None:
    """Runs Python files that register classes with ``@lua_class``; each only once.

    Raises:
        ConversionError: a file is missing.
    """
    for plugin in plugins:
        path = Path(plugin).resolve()
        if not path.is_file():
            raise ConversionError(f"plugin {plugin}: no such file")
        if path not in _loaded_plugins:
            runpy.run_path(str(path), run_name=f"dpnn_bridge_plugin_{path.stem}")
            _loaded_plugins.add(path)


_loaded_plugins: set[Path] = set()


def load_with_report(path: StrPath, key: str | None, options: Options) -> tuple[nn.Module, Report]:
    """:func:`load` together with the report of what became of what."""
    path = Path(path)
    if _is_torch_file(path):
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return checkpoint.unpack(content, options, str(path))
    obj, key = select(read_t7(path), key, str(path))
    module, report = convert_object(obj, options, key)
    report.metadata = {"source": path.name, "key": key}
    return module, report


def _is_torch_file(path: Path) -> bool:
    if path.suffix not in (".pt", ".pth"):
        return False
    if not path.is_file():
        raise NotT7Error(f"{path}: no such file")
    with open(path, "rb") as f:
        return f.read(4) == b"PK\x03\x04"


def save(path: StrPath, module: nn.Module, *, metadata: dict[str, Any] | None = None, force: bool = True) -> None:
    """Writes a module to a ``.pt`` file that ``torch.load(weights_only=True)`` reads and :func:`load` rebuilds.

    Args:
        path: the file; it appears only once it has been written, read back and compared.
        module: a converted module.
        metadata: plain data to store beside the model.
        force: replace an existing file.

    Raises:
        OutputExistsError: the file exists and ``force`` is False.
        VerificationError: what was read back differs.
    """
    content = checkpoint.pack(module, metadata)
    with replacing(path, force=force) as temporary:
        torch.save(content, temporary)
        _verify(temporary, content)


def write_t7(path: StrPath, value: Any, **options: Any) -> None:
    """Writes a Lua value or a module to a ``.t7`` file that Torch7 loads.

    Args:
        path: the file; it appears only once it is complete.
        value: a Lua value as :func:`read_t7` returns it, or a module, which :func:`to_lua` turns into one.
        **options: of :func:`dpnn_bridge.loaders.t7_writer.write_t7`.

    Raises:
        ConversionError: a submodule has no Lua class.
    """
    t7_writer.write_t7(path, to_lua(value) if isinstance(value, nn.Module) else value, **options)


def _verify(path: Path, content: dict[str, Any]) -> None:
    written = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    state = written["state_dict"]
    if state.keys() != content["state_dict"].keys():
        raise VerificationError(f"{path}: read back other names than were written")
    for name, tensor in content["state_dict"].items():
        read = state[name]
        if read.dtype != tensor.dtype or read.shape != tensor.shape or not _same_bits(read, tensor.cpu()):
            raise VerificationError(f"{path}: {name} differs after reading back; the disk may be full or failing")
    if not _same(written["graph"], content["graph"]):
        raise VerificationError(f"{path}: the object graph differs after reading back")


def _same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    if a.numel() == 0:
        return True
    return torch.equal(a.contiguous().reshape(-1).view(torch.uint8), b.contiguous().reshape(-1).view(torch.uint8))


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and a.shape == b.shape and _same_bits(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(_same(v, b[k]) for k, v in a.items())
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(_same, a, b))
    return type(a) is type(b) and (a == b or a != a)


def convert(
    src: StrPath,
    dst: StrPath,
    *,
    key: str | None = None,
    force: bool = False,
    dtype: torch.dtype | None = None,
    plugins: Sequence[StrPath] = (),
    allow_unsupported: bool = False,
    progress: Callable[[str], None] = lambda step: None,
) -> Report:
    """Converts a ``.t7`` file to a ``.pt`` file.

    Args:
        src: the Torch7 file.
        dst: the file to write.
        key: path of the module inside a checkpoint table.
        force: replace an existing ``dst``.
        dtype: casts floating point tensors.
        plugins: Python files that register classes with ``@lua_class``.
        allow_unsupported: unknown classes become placeholders.
        progress: called with the name of each step as it begins.

    Returns:
        The report of what became of what.

    Raises:
        T7Error, ConversionError, OutputExistsError, VerificationError: nothing was written.
    """
    check_output(dst, force)
    load_plugins(plugins)
    progress(f"reading {src}")
    options = Options(allow_unsupported=allow_unsupported)
    module, report = load_with_report(src, key, options)
    if dtype is not None:
        module.to(dtype)
    report.metadata = {
        **report.metadata,
        "source": Path(src).name,
        "sha256": sha256(src),
        "dpnn_bridge": package_version(),
        "torch": torch.__version__,
        "parameters": sum(p.numel() for p in module.parameters()),
    }
    progress(f"writing {dst}")
    save(dst, module, metadata=report.metadata, force=force)
    return report


def sha256(path: StrPath) -> str:
    """Hex digest of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        while block := f.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def package_version() -> str:
    """The installed version of dpnn_bridge."""
    try:
        return version("dpnn-bridge")
    except PackageNotFoundError:
        return "unknown"


def check_output(path: StrPath, force: bool) -> None:
    """Raises :class:`OutputExistsError` when ``path`` exists and may not be replaced."""
    if os.path.exists(path) and not force:
        raise OutputExistsError(f"{path} exists; use --force (force=True) to replace it")


@contextmanager
def replacing(path: StrPath, *, force: bool) -> Iterator[Path]:
    """A temporary file beside ``path`` that takes its place when the block ends well, and vanishes otherwise."""
    path = Path(path)
    check_output(path, force)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
