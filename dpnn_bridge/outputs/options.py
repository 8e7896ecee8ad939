"""Define the options of a conversion for the command line, ``convert`` and provenance.

This module does not import PyTorch, so that the command line can list its options without importing PyTorch.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, get_type_hints

from dpnn_bridge.base.arguments import check_no_file, check_types
from dpnn_bridge.base.atomic import StrPath
from dpnn_bridge.base.checksum import sha256_of
from dpnn_bridge.base.similar import did_you_mean
from dpnn_bridge.errors import OptionError
from dpnn_bridge.outputs.required import is_installed, with_required

if TYPE_CHECKING:
    import torch

    from dpnn_bridge.outputs.format import Format


#: dtypes to which the command line can cast models
DTYPES = ("float16", "bfloat16", "float32", "float64")


def _flag(
    flag: str, help: str, scope: Literal["format", "every", "program"] = "format", **click: Any
) -> dict[str, Any]:
    """Return the metadata of a field that is an option of the command line.

    Args:
        flag: name of the option on the command line.
        help: help text.
        scope: formats that support the option: ``"format"``: formats that list it in ``options``; ``"every"``: all
            formats; ``"program"``: formats with a program.
        **click: arguments of ``click.option``, and ``also``, a second name. ``type`` is a tuple of choices, the minimum
            of an integer, or ``"path"``; ``parse`` is a function that converts the text of the command line.
    """
    return {"flag": flag, "help": help, "scope": scope, **click}


def _split(text: str) -> list[str]:
    return text.split(",")


class FormatKeywords(TypedDict, total=False):
    """The fields of :class:`ConvertOptions` that change how a model is written, as keyword arguments."""

    input: Any
    dynamic: bool | str | Sequence[str]
    opset: int | None
    input_names: Sequence[str] | None
    output_names: Sequence[str] | None
    max_shard_size: int | str | None
    tensor_type: str | None
    mode: str | None
    long_size: int | None
    big_endian: bool | None
    referenced: bool | None


class ConvertKeywords(FormatKeywords, total=False):
    """The fields of :class:`ConvertOptions` as keyword arguments."""

    key: str | None
    dtype: str | torch.dtype | None
    index_base: Literal[0, 1]
    inplace: bool
    plugins: Sequence[StrPath]
    lua: Any
    sandbox: bool | Literal["partial"]
    allow_unsupported: bool


@dataclass(frozen=True)
class ConvertOptions:
    """The options that change the result of a conversion.

    Attributes:
        key: path of the module inside a checkpoint table.
        dtype: dtype to which floating point tensors are cast, ``torch.float16`` or ``"float16"``.
        index_base: first index of modules whose inputs or outputs are indices, 1 or 0; for formats with a program.
        inplace: whether modules with the field ``inplace`` in the file run in place; for formats with a program.
        plugins: Python files that register classes with ``@lua_class``.
        lua: Lua files that define classes, which are run, or a :class:`~dpnn_bridge.lua.LuaBridge` in which they are
            defined.
        sandbox: whether to run these Lua files, and the layers that they define, in a process that the kernel restricts
            to computing; see :class:`~dpnn_bridge.lua.LuaBridge` for its limits.
        allow_unsupported: whether to convert unknown classes to placeholders.
        input: an input of the model, or a function that creates an input for a model.
        dynamic: sizes of the input that may vary, such as ``"batch,height,width"``, or True for the batch; see
            :class:`~dpnn_bridge.outputs.dynamic.Dynamic`.
        opset: version of the ONNX operator set.
        input_names, output_names: names in an ``.onnx`` file; default: names of a graph's nodes or of the last layer,
            else ``input`` and ``output``.
        max_shard_size: write ``.safetensors`` in shards of at most this size, such as ``"2GB"``, with an index, which
            Hugging Face's libraries can load. Weights are copied in chunks, so they may be larger than memory. An
            output with the suffix ``.safetensors.index.json`` is written in shards even without this option.
        tensor_type: Lua type of floating point tensors in a ``.t7`` file; default: as in the input.
        mode, long_size, big_endian, referenced: see :class:`~dpnn_bridge.loaders.WriteOptions`.
    """

    key: str | None = field(
        default=None,
        metadata=_flag(
            "--key",
            "Path of the model in the file, such as protos.rnn. Detected automatically by default.",
            scope="every",
        ),
    )
    dtype: str | torch.dtype | None = field(
        default=None,
        metadata=_flag(
            "--dtype", "Cast floating point tensors. Default: the dtype of the file.", scope="every", type=DTYPES
        ),
    )
    input: Any = field(
        default=None,
        metadata=_flag(
            "--input",
            "Example input: 1x3x224x224[:int64] or a file. Repeat for a list.",
            also="--example",
            multiple=True,
        ),
    )
    dynamic: bool | str | Sequence[str] = field(
        default=False,
        metadata=_flag(
            "--dynamic",
            "Sizes that may vary: batch,height,width, INPUT:AXES or NAME=INDEX; without AXES, batch (.onnx, .pt2).",
            multiple=True,
            is_flag=False,
            flag_value="batch",
            metavar="AXES",
        ),
    )
    opset: int | None = field(
        default=None,
        metadata=_flag("--opset", "ONNX operator set version. Default: that of torch.onnx.", type=7),
    )
    max_shard_size: int | str | None = field(
        default=None,
        metadata=_flag(
            "--max-shard-size",
            "Split .safetensors into files of at most this size. For models larger than memory.",
            metavar="2GB",
        ),
    )
    input_names: Sequence[str] | None = field(
        default=None,
        metadata=_flag(
            "--input-names",
            "Names of the inputs in an .onnx file.",
            metavar="A,B",
            parse=_split,
        ),
    )
    output_names: Sequence[str] | None = field(
        default=None,
        metadata=_flag(
            "--output-names",
            "Names of the outputs in an .onnx file.",
            metavar="A,B",
            parse=_split,
        ),
    )
    index_base: Literal[0, 1] = field(
        default=1,
        metadata=_flag(
            "--index-base",
            "First index of inputs and outputs that are indices. 1 as in Lua (.py, .onnx, .pt2).",
            scope="program",
            type=("0", "1"),
            parse=int,
        ),
    )
    inplace: bool = field(
        default=False,
        metadata=_flag(
            "--inplace", "Use the file's inplace settings (.py, .onnx, .pt2).", scope="program", is_flag=True
        ),
    )
    plugins: Sequence[StrPath] = field(
        default=(),
        metadata=_flag("--plugin", "Python file with @lua_class mappings.", scope="every", multiple=True, type="path"),
    )
    lua: Any = field(
        default=None,
        metadata=_flag("--lua", "Lua file that defines classes.", scope="every", multiple=True, type="path"),
    )
    sandbox: bool | Literal["partial"] = field(
        default=False,
        metadata=_flag(
            "--sandbox", "Run the --lua files in a process that can only compute.", scope="every", is_flag=True
        ),
    )
    allow_unsupported: bool = field(
        default=False,
        metadata=_flag(
            "--allow-unsupported",
            "Insert placeholders for unknown classes. They raise when they run.",
            scope="every",
            is_flag=True,
        ),
    )
    tensor_type: str | None = None
    mode: str | None = None
    long_size: int | None = None
    big_endian: bool | None = None
    referenced: bool | None = None

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> ConvertOptions:
        """Return the options from keyword arguments.

        Raises:
            OptionError: there is no such option, or its value has the wrong type.
        """
        known = [f.name for f in fields(cls)]
        if unknown := sorted(options.keys() - set(known)):
            hint = did_you_mean(unknown[0], known, f"the options are {', '.join(known)}")
            raise OptionError(f"no option {', '.join(unknown)}; {hint}")
        check_values(options)
        return cls(**options)

    def chosen(self) -> dict[str, Any]:
        """Return the options that differ from their defaults."""
        return not_default({f.name: getattr(self, f.name) for f in fields(self)})

    def of_format(self, format: Format, where: str) -> dict[str, Any]:
        """Return the options of a format that differ from their defaults.

        Args:
            format: the format.
            where: beginning of the error message, such as the name of the output.

        Raises:
            OptionError: the format does not support an option that was set, or the dtype.
        """
        from dpnn_bridge.conversion.tensors import as_dtype

        if not format.bfloat16 and str(as_dtype(self.dtype)) == "torch.bfloat16":
            raise OptionError(
                f"{where}: dtype= (--dtype): {format.suffix} has no bfloat16; choose float16 or float32, or .pt"
            )
        build = _in_scope("program") if format.program else []
        own = {name: value for name, value in self.chosen().items() if name not in (*_in_scope("every"), *build)}
        check_options(own, format, where, build)
        return own

    def files(self) -> list[StrPath]:
        """Return the local files in these options."""
        return [*self.plugins, *_paths(self.lua), *getattr(self.input, "files", ())]

    def digest(self) -> str | None:
        """Return a checksum of all options that change the result, and of the content of the files in them.

        Return None if an option has no checksum: a function, a ``LuaBridge``, a class registered in a notebook.
        """
        from dpnn_bridge.conversion.tensors import as_dtype

        arguments: list[Any] = [self.key, str(as_dtype(self.dtype))]
        chosen = {name: value for name, value in self.chosen().items() if name not in ("key", "dtype")}
        if "input" in chosen:
            chosen["example"] = chosen.pop("input")  # the earlier name, so that existing outputs remain up to date
        for name in ("plugins", "lua"):
            if name in chosen and (paths := _paths(chosen[name])):
                files = with_required(paths, python=name == "plugins", sandbox=name == "lua" and bool(self.sandbox))
                chosen[name] = [sha256_of(path) for path in files]
        own = _registering_files(chosen.get("plugins", []))
        if own is None:
            return None
        if own:
            chosen["registered"] = own
        try:
            text = json.dumps([*arguments, *([chosen] if chosen else [])], sort_keys=True, default=_encode)
        except TypeError:
            return None
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _in_scope(scope: str) -> list[str]:
    return [f.name for f in fields(ConvertOptions) if f.metadata.get("scope") == scope]


def check_options(names: Iterable[str], format: Format, where: str, more: Sequence[str] = ()) -> None:
    """Check that a format takes options; ``where`` begins the error message, which lists ``more`` options too.

    Raises:
        OptionError: the format does not take an option.
    """
    if unknown := sorted(set(names) - set(format.options)):
        known = ", ".join([*format.options, *more]) or "no options of its own"
        other = ", ".join(map(_option_name, unknown))
        raise OptionError(f"{where}: {format.suffix} does not take {other}; it takes {known}")


def origin_text(sha256: str, options: ConvertOptions) -> str:
    """Return the provenance of an output, ``sha256:INPUT-OPTIONS``: the checksums of the input and of the options.

    The second checksum is empty if the options have none.
    """
    return f"sha256:{sha256}-{options.digest() or ''}"


def is_complete(origin: str) -> bool:
    """Return whether a provenance contains both checksums, so that it identifies the output."""
    return not origin.endswith("-")


def _registering_files(plugins: Sequence[str]) -> list[str] | None:
    """Return the checksums of the files that registered classes, without installed packages and the plugins.

    Args:
        plugins: checksums of the plugins and of the files that they load.

    Returns:
        The checksums; None if a class was registered in a notebook, or its file was deleted.
    """
    from dpnn_bridge.conversion.registry import files_of_users

    files = files_of_users()
    if not all(map(os.path.isfile, files)):
        return None
    own = {sha256_of(file) for file in files if not is_installed(Path(file).resolve())}
    return sorted(own - set(plugins))


def shows_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a function with ``**options`` so that its signature lists the options."""
    signature = inspect.signature(function)
    own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    more = [
        inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=f.type)
        for f in fields(ConvertOptions)
    ]
    function.__signature__ = signature.replace(parameters=[*own, *more])  # type: ignore[attr-defined]
    return function


