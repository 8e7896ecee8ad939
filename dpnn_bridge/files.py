"""Whole files: load, save, convert."""

from __future__ import annotations

import filecmp
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePath
from typing import Any, Literal

import torch
from torch import nn

from dpnn_bridge.base.atomic import StrPath, check_output, replacing
from dpnn_bridge.base.boundary import raises
from dpnn_bridge.base.folders import temporary_folder
from dpnn_bridge.base.regular import check_file
from dpnn_bridge.base.remote import is_url, place_of
from dpnn_bridge.base.shards import checksum_of
from dpnn_bridge.base.suffixes import INDEX, OUTPUTS, PICKLED, is_converted_file
from dpnn_bridge.base.version import package_version
from dpnn_bridge.checkpoints.contents import named_file, surroundings, without_module
from dpnn_bridge.checkpoints.find import SEVERAL, candidates, follow, select
from dpnn_bridge.conversion import Convertible, convert_object, registry, to_lua_value
from dpnn_bridge.conversion.fields import record_of
from dpnn_bridge.conversion.options import Options
from dpnn_bridge.conversion.report import Report
from dpnn_bridge.conversion.tensors import as_dtype
from dpnn_bridge.errors import ConversionError, LuaBridgeError, ModelNotFoundError
from dpnn_bridge.loaders import t7_writer
from dpnn_bridge.loaders.encoding import Encoding
from dpnn_bridge.loaders.origin import LocalFile, Origin, local_file, name_of
from dpnn_bridge.loaders.t7_reader import read_local, read_t7
from dpnn_bridge.modules.fit import misfits
from dpnn_bridge.modules.several import Models
from dpnn_bridge.outputs import container, data, export, format_of, pt, pt_file, safetensors_file, suffix_of
from dpnn_bridge.outputs.made_of import origin_text
from dpnn_bridge.plugins import load_plugins


@raises(ConversionError, "loading")
def load(
    path: Origin,
    *,
    key: str | None = None,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype | None = None,
    index_base: int = 1,
    inplace: bool = False,
    gradients: bool = False,
    plugins: Sequence[StrPath] = (),
    lua: Any = None,
    sandbox: bool | Literal["partial"] = False,
    allow_unsupported: bool = False,
    sha256: str | None = None,
) -> nn.Module:
    """Loads a model from a ``.t7`` file, or from a ``.pt`` or ``.safetensors`` file written by :func:`save`.

    Args:
        path: the file, or a URL, a file open for reading bytes, or bytes (:mod:`dpnn_bridge.loaders.origin`).
        key: path of the module inside a checkpoint table, such as ``"protos.rnn"``; default: the one the file is about.
        device: where the tensors go; CUDA tensors in the file are read on the CPU first.
        dtype: casts floating point tensors, ``torch.float16`` or ``"float16"``; default: as in the file.
        index_base: 1 as in Lua or 0, for modules whose inputs or outputs are indices.
        inplace: run modules in place where the file says so.
        gradients: take the gradients of the file into ``.grad``.
        plugins: Python files that register classes with ``@lua_class``.
        lua: a :class:`~dpnn_bridge.lua.LuaBridge` that knows the classes that the registry does not, or Lua files that
            define them, which are run.
        sandbox: run these Lua files, and the layers that they define, in a process that the kernel lets do nothing but
            compute; see :class:`~dpnn_bridge.lua.LuaBridge` for its limits.
        allow_unsupported: unknown classes become placeholders that raise when they run.
        sha256: refuse a file with another checksum.

    Returns:
        The module, with the train/eval flags, dtypes and sharing of the file. Of several models of equal rank, such as
        an encoder and a decoder, a :class:`~dpnn_bridge.modules.several.Models`, which holds them by key.

    Raises:
        T7Error: the file cannot be read.
        ConversionError: it holds no module, or one that cannot be converted.

    Examples:
        >>> model = dpnn_bridge.load("lenet.t7").eval()   # doctest: +SKIP
    """
    load_plugins(plugins)
    options = Options(
        index_base=index_base,
        inplace=inplace,
        gradients=gradients,
        allow_unsupported=allow_unsupported,
        **_classes_in_lua(lua, sandbox),
    )
    module, _ = load_with_report(path, key, options, sha256)
    return _cast(module, as_dtype(dtype)).to(device)


@raises(ConversionError, "loading")
def load_with_report(
    origin: Origin, key: str | None, options: Options, sha256: str | None = None
) -> tuple[nn.Module, Report]:
    """:func:`load` together with the report of what became of what."""
    with local_file(origin, sha256) as file:
        return _load_local(file, _read_torch7(file), key, options)


