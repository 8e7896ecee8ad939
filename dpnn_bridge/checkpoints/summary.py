"""Describe a file on one screen: the data and its text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from dpnn_bridge.base.display import counted, printable
from dpnn_bridge.base.notebook import table
from dpnn_bridge.checkpoints.architectures import Architecture
from dpnn_bridge.checkpoints.describe import format_bytes

#: layers, and entries beside the models, that are listed
LAYERS, ENTRIES = 14, 8


@dataclass
class Layer:
    """One line of the table of a model: a module without modules inside.

    Attributes:
        path: in PyTorch.
        lua, torch: its classes.
        parameters: how many.
        shape: of its output, if the model ran.
        name: that Lua code gave it.
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
        key: as ``--key`` takes it; empty when the file is the model.
        lua: its Lua class.
        modules, parameters, bytes: how many.
        dtypes: of its parameters.
        layers: its layers in order.
        unsupported: classes without a mapping, or whose mapping cannot build an object of the model.
        reasons: why not, for the latter.
        problem: why it cannot be converted, else empty.
        refused: why it does not run on the example, else empty.
        inputs: shapes of an input that runs through it, as ``--input`` takes them; empty if none is known.
        likely: shapes of an input of its kind, to be adapted where ``inputs`` is empty.
        notes: what does not fit inside it.
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
    likely: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    architecture: Architecture | None = None

    @property
    def is_supported(self) -> bool:
        """Whether it converts without placeholders."""
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
        columns = ("key", "layer", "name", "Lua", "PyTorch", "#parameters", "output")
        return table(f"{self.name}: {names}", columns, rows, notes)

    def __repr__(self) -> str:
        models = ", ".join(f"{m.lua} of {m.parameters:,} parameters" for m in self.models) or "no model"
        return f"Summary({self.name}: {models})"


def lines(found: Summary) -> Iterator[tuple[str, str]]:
    """Yield the summary as text: style and line, with escapes for control characters."""
    return ((style, printable(line)) for style, line in _lines(found))


def _lines(found: Summary) -> Iterator[tuple[str, str]]:
    yield "bold", f"{found.name}: {found.encoding}, {format_bytes(found.size)}"
    more = f"; {found.objects} objects one after the other, this is the first" if found.objects > 1 else ""
    yield "", f"{found.what}{more}"
    for note in found.notes:
        yield "yellow", f"note: {note}"
    for i, model in enumerate(found.models):
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
    runs = found.models and not found.models[0].problem
    yield "dim", "every entry: --raw" + (f"; shapes of the outputs: {input_options(found.models[0])}" if runs else "")


def input_options(model: Model) -> str:
    """Return the options that give a model its input."""
    known = " ".join(f"--input {shape}" for shape in model.inputs)
    return known or f"--input SHAPE    # such as {' --input '.join(model.likely)}"


def _table(layers: list[Layer]) -> list[str]:
    shown = layers if len(layers) <= LAYERS + 1 else [*layers[: LAYERS - 4], None, *layers[-4:]]
    rows: list[tuple[str, ...]] = [("layer", "name", "Lua", "PyTorch", "parameters", "output")]
    for layer in shown:
        if layer is None:
            rows.append((f"… {len(layers) - LAYERS} more", "", "", "", "", ""))
        else:
            count = f"{layer.parameters:,}" if layer.parameters else ""
            texts = map(printable, (layer.path, layer.name, layer.lua, layer.torch))
            rows.append((*texts, count, layer.shape))
    left_out = {i for i, values in ((1, "name"), (5, "shape")) if not any(getattr(layer, values) for layer in layers)}
    columns = [i for i in range(6) if i not in left_out]
    widths = [min(max(len(row[i]) for row in rows), 32) for i in range(6)]
    return ["  " + "  ".join(_cell(row[i], widths[i], i == 4) for i in columns).rstrip() for row in rows]


def _cell(text: str, width: int, right: bool) -> str:
    if len(text) > width:
        text = "…" + text[-(width - 1) :]
    return text.rjust(width) if right else text.ljust(width)