def not_default(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that differ from their defaults, including unknown options."""
    defaults = {f.name: f.default for f in fields(ConvertOptions)}
    return {name: v for name, v in options.items() if name not in defaults or not _same(v, defaults[name])}


def _same(value: Any, default: Any) -> bool:
    """Return whether a value equals the default, as an empty list of files, names or axes does."""
    if isinstance(value, (tuple, list)) and not value and default in ((), None, False):
        return True
    return value is default or (type(value) is type(default) and value == default)


def _option_name(name: str) -> str:
    """Return ``name= (--flag)`` for messages; the command line shows only the flag."""
    flag = next((f.metadata["flag"] for f in fields(ConvertOptions) if f.name == name and f.metadata), "")
    return f"{name}= ({flag})" if flag else f"{name}="


def _paths(value: Any) -> list[StrPath]:
    """Return the paths in the value of an option: one path, several paths, or none if it is another value."""
    found = value if isinstance(value, (tuple, list)) else [value]
    return [path for path in found if isinstance(path, (str, os.PathLike))]


def _encode(value: Any) -> Any:
    """Convert a value for JSON: a tensor or array to its dtype, shape and checksum, others by ``digest()``."""
    if hasattr(value, "digest"):
        return value.digest()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "__array__"):
        import torch

        from dpnn_bridge.compare.bits import byte_array

        tensor = torch.as_tensor(value).contiguous()
        return [str(tensor.dtype), list(tensor.shape), hashlib.sha256(byte_array(tensor).tobytes()).hexdigest()]
    raise TypeError(type(value).__name__)


def check_values(options: Mapping[str, Any]) -> None:
    """Check values against the types of the fields of :class:`ConvertOptions`.

    Raises:
        OptionError: a value has the wrong type, or the input is the name of a file.
    """
    import torch

    check_no_file("input", options.get("input"))
    check_types("options", get_type_hints(ConvertOptions, localns={"torch": torch}), options)