def _read_torch7(file: LocalFile) -> tuple[Any, Encoding] | None:
    """What a ``.t7`` file holds, and how; None for a file that was converted from one."""
    return None if is_converted_file(file.path) else read_local(file)


def _load_local(
    file: LocalFile, contents: tuple[Any, Encoding] | None, key: str | None, options: Options
) -> tuple[nn.Module, Report]:
    if contents is None:
        module, report = container.unpack(_read_pytorch(file), options, file.name)
        return (_chosen(module, key, file.name) if key and isinstance(module, Models) else module), report
    root, encoding = contents
    obj, key, others = select(root, key, file.name, together=True, knows=options.knows)
    module, report = convert_object(obj, options, key)
    if obj.class_name == SEVERAL:
        models = ", ".join(f"{k} ({m.class_name})" for k, m in obj["models"].items())
        report.notes.append(f"the file holds several models: {models}; the result holds them all by key")
    if others:
        listed = ", ".join(f"{c.key} ({c.obj.class_name})" for c in others[:8]) + (", …" if len(others) > 8 else "")
        report.notes.append(f"the file holds more: {listed}; key= (--key) chooses one, --all converts each")
    report.notes += misfits(module)
    report.notes += _unread(encoding)
    report.metadata = {"source": PurePath(file.name).name, "key": key, "checkpoint": surroundings(root)}
    return module, report


def _unread(encoding: Encoding) -> list[str]:
    if not encoding.trailing:
        return []
    several = "dpnn_bridge.loaders.read_all reads several objects"
    return [f"{encoding.trailing} bytes follow behind the first object of the file; they are not read ({several})"]


def _chosen(models: Models, key: str, name: str) -> nn.Module:
    if key not in models:
        raise ModelNotFoundError(f"{name}: key {key!r} leads to nothing. Models in the file: {', '.join(models)}")
    return models[key]


def _read_pytorch(file: LocalFile) -> Any:
    path, name = file
    check_file(path)
    if path.name.endswith((".safetensors", INDEX)):
        from dpnn_bridge.outputs import safetensors

        return safetensors.read(path)
    return pt_file.read(path, name)


def _classes_in_lua(lua: Any, sandbox: bool | Literal["partial"]) -> dict[str, Any]:
    """Options that let ``lua=``, a bridge or Lua files, convert the classes that it knows."""
    if lua is None:
        return {}
    from dpnn_bridge.lua.bridge import LuaBridge

    if not isinstance(lua, LuaBridge):
        lua = LuaBridge.from_files([lua] if isinstance(lua, (str, os.PathLike)) else list(lua), sandbox=sandbox)
    elif sandbox and not lua.sandboxed:
        raise LuaBridgeError("sandbox=True: this bridge is none; give the Lua files, or a LuaBridge(sandbox=True)")
    return {"fallback": lua.convert, "knows": lua.has_class}


def _cast(module: nn.Module, dtype: torch.dtype | None) -> nn.Module:
    """The module in another type, which it will be written in too."""
    record = record_of(module)
    if dtype is not None and record is not None:
        record.cast = dtype
    return module.to(dtype=dtype)


@raises(ConversionError, "writing")
def save(path: StrPath, module: nn.Module | Convertible, *, force: bool = True, **options: Any) -> None:
    """Writes a module in the format that the suffix names, reads it back and compares, then lets the file appear.

    Args:
        path: ``.pt`` (what :func:`load` rebuilds and ``torch.load(weights_only=True)`` reads), ``.safetensors``,
            ``.npz``, ``.onnx``, ``.pt2``, ``.py`` or ``.t7``.
        module: a converted module, or an object of :mod:`dpnn_bridge.legacy.nn`.
        force: replace an existing file. That is the default here, as with ``torch.save``, since a training script
            writes the same file again; :func:`convert` and the commands refuse unless they are told.
        **options: of :func:`dpnn_bridge.outputs.export`: ``to``, ``example``, ``metadata`` and those of the format.

    Raises:
        ConversionError: the format cannot hold this model.
        OutputError: the file cannot be written there, or exists and ``force`` is False.
        VerificationError: what was read back differs; nothing was written.
    """
    export(module.to_torch() if isinstance(module, Convertible) else module, path, force=force, **options)


