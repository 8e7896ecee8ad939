"""Load and save files with models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import Any, Literal

import torch
from torch import nn
from typing_extensions import Unpack

from dpnn_bridge.base.arguments import checks_arguments, renamed
from dpnn_bridge.base.atomic import StrPath
from dpnn_bridge.base.boundary import wrap_errors
from dpnn_bridge.base.lazy_exports import lazy_exports
from dpnn_bridge.base.regular import MAX_BYTES, check_file
from dpnn_bridge.base.shards import check_unchanged
from dpnn_bridge.checkpoints.contents import plain_entries, without_module
from dpnn_bridge.checkpoints.find import SEVERAL, TOO_MANY, affordable, known_also, matching_key, models_in, select
from dpnn_bridge.compare.precision import check_device
from dpnn_bridge.conversion.convert import convert_object, to_lua_value
from dpnn_bridge.conversion.fields import record_of
from dpnn_bridge.conversion.lua_values import Convertible
from dpnn_bridge.conversion.options import Options
from dpnn_bridge.conversion.report import Report
from dpnn_bridge.conversion.tensors import as_dtype
from dpnn_bridge.errors import (
    ConversionError,
    ConversionLimitError,
    LuaBridgeError,
    ModelNotFoundError,
    NotT7Error,
    OptionError,
)
from dpnn_bridge.legacy.pickles import read_source
from dpnn_bridge.loaders import t7_writer
from dpnn_bridge.loaders.encoding import Encoding
from dpnn_bridge.loaders.origin import LocalFile, Origin, local_file, name_of
from dpnn_bridge.loaders.t7_reader import read_t7
from dpnn_bridge.loaders.t7_writer import WriteKeywords
from dpnn_bridge.modules.fit import shape_warnings
from dpnn_bridge.modules.several import Models
from dpnn_bridge.outputs import container
from dpnn_bridge.outputs.formats import format_of
from dpnn_bridge.outputs.options import FormatKeywords
from dpnn_bridge.outputs.plain import as_plain
from dpnn_bridge.outputs.writing import export
from dpnn_bridge.plugins import load_plugins


@checks_arguments
@wrap_errors(ConversionError, "loading")
def load(
    path: Origin,
    *,
    key: str | None = None,
    device: str | int | torch.device = "cpu",
    dtype: str | torch.dtype | None = None,
    index_base: Literal[0, 1] = 1,
    inplace: bool = False,
    gradients: bool = False,
    plugins: Sequence[StrPath] = (),
    lua: Any = None,
    sandbox: bool | Literal["partial"] = False,
    allow_unsupported: bool = False,
    sha256: str | None = None,
) -> nn.Module:
    """Load a model from a ``.t7`` file, a pickle of ``torch.legacy.nn``, or a file written by :func:`save`.

    Args:
        path: path or URL of the file, a file open for reading bytes, or bytes (:mod:`dpnn_bridge.loaders.origin`).
        key: path of the module inside a checkpoint table, such as ``"protos.rnn"``; default: detected automatically.
        device: device of the returned module, as for :class:`torch.device`. CUDA tensors in the file need no GPU.
        dtype: floating-point type to cast to, ``torch.float16`` or ``"float16"``; default: the dtypes of the file.
        index_base: 1 as in Lua or 0, for modules whose inputs or outputs are indices.
        inplace: use the file's ``inplace`` settings.
        gradients: load the gradients of the file into ``.grad``.
        plugins: Python files that register classes with ``@lua_class``.
        lua: a :class:`~dpnn_bridge.lua.LuaBridge`, or Lua files to run. The classes that they define take precedence
            over the built-in mapping of the same name, and plugins take precedence over both.
        sandbox: run these Lua files, and the layers that they define, in a separate process that can only compute; see
            :class:`~dpnn_bridge.lua.LuaBridge` for the limits of the process.
        allow_unsupported: replace unknown classes by placeholders that raise when they run.
        sha256: expected checksum of the file; a file with another checksum is an error.

    Returns:
        The module, with the train/eval flags, dtypes and shared parameters of the file. For several models of equal
        rank, such as an encoder and a decoder, a :class:`~dpnn_bridge.modules.several.Models`, which contains the
        models by key.

    Raises:
        T7Error: the file cannot be read.
        ConversionError: the file contains no module, or a module that cannot be converted.
        OptionError: PyTorch cannot use the device.

    Examples:
        >>> model = dpnn_bridge.load("lenet.t7").eval()   # doctest: +SKIP
    """
    if str(device) != "meta":
        check_device(device)
    load_plugins(plugins)
    options = Options(
        index_base=index_base,
        inplace=inplace,
        gradients=gradients,
        allow_unsupported=allow_unsupported,
        **classes_in_lua(lua, sandbox),
    )
    module, _ = load_with_report(path, key, options, sha256)
    return cast(module, as_dtype(dtype)).to(device)


@wrap_errors(ConversionError, "loading")
def load_with_report(
    origin: Origin, key: str | None, options: Options, sha256: str | None = None
) -> tuple[nn.Module, Report]:
    """Load like :func:`load`, and also return the report."""
    with local_file(origin, sha256) as file:
        loaded = load_local(file, read_source(file), key, options)
        if sha256 is not None:
            check_unchanged(*file)
        return loaded


def load_local(
    file: LocalFile, contents: tuple[Any, Encoding] | None, key: str | None, options: Options
) -> tuple[nn.Module, Report]:
    """Convert the model of a file; return the module and the report.

    Args:
        file: the file.
        contents: result of :func:`read_source` for the file.
        key: path of the module in the file, or None.
        options: options of the conversion.
    """
    if contents is None:
        content = format_of(file.path).load(file.path, file.name)
        module, report = container.unpack(content, options, file.name)
        return (_chosen(module, key, file.name, report) if key else module), report
    root, encoding = contents
    obj, key, others = select(root, key, file.name, together=True, knows=options.knows)
    module, report = convert_object(obj, options, key)
    if obj.class_name == SEVERAL:
        models = ", ".join(f"{k} ({m.class_name})" for k, m in obj["models"].items())
        report.notes.append(f"the file contains several models: {models}; the result contains all of them by key")
    if others:
        listed = ", ".join(f"{c.key} ({c.obj.class_name})" for c in others[:8]) + (", …" if len(others) > 8 else "")
        report.notes.append(f"the file contains more models: {listed}; key= (--key) selects one, --all converts each")
    report.notes += shape_warnings(module)
    report.notes += unread(encoding)
    report.metadata = {"source": PurePath(file.name).name, "key": key, "checkpoint": plain_entries(root)}
    return module, report


def unread(encoding: Encoding) -> list[str]:
    """Return a note if the file continues after the object that was read; otherwise an empty list."""
    if not encoding.trailing:
        return []
    several = "dpnn_bridge.loaders.read_all reads several objects"
    return [f"{encoding.trailing} bytes after the first object of the file are not read ({several})"]


def _chosen(module: nn.Module, key: str, name: str, report: Report) -> nn.Module:
    """Return the model of a converted file whose key in the original ``.t7`` file was ``key``, if the file has keys."""
    keys = list(module) if isinstance(module, Models) else [original_key(report) or key]
    found = matching_key(key, keys)
    if found is None:
        raise ModelNotFoundError(f"{name}: no entry at key {key!r}. Models in the file: {', '.join(keys)}")
    return module[found] if isinstance(module, Models) else module


def original_key(report: Report) -> str:
    """Return the key of a converted model in its ``.t7`` file; empty if it is not known or the file was the model."""
    key = report.metadata.get("key")
    return key if isinstance(key, str) else ""


def classes_in_lua(lua: Any, sandbox: bool | Literal["partial"], lua_path: Sequence[StrPath] = ()) -> dict[str, Any]:
    """Return the :class:`Options` for converting classes that a bridge or Lua files define.

    Args:
        lua: a bridge, Lua files, or None.
        sandbox: whether Lua files run in a process that can only compute.
        lua_path: folders with packages that Lua files require.
    """
    if lua is None:
        if sandbox:
            raise OptionError("sandbox= (--sandbox) needs lua= (--lua), the Lua files to run in the sandbox")
        return {}
    from dpnn_bridge.lua.bridge import LuaBridge
    from dpnn_bridge.lua.environment import paths

    if not isinstance(lua, LuaBridge):
        files = paths(lua, "lua= (--lua)")
        for file in files:
            try:
                check_file(file, MAX_BYTES, names="")
            except NotT7Error as error:
                raise OptionError(f"lua= (--lua): {error}") from error
        lua = LuaBridge.from_files(files, lua_path=lua_path, sandbox=sandbox, to_stderr=True)
    elif sandbox and not lua.sandboxed:
        raise LuaBridgeError(
            "sandbox=True: this bridge is not a sandbox; pass the Lua files, or a LuaBridge(sandbox=True)"
        )
    return {"fallback": lua.convert, "overrides": lua.defines, "knows": lua.has_class}


def cast(module: nn.Module, dtype: torch.dtype | None) -> nn.Module:
    """Cast the module, and record the dtype in the conversion metadata, so that an export uses it too."""
    record = record_of(module)
    if dtype is not None and record is not None:
        record.cast = dtype
    return module.to(dtype=dtype)


@renamed(example="input")
@checks_arguments
@wrap_errors(ConversionError, "writing")
def save(
    path: StrPath,
    module: nn.Module | Convertible,
    *,
    to: str | None = None,
    metadata: dict[str, Any] | None = None,
    force: bool = True,
    **options: Unpack[FormatKeywords],
) -> None:
    """Write a module in the format of the suffix. The file is read back and compared before it appears at ``path``.

    Args:
        path: ``.pt`` (for :func:`load` and ``torch.load(weights_only=True)``), ``.safetensors``, ``.npz``, ``.onnx``,
            ``.pt2``, ``.py`` or ``.t7``.
        module: a converted module, or an object of :mod:`dpnn_bridge.legacy.nn`.
        to: name of the format, if the suffix does not determine it.
        metadata: plain data to store with the model, in ``.pt`` and ``.safetensors``. A ``.safetensors`` file stores
            JSON, in which tensors and tuples are lists and keys are strings.
        force: replace an existing file. The default is True as with ``torch.save``, because training scripts write the
            same file again; the default of :func:`convert` and of the commands is False.
        **options: fields of :class:`~dpnn_bridge.outputs.options.ConvertOptions` that the format accepts, such as
            ``input`` for ``.onnx``.

    Raises:
        ConversionError: the format cannot store this model or its metadata.
        OptionError: ``metadata`` contains other values than plain data.
        OutputError: the file cannot be written, or exists and ``force`` is False.
        VerificationError: the file differs after reading back; nothing was written.
    """
    module = module.to_torch() if isinstance(module, Convertible) else module
    export(module, path, to=to, metadata=as_plain(metadata), force=force, **options)


@checks_arguments
@wrap_errors(ConversionError, "writing")
def write_t7(
    path: StrPath, value: Any, *, verify: bool = True, force: bool = True, **options: Unpack[WriteKeywords]
) -> None:
    """Write a module, a Lua value, or plain Python data to a ``.t7`` file that Torch7 loads.

    Args:
        path: the file; it appears when it is complete.
        value: a module, also of :mod:`dpnn_bridge.legacy.nn`; a Lua value of :func:`read_t7`; or tensors, numpy arrays,
            numbers, strings, bytes, and lists and dicts of all of these. Lists become tables with keys from 1.
        verify: read the file back and compare, before it appears at ``path``.
        force: replace an existing file.
        **options: fields of :class:`~dpnn_bridge.loaders.WriteOptions`, such as ``mode``.

    Raises:
        ConversionError: a submodule has no Lua class.
    """
    t7_writer.write_t7(path, to_lua_value(value), verify=verify, force=force, **options)


@checks_arguments
@wrap_errors(ConversionError, "searching for models")
def model_keys(
    path: Origin,
    *,
    plugins: Sequence[StrPath] = (),
    lua: Any = None,
    sandbox: bool | Literal["partial"] = False,
) -> list[str]:
    """Return the keys of all models in a ``.t7`` file, for ``load(key=…)``.

    Args:
        path: the file.
        plugins, lua, sandbox: definitions of further classes, as for :func:`load`.

    Raises:
        ModelNotFoundError: the file contains no model.
        ConversionLimitError: the models share so many modules that separate conversions would take too long.
    """
    load_plugins(plugins)
    knows = Options(**classes_in_lua(lua, sandbox)).knows
    root = read_t7(path)
    found = models_in(root, known_also(knows))
    if not found:
        raise ModelNotFoundError(without_module(root, name_of(path)))
    if len(affordable(root, found)) < len(found):
        raise ConversionLimitError(f"{name_of(path)}: {TOO_MANY}")
    return [c.key for c in found]


# the functions were in this module in earlier versions
__getattr__, _ = lazy_exports(__name__, {"convert": "files.converting", "is_converted": "files.converting"})
