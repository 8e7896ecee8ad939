"""Convert one file to another, and decide whether the output is up to date."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from contextvars import copy_context
from dataclasses import dataclass, fields, replace
from pathlib import Path, PurePath
from typing import Any

import torch
from torch import nn
from typing_extensions import Unpack

from dpnn_bridge.base.arguments import checks_arguments, renamed
from dpnn_bridge.base.atomic import StrPath, check_output, replacing
from dpnn_bridge.base.boundary import wrap_errors
from dpnn_bridge.base.display import counted, printable
from dpnn_bridge.base.folders import temporary_folder
from dpnn_bridge.base.graph import format_path, parse_path
from dpnn_bridge.base.reading import causing_os_error, open_input
from dpnn_bridge.base.remote import Location, beside, input_place, is_url, location_of
from dpnn_bridge.base.shards import check_unchanged, checksum_of, shards_of
from dpnn_bridge.base.suffixes import INDEX
from dpnn_bridge.base.version import package_version
from dpnn_bridge.checkpoints.architectures import architecture_of
from dpnn_bridge.checkpoints.contents import named_file
from dpnn_bridge.checkpoints.find import candidates, follow, known_also, models_in
from dpnn_bridge.conversion.options import Options
from dpnn_bridge.conversion.report import Report
from dpnn_bridge.conversion.tensors import as_dtype
from dpnn_bridge.errors import (
    ConversionError,
    ConversionLimitError,
    DpnnBridgeError,
    MissingFileError,
    ModelNotFoundError,
    OptionError,
    T7Error,
)
from dpnn_bridge.files import cast, classes_in_lua, load_local, unread
from dpnn_bridge.files.source_cache import checksum_once, read_once
from dpnn_bridge.loaders.encoding import Encoding
from dpnn_bridge.loaders.origin import LocalFile, Origin, local_file, name_of
from dpnn_bridge.outputs import data
from dpnn_bridge.outputs.format import Format
from dpnn_bridge.outputs.formats import format_of_input
from dpnn_bridge.outputs.options import ConvertKeywords, ConvertOptions, is_complete, origin_text, shows_options
from dpnn_bridge.outputs.writing import export, target_of
from dpnn_bridge.plugins import load_plugins


@shows_options
@renamed(example="input")
@checks_arguments
@wrap_errors(ConversionError, "converting")
def convert(
    src: Origin,
    dst: StrPath,
    *,
    to: str | None = None,
    force: bool = False,
    sha256: str | None = None,
    checksum: bool = False,
    progress: Callable[[str], None] | None = None,
    **options: Unpack[ConvertKeywords],
) -> Report:
    """Convert a model file to the format of the suffix of ``dst``.

    A file without a model, or a ``key`` whose value is data, is written as data: ``.npz``, ``.safetensors``, ``.json``,
    ``.pt`` or ``.t7``, see :mod:`dpnn_bridge.outputs.data`.

    Args:
        src: a ``.t7`` file, or a ``.pt`` or ``.safetensors`` file written by :func:`save`; also a URL, an open file, or
            bytes.
        dst: path or URL of the file to write.
        to: name of the format, if the suffix of ``dst`` does not determine it.
        force: replace an existing ``dst``. Otherwise an existing file is an error, unlike for :func:`save`.
        sha256: expected checksum of ``src``; a file with another checksum is an error.
        checksum: store the SHA-256 of the output in the report, as ``metadata["written"]``.
        progress: called with the name of each step at its beginning.
        **options: fields of :class:`~dpnn_bridge.outputs.options.ConvertOptions`, such as ``key``, ``dtype`` and
            ``plugins``; each format accepts some of these options.

    Returns:
        The report: the PyTorch module of each Lua object, and notes.

    Raises:
        T7Error, ConversionError, OutputError, OptionError, VerificationError: nothing was written.
    """
    chosen = ConvertOptions.of(options)
    path, format = target_of(dst, to, chosen.max_shard_size)
    format_options = chosen.of_format(format, os.fspath(dst))
    inputs = (*filter(None, [input_place(src)]), *chosen.files())
    check_output(path, force, inputs)
    chosen = in_effect(chosen)
    step = progress or (lambda text: None)
    step(f"reading {name_of(src)}")
    rebuilding = _options_of(chosen, format)
    target = path if is_url(path) else Path(path)
    with local_file(src, sha256) as file:
        inputs += _shards(src, file)
        task = _Conversion(file, target, format, chosen, format_options, inputs, force, checksum)
        contents = read_once(file)
        value = _data(contents[0], chosen.key, rebuilding.knows) if contents and format.data else None
        step(f"writing {dst}")
        if contents is not None and value is not None:
            models = _models_as_data(value, chosen.key, rebuilding.knows)
            try:
                report = task.write_data(value)
            except ConversionLimitError as error:  # the modules of a model may share tables often
                raise ModelNotFoundError(f"{file.name}: {models[0]}") if models else error from None
            report.notes += unread(contents[1]) + models
            return report
        return task.write_model(contents, rebuilding)


def _shards(src: Origin, file: LocalFile) -> tuple[Location, ...]:
    """Return the places of the shards of an input that is an index."""
    if not isinstance(src, (str, os.PathLike)) or not file.path.name.endswith(INDEX):
        return ()
    found = (input_place(beside(location_of(src), shard.name)) for shard in shards_of(file.path))
    return tuple(place for place in found if place is not None)


def in_effect(options: ConvertOptions) -> ConvertOptions:
    """Load the plugins of a call; return its options with all registered plugins, also of earlier calls.

    All registered plugins can change the result, so they are part of the provenance of the output.
    """
    return replace(options, plugins=load_plugins(options.plugins))


@dataclass
class _Conversion:
    """One conversion.

    Attributes:
        file: the open input.
        path: path or URL of the output.
        format: format of the output.
        options: all options of the call.
        format_options: the options that the format accepts.
        inputs: files that the output must not replace.
        force: whether an existing output is replaced.
        checksum: whether the report contains the checksum of the output.
    """

    file: LocalFile
    path: StrPath
    format: Format
    options: ConvertOptions
    format_options: dict[str, Any]
    inputs: tuple[Any, ...]
    force: bool
    checksum: bool

    @property
    def _stores_origin(self) -> bool:
        return self.checksum or self.format.origin_beside

    def write_data(self, value: Any) -> Report:
        """Write data without a model."""
        if self.options.dtype is not None:
            raise OptionError(f"{self.file.name}: dtype= (--dtype) casts models, but the file contains only data")
        with replacing(self.path, force=self.force, inputs=self.inputs) as temporary:
            found = data.collect(value, text=self.format.text)
            found.options = self.format_options
            self.format.write_data(found, temporary)
            report = _data_report(found, self.file.name, self.options.key, named_file(value))
            if self.checksum:
                report.metadata |= {"origin": self._origin(), "written": checksum_of(temporary)}
            check_unchanged(*self.file)
        return report

    def write_model(self, contents: tuple[Any, Encoding] | None, rebuilding: Options) -> Report:
        """Write a model."""
        with ThreadPoolExecutor(1) as pool:  # computes the checksum of the input during the conversion
            origin_of = pool.submit(copy_context().run, self._origin).result if self._stores_origin else None
            module, report = load_local(self.file, contents, self.options.key, rebuilding)
            cast(module, as_dtype(self.options.dtype))
            self._describe(module, report)
            format_options = dict(self.format_options)
            example = format_options.get("input")
            if callable(example) and not isinstance(example, torch.Tensor):
                format_options["input"] = example(module)

            def on_verified(path: Path) -> None:
                if self.checksum:
                    report.metadata["written"] = checksum_of(path)
                if origin_of is not None:
                    report.metadata["origin"] = origin_of()
                check_unchanged(*self.file)

            export(
                module,
                self.path,
                to=self.format.suffix,
                metadata=dict(report.metadata),
                force=self.force,
                inputs=self.inputs,
                on_verified=on_verified,
                notes=report.notes,
                origin=origin_of and (lambda: origin if is_complete(origin := origin_of()) else None),
                **format_options,
            )
        return report

    def _origin(self) -> str:
        return origin_text(checksum_once(self.file), self.options)

    def _describe(self, module: nn.Module, report: Report) -> None:
        report.source = Path(self.file.name)
        report.metadata |= {
            "source": printable(PurePath(self.file.name).name),
            "dpnn_bridge": package_version(),
            "torch": str(torch.__version__),
            "modules": sum(1 for _ in module.modules()),
            "parameters": sum(p.numel() for p in module.parameters()),
        }
        architecture = architecture_of(module)
        if architecture is not None:
            which = f"the weights have the shapes of {architecture.into}"
            report.notes.append(f"{which}; to write weights for that network, add {architecture}")


def _options_of(chosen: ConvertOptions, format: Format) -> Options:
    """Return the options for creating modules, from the options of the call and the format."""
    names = {f.name for f in fields(chosen)} & {f.name for f in fields(Options)}
    common = {name: getattr(chosen, name) for name in names}
    return Options(**common, pending=format.several, **classes_in_lua(chosen.lua, chosen.sandbox))


def _data(root: Any, key: str | None, knows: Callable[[str], bool] | None = None) -> Any:
    """Return the data of a file, or the value at ``key``; None if the file contains a model, or the value is one."""
    value = follow(root, key) if key else root
    if value is None:
        return None
    found = candidates(value, known_also(knows))
    return None if (any(not c.key for c in found) if key else found) else value


def _models_as_data(value: Any, key: str | None, knows: Callable[[str], bool] | None) -> list[str]:
    """Return a note if the entry at ``key`` is a table with models, which :func:`dpnn_bridge.load` does not read."""
    found = models_in(value, known_also(knows)) if key else []  # without a key, data contain no model
    if not found:
        return []
    inner = format_path([*(parse_path(key or "") or ()), *found[0].path])
    content = f"the entry is a table with {counted(len(found), 'model')}"
    return [f"{content}; for a file that loads, select one with key= (--key): {inner}"]


def _data_report(written: data.Data, name: str, key: str | None, model: tuple[str, str] | None) -> Report:
    report = Report(source=Path(name))
    facts = {"tensors": written.tensors, "values": written.values, "parameters": 0}
    report.metadata = {"source": PurePath(name).name, "key": key, **facts}
    for dropped in written.dropped:
        report.drop(dropped, "formats for data cannot store it")
    if model is not None:
        key, file = model
        report.notes.append(f"the file contains no model; its field {key} is the path of a model file: convert {file}")
    return report


# ---------------------------------------------------------------------- up to date?
@shows_options
@renamed(example="input")
@checks_arguments
@wrap_errors(ConversionError, "comparing with the input")
def is_converted(
    src: Origin,
    dst: StrPath,
    *,
    to: str | None = None,
    force: bool = False,
    checksum: bool = False,
    **options: Unpack[ConvertKeywords],
) -> bool:
    """Return whether ``dst`` is complete and equals the output of :func:`convert` for ``src`` and these arguments.

    Some files store the checksums of the input and the options. Others (``.t7``, ``.pt``, data) are compared with a new
    conversion, so options that do not change the result do not matter. Only ``.py`` files store a checksum of their own
    text; an edit of another file that stores checksums is not noticed.

    Args:
        src, dst, to: as for :func:`convert`. An open file must be seekable, because it may be read twice.
        force, checksum: ignored; accepted because :func:`convert` has these arguments.
        **options: as for :func:`convert`.

    Raises:
        T7Error, ConversionError, OptionError: :func:`convert` would raise the error for the input.
    """
    chosen = ConvertOptions.of(options)
    path, format = target_of(dst, to, chosen.max_shard_size)
    with ExitStack() as stack:
        try:
            output = stack.enter_context(local_file(path, unpack=False))
        except MissingFileError:  # at a URL
            return False
        try:
            origin = _stored_origin(format, output.path)
        except DpnnBridgeError:  # the file is missing, incomplete, or not an output
            return False
        if origin:
            with _keeping_position(src), local_file(src) as file:
                same = origin == origin_text(checksum_once(file), in_effect(chosen))
            if same or format.origin_beside:
                return same
        elif not format.data:
            return False
        return _has_converted_content(src, output.path, format, to, options)


@wrap_errors(ConversionError, "comparing with the input")
def has_converted_content(
    src: Origin, dst: StrPath, *, to: str | None = None, **options: Unpack[ConvertKeywords]
) -> bool:
    """Return whether ``dst`` has the content that :func:`convert` writes now, whatever checksums it stores.

    Args:
        src, dst, to, **options: as for :func:`is_converted`.

    Raises:
        T7Error, ConversionError, OptionError: as for :func:`is_converted`.
    """
    path, format = target_of(dst, to, options.get("max_shard_size"))
    with local_file(path, unpack=False) as output:
        return _has_converted_content(src, output.path, format, to, options)


def _has_converted_content(src: Origin, path: Path, format: Format, to: str | None, options: ConvertKeywords) -> bool:
    with temporary_folder() as folder:
        expected = folder / PurePath(path).name
        convert(src, expected, to=to, **options)
        return _same_content(format, expected, path)


def data_difference(src: Origin, dst: StrPath, **options: Unpack[ConvertKeywords]) -> str | None:
    """Return the first difference of a converted file from the data of ``src``; empty if the data are equal.

    Return None if :func:`convert` would write a model, or ``src`` has no entry at the key.

    Args:
        src, dst, **options: as for :func:`is_converted`.

    Raises:
        T7Error, ConversionError, OptionError: as for :func:`is_converted`.
        VerificationError: ``dst`` has compressed records, which are not read.
        NotT7Error: no format has the suffix of ``dst``.
    """
    knows = classes_in_lua(options.get("lua"), options.get("sandbox", False)).get("knows")
    with local_file(src) as file:
        contents = read_once(file)
        if contents is None or _data(contents[0], options.get("key"), knows) is None:
            return None
    format_of_input(dst)
    if is_converted(src, dst, **options):
        return ""
    path, format = target_of(dst, None)

    @wrap_errors(T7Error, "comparing the data")
    def difference(one: Path, other: Path) -> str:
        return "" if format.same_content(one, other) else format.data_difference(one, other)

    with local_file(path, unpack=False) as output, temporary_folder() as folder:
        expected = folder / PurePath(output.path).name
        convert(src, expected, **options)
        try:
            return difference(expected, output.path)
        except T7Error as error:
            if causing_os_error(error) is not None:
                raise
            return str(error)


@contextmanager
def _keeping_position(origin: Origin) -> Iterator[None]:
    """Restore the position of a seekable open file after the ``with`` block."""
    file: Any = origin if hasattr(origin, "tell") else None
    position = file.tell() if file is not None and file.seekable() else None
    yield
    if file is not None and position is not None:
        file.seek(position)


@wrap_errors(T7Error, "reading the output")
def _stored_origin(format: Format, path: Path) -> str | None:
    with open_input(path):  # raises an error with the name of a missing file
        return format.origin(path)


def _same_content(format: Format, expected: Path, actual: Path) -> bool:
    try:
        return wrap_errors(T7Error, "reading the output")(format.same_content)(expected, actual)
    except DpnnBridgeError:
        return False