@raises(ConversionError, "writing")
def write_t7(path: StrPath, value: Any, **options: Any) -> None:
    """Writes a module, a Lua value, or plain Python data to a ``.t7`` file that Torch7 loads.

    Args:
        path: the file; it appears only once it is complete.
        value: a module, also of :mod:`dpnn_bridge.legacy.nn`; a Lua value of :func:`read_t7`; or tensors, numpy arrays,
            numbers, strings, bytes, and lists and dicts of all of these. Lists become tables with keys from 1.
        **options: of :func:`dpnn_bridge.loaders.t7_writer.write_t7`.

    Raises:
        ConversionError: a submodule has no Lua class.
    """
    t7_writer.write_t7(path, to_lua_value(value), **options)


@raises(ConversionError, "converting")
def convert(
    src: Origin,
    dst: StrPath,
    *,
    key: str | None = None,
    to: str | None = None,
    force: bool = False,
    dtype: str | torch.dtype | None = None,
    example: Any = None,
    plugins: Sequence[StrPath] = (),
    lua: Any = None,
    sandbox: bool | Literal["partial"] = False,
    allow_unsupported: bool = False,
    sha256: str | None = None,
    checksum: bool = False,
    max_shard_size: int | str | None = None,
    progress: Callable[[str], None] = lambda step: None,
    **options: Any,
) -> Report:
    """Converts a model file to the format that the suffix of ``dst`` names.

    A file without a model, or a ``key`` that leads to data, is written as data: ``.npz``, ``.safetensors``, ``.json``,
    ``.pt`` or ``.t7``, see :mod:`dpnn_bridge.outputs.data`.

    Args:
        src: a ``.t7`` file, or a ``.pt`` or ``.safetensors`` file written by :func:`save`; also a URL, an open file, or
            bytes.
        dst: the file to write, or the URL of one.
        key: path of the module inside a checkpoint table.
        to: format name when the suffix of ``dst`` does not say it.
        force: replace an existing ``dst``, which is refused otherwise (:func:`save` replaces).
        dtype: casts floating point tensors, ``torch.float16`` or ``"float16"``.
        example: one input of the model, which some formats need, or a function that makes one for the model.
        plugins: Python files that register classes with ``@lua_class``.
        lua: a :class:`~dpnn_bridge.lua.LuaBridge` that knows the classes that the registry does not, or Lua files that
            define them, which are run.
        sandbox: run these Lua files, and the layers that they define, in a process that the kernel lets do nothing but
            compute; see :class:`~dpnn_bridge.lua.LuaBridge` for its limits.
        allow_unsupported: unknown classes become placeholders.
        sha256: refuse a file with another checksum.
        checksum: take the SHA-256 of what is written into the report: ``metadata["written"]``.
        max_shard_size: write ``.safetensors`` in files of at most so many bytes, ``"2GB"``, with an index, as Hugging
            Face's libraries load them. Weights go from file to file in pieces: they may be larger than memory. A
            ``dst`` that is an index, ``model.safetensors.index.json``, asks for that too.
        progress: called with the name of each step as it begins.
        **options: of the format: ``dynamic``, ``opset``, ``input_names`` of ``.onnx``, ``dynamic`` of ``.pt2``.

    Returns:
        The report of what became of what.

    Raises:
        T7Error, ConversionError, OutputError, VerificationError: nothing was written.
    """
    suffix, dtype = _suffix_of(dst, to), as_dtype(dtype)
    inputs = (*([place_of(src)] if isinstance(src, (str, os.PathLike)) and not is_url(src) else []), *plugins)
    check_output(dst, force, inputs)
    load_plugins(plugins)
    progress(f"reading {name_of(src)}")
    chosen = Options(
        allow_unsupported=allow_unsupported,
        pending=max_shard_size is not None or suffix == INDEX,
        **_classes_in_lua(lua, sandbox),
    )
    options |= {} if max_shard_size is None else {"max_shard_size": max_shard_size}
    with local_file(src, sha256) as file:
        contents = _read_torch7(file)
        value = _data(contents, key, chosen) if suffix in data.SUFFIXES else None
        if value is None and suffix == ".json":
            raise ConversionError(
                f"{file.name}: holds a model, and .json only data; choose {', '.join(OUTPUTS)}, or a key"
            )
        if contents is not None and value is not None:
            progress(f"writing {dst}")
            with replacing(dst, force=force, inputs=inputs) as temporary:
                report = _data_report(data.write(value, temporary, suffix), file.name, key, named_file(value))
                if checksum:
                    report.metadata |= {
                        "origin": _origin(file, key, dtype, options),
                        "written": checksum_of(temporary),
                    }
            report.notes += _unread(contents[1])
            return report
        with ThreadPoolExecutor(1) as pool:  # for the checksum, beside reading and writing
            made_of = (
                pool.submit(_origin, file, key, dtype, options).result if checksum or suffix not in PICKLED else None
            )
            module, report = _load_local(file, contents, key, chosen)
            _cast(module, dtype)
            report.source = Path(file.name)
            report.metadata |= {
                "source": PurePath(file.name).name,
                "dpnn_bridge": package_version(),
                "torch": str(torch.__version__),
                "modules": sum(1 for _ in module.modules()),
                "parameters": sum(p.numel() for p in module.parameters()),
            }
            if report.unsupported and suffix == ".npz":
                report.notes.append("tensors of classes without a mapping are left out; a placeholder's obj has them")
            progress(f"writing {dst}")
            if callable(example) and not isinstance(example, torch.Tensor):
                example = example(module)
            written = {"example": example, "metadata": dict(report.metadata), "force": force, "inputs": inputs}
            seal = (lambda path: report.metadata.update(written=checksum_of(path))) if checksum else None
            export(module, dst, to=to, seal=seal, origin=made_of, **written, **options)
            if made_of is not None:
                report.metadata["origin"] = made_of()
    return report


