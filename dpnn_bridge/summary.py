"""Summarize a file on one screen: its models with their layers, whether they are supported, and the next command."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.base.boundary import wrap_errors
from dpnn_bridge.base.display import shortened
from dpnn_bridge.base.graph import format_path
from dpnn_bridge.checkpoints.architectures import Architecture, architecture_of
from dpnn_bridge.checkpoints.contents import description, named_file
from dpnn_bridge.checkpoints.describe import format_bytes
from dpnn_bridge.checkpoints.find import candidates, follow
from dpnn_bridge.compare import nested
from dpnn_bridge.conversion.fields import record_of
from dpnn_bridge.conversion.limits import ResourceLimitMode, ResourceLimits
from dpnn_bridge.conversion.modes import evaluating
from dpnn_bridge.conversion.options import Options
from dpnn_bridge.conversion.placeholder import Placeholder
from dpnn_bridge.conversion.torch_context import TorchConversion
from dpnn_bridge.errors import ConversionError, ModelNotFoundError, T7FormatError
from dpnn_bridge.files import load_with_report
from dpnn_bridge.legacy.pickles import Pickled, read_source
from dpnn_bridge.loaders.origin import LocalFile, Origin, local_file
from dpnn_bridge.loaders.t7_reader import read_all
from dpnn_bridge.modules.inputs import input_shapes
from dpnn_bridge.objects import LuaObject, LuaStorage, LuaTable, LuaTensor

#: layers, and entries beside the models, that are listed
LAYERS, ENTRIES = 14, 8


@dataclass
class Layer:
    """One line of the table of a model: a module without modules inside."""

    path: str
    lua: str
    torch: str
    parameters: int
    shape: str = ""


@dataclass
class Model:
    """A model of the file.

    Attributes:
        key: as ``--key`` takes it; empty when the file is the model.
        lua: its Lua class.
        modules, parameters, bytes: how many.
        dtypes: of its parameters.
        layers: its layers in order.
        unsupported: classes without a mapping, or whose mapping cannot build an object of the model.
        reasons: why not, for the latter.
        problem: why it cannot be converted, else empty.
        refused: why it does not run on the example, else empty.
        inputs: shapes of an input that runs through it, as ``--input`` takes them; empty where none is known.
        architecture: the published architecture with the shapes of its weights, or None.
    """

    key: str
    lua: str
    modules: int = 0
    parameters: int = 0
    bytes: int = 0
    dtypes: list[str] = field(default_factory=list)
    layers: list[Layer] = field(default_factory=list)
    unsupported: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    problem: str = ""
    refused: str = ""
    inputs: list[str] = field(default_factory=list)
    architecture: Architecture | None = None

    @property
    def supported(self) -> str:
        """``supported``, or what is not."""
        if self.problem:
            return f"cannot be converted: {self.problem}"
        if self.unsupported:
            reasons = "".join(f"\n  {reason}" for reason in self.reasons)
            return f"NOT supported: {', '.join(self.unsupported)}{reasons}"
        return f"supported; does not run on this input: {self.refused}" if self.refused else "supported"


@dataclass
class Summary:
    """The summary of a file.

    Attributes:
        name, size, encoding: of the file.
        what: one line.
        models: the models, best first.
        beside: the other entries, one line for each.
        objects: how many objects one after the other the file contains.
        notes: other remarks.
        next: commands to type.
    """

    name: str
    size: int
    encoding: str
    what: str
    models: list[Model] = field(default_factory=list)
    beside: list[str] = field(default_factory=list)
    objects: int = 1
    notes: list[str] = field(default_factory=list)
    next: list[str] = field(default_factory=list)


@wrap_errors(ConversionError, "inspecting")
def summarize(origin: Origin, key: str | None = None, example: Callable[[nn.Module], Any] | None = None) -> Summary:
    """Return the summary of a ``.t7`` file, or of one that was converted.

    Args:
        origin: the file.
        key: the model, or the part of the file, that is wanted; default: all.
        example: makes an input of a model, to show the shapes of its layers' outputs.

    Raises:
        T7Error: the file cannot be read.
        ModelNotFoundError: ``key`` leads nowhere.
    """
    with local_file(origin) as file:
        contents = read_source(file)
        if contents is None:
            return _converted(file, example)
        root, encoding = contents
        size = file.path.stat().st_size
        found = Summary(file.name, size, str(encoding), "")
        if not isinstance(encoding, Pickled):
            _objects(found, file)
        if key:
            root = follow(root, key)
            if root is None:
                raise ModelNotFoundError(f"{file.name}: no entry at key {key!r}")
        all_models = [c for c in candidates(root) if not c.is_criterion]
        for candidate in all_models:
            path = f"{key}.{candidate.key}" if key and candidate.key else key or candidate.key
            found.models.append(_model(path, candidate.obj, example, not found.models, size))
        _what(found, root, [c.obj for c in all_models])
        _next(found, file.name, root)
        return found


def _converted(file: LocalFile, example: Callable[[nn.Module], Any] | None) -> Summary:
    module, report = load_with_report(file.path, None, Options(allow_unsupported=True))
    record = record_of(module)
    model = Model("", record.class_name if record else type(module).__name__)
    size = file.path.stat().st_size
    _measure(model, module, example, size)
    model.inputs = [] if model.problem else input_shapes(module, size)
    metadata = report.metadata or {}
    source = metadata.get("source", "a model of PyTorch")
    what = f"a model that dpnn_bridge converted from {source}"
    found = Summary(file.name, size, file.path.suffix[1:], what, [model])
    checkpoint = metadata.get("checkpoint")
    found.beside = [str(k) for k in checkpoint][:ENTRIES] if isinstance(checkpoint, dict) else []
    found.next = [f"dpnn-convert {shlex.quote(file.name)} {_stem(file.name)}.onnx {_inputs(model)}"]
    return found


def _objects(found: Summary, file: LocalFile) -> None:
    """Count the objects of a file, and record what follows the last one."""
    try:
        found.objects = len(read_all(file.path, strict=True))
    except T7FormatError as error:
        found.notes.append(f"after the first object: {str(error).partition(': ')[2] or error}")


def _model(key: str, obj: LuaObject, example: Callable[[nn.Module], Any] | None, first: bool, size: int) -> Model:
    model = Model(key, obj.class_name)
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
    if first and not model.unsupported and not model.problem:
        model.inputs = input_shapes(module, size, obj)
    return model


def _measure(model: Model, module: nn.Module, example: Callable[[nn.Module], Any] | None, size: int) -> None:
    parameters = list(module.parameters())
    model.modules = len(list(module.modules()))
    model.parameters = sum(p.numel() for p in parameters)
    model.bytes = sum(p.numel() * p.element_size() for p in parameters)
    model.architecture = architecture_of(module)
    model.dtypes = sorted({str(p.dtype).removeprefix("torch.") for p in parameters})
    shapes: dict[int, str] = {}
    if example is not None:
        model.refused = _run(module, example(module), shapes, size)
    model.layers = [
        Layer(path, *_classes(m), sum(p.numel() for p in m.parameters(recurse=False)), shapes.get(id(m), ""))
        for path, m in _leaves(module, "")
    ]


def _run(module: nn.Module, value: Any, shapes: dict[int, str], size: int) -> str:
    """Fill in the shapes of all outputs; return what went wrong."""

    def note(m: nn.Module, args: Any, output: Any) -> None:
        shapes[id(m)] = ", ".join("x".join(map(str, t.shape)) for t in nested.leaves(output) if isinstance(t, Tensor))

    given = sum(t.numel() * t.itemsize for t in nested.leaves(value) if isinstance(t, Tensor))
    limits = ResourceLimits(more=size + given)
    with ExitStack() as stack, evaluating(module), torch.no_grad(), ResourceLimitMode(limits):
        for m in module.modules():
            stack.callback(m.register_forward_hook(note).remove)
        try:
            module(value)
        except Exception as error:
            return f"{type(error).__name__}: {str(error).split(chr(10), 1)[0]}"
    return ""


def _leaves(module: nn.Module, path: str) -> Iterator[tuple[str, nn.Module]]:
    children = list(module.named_children())
    if not children:
        yield path or "model", module
    for name, child in children:
        yield from _leaves(child, f"{path}.{name}" if path else name)


def _classes(module: nn.Module) -> tuple[str, str]:
    record = record_of(module)
    lua = record.class_name if record else module.class_name if isinstance(module, Placeholder) else ""
    return lua, type(module).__name__


def _what(found: Summary, root: Any, models: list[LuaObject]) -> None:
    if any(m is root for m in models):
        found.what = "a model"
        return
    found.what = description(root).split(":", 1)[0]
    if found.models:
        found.what = f"{found.what} with {len(found.models)} model{'s' * (len(found.models) > 1)}"
    else:
        found.what += ", no model"
    inside = {id(m) for m in models}
    if isinstance(root, (LuaTable, LuaObject)):
        fields = root.fields if isinstance(root, LuaObject) else root
        rest = [(k, v) for k, v in fields.items() if id(v) not in inside]
        found.beside = [f"{format_path([k])}: {_fitting(description(v))}" for k, v in rest[:ENTRIES]]
        if len(rest) > ENTRIES:
            found.beside.append(f"… {len(rest) - ENTRIES} more")


def _fitting(text: str) -> str:
    """Return a description of 96 characters at most: the entries that fit, then an ellipsis."""
    if len(text) <= 96:
        return text
    listed, cut, _ = text[:93].rpartition(", ")
    return f"{listed}, …" if cut else shortened(text, 96)


def _next(found: Summary, name: str, root: Any) -> None:
    quoted, stem = shlex.quote(name), _stem(name)
    if not found.models:
        if (other := named_file(root)) is not None:
            found.next.append(f"dpnn-inspect {shlex.quote(str(PurePath(name).parent / PurePath(other[1]).name))}")
        best = ".npz      # or .safetensors, .json, .pt" if _holds_tensors(root) else ".json     # or .npz, .pt"
        found.next.append(f"dpnn-convert {quoted} {stem}{best}")
        return
    first = found.models[0]
    key = f" --key {shlex.quote(first.key)}" if first.key and len(found.models) > 1 else ""
    if first.unsupported or first.problem:
        both = "--plugin my_layers.py     # or --lua my_layers.lua; docs/how-to/custom-class.md"
        found.next.append(f"dpnn-convert {quoted} {stem}.pt{key} {both}")
    else:
        found.next.append(f"dpnn-convert {quoted} {stem}.pt{key}")
        if first.architecture:
            found.next.append(f"dpnn-convert {quoted} {stem}.pt{key} {first.architecture}")


def _holds_tensors(value: Any) -> bool:
    """Return whether a value contains a tensor, at most four levels down."""
    level, seen = [value], set()
    for _ in range(5):
        if any(isinstance(v, (LuaTensor, LuaStorage)) for v in level):
            return True
        tables = {id(v): v for v in level if isinstance(v, (LuaTable, LuaObject)) and id(v) not in seen}
        seen |= tables.keys()
        level = [v for t in tables.values() for v in (t.fields if isinstance(t, LuaObject) else t).values()]
    return False


def _stem(name: str) -> str:
    stem = PurePath(name.rpartition("/")[2]).name
    for suffix in (".gz", ".zip", ".xz", ".bz2", ".t7", ".pt", ".pth", ".net", ".th"):
        stem = stem.removesuffix(suffix)
    return shlex.quote(stem or "out")


def lines(found: Summary) -> Iterator[tuple[str, str]]:
    """Yield the summary as text: style and line."""
    yield "bold", f"{found.name}: {found.encoding}, {format_bytes(found.size)}"
    more = f"; {found.objects} objects one after the other, this is the first" if found.objects > 1 else ""
    yield "", f"{found.what}{more}"
    for note in found.notes:
        yield "yellow", f"note: {note}"
    for i, model in enumerate(found.models):
        size = (
            f"{model.parameters:,} parameters ({format_bytes(model.bytes)} of {', '.join(model.dtypes) or 'nothing'})"
        )
        modules = f"{model.modules} module{'s' * (model.modules != 1)}"
        yield "", ""
        yield "bold green", f"model{f' {model.key}' if model.key else ''}: {model.lua}, {modules}, {size}"
        yield ("green" if model.supported == "supported" else "red"), model.supported
        if model.architecture:
            yield "", f"the shapes of its weights are those of {model.architecture.into}"
        if i == 0:
            yield from (("", line) for line in _table(model.layers))
    if found.beside:
        yield "", ""
        yield "bold", "beside the model:" if found.models else "it holds:"
        yield from (("", f"  {line}") for line in found.beside)
    yield "", ""
    for command in found.next:
        yield "bold", f"next: {command}"
    shapes = f"; shapes of the outputs: {_inputs(found.models[0])}" if found.models else ""
    yield "dim", f"every entry: --raw{shapes}"


def _inputs(model: Model) -> str:
    """Return the options that give a model its input."""
    return " ".join(f"--input {shape}" for shape in model.inputs) or "--input SHAPE    # such as 1x3x224x224"


def _table(layers: list[Layer]) -> list[str]:
    shown = layers if len(layers) <= LAYERS + 1 else [*layers[: LAYERS - 4], None, *layers[-4:]]
    rows = [("layer", "Lua", "PyTorch", "parameters", "output")]
    for layer in shown:
        if layer is None:
            rows.append((f"… {len(layers) - LAYERS} more", "", "", "", ""))
        else:
            count = f"{layer.parameters:,}" if layer.parameters else ""
            rows.append((layer.path, layer.lua, layer.torch, count, layer.shape))
    columns = range(5 if any(layer.shape for layer in layers) else 4)
    widths = [min(max(len(row[i]) for row in rows), 32) for i in columns]
    return ["  " + "  ".join(_cell(row[i], widths[i], i == 3) for i in columns).rstrip() for row in rows]


def _cell(text: str, width: int, right: bool) -> str:
    if len(text) > width:
        text = "…" + text[-(width - 1) :]
    return text.rjust(width) if right else text.ljust(width)


__all__ = ["Layer", "Model", "Summary", "lines", "summarize"]
