"""Describe a file on one screen: the data and its text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from dpnn_bridge.base.display import counted, printable
from dpnn_bridge.base.notebook import table
from dpnn_bridge.checkpoints.architectures import Architecture
from dpnn_bridge.checkpoints.describe import format_bytes

#: maximum numbers of listed layers, and of listed entries besides models
LAYERS, ENTRIES = 14, 8


@dataclass
class Layer:
    """One line of the table of layers: a module without submodules.

    Attributes:
        path: path of the module in PyTorch.
        lua, torch: its Lua class and its PyTorch class.
        parameters: number of its parameters.
        shape: shape of its output, if the model ran.
        name: the name that Lua code gave the module.
    """

    path: str
    lua: str
    torch: str
    parameters: int
    shape: str = ""
    name: str = ""


@dataclass
class Model:
    """A model of the file.

    Attributes:
        key: path of the model, for ``--key``; empty if the file is the model.
        lua: Lua class of the model.
        modules, parameters, bytes: number of modules and parameters, size of the parameters in bytes.
        dtypes: dtypes of the parameters.
        layers: layers in the order of the model.
        unsupported: classes without a mapping, and classes whose mapping cannot convert an object of the model.
        reasons: for the latter classes, the reason why the object cannot be converted.
        problem: reason why the model cannot be converted; otherwise empty.
        refused: reason why the model does not run on the given input; otherwise empty.
        inputs: shapes of an input that the model accepts, as values of ``--input``; empty if unknown.
        likely: shapes to adapt if ``inputs`` is empty: those of an input of similar models.
        notes: remarks about inconsistent layers.
        architecture: the published architecture whose weights have the same shapes, or None.
        criterion: whether the model computes a loss from an input and a target.
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
    likely: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    architecture: Architecture | None = None
    criterion: bool = False

    @property
    def is_supported(self) -> bool:
        """Whether the model can be converted without placeholders."""
        return not self.problem and not self.unsupported

    @property
    def supported(self) -> str:
        """``supported``, or the unsupported classes."""
        if self.problem:
            return f"cannot be converted: {self.problem}"
        if self.unsupported:
            reasons = "".join(f"\n  {printable(reason)}" for reason in self.reasons)
            return f"NOT supported: {', '.join(map(printable, self.unsupported))}{reasons}"
        return f"supported; does not run on this input: {self.refused}" if self.refused else "supported"


@dataclass(repr=False)
class Summary:
    """The summary of a file.

    Attributes:
        name, size, encoding: name, size in bytes and encoding of the file.
        what: description of the content in one line.
        models: the models, most likely first.
        beside: the other entries, one line for each.
        objects: number of consecutive objects in the file.
        notes: other remarks.
        next: suggested commands.
        has_tree: whether ``dpnn-inspect --raw`` can list the entries, which needs a Torch7 file.
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
    has_tree: bool = True

    def to_dict(self) -> dict[str, Any]:
        """Return the summary as plain data for JSON."""
        return {**asdict(self), "models": [{**asdict(m), "supported": m.is_supported} for m in self.models]}

    def __str__(self) -> str:
        return "\n".join(line for _, line in lines(self))

    def _repr_html_(self) -> str:
        inner = [note for model in self.models for note in model.notes]
        notes = [*self.notes, *inner, *self.beside, *(f"next: {command}" for command in self.next)]
        rows = [
            (model.key if i == 0 else "", x.path, x.name, x.lua, x.torch, x.parameters or None, x.shape)
            for model in self.models
            for i, x in enumerate(model.layers)
        ]
        names = ", ".join(f"{m.lua}, {m.parameters:,} parameters, {m.supported}" for m in self.models) or self.what
        columns = ("key", "layer in state_dict", "name", "Lua", "PyTorch", "#parameters", "output")
        return table(f"{self.name}: {names}", columns, rows, notes)

    def __repr__(self) -> str:
        models = ", ".join(f"{m.lua} of {m.parameters:,} parameters" for m in self.models) or "no model"
        return f"Summary({self.name}: {models})"


def lines(summary: Summary) -> Iterator[tuple[str, str]]:
    """Yield style and text of each line of the summary. Control characters are escaped."""
    return ((style, printable(line)) for style, line in _lines(summary))


def _lines(summary: Summary) -> Iterator[tuple[str, str]]:
    yield "bold", f"{summary.name}: {summary.encoding}, {format_bytes(summary.size)}"
    more = f"; the first of {summary.objects} consecutive objects" if summary.objects > 1 else ""
    yield "", f"{summary.what}{more}"
    for note in summary.notes:
        yield "yellow", f"note: {note}"
    for i, model in enumerate(summary.models):
        memory = f" ({format_bytes(model.bytes)} of {', '.join(model.dtypes)})" if model.dtypes else ""
        size = f"{model.parameters:,} parameters{memory}"
        modules = counted(model.modules, "module")
        yield "", ""
        name = f"model {model.key}".rstrip()
        yield "bold green", f"{name}: {model.lua}, {modules}, {size}"
        yield from (("green" if line == "supported" else "red", line) for line in model.supported.split("\n"))
        for note in model.notes:
            yield "yellow", f"note: {note}"
        if model.architecture:
            yield "", f"the weights have the shapes of {model.architecture.into}"
        if i == 0:
            yield from (("", line) for line in _table(model.layers))
    if summary.beside:
        yield "", ""
        yield "bold", "other entries:" if summary.models else "entries:"
        yield from (("", f"  {line}") for line in summary.beside)
    yield "", ""
    for command in summary.next:
        yield "bold", f"next: {command}"
    runs = summary.models and not summary.models[0].problem and not summary.models[0].criterion
    hints = ["every entry: --raw"] if summary.has_tree else []
    hints += [f"shapes of the outputs: {input_options(summary.models[0])}"] if runs else []
    if hints:
        yield "dim", "; ".join(hints)


def input_options(model: Model) -> str:
    """Return the command-line options for an input of a model."""
    options = " ".join(f"--input {shape}" for shape in model.inputs)
    return options or f"--input SHAPE    # such as {' --input '.join(model.likely)}"


def _table(layers: list[Layer]) -> list[str]:
    shown = layers if len(layers) <= LAYERS + 1 else [*layers[: LAYERS - 4], None, *layers[-4:]]
    rows: list[tuple[str, ...]] = [("layer in state_dict", "name", "Lua", "PyTorch", "parameters", "output")]
    for layer in shown:
        if layer is None:
            rows.append((f"… {len(layers) - LAYERS} more", "", "", "", "", ""))
        else:
            count = f"{layer.parameters:,}" if layer.parameters else ""
            texts = map(printable, (layer.path, layer.name, layer.lua, layer.torch))
            rows.append((*texts, count, layer.shape))
    empty = {i for i, values in ((1, "name"), (5, "shape")) if not any(getattr(layer, values) for layer in layers)}
    columns = [i for i in range(6) if i not in empty]
    widths = [min(max(len(row[i]) for row in rows), 32) for i in range(6)]
    return ["  " + "  ".join(_cell(row[i], widths[i], i == 4) for i in columns).rstrip() for row in rows]


def _cell(text: str, width: int, right: bool) -> str:
    if len(text) > width:
        text = "…" + text[-(width - 1) :]
    return text.rjust(width) if right else text.ljust(width)
