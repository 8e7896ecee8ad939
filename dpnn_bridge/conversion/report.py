"""Report how each Lua object was converted."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dpnn_bridge.base.cached import cached_property
from dpnn_bridge.base.checksum import sha256_of
from dpnn_bridge.base.display import listed, printable
from dpnn_bridge.base.json_text import finite
from dpnn_bridge.base.notebook import table
from dpnn_bridge.errors import UnsupportedClass

#: methods of a Lua module that compute, set the mode, or list parameters; a file can replace them on one object
METHODS = frozenset(
    {
        *("forward", "backward", "updateOutput", "updateGradInput", "accGradParameters"),
        *("training", "evaluate", "parameters", "updateParameters", "accUpdateGradParameters"),
    }
)


def replaced_methods(paths: list[str]) -> str:
    """Return the warning about the methods of objects that the file replaces by functions.

    Args:
        paths: path of each function.
    """
    named = printable(listed(paths, 4))
    return (
        f"the file replaces methods by Lua functions, which are never run: {named}. These modules do what their "
        "classes do, and Torch7 calls the functions. To do the same, map the objects in a plugin "
        "(--plugin my_layers.py) whose `matches` accepts them"
    )


@dataclass
class Mapped:
    """One Lua object and the PyTorch module to which it was converted.

    Attributes:
        path: path of the Lua object.
        class_name: Lua class.
        torch_type: class of the PyTorch module.
        note: remark, such as that the module returns its input.
    """

    path: str
    class_name: str
    torch_type: str
    note: str = ""


@dataclass
class Dropped:
    """One Lua value that the PyTorch module does not contain.

    Attributes:
        path: path of the value.
        reason: why it was dropped.
    """

    path: str
    reason: str


@dataclass(repr=False)
class Report:
    """The report of one conversion.

    Attributes:
        mapped: every converted object, in the order of construction (children first).
        dropped: values that were not converted, with reasons.
        unsupported: unknown classes that were converted to placeholders.
        notes: remarks on the file (mixed dtypes, the selected key, …).
        metadata: data that outputs store with the model: source, key, versions, the other entries of the checkpoint.
        source: the input file.
    """

    mapped: list[Mapped] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    unsupported: list[UnsupportedClass] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    metadata: dict[str, Any] = field(default_factory=dict)
    source: Path | None = None

    def add(self, path: str, class_name: str, module: nn.Module, *, is_identity: bool = False) -> None:
        """Record that the Lua object at ``path`` was converted to ``module``."""
        kind = type(module)
        home = "torch.nn" if kind.__module__.startswith("torch.nn.") else kind.__module__
        note = "returns its input" if is_identity else ""
        self.mapped.append(Mapped(path, class_name, f"{home}.{kind.__qualname__}", note))

    def drop(self, path: str, reason: str) -> None:
        """Record that the value at ``path`` was not converted."""
        self.dropped.append(Dropped(path, reason))

    def note(self, text: str) -> None:
        """Add a remark to ``notes`` unless this method has added it before."""
        noted = self.__dict__.setdefault("_noted", set())  # a file may have a note for each module
        if text not in noted:
            noted.add(text)
            self.notes.append(text)

    def counts(self) -> dict[tuple[str, str], int]:
        """Return ``(Lua class, torch type) -> number of objects``, most frequent first."""
        return dict(Counter((m.class_name, m.torch_type) for m in self.mapped).most_common())

    @cached_property
    def sha256(self) -> str | None:
        """SHA-256 of the input file, computed on first access; None if there is no local file."""
        if self.source is None or not self.source.is_file():
            return None
        return sha256_of(self.source)

    def __repr__(self) -> str:
        counts = {"mapped": self.mapped, "dropped": self.dropped, "unsupported": self.unsupported, "notes": self.notes}
        facts = ", ".join(f"{len(found)} {name}" for name, found in counts.items() if found or name == "mapped")
        return f"Report({self.source.name if self.source else 'no file'}: {facts})"

    def _repr_html_(self) -> str:
        rows = [(count, lua, torch_type) for (lua, torch_type), count in self.counts().items()]
        unsupported = [f"unsupported: {c.class_name} at {', '.join(c.paths[:3])}" for c in self.unsupported]
        notes = [*unsupported, *(f"dropped {d.path}: {d.reason}" for d in self.dropped), *self.notes]
        return table(repr(self), ("#count", "Lua class", "PyTorch module"), rows, notes)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as data for JSON, without the other entries of the checkpoint; a tensor is its size."""
        metadata = finite(_described({k: v for k, v in self.metadata.items() if k != "checkpoint"}))
        return {**asdict(replace(self, metadata={}, source=None)), "metadata": metadata, "sha256": self.sha256}


def _described(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _described(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_described(v) for v in value]
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {'x'.join(map(str, value.shape)) or 'number'}"
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value