def _suffix_of(dst: StrPath, to: str | None) -> str:
    """The format of an output, which may be ``.json`` for data."""
    data_form = (to or Path(dst).suffix[1:]).lstrip(".") == "json" and not os.fspath(dst).endswith(INDEX)
    return ".json" if data_form else suffix_of(dst, to)


def _data(contents: tuple[Any, Encoding] | None, key: str | None, options: Options) -> Any:
    """What a file holds, or the part that a key names, where that is data; None where it is a model or holds one."""
    value = contents and (follow(contents[0], key) if key else contents[0])
    if value is None:
        return None
    knows = options.knows or (lambda name: False)
    found = candidates(value, lambda obj: registry.find(obj) is not None or knows(obj.class_name))
    return None if (any(not c.key for c in found) if key else found) else value


def _data_report(written: data.Data, name: str, key: str | None, model: tuple[str, str] | None) -> Report:
    report = Report(source=Path(name))
    facts = {"tensors": written.tensors, "values": written.values, "parameters": 0}
    report.metadata = {"source": PurePath(name).name, "key": key, **facts}
    for dropped in written.dropped:
        report.drop(dropped, "no format for data holds it")
    if model is not None:
        report.notes.append(f"the file holds no model; its field {model[0]} names the file of one: convert {model[1]}")
    return report


def is_converted(
    src: Origin,
    dst: StrPath,
    *,
    key: str | None = None,
    to: str | None = None,
    dtype: str | torch.dtype | None = None,
    force: bool = False,
    checksum: bool = False,
    **options: Any,
) -> bool:
    """Whether ``dst`` is whole and what :func:`convert` made of ``src`` with these arguments.

    A file may say what it was made of; others (``.t7``, ``.pt``, data) are compared with what the input gives now.
    """
    try:
        suffix = _suffix_of(dst, to)
        with local_file(dst, unpack=False) as there:
            if suffix != ".json" and (made_of := format_of(dst, to).origin(there.path)):
                with local_file(src) as file:
                    return made_of == _origin(file, key, as_dtype(dtype), options)
            if suffix not in data.SUFFIXES:
                return False
            with temporary_folder() as folder:
                again = folder / Path(dst).name
                convert(src, again, key=key, to=to, dtype=dtype, **options)
                if suffix in (*PICKLED, ".safetensors"):
                    return (pt if suffix in PICKLED else safetensors_file).same_content(again, there.path)
                return filecmp.cmp(again, there.path, shallow=False)
    except Exception:  # whatever is wrong with it, it is not what convert writes
        return False


def _origin(src: LocalFile, key: str | None, dtype: torch.dtype | None, options: dict[str, Any]) -> str:
    """What a conversion starts from."""
    return origin_text(checksum_of(src.path), key, dtype, options)


@raises(ConversionError, "searching for models")
def model_keys(path: Origin) -> list[str]:
    """The keys of all models in a ``.t7`` file, as ``load(key=…)`` takes them.

    Raises:
        ModelNotFoundError: there is none.
    """
    root = read_t7(path)
    keys = [c.key for c in candidates(root) if not c.is_criterion]
    if not keys:
        raise ModelNotFoundError(without_module(root, name_of(path)))
    return keys
