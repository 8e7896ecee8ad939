"""Summarize a file on one screen: its models with their layers, whether they are supported, and the next command."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import PurePath
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.loss import _Loss

from dpnn_bridge.base.arguments import checks_arguments
from dpnn_bridge.base.atomic import StrPath
from dpnn_bridge.base.boundary import wrap_errors
from dpnn_bridge.base.display import counted, printable, shortened
from dpnn_bridge.base.graph import format_path, is_criterion, values_in
from dpnn_bridge.base.reading import file_status
from dpnn_bridge.base.shell import shell_file, shell_quoted
from dpnn_bridge.base.suffixes import PICKLED, TORCH7
from dpnn_bridge.checkpoints.architectures import architecture_of
from dpnn_bridge.checkpoints.contents import description, named_file
from dpnn_bridge.checkpoints.find import TOO_MANY, affordable, follow, models_in, not_at_key
from dpnn_bridge.checkpoints.summary import ENTRIES, Layer, Model, Summary, input_options, lines
from dpnn_bridge.compare import nested
from dpnn_bridge.conversion.failure import failure_reason
from dpnn_bridge.conversion.fields import record_of
from dpnn_bridge.conversion.limits import ResourceLimitMode, ResourceLimits
from dpnn_bridge.conversion.modes import evaluating
from dpnn_bridge.conversion.options import Options
from dpnn_bridge.conversion.parametrized import layer_parameters, named_layers
from dpnn_bridge.conversion.placeholder import Placeholder
from dpnn_bridge.conversion.places import module_names
from dpnn_bridge.conversion.registry import mapping_of
from dpnn_bridge.conversion.torch_context import TorchConversion
from dpnn_bridge.errors import ConversionError, T7FormatError
from dpnn_bridge.files import load_local
from dpnn_bridge.legacy.pickles import PickleEncoding, read_source
from dpnn_bridge.loaders.origin import LocalFile, Origin, local_file
from dpnn_bridge.loaders.t7_reader import read_all
from dpnn_bridge.modules.fit import shape_warnings
from dpnn_bridge.modules.inputs import input_shapes, likely_shapes
from dpnn_bridge.modules.several import Models
from dpnn_bridge.objects import LuaObject, LuaStorage, LuaTable, LuaTensor
from dpnn_bridge.outputs.data import key_name
from dpnn_bridge.plugins import load_plugins

_WITH_CLASSES = "--plugin my_layers.py     # or --lua my_layers.lua; docs/how-to/custom-class.md"


@checks_arguments
@wrap_errors(ConversionError, "inspecting")
def inspect(path: Origin, *, key: str | None = None, input: Any = None, plugins: Sequence[StrPath] = ()) -> Summary:
    """Describe a file: its models with their layers, whether they are supported, and the next commands.

    Args:
        path: A ``.t7`` file or a converted file; also a URL, an open file, or bytes.
        key: Path of the entry to describe, such as ``"protos.rnn"``; default: the complete file.
        input: An input, or a function that creates the input of a model, to list the shapes of all outputs.
        plugins: Python files that register classes with ``@lua_class``.

    Returns:
        The summary. ``print`` prints it in the form of ``dpnn-inspect``.

    Raises:
        T7Error: The file cannot be read.
        ModelNotFoundError: ``key`` does not exist.

    Examples:
        >>> summary = dpnn_bridge.inspect("model.t7")              # doctest: +SKIP
        >>> summary.models[0].parameters, summary.models[0].inputs   # doctest: +SKIP
    """
    load_plugins(plugins)
    example = input if input is None or (callable(input) and not isinstance(input, Tensor)) else lambda model: input
    return summarize(path, key, example, plugins)


@wrap_errors(ConversionError, "inspecting")
def summarize(
    origin: Origin,
    key: str | None = None,
    example: Callable[[nn.Module], Any] | None = None,
    plugins: Sequence[StrPath] = (),
) -> Summary:
    """Return the summary of a ``.t7`` file or a converted file.

    Args:
        origin: the file.
        key: path of the entry to describe; default: the complete file.
        example: creates the input of a model, to list the shapes of its layers' outputs.
        plugins: loaded plugins, which the suggested commands also load.

    Raises:
        T7Error: the file cannot be read.
        ModelNotFoundError: ``key`` does not exist.
    """
    options = "".join(f" --plugin {shell_file(plugin)}" for plugin in plugins)
    with local_file(origin) as file:
        contents = read_source(file)
        if contents is None:
            return _converted(file, key, example, options)
        root, encoding = contents
        size = file_status(file.path).st_size
        summary = Summary(file.name, size, str(encoding), "")
        if not isinstance(encoding, PickleEncoding):
            _objects(summary, file)
        if key:
            root = follow(root, key)
            if root is None:
                raise not_at_key(contents[0], key, file.name)
        all_models = models_in(root)
        convertible = len(affordable(root, all_models))
        for number, candidate in enumerate(all_models):
            path = _joined(key or "", candidate.key)
            if number < convertible:
                summary.models.append(_model(path, candidate.obj, example, not number, size))
            else:
                summary.models.append(Model(path, candidate.obj.class_name, problem=TOO_MANY))
        _describe_content(summary, root, [c.obj for c in all_models])
        _suggest_commands(summary, file.name, root, key or "", options)
        return summary


def _joined(key: str, inner: str) -> str:
    """Return the path of an entry whose path below the entry at ``key`` is ``inner``."""
    return f"{key}{inner}" if not key or inner.startswith("[") or not inner else f"{key}.{inner}"


def _converted(file: LocalFile, key: str | None, example: Callable[[nn.Module], Any] | None, options: str) -> Summary:
    module, report = load_local(file, None, key, Options(allow_unsupported=True))
    size = file_status(file.path).st_size
    unsupported = {c.class_name for c in report.unsupported}
    models: list[Model] = []
    parts = list(module.items() if isinstance(module, Models) else []) or [(key or "", module)]
    for inner, part in parts:
        record = record_of(part)
        model = Model(inner, record.class_name if record else type(part).__name__, criterion=_is_criterion(part))
        model.unsupported = sorted(unsupported & {m.class_name for m in part.modules() if isinstance(m, Placeholder)})
        _measure(model, part, example, size)
        if not models:
            _find_inputs(model, part, size)
        models.append(model)
    source = report.metadata.get("source", "a model of PyTorch")
    what = f"a model that dpnn_bridge converted from {source}"
    summary = Summary(file.name, size, file.path.suffix[1:], what, models, has_tree=False)
    checkpoint = report.metadata.get("checkpoint")
    summary.beside = [shortened(str(k)) for k in checkpoint][:ENTRIES] if isinstance(checkpoint, dict) else []
    suffix, more = ".onnx", f" {input_options(models[0])}"
    if unsupported or models[0].criterion:
        # Torch7 lacks some criterions of PyTorch
        suffix = ".t7" if unsupported or record_of(parts[0][1]) else ".safetensors"
        more = f" {_WITH_CLASSES}" if unsupported else ""
    chosen = f"{_key_option(models[0].key)}{options}"
    summary.next = [f"dpnn-convert {_input(file.name)} {_output(file.name, suffix)}{chosen}{more}"]
    return summary


def _is_criterion(module: nn.Module) -> bool:
    record = record_of(module)
    names = (record.class_name,) if record else mapping_of(module).names
    return isinstance(module, _Loss) or any(map(is_criterion, names))


def _key_option(key: str) -> str:
    return f" --key {shell_quoted(key)}" if key else ""


def _objects(summary: Summary, file: LocalFile) -> None:
    """Count the objects of a file, and add a note if other data follow."""
    try:
        summary.objects = len(read_all(file.path, strict=True))
    except T7FormatError as error:
        message = str(error).partition(": ")[2] or str(error)
        rest = "dpnn_bridge.loaders.read_all reads the objects before that byte"
        summary.notes.append(f"after the first object, at byte {error.offset}: {message}; {rest}")


def _model(key: str, obj: LuaObject, example: Callable[[nn.Module], Any] | None, first: bool, size: int) -> Model:
    model = Model(key, obj.class_name, criterion=is_criterion(obj.class_name))
    context = TorchConversion(Options(allow_unsupported=True))
    try:
        module = context.to_torch(obj)
        context.finish()
    except ConversionError as error:
        model.problem = str(error).split("\n", 1)[0]
        return model
    model.unsupported = sorted({c.class_name for c in context.report.unsupported})
    model.reasons = [c.reason for c in context.report.unsupported if c.reason]
    _measure(model, module, example, size)
    model.notes = context.report.notes + model.notes
    if first:
        _find_inputs(model, module, size, obj)
    return model


def _find_inputs(model: Model, module: nn.Module, size: int, source: LuaObject | None = None) -> None:
    model.inputs = [] if model.unsupported else input_shapes(module, size, source)
    model.likely = [] if model.inputs else likely_shapes(module)


def _measure(model: Model, module: nn.Module, example: Callable[[nn.Module], Any] | None, size: int) -> None:
    parameters = list(module.parameters())
    model.modules = len(list(module.modules()))
    model.parameters = sum(p.numel() for p in parameters)
    model.bytes = sum(p.numel() * p.element_size() for p in parameters)
    model.architecture = architecture_of(module)
    model.dtypes = sorted({str(p.dtype).removeprefix("torch.") for p in parameters})
    model.notes = shape_warnings(module)
    shapes: dict[int, str] = {}
    if example is not None:
        model.refused = _run(module, example(module), shapes, size)
    names = module_names(module)
    model.layers = [
        Layer(
            path or "model",
            *_classes(m),
            sum(p.numel() for p in layer_parameters(m)),
            shapes.get(id(m), ""),
            shortened(printable(names.get(id(m), "")), 32),
        )
        for path, m in named_layers(module)
    ]


def _run(module: nn.Module, value: Any, shapes: dict[int, str], size: int) -> str:
    """Run the module and store the shapes of all outputs in ``shapes``; return the reason of a failure, or ``""``."""

    def note(m: nn.Module, args: Any, output: Any) -> None:
        shapes[id(m)] = nested.sizes_text(output)

    input_bytes = sum(t.numel() * t.itemsize for t in nested.tensors(value))
    limits = ResourceLimits(more=size + input_bytes)
    with ExitStack() as stack, evaluating(module), torch.no_grad(), ResourceLimitMode(limits):
        for m in module.modules():
            stack.callback(m.register_forward_hook(note).remove)
        try:
            module(value)
        except Exception as error:
            return failure_reason(error)
    return ""


def _classes(module: nn.Module) -> tuple[str, str]:
    record = record_of(module)
    lua = record.class_name if record else module.class_name if isinstance(module, Placeholder) else ""
    return lua, type(module).__name__


def _describe_content(summary: Summary, root: Any, models: list[LuaObject]) -> None:
    """Describe the type of the content, and the entries other than models."""
    if any(m is root for m in models):
        summary.what = "a model"
        return
    summary.what = description(root).split(":", 1)[0]
    if summary.models:
        summary.what = f"{summary.what} with {counted(len(summary.models), 'model')}"
    else:
        summary.what += ", no model"
    inside = {id(m) for m in models}
    if isinstance(root, (LuaTable, LuaObject)):
        fields = root.fields if isinstance(root, LuaObject) else root
        rest = [(k, v) for k, v in fields.items() if id(v) not in inside]
        summary.beside = [f"{shortened(format_path([k]))}: {_shortened(description(v))}" for k, v in rest[:ENTRIES]]
        if len(rest) > ENTRIES:
            summary.beside.append(f"… {len(rest) - ENTRIES} more")


def _shortened(text: str) -> str:
    """Shorten a description to at most 96 characters, if possible at the end of an entry."""
    if len(text) <= 96:
        return text
    listed, cut, _ = text[:93].rpartition(", ")
    return f"{listed}, …" if cut else shortened(text, 96)


def _suggest_commands(summary: Summary, name: str, root: Any, key: str, options: str) -> None:
    """Add the next commands for the entry ``root`` at ``key``; an empty key is the complete file."""
    quoted, output = _input(name), _output(name, ".pt")
    if not summary.models:
        if (other := named_file(root)) is not None:
            summary.next.append(
                f"dpnn-inspect {shell_file(str(PurePath(name).parent / PurePath(other[1]).name))}{options}"
            )
        if root is None:
            return  # nil, which no format stores
        suffix, *others = _data_suffixes(root)
        more = f"    # or {', '.join(others)}" if others else ""
        summary.next.append(f"dpnn-convert {quoted} {_output(name, suffix)}{_key_option(key)}{more}")
        return
    first = summary.models[0]
    chosen = f"{_key_option(first.key if key or len(summary.models) > 1 else '')}{options}"
    if first.unsupported or first.problem:
        summary.next.append(f"dpnn-convert {quoted} {output}{chosen} {_WITH_CLASSES}")
    else:
        summary.next.append(f"dpnn-convert {quoted} {output}{chosen}")
        if first.architecture:
            summary.next.append(f"dpnn-convert {quoted} {output}{chosen} {first.architecture}")


def _data_suffixes(root: Any) -> tuple[str, ...]:
    """Return the suffixes of the formats that can store data, the most suitable one first."""
    has_tensors = joins = False
    for value in values_in(root):
        has_tensors |= isinstance(value, (LuaTensor, LuaStorage))
        if isinstance(value, LuaTable):
            names = {key for key in value if isinstance(key, str)}
            if names and any(key_name(key) in names for key in value if isinstance(key, (int, float))):
                return (".t7",)  # the only format that distinguishes 1 and "1"
            inner = any(isinstance(entry, (LuaTable, LuaObject)) for entry in value.values())
            joins |= any("\0" in name or (inner and "." in name) for name in names)  # "a.b" beside a table "a"
    if joins:
        return (".pt", ".json") if has_tensors else (".json", ".pt")
    return (".npz", ".safetensors", ".json", ".pt") if has_tensors else (".json", ".npz", ".pt")


def _input(name: str) -> str:
    """Return the name of the input for a suggested command: ``-`` for stdin and other open files."""
    return "-" if _is_open_file(name) else shell_file(name)


def _is_open_file(name: str) -> bool:
    return name.startswith("<") and name.endswith(">")


def _output(name: str, suffix: str) -> str:
    """Return the name of an output for a suggested command: the input's name with another suffix, without folder."""
    stem = "model" if _is_open_file(name) else PurePath(name.rpartition("/")[2]).name
    for other in (".gz", ".zip", ".xz", ".bz2", *TORCH7, *PICKLED, ".index.json", ".safetensors"):
        stem = stem.removesuffix(other)
    stem = stem or "out"
    return shell_file(f"{stem}{suffix}" if name != f"{stem}{suffix}" else f"{stem}-converted{suffix}")


__all__ = ["Layer", "Model", "Summary", "inspect", "lines", "summarize"]
